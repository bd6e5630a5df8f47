//! One pass over all parameters: AdamW with weight decay, clipping, the moving average of a teacher where
//! there is one, and the gradients' zeroing; before it, the gradient norms by module, the clip factors and
//! the check for non-finite numbers, on the device. In mixed precision the same passes take the loss scale
//! out, move it, and write the values in half precision. Over several ranks they may be split ([`Shard`]): then
//! each rank has the moments of its part of the parameters alone.

use std::rc::Rc;

use rayon::prelude::*;

use crate::cpu::{Arch, RowsMut, math, par_parts};
use crate::error::Result;
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::nn::parameters::{BLOCK, FlatBuffers, FlatLayout, NORM_BLOCK, Parameters};
use crate::ops::rows::{RowPlan, Team};
use crate::optim::loss_scale::{self, LossScale};
use crate::optim::shard::Shard;
use crate::profile;
use crate::tensor::{DType, Device, Tensor};

const SHADER: Shader = shader!("adamw.wgsl", kernels);
pub(super) const WG: u32 = 256;

params!(AdamWParams {
    count: u32,
    partial_offset: u32,
    modules: u32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    eps: f32,
    correction1: f32,
    correction2: f32,
    ema: f32,
    clip: f32,
});

/// What a step uses for every parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    /// Learning rate before multipliers.
    pub lr: f64,
    /// Learning rate of the heads' last layers.
    pub last_layer_lr: f64,
    /// Weight decay before multipliers.
    pub weight_decay: f64,
    /// The teacher, where there is one, keeps this share of itself.
    pub teacher_momentum: f64,
}

/// Constants of the optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Largest gradient norm of a module; 0 for no limit.
    pub clip_grad: f64,
}

impl Default for AdamWConfig {
    /// PyTorch's constants, without a limit.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, clip_grad: 0.0 }
    }
}

/// Multipliers of a parameter (see [`crate::optim::groups`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// On the learning rate.
    pub lr: f64,
    /// On the weight decay.
    pub weight_decay: f64,
    /// Whether it is a last layer.
    pub last_layer: bool,
}

impl Default for Multipliers {
    /// A parameter that is like all others.
    fn default() -> Self {
        Self { lr: 1.0, weight_decay: 1.0, last_layer: false }
    }
}

/// AdamW's moments and tables.
pub struct AdamW {
    config: AdamWConfig,
    multipliers: Vec<Multipliers>,
    /// First moments. Where the optimiser is split over ranks, those of this rank's part of each buffer; see
    /// [`AdamW::read_moment`].
    pub m: FlatBuffers,
    /// Second moments, likewise.
    pub v: FlatBuffers,
    /// Steps applied so far.
    pub applied: u64,
    /// `u32` for every block of each buffer: its parameter.
    pub(super) block_parameter: Vec<Tensor>,
    /// `u32 [modules, 2]`: range of norm blocks.
    module_ranges: Tensor,
    /// `f32`: 1 where everything is finite, then (norm, clip factor) of every module; in mixed precision then
    /// the step's loss scale.
    pub(super) control: Tensor,
    norm_blocks: usize,
    pub(super) mixed: Option<Mixed>,
    /// What of the parameters this rank updates, where that is not all.
    pub(super) shard: Option<Rc<Shard>>,
}

/// What mixed precision adds.
pub(super) struct Mixed {
    scale: LossScale,
    /// The student's values in half precision, written with the others.
    pub(super) student: FlatBuffers,
    /// The teacher's.
    pub(super) teacher: Option<FlatBuffers>,
}

/// What [`AdamW::measure`] found, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientReport {
    /// Whether loss and gradients are finite; where they are not, the step was skipped.
    pub finite: bool,
    /// Gradient norm of every module before clipping, in the layout's order.
    pub norms: Vec<f64>,
    /// The loss scale of the step, in mixed precision.
    pub loss_scale: Option<f64>,
}

impl GradientReport {
    /// Reads the numbers of [`AdamW::control`].
    pub fn from_control(values: &[f32]) -> Self {
        let pairs = values[1..].chunks_exact(2);
        let loss_scale = pairs.remainder().first().map(|scale| *scale as f64);
        let norms = pairs.map(|pair| pair[0] as f64).collect();
        Self { finite: values[0] == 1.0, norms, loss_scale }
    }
}

/// The kernels' names and the flags that choose them.
pub(super) const SQUARE_SUMS: [&str; 2] = ["square_sums", "SQUARE_SUMS"];
const FINISH_NORMS: [&str; 2] = ["finish_norms", "FINISH_NORMS"];
pub(super) const UPDATE: [&str; 2] = ["update", "UPDATE"];
pub(super) const FOLLOW: [&str; 2] = ["follow", "FOLLOW"];

/// What else a kernel does.
#[derive(Clone, Copy, Default)]
pub(super) struct Also {
    pub mixed: bool,
    pub teacher: bool,
    /// Goes over a rank's norm blocks alone.
    pub own: bool,
}

pub(super) fn kernel([entry, flag]: [&'static str; 2], also: Also) -> Kernel {
    let team = Team::Workgroup(WG);
    let mut defines = RowPlan { team, vec4: true, keep: 0, exact: false }.defines();
    defines.extend([(flag, 1), ("BLOCK", BLOCK as u32), ("NORM_BLOCK", NORM_BLOCK as u32)]);
    defines.extend(also.mixed.then_some(("MIXED", 1)));
    defines.extend(also.teacher.then_some(("TEACHER", 1)));
    defines.extend(also.own.then_some(("OWN", 1)));
    defines.extend((also.mixed && entry == "finish_norms").then_some(("INTERVAL", loss_scale::INTERVAL)));
    Kernel::new::<AdamWParams>(SHADER, entry, defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    let precisions = if caps.mixed_precision() { &[false, true][..] } else { &[false] };
    let own = Also { own: true, ..Also::default() };
    let mut all = vec![kernel(SQUARE_SUMS, Also::default()), kernel(SQUARE_SUMS, own), kernel(UPDATE, own)];
    for &mixed in precisions {
        all.push(kernel(FINISH_NORMS, Also { mixed, ..Also::default() }));
        for teacher in [false, true] {
            all.extend([UPDATE, FOLLOW].map(|name| kernel(name, Also { mixed, teacher, own: false })));
        }
    }
    all
}

impl AdamW {
    /// An optimiser with zero moments; `multipliers` in the layout's order.
    pub fn new(
        layout: &Rc<FlatLayout>,
        device: &Device,
        config: AdamWConfig,
        multipliers: Vec<Multipliers>,
    ) -> Result<Self> {
        Self::of_shard(layout, device, config, multipliers, None)
    }

    /// The same of one of several ranks, which updates `shard` and has the moments of that. All ranks must then
    /// measure and update at once, with gradients that are the sums over ranks within the shard; what they hold
    /// elsewhere is disregarded, and zeroed by the update as everywhere.
    pub fn of_shard(
        layout: &Rc<FlatLayout>,
        device: &Device,
        config: AdamWConfig,
        multipliers: Vec<Multipliers>,
        shard: Option<Shard>,
    ) -> Result<Self> {
        assert_eq!(multipliers.len(), layout.places().len());
        let moments = || match &shard {
            None => FlatBuffers::zeros(layout, device),
            Some(shard) => shard.zeros(device),
        };
        let (m, v) = (moments()?, moments()?);
        let mut block_parameter: Vec<Vec<u32>> =
            layout.buffers().iter().map(|elements| vec![u32::MAX; elements / BLOCK]).collect();
        for (i, place) in layout.places().iter().enumerate() {
            let blocks = place.range.start / BLOCK..place.range.end.div_ceil(BLOCK);
            block_parameter[place.buffer][blocks].fill(i as u32);
        }
        // norm blocks are numbered through all buffers; a module owns a range of them
        let mut first_block = vec![0usize];
        for elements in layout.buffers() {
            first_block.push(first_block[first_block.len() - 1] + elements / NORM_BLOCK);
        }
        let mut ranges = Vec::new();
        for module in layout.modules() {
            let own = || layout.places().iter().filter(|p| p.spec.module() == module);
            let at = |buffer: usize, element: usize| first_block[buffer] + element / NORM_BLOCK;
            let start = own().map(|p| at(p.buffer, p.range.start)).min().unwrap_or(0);
            let end = own().map(|p| at(p.buffer, p.range.end - 1) + 1).max().unwrap_or(0);
            ranges.extend([start as u32, end as u32]);
        }
        Ok(Self {
            config,
            multipliers,
            m,
            v,
            applied: 0,
            block_parameter: block_parameter
                .iter()
                .map(|b| Tensor::from_slice(device, &[b.len()], b))
                .collect::<Result<_>>()?,
            module_ranges: Tensor::from_slice(device, &[ranges.len()], &ranges)?,
            control: Tensor::zeros(device, &[1 + 2 * layout.modules().len()], DType::F32)?,
            norm_blocks: first_block[first_block.len() - 1],
            mixed: None,
            shard: shard.map(Rc::new),
        })
    }

    /// The optimiser of mixed precision: gradients come multiplied by a loss scale that moves with them, and
    /// the values in half precision, the student's and those of a teacher where there is one, follow the
    /// others.
    pub fn with_mixed_precision(self, student: FlatBuffers, teacher: Option<FlatBuffers>) -> Result<Self> {
        let device = self.control.device();
        let control = Tensor::zeros(device, &[self.control.elements() + 1], DType::F32)?;
        let mixed = Mixed { scale: LossScale::new(device)?, student, teacher };
        Ok(Self { control, mixed: Some(mixed), ..self })
    }

    /// The loss scale, in mixed precision.
    pub fn loss_scale(&self) -> Option<&LossScale> {
        self.mixed.as_ref().map(|m| &m.scale)
    }

    /// What of the parameters this rank updates, where that is not all.
    pub fn shard(&self) -> Option<&Rc<Shard>> {
        self.shard.as_ref()
    }

    /// `f32`: 1 where everything is finite, then (norm, clip factor) of every module; see [`GradientReport`].
    pub fn control(&self) -> &Tensor {
        &self.control
    }

    /// Measures the gradients: norms and clip factors by module, and whether they and `loss` (one element)
    /// are finite. In mixed precision the gradients' scale is taken out of both, and moves on to that of the
    /// next step. Nothing is read back.
    pub fn measure(&self, gradients: &FlatBuffers, loss: &Tensor) -> Result<()> {
        let _span = profile::operation("gradient_norms");
        let modules = self.m.layout().modules().len();
        match self.control.device() {
            Device::Cpu(_) => {
                let sums = match &self.shard {
                    None => self.square_sums(gradients, |_| None)?,
                    Some(shard) => {
                        let own = self.square_sums(gradients, |buffer| Some(shard.blocks(buffer)))?;
                        shard.numbers_of_all(own)?
                    }
                };
                let state = self.loss_scale().map(LossScale::get).transpose()?;
                let scale = state.map_or(1.0, |s| s.scale as f64);
                let mut finite = loss.cpu_read::<f32>("adamw")?[0].is_finite();
                let control = &mut *self.control.cpu_write::<f32>("adamw")?;
                for (module, range) in self.module_ranges.cpu_read::<u32>("adamw")?.chunks(2).enumerate() {
                    let own = &sums[range[0] as usize..range[1] as usize];
                    let norm = own.iter().map(|sum| f64::from(*sum)).sum::<f64>().sqrt() / scale;
                    finite &= norm.is_finite();
                    control[1 + 2 * module] = norm as f32;
                    control[2 + 2 * module] = (clip_factor(norm, self.config.clip_grad) / scale) as f32;
                }
                control[0] = finite as u32 as f32;
                if let (Some(scale), Some(state)) = (self.loss_scale(), state) {
                    control[1 + 2 * modules] = state.scale;
                    scale.set(state.after(finite))?;
                }
                Ok(())
            }
            Device::Gpu(gpu) => {
                let sums = match &self.shard {
                    None => {
                        let sums = Tensor::empty(loss.device(), &[self.norm_blocks], DType::F32)?;
                        let mut at = sums.layout().offset;
                        for buffer in gradients.buffers() {
                            let blocks = buffer.elements() / NORM_BLOCK;
                            let params =
                                AdamWParams { count: blocks, partial_offset: at, ..Default::default() };
                            let kernel = kernel(SQUARE_SUMS, Also::default());
                            gpu.dispatch(&kernel, &[&sums, buffer], &params, gpu.caps().grid(blocks))?;
                            at += blocks;
                        }
                        sums
                    }
                    Some(shard) => self.square_sums_of_own(shard, gradients)?,
                };
                let params = AdamWParams {
                    partial_offset: sums.layout().offset,
                    count: loss.layout().offset,
                    modules,
                    clip: self.config.clip_grad as f32,
                    ..Default::default()
                };
                let mut tensors = vec![&self.control, &sums, &self.module_ranges, loss];
                tensors.extend(self.mixed.iter().map(|m| m.scale.state()));
                let also = Also { mixed: self.mixed.is_some(), ..Also::default() };
                let kernel = kernel(FINISH_NORMS, also);
                gpu.dispatch(&kernel, &tensors, &params, [1, 1, 1])
            }
        }
    }

    /// Σ g² of norm blocks, buffer by buffer: of those that `blocks` names of each, or all.
    fn square_sums<'a>(
        &self,
        gradients: &FlatBuffers,
        blocks: impl Fn(usize) -> Option<&'a [u32]>,
    ) -> Result<Vec<f32>> {
        let (mut sums, arch) = (Vec::with_capacity(self.norm_blocks), Arch::get());
        for (i, buffer) in gradients.buffers().iter().enumerate() {
            let (g, own) = (&*buffer.cpu_read::<f32>("adamw")?, blocks(i));
            let count = own.map_or(g.len() / NORM_BLOCK, <[u32]>::len);
            let sum_of = |i: usize| {
                let start = own.map_or(i, |own| own[i] as usize) * NORM_BLOCK;
                let block = &g[start..start + NORM_BLOCK];
                arch.run(
                    #[inline(always)]
                    |_| math::sum_of([block], |[g]| g * g),
                )
            };
            sums.par_extend((0..count).into_par_iter().map(sum_of));
        }
        Ok(sums)
    }

    /// Updates the student's values, the moments and the teacher's moving average, and zeroes the gradients;
    /// where [`Self::measure`] found something non-finite, only the latter. Parameters that no gradient
    /// reached are left alone. The caller counts the step in [`Self::applied`] once it knows that it was not
    /// skipped.
    pub fn update(
        &self,
        student: &Parameters,
        teacher: Option<&FlatBuffers>,
        settings: StepSettings,
    ) -> Result<()> {
        let _span = profile::operation("adamw");
        let Some(gradients) = student.gradients() else { return Ok(()) };
        let t = (self.applied + 1) as i32;
        let touched = student.take_touched();
        let layout = self.m.layout();
        let module_of = |name: &str| layout.modules().iter().position(|m| m == name).unwrap_or(0);
        let table: Vec<[f32; 4]> = layout
            .places()
            .iter()
            .zip(self.multipliers.iter().zip(&touched))
            .map(|(place, (m, touched))| {
                let base = if m.last_layer { settings.last_layer_lr } else { settings.lr };
                let lr = base * m.lr;
                let keep = 1.0 - lr * settings.weight_decay * m.weight_decay;
                [lr as f32, keep as f32, *touched as u32 as f32, module_of(place.spec.module()) as f32]
            })
            .collect();
        let params = AdamWParams {
            beta1: self.config.beta1 as f32,
            beta2: self.config.beta2 as f32,
            // not 1 − β in single precision, which is off by 5e-5 of itself
            rest1: (1.0 - self.config.beta1) as f32,
            rest2: (1.0 - self.config.beta2) as f32,
            eps: self.config.eps as f32,
            correction1: (1.0 - self.config.beta1.powi(t)) as f32,
            correction2: (1.0 - self.config.beta2.powi(t)) as f32,
            ema: (1.0 - settings.teacher_momentum) as f32,
            ..Default::default()
        };
        if let Some(shard) = &self.shard {
            self.update_own(shard, student, gradients, &table, params)?;
            shard.gather(student.values())?;
            return self.follow(student, gradients, teacher, params);
        }
        match self.control.device() {
            Device::Cpu(_) => self.update_cpu(student, gradients, teacher, &table, params),
            Device::Gpu(gpu) => {
                let device = self.control.device();
                let flat: Vec<f32> = table.into_iter().flatten().collect();
                let table = Tensor::from_slice(device, &[flat.len()], &flat)?;
                for (i, p) in student.values().buffers().iter().enumerate() {
                    let params = AdamWParams { count: p.elements(), ..params };
                    let mut tensors = vec![
                        p,
                        &gradients.buffers()[i],
                        &self.m.buffers()[i],
                        &self.v.buffers()[i],
                        &self.block_parameter[i],
                        &table,
                        &self.control,
                    ];
                    let halves = self.mixed.as_ref();
                    tensors.extend(teacher.map(|t| &t.buffers()[i]));
                    tensors.extend(halves.map(|m| &m.student.buffers()[i]));
                    tensors.extend(halves.and_then(|m| m.teacher.as_ref()).map(|t| &t.buffers()[i]));
                    let grid = gpu.caps().grid((p.elements() / 4).div_ceil(WG as usize));
                    let (mixed, teacher) = (self.mixed.is_some(), teacher.is_some());
                    let kernel = kernel(UPDATE, Also { mixed, teacher, own: false });
                    gpu.dispatch(&kernel, &tensors, &params, grid)?;
                }
                Ok(())
            }
        }
    }

    fn update_cpu(
        &self,
        student: &Parameters,
        gradients: &FlatBuffers,
        teacher: Option<&FlatBuffers>,
        table: &[[f32; 4]],
        c: AdamWParams,
    ) -> Result<()> {
        let control = &*self.control.cpu_read::<f32>("adamw")?;
        let (finite, arch) = (control[0] == 1.0, Arch::get());
        for (i, p) in student.values().buffers().iter().enumerate() {
            let blocks = &*self.block_parameter[i].cpu_read::<u32>("adamw")?;
            let [mut p, mut g, mut m, mut v] = {
                let [g, m, v] =
                    [gradients, &self.m, &self.v].map(|all| all.buffers()[i].cpu_write::<f32>("adamw"));
                [p.cpu_write::<f32>("adamw")?, g?, m?, v?]
            };
            let mut averages = teacher.map(|t| t.buffers()[i].cpu_write::<f32>("adamw")).transpose()?;
            let [p, g, m, v] = [&mut p, &mut g, &mut m, &mut v].map(|all| RowsMut::dense(all, NORM_BLOCK));
            let averages = averages.as_mut().map(|all| RowsMut::dense(all, NORM_BLOCK));
            par_parts(((p, g), (m, v), averages)).for_each(|(at, ((p, g), (m, v), mut average))| {
                if !finite {
                    return g.fill(0.0);
                }
                // around all blocks: within it their lengths are known, and no index is checked
                arch.run(
                    #[inline(always)]
                    |_| {
                        for (b, start) in (0..p.len()).step_by(BLOCK).enumerate() {
                            let Some(&[lr, keep, touched, module]) =
                                table.get(blocks[at * NORM_BLOCK / BLOCK + b] as usize)
                            else {
                                continue;
                            };
                            let clip = control[2 + 2 * module as usize];
                            let range = start..start + BLOCK;
                            let (p, g) = (&mut p[range.clone()], &mut g[range.clone()]);
                            let (m, v) = (&mut m[range.clone()], &mut v[range.clone()]);
                            if touched != 0.0 {
                                update_block(p, g, m, v, [lr, keep, clip], c);
                            }
                            if let Some(average) = average.as_deref_mut() {
                                move_average(&mut average[range], p, c.ema);
                            }
                            g.fill(0.0);
                        }
                    },
                );
            });
        }
        self.round(student, teacher)
    }

    /// Writes the values in half precision, on the CPU.
    pub(super) fn round(&self, student: &Parameters, teacher: Option<&FlatBuffers>) -> Result<()> {
        let Some(mixed) = &self.mixed else { return Ok(()) };
        student.values().round_to(&mixed.student)?;
        match (teacher, &mixed.teacher) {
            (Some(values), Some(halves)) => values.round_to(halves),
            _ => Ok(()),
        }
    }
}

/// AdamW of a block of [`BLOCK`] elements, with its learning rate, what is kept of the values, and the clip factor.
#[inline(always)]
pub(super) fn update_block(
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    [lr, keep, clip]: [f32; 3],
    c: AdamWParams,
) {
    for k in 0..BLOCK {
        let d = g[k] * clip;
        m[k] = c.beta1 * m[k] + c.rest1 * d;
        v[k] = c.beta2 * v[k] + c.rest2 * d * d;
        let step = (m[k] / c.correction1) / ((v[k] / c.correction2).sqrt() + c.eps);
        p[k] = p[k] * keep - lr * step;
    }
}

/// The moving average of `values`.
#[inline(always)]
pub(super) fn move_average(average: &mut [f32], values: &[f32], ema: f32) {
    for (t, p) in average.iter_mut().zip(values) {
        *t += ema * (p - *t);
    }
}

/// min(1, c / (norm + 1e-6)); 1 where there is no limit.
fn clip_factor(norm: f64, limit: f64) -> f64 {
    if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 }
}
