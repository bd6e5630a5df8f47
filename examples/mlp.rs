//! A task of its own in the trainer: a multi-layer perceptron learns which of three spiral arms a point lies
//! on. It has checkpoints, exact resume and logs like every run, and needs nothing but the engine:
//!
//! ```sh
//! cargo run --release --no-default-features --example mlp -- runs/mlp          # 2,000 steps
//! cargo run --release --no-default-features --example mlp -- runs/mlp 5000     # goes on to 5,000
//! ```

use std::f32::consts::TAU;
use std::path::Path;

use poa_gpu::Result;
use poa_gpu::autograd::{Tape, Var};
use poa_gpu::logging::console;
use poa_gpu::nn::parameters::{FlatBuffers, FlatLayout, Init, ParameterSpec, Parameters};
use poa_gpu::ops::label_cross_entropy::label_cross_entropy;
use poa_gpu::ops::linear::{LinearWeights, mlp};
use poa_gpu::ops::reduce::column_sum;
use poa_gpu::optim::adamw::{AdamW, AdamWConfig, Multipliers, StepSettings};
use poa_gpu::tensor::{DType, Device, PendingRead, Tensor};
use poa_gpu::train::metrics::number;
use poa_gpu::train::plan::RunPlan;
use poa_gpu::train::reports::Reports;
use poa_gpu::train::run_folder::{RunFolder, holds_run};
use poa_gpu::train::step::{MicroBatch, Trained};
use poa_gpu::train::task::{Numbers, Task};
use poa_gpu::train::trainer::{Start, Trainer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ARMS: usize = 3;
const HIDDEN: usize = 64;
const BATCH: usize = 128;

struct Spirals {
    device: Device,
    parameters: Parameters,
    optimizer: AdamW,
    steps: usize,
}

impl Spirals {
    fn new(device: Device, steps: usize) -> Result<Self> {
        let spec = |name: &str, shape: &[usize], std| ParameterSpec::new(name, shape, Init::Normal(std));
        let specs = [
            spec("mlp.fc1.weight", &[HIDDEN, 2], 1.0),
            spec("mlp.fc1.bias", &[HIDDEN], 1.0),
            spec("mlp.fc2.weight", &[ARMS, HIDDEN], 0.1),
            spec("mlp.fc2.bias", &[ARMS], 0.0),
        ];
        let layout = FlatLayout::new(&specs, device.max_tensor_bytes())?;
        let values = FlatBuffers::initialised(&layout, &device, &mut ChaCha8Rng::seed_from_u64(0))?;
        let multipliers = vec![Multipliers::default(); specs.len()];
        let optimizer = AdamW::new(&layout, &device, AdamWConfig::default(), multipliers)?;
        Ok(Self { parameters: Parameters::trained(values)?, optimizer, device, steps })
    }

    /// The logits of points `[n, 2]`, `[n, ARMS]`.
    fn logits(&self, tape: &Tape, points: Tensor) -> Result<Var> {
        let layer = |name: &str| {
            let weight = self.parameters.var(&format!("mlp.{name}.weight"))?;
            let bias = self.parameters.var(&format!("mlp.{name}.bias"))?;
            Ok(LinearWeights { weight, bias: Some(bias), alpha: 1.0 })
        };
        mlp(tape, &Var::constant(points), &layer("fc1")?, &layer("fc2")?)
    }
}

/// Points on noisy spiral arms and the arms they lie on; the same for the same seed.
fn spirals(device: &Device, seed: u64) -> Result<(Tensor, Vec<u32>)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut points, mut arms) = (Vec::new(), Vec::new());
    for _ in 0..BATCH {
        let (arm, radius) = (rng.random_range(0..ARMS as u32), rng.random::<f32>());
        let angle = TAU * (arm as f32 / ARMS as f32 + radius) + 0.3 * (rng.random::<f32>() - 0.5);
        points.extend([radius * angle.cos(), radius * angle.sin()]);
        arms.push(arm);
    }
    Ok((Tensor::from_slice(device, &[BATCH, 2], &points)?, arms))
}

impl Task for Spirals {
    /// The step's number.
    type Step = usize;
    /// The mean loss of a micro-batch, on its way to the host where the step is reported.
    type Record = Option<PendingRead>;

    fn device(&self) -> &Device {
        &self.device
    }

    fn config(&self) -> Result<String> {
        Ok(format!("steps = {}\n", self.steps))
    }

    fn samples(&self) -> usize {
        100 * BATCH
    }

    fn samples_per_step(&self) -> usize {
        BATCH
    }

    fn trained(&mut self) -> Trained<'_> {
        Trained { parameters: &self.parameters, teacher: None, optimizer: &mut self.optimizer }
    }

    fn step(&mut self, step: usize) -> Result<usize> {
        Ok(step)
    }

    fn settings(&self, step: &usize) -> StepSettings {
        let lr = 0.02 * (1.0 - *step as f64 / self.steps as f64);
        StepSettings { lr, last_layer_lr: lr, weight_decay: 1e-4, teacher_momentum: 0.0 }
    }

    fn forward_backward(
        &mut self,
        step: &usize,
        batch: MicroBatch,
        due: bool,
    ) -> Result<(Tensor, Option<PendingRead>)> {
        let (points, arms) = spirals(&self.device, (step << 8 | batch.index) as u64)?;
        let arms = Tensor::from_slice(&self.device, &[BATCH], &arms)?;
        let tape = Tape::new();
        let logits = self.logits(&tape, points)?;
        // the losses by row; the gradient takes the logits' place
        let losses = label_cross_entropy(logits.value(), &arms, batch.share as f32 / BATCH as f32)?;
        let loss = Tensor::empty(&self.device, &[1], DType::F32)?;
        column_sum(&losses, &loss, 1.0 / BATCH as f32, false)?;
        tape.backward(vec![(&logits, logits.value().clone())])?;
        let record = due.then(|| loss.read_later()).transpose()?;
        Ok((loss, record))
    }

    fn numbers(&mut self, _: &usize, records: Vec<Option<PendingRead>>) -> Result<Numbers> {
        let loss = |record: PendingRead| Ok(f64::from(record.wait()?[0]));
        let losses = records.into_iter().flatten().map(loss).collect::<Result<Vec<_>>>()?;
        let loss = losses.iter().sum::<f64>() / losses.len() as f64;
        Ok(Numbers { loss, values: Vec::new(), warnings: Vec::new() })
    }

    fn evaluate(&mut self, done: usize, reports: &mut Reports) -> Result<bool> {
        let (points, arms) = spirals(&self.device, u64::MAX)?;
        let logits = self.logits(&Tape::no_grad(), points)?.value().to_vec::<f32>()?;
        let is_right = |(row, arm): (&[f32], &u32)| row.iter().all(|v| *v <= row[*arm as usize]);
        let right = logits.chunks(ARMS).zip(&arms).filter(|pair| is_right(*pair)).count();
        let accuracy = right as f64 / BATCH as f64;
        reports
            .say(&format!("after {done} steps {:.1}% of new points are on the right arm", 100.0 * accuracy));
        reports.values(done, &[("accuracy".into(), number(accuracy))], &[]);
        Ok(true)
    }
}

fn main() -> Result<()> {
    // the library's messages are records of the `log` crate; this shows them on standard error
    console::install(None)?;
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| "runs/mlp".into());
    let steps = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(2000);
    let task = Spirals::new(Device::cpu(), steps)?;
    let resume = holds_run(Path::new(&dir));
    let folder = match resume {
        true => RunFolder::open(&dir)?,
        false => RunFolder::create(Some(Path::new(&dir)), "mlp", &task.config()?)?,
    };
    let plan = RunPlan { steps, save_every: 100, evaluate_every: 500, ..RunPlan::default() };
    let trainer = Trainer::new(task, plan, folder, &Start { resume, ..Start::default() })?;
    let outcome = trainer.run()?;
    println!("checkpoint: {}; numbers: metrics.jsonl and train.log in {dir}", outcome.checkpoint.display());
    Ok(())
}
