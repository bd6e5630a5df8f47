//! What the benchmarks share: devices, ceilings measured in the same run, and a line with rate and share of ceiling.

use std::time::{Duration, Instant};

use criterion::Criterion;
use poa_gpu::ops::ceiling;
use poa_gpu::tensor::{Device, DeviceChoice, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Seconds from which a call is measured once.
const SLOW: f64 = 3.0;

/// A device and the best it does.
pub struct Bench {
    pub device: Device,
    pub gflops: f64,
    pub gbytes: f64,
}

/// What a call must do at least.
#[derive(Clone, Copy)]
pub struct Work {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read and written, each operand once.
    pub bytes: f64,
}

/// Seconds of each of `n` calls, device idle before and after.
fn seconds(device: &Device, n: usize, mut f: impl FnMut()) -> Vec<f64> {
    let mut all = Vec::with_capacity(n);
    for _ in 0..n {
        device.synchronize().unwrap();
        let start = Instant::now();
        f();
        device.synchronize().unwrap();
        all.push(start.elapsed().as_secs_f64());
    }
    all
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The CPU device, and an adapter where there is one (set POA_BENCH_DEVICE to choose: cpu, gpu, or a name).
pub fn devices() -> Vec<Bench> {
    let choice = std::env::var("POA_BENCH_DEVICE").unwrap_or_default();
    let wanted: Vec<DeviceChoice> = match choice.as_str() {
        "" => vec![DeviceChoice::Cpu, DeviceChoice::Gpu],
        one => vec![one.parse().unwrap()],
    };
    let mut all = Vec::new();
    for choice in wanted {
        let device = match Device::open(&choice) {
            Ok(device) => device,
            Err(e) => {
                println!("left out: {e}");
                continue;
            }
        };
        let [a, b] = ceiling::scratch(&device).unwrap();
        let mut ops = 0.0;
        let mut bytes = 0.0;
        ceiling::multiply_add(&a, 0.5).unwrap();
        let arithmetic = median(seconds(&device, 5, || ops = ceiling::multiply_add(&a, 0.5).unwrap()));
        let copy = median(seconds(&device, 5, || bytes = ceiling::copied_bytes(&b, &a).unwrap()));
        let bench = Bench { gflops: ops / arithmetic / 1e9, gbytes: bytes / copy / 1e9, device };
        println!(
            "{}: ceilings {:.0} GFLOP/s of arithmetic, {:.1} GB/s of copying",
            bench.device.describe(),
            bench.gflops,
            bench.gbytes
        );
        all.push(bench);
    }
    all
}

impl Bench {
    /// Random values in a tensor.
    pub fn random(&self, seed: u64, shape: &[usize]) -> Tensor {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random::<f32>() - 0.5).collect();
        Tensor::from_slice(&self.device, shape, &values).unwrap()
    }

    /// Whether the command line asks for this benchmark; others are not even set up.
    pub fn wanted(&self, name: &str) -> bool {
        let full = format!("{name}/{}", self.device.kind());
        let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
        filters.is_empty() || filters.iter().any(|f| full.contains(f.as_str()))
    }

    /// Prints a call's median rate beside the ceilings and hands it to criterion.
    pub fn measure(&self, c: &mut Criterion, name: &str, work: Work, samples: usize, mut f: impl FnMut()) {
        let first = seconds(&self.device, 1, &mut f)[0];
        let time = median(seconds(&self.device, if first > SLOW { 1 } else { samples }, &mut f));
        let (gflops, gbytes) = (work.flops / time / 1e9, work.bytes / time / 1e9);
        let full = format!("{name}/{}", self.device.kind());
        match work.flops > 0.0 {
            false => println!("{full:<56} {:>9.3} ms", time * 1e3),
            true => println!(
                "{full:<56} {:>9.3} ms {gflops:>8.1} GFLOP/s ({:>3.0}%) {gbytes:>7.2} GB/s ({:>3.0}%)",
                time * 1e3,
                100.0 * gflops / self.gflops,
                100.0 * gbytes / self.gbytes
            ),
        }
        if time > SLOW {
            return println!("  (one call after a warm-up; ten samples would take too long)");
        }
        c.bench_function(&full, |b| {
            b.iter_custom(|n| {
                Duration::from_secs_f64(seconds(&self.device, n as usize, &mut f).iter().sum())
            });
        });
    }
}
