//! The protocol of a step, the same for every task, replay and benchmark: the gradients of all micro-batches
//! are added up, measured on the device, and applied; what was found is read back one step late, so that the
//! device never waits for the host.

use crate::error::Result;
use crate::nn::parameters::Parameters;
use crate::optim::adamw::{AdamW, GradientReport, StepSettings};
use crate::profile;
use crate::tensor::{DType, PendingRead, Tensor, add_scaled};

/// What a step trains.
pub struct Trained<'a> {
    /// The parameters, with the buffers that gradients are added to.
    pub parameters: &'a Parameters,
    /// The moving average of the parameters, where one is kept.
    pub teacher: Option<&'a Parameters>,
    /// AdamW over them.
    pub optimizer: &'a mut AdamW,
}

impl Trained<'_> {
    /// To be called when something else than the optimiser has changed the values.
    pub fn values_changed(&self) -> Result<()> {
        self.parameters.round()?;
        self.teacher.map_or(Ok(()), Parameters::round)
    }
}

/// One of the micro-batches whose gradients make up a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MicroBatch {
    /// Its number within the step.
    pub index: usize,
    /// What its gradients count in the step's mean, over all micro-batches of all ranks.
    pub share: f64,
    /// Whether it is the last of the step on its rank.
    pub last: bool,
}

/// Runs `batches` micro-batches on each of `ranks` ranks. Each adds its share of the gradients to the gradient buffers
/// and returns its own loss (one element, whole); the mean of this rank's losses is returned.
pub fn accumulate(
    batches: usize,
    ranks: usize,
    mut run: impl FnMut(MicroBatch) -> Result<Tensor>,
) -> Result<Tensor> {
    let batches = batches.max(1);
    let of = |index| MicroBatch {
        index,
        share: 1.0 / (batches * ranks.max(1)) as f64,
        last: index + 1 == batches,
    };
    let share = 1.0 / batches as f64;
    let first = run(of(0))?;
    if batches <= 1 {
        return Ok(first);
    }
    let sum = Tensor::zeros(first.device(), &[1], DType::F32)?;
    add_scaled(&sum, &first, share as f32)?;
    for index in 1..batches {
        add_scaled(&sum, &run(of(index))?, share as f32)?;
    }
    Ok(sum)
}

/// Applies steps, and settles each one late. `F` is what the host keeps of a step until then.
pub struct Stepper<F> {
    in_flight: Option<(PendingRead, F)>,
}

/// A step whose outcome is known.
pub struct Settled<F> {
    /// What was measured; where it is not finite, the step was skipped.
    pub report: GradientReport,
    /// What was kept of it.
    pub facts: F,
}

impl<F> Default for Stepper<F> {
    fn default() -> Self {
        Self { in_flight: None }
    }
}

impl<F> Stepper<F> {
    /// Applies the gradients that are in the buffers: measures them and `loss` (one element), updates the
    /// parameters where everything is finite, and zeroes the gradients. Returns the step before, which is
    /// settled on the way.
    pub fn apply(
        &mut self,
        trained: &mut Trained<'_>,
        loss: &Tensor,
        settings: StepSettings,
        facts: F,
    ) -> Result<Option<Settled<F>>> {
        let Trained { parameters, teacher, .. } = *trained;
        if let Some(gradients) = parameters.gradients() {
            trained.optimizer.measure(gradients, loss)?;
        }
        let control = trained.optimizer.control().read_later()?;
        // the bias correction counts applied steps, so the outcome of the last one must be known
        let settled = self.settle(trained)?;
        trained.optimizer.update(parameters, teacher.map(Parameters::values), settings)?;
        self.in_flight = Some((control, facts));
        Ok(settled)
    }

    /// Waits for the step in flight, if there is one, and counts it where it was applied.
    pub fn settle(&mut self, trained: &mut Trained<'_>) -> Result<Option<Settled<F>>> {
        let Some((control, facts)) = self.in_flight.take() else { return Ok(None) };
        let _phase = profile::phase("wait for the device");
        let report = GradientReport::from_control(&control.wait()?);
        trained.optimizer.applied += u64::from(report.finite);
        Ok(Some(Settled { report, facts }))
    }
}

/// One step whose outcome is waited for; see [`Stepper::apply`].
pub fn apply(trained: &mut Trained<'_>, loss: &Tensor, settings: StepSettings) -> Result<GradientReport> {
    let mut stepper = Stepper::default();
    stepper.apply(trained, loss, settings, ())?;
    Ok(stepper.settle(trained)?.expect("a step is in flight").report)
}
