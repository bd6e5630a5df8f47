//! The student with its head, the moving average of both, their optimiser, and the frozen teacher with its queues.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::autograd::Tape;
use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::models::backbone::{Backbone, CropBatch};
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::nn::parameters::{FlatBuffers, FlatLayout, Init, ParameterSpec, Parameters};
use crate::ops::l2_normalize::l2_normalize;
use crate::ops::linear::{LinearWeights, mlp};
use crate::ops::queue_distillation::QueueDistillation;
use crate::optim::adamw::{AdamW, Multipliers};
use crate::optim::groups::{LayerRule, param_group};
use crate::profile;
use crate::tasks::distill::queue::Queue;
use crate::tasks::distill::teacher::{EPS, FrozenTeacher, cls};
use crate::tasks::distill::{Settings, TeacherOutput};
use crate::tensor::{DType, Device, Tensor};
use crate::train::step::Trained;

/// What has no weight decay beside biases, norms and scales.
const NO_DECAY: [&str; 4] = ["cls_token", "pos_embed", "mask_token", "relative_position_bias_table"];
/// What the student's head is called in checkpoints.
const HEAD: &str = "distill_head";

/// All the state of a run that distils.
pub struct DistillModel {
    /// Where it lives.
    pub device: Device,
    /// The student, by itself.
    pub backbone: Box<dyn Backbone>,
    /// Its name.
    pub network: Network,
    /// What is trained.
    pub parameters: Parameters,
    /// The moving average of that: what is evaluated and written.
    pub average: Parameters,
    /// AdamW.
    pub optimizer: AdamW,
    /// The teacher.
    pub teacher: FrozenTeacher,
    /// The queue of the large crops, and that of the small ones where there are some.
    pub queues: Vec<Queue>,
    /// The row of each queue that is written next; empty until that is read from the queues.
    next: Vec<usize>,
    temperatures: [f64; 2],
    budget: Option<usize>,
}

impl DistillModel {
    /// A student with random weights, drawn from the settings' seed.
    pub fn new(settings: &Settings, teacher: FrozenTeacher, device: &Device) -> Result<Self> {
        let d = &settings.distill;
        let has_head = teacher.head.is_some();
        if has_head != (d.output == TeacherOutput::Projection) {
            return Err(Error::config("distill.output", "is not what the teacher was opened for"));
        }
        let backbone = settings.backbone()?;
        let network = backbone.grid().intact();
        let mut specs = backbone.specs();
        let width = backbone.feature_width(network);
        let hidden = if d.hidden == 0 { width } else { d.hidden };
        specs.extend(head_specs(width, hidden, teacher.width()));
        let layout = FlatLayout::new(&specs, device.max_tensor_bytes())?;
        let seed = settings.train.seed;
        let values = FlatBuffers::initialised(&layout, device, &mut ChaCha8Rng::seed_from_u64(seed))?;
        let average = FlatBuffers::zeros(&layout, device)?;
        average.copy_from(&values)?;
        let rule = backbone.layer_rule();
        let multipliers = specs.iter().map(|spec| multipliers(spec, &rule)).collect();
        let groups = if settings.crops.local_crops_number > 0 { 2 } else { 1 };
        let shape = [d.queue, teacher.width()];
        let queues = (0..groups).map(|i| Queue::new(device, shape, seed, i)).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            device: device.clone(),
            network,
            parameters: Parameters::trained(values)?,
            average: Parameters::frozen(average),
            optimizer: AdamW::new(&layout, device, settings.adamw(), multipliers)?,
            backbone,
            teacher,
            next: Vec::new(),
            queues,
            temperatures: [d.student_temp, d.teacher_temp],
            budget: (d.chunk_bytes > 0).then_some(d.chunk_bytes),
        })
    }

    /// What a step trains.
    pub fn trained(&mut self) -> Trained<'_> {
        Trained { parameters: &self.parameters, teacher: Some(&self.average), optimizer: &mut self.optimizer }
    }

    /// The average of the student, to be evaluated.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { device: &self.device, backbone: &*self.backbone, parameters: &self.average }
    }

    /// Forward and backward of a micro-batch of `images` images, a group of crops a queue: `share` times the gradients are
    /// added. Returns the loss `[1]`: the sum of the groups' means. Then the queues take in the teacher's embeddings of all
    /// ranks, of small crops that of each image's first.
    pub fn forward_backward(
        &mut self,
        crops: &[CropBatch],
        images: usize,
        share: f64,
        drop_path: Option<&mut ChaCha8Rng>,
        ranks: &Collective,
    ) -> Result<Tensor> {
        let targets = {
            let _phase = profile::phase("teacher");
            self.teacher.embed(crops)?
        };
        let counts: Vec<usize> = crops.iter().map(|batch| batch.images.dim(0)).collect();
        let starts: Vec<usize> =
            counts.iter().scan(0, |at, count| Some(std::mem::replace(at, *at + count))).collect();
        let arriving = starts
            .iter()
            .map(|start| Queue::gather(ranks, &targets.slice(0, *start..start + images)?))
            .collect::<Result<Vec<_>>>()?;
        let tape = Tape::new();
        let own = {
            let _phase = profile::phase("forward");
            let tokens = self.backbone.forward(&tape, &self.parameters, self.network, crops, drop_path)?;
            let features = tokens.features(&tape, &cls(crops))?;
            l2_normalize(&tape, &mlp(&tape, &features, &self.layer("0")?, &self.layer("2")?)?, EPS)?
        };
        let loss = Tensor::empty(&self.device, &[1], DType::F32)?;
        let gradient = Tensor::empty(&self.device, own.value().shape(), DType::F32)?;
        for (group, queue) in self.queues.iter().enumerate() {
            let rows = starts[group]..starts[group] + counts[group];
            QueueDistillation {
                student: &own.value().slice(0, rows.clone())?,
                teacher: &targets.slice(0, rows.clone())?,
                queue: &queue.entries,
                student_temp: self.temperatures[0],
                teacher_temp: self.temperatures[1],
                budget: self.budget,
            }
            .run(&loss, group > 0, &gradient.slice(0, rows)?, share)?;
        }
        {
            let _phase = profile::phase("backward");
            tape.backward(vec![(&own, gradient)])?;
        }
        if self.next.is_empty() {
            // where a checkpoint, or the first rank, has left them
            self.next = self.queues.iter().map(|q| Ok(q.next.item()? as usize)).collect::<Result<_>>()?;
        }
        for ((queue, next), arriving) in self.queues.iter().zip(&mut self.next).zip(arriving) {
            *next = queue.take(arriving, *next)?;
        }
        Ok(loss)
    }

    fn layer(&self, part: &str) -> Result<LinearWeights> {
        Ok(LinearWeights {
            weight: self.parameters.operand(&format!("{HEAD}.{part}.weight"))?,
            bias: Some(self.parameters.var(&format!("{HEAD}.{part}.bias"))?),
            alpha: 1.0,
        })
    }
}

/// The student's head: two layers with GELU between them, from its features to the teacher's embeddings. Weights are drawn as PyTorch draws
/// a linear layer's.
fn head_specs(width: usize, hidden: usize, out: usize) -> Vec<ParameterSpec> {
    let layer = |part: &str, inputs: usize, outputs: usize| {
        let init = Init::Uniform(1.0 / (inputs as f32).sqrt());
        [
            ParameterSpec::new(format!("{HEAD}.{part}.weight"), &[outputs, inputs], init),
            ParameterSpec::new(format!("{HEAD}.{part}.bias"), &[outputs], init),
        ]
    };
    [layer("0", width, hidden), layer("2", hidden, out)].concat()
}

/// How one parameter learns: all at the same rate.
fn multipliers(spec: &ParameterSpec, rule: &LayerRule) -> Multipliers {
    let group = param_group(&spec.name, rule, 1.0, 1.0);
    let matrix = group.wd_multiplier > 0.0 && spec.shape.len() > 1;
    let decays = matrix && !NO_DECAY.iter().any(|part| spec.name.contains(part));
    Multipliers { lr: 1.0, weight_decay: f64::from(decays), last_layer: false }
}
