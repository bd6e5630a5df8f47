//! One kernel on both sides: run once and compared, then timed in turn.

use std::time::Instant;

use poa_gpu::tensor::Tensor;

/// The two devices, ours and burn's.
pub struct Devices {
    pub ours: poa_gpu::tensor::Device,
    pub theirs: burn::tensor::Device,
}

/// What a call has computed, alive until the device has finished it; called, it reads the values.
pub type Outputs = Box<dyn FnOnce() -> Vec<Vec<f32>>>;

/// A kernel as both sides run it.
pub struct Case {
    /// Results further apart than this, relative to their size, are not timed.
    pub tolerance: f64,
    pub ours: Box<dyn FnMut() -> Outputs>,
    pub theirs: Box<dyn FnMut() -> Outputs>,
}

/// Times of one kernel, in seconds, and how far the two results are apart.
pub struct Measured {
    pub name: String,
    /// The first call: shaders are compiled, and burn tries its variants.
    pub first: [f64; 2],
    /// The median of all rounds, and the shortest and longest.
    pub median: [f64; 2],
    pub range: [[f64; 2]; 2],
    pub rounds: usize,
    /// The largest ‖ours − theirs‖ / ‖theirs‖ of all results.
    pub error: f64,
}

/// What single precision allows.
pub const TOLERANCE: f64 = 1e-4;
/// Seconds that the timed rounds of one kernel should not exceed, beyond the three that there are in any case.
const PATIENCE: f64 = 60.0;

/// Our results as outputs.
pub fn read_ours(tensors: Vec<Tensor>) -> Outputs {
    Box::new(move || tensors.iter().map(|t| t.to_vec().expect("our result is read")).collect())
}

/// One of burn's results, to be read later.
pub fn read_theirs<const D: usize>(tensor: burn::tensor::Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("burn's result is read")
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn range(times: &[f64]) -> [f64; 2] {
    times.iter().fold([f64::INFINITY, 0.0], |[low, high], t| [low.min(*t), high.max(*t)])
}

fn relative_error(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len(), "results of the same size");
    let square = |v: f64| v * v;
    let difference: f64 = ours.iter().zip(theirs).map(|(a, b)| square(*a as f64 - *b as f64)).sum();
    let size: f64 = theirs.iter().map(|b| square(*b as f64)).sum();
    (difference / size.max(f64::MIN_POSITIVE)).sqrt()
}

impl Devices {
    /// Waits until both have done everything.
    fn synchronize(&self) {
        self.ours.synchronize().expect("our device finishes");
        self.theirs.sync().expect("burn's device finishes");
    }

    /// Seconds of a call, with both devices idle before it and its own idle after it.
    fn seconds(&self, call: &mut dyn FnMut() -> Outputs, ours: bool) -> (f64, Outputs) {
        self.synchronize();
        let start = Instant::now();
        let outputs = call();
        match ours {
            true => self.ours.synchronize().expect("our device finishes"),
            false => self.theirs.sync().expect("burn's device finishes"),
        }
        (start.elapsed().as_secs_f64(), outputs)
    }

    /// Runs, compares and times a kernel; an error says that the results differ.
    pub fn measure(&self, name: String, mut case: Case, rounds: usize) -> Result<Measured, String> {
        let (first_ours, ours) = self.seconds(&mut case.ours, true);
        let (first_theirs, theirs) = self.seconds(&mut case.theirs, false);
        let (ours, theirs) = (ours(), theirs());
        assert_eq!(ours.len(), theirs.len(), "as many results");
        let errors: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| relative_error(a, b)).collect();
        // a number that is none counts as apart
        if let Some(at) = errors.iter().position(|e| !e.le(&case.tolerance)) {
            return Err(format!("{name}: results {at} are {:.1e} apart; not timed", errors[at]));
        }
        let error = errors.into_iter().fold(0.0, f64::max);
        let mut warm = 0.0;
        for _ in 0..2 {
            warm = self.seconds(&mut case.ours, true).0 + self.seconds(&mut case.theirs, false).0;
        }
        let rounds = rounds.min((PATIENCE / warm) as usize).max(3);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            a.push(self.seconds(&mut case.ours, true).0);
            b.push(self.seconds(&mut case.theirs, false).0);
        }
        Ok(Measured {
            name,
            first: [first_ours, first_theirs],
            median: [median(&a), median(&b)],
            range: [range(&a), range(&b)],
            rounds,
            error,
        })
    }
}
