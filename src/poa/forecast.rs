//! What a run will ask of its device, found by rehearsing some of its steps: with the whole network as elastic student,
//! which takes most, and with others of the run's own, whose odd sizes leave gaps in the pooled memory.

use crate::collective::Collective;
use crate::data::batch::{Batch, CropGroup, GLOBAL, LOCAL, Masks, Pixels};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Tally};
use crate::memory::{gib, zeros};
use crate::models::grid::Network;
use crate::optim::adamw::StepSettings;
use crate::poa::draws::{Draws, drop_path};
use crate::poa::settings::{Precision, Settings};
use crate::poa::{PoaModel, StepInputs};
use crate::share::Share;
use crate::tensor::Device;
use crate::train::step::{Stepper, accumulate};

/// Steps with sub-networks of the run that are rehearsed beside the largest.
const DRAWN: usize = 10;

/// What a run will ask of its device.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// Bytes of parameters, their averages and moments: what is there whatever the batch.
    pub state: usize,
    /// Bytes that all tensors take, at most, without those of an evaluation.
    pub memory: usize,
    /// Images of a micro-batch.
    pub images: usize,
    /// The work of the largest step.
    pub step: Tally,
}

impl Forecast {
    /// Rehearses a run with resolved settings on an adapter with these capabilities.
    pub fn of(settings: &Settings, caps: &Caps) -> Result<Self> {
        Self::of_ranks(settings, caps, 1)
    }

    /// The same as one of so many ranks.
    pub fn of_ranks(settings: &Settings, caps: &Caps, ranks: usize) -> Result<Self> {
        // the last rank's part of the parameters is as large as any
        let share = Share { rank: ranks.saturating_sub(1), ranks };
        let mut rehearsal = Rehearsal::of_share(settings, &Device::rehearsal(caps), share)?;
        let state = rehearsal.device.peak_bytes();
        // what is made before the first step is no part of one
        rehearsal.tally();
        rehearsal.step(0, rehearsal.draws.largest())?;
        let step = rehearsal.tally();
        for i in 0..DRAWN.min(rehearsal.draws.cycle()) {
            rehearsal.step(i, rehearsal.draws.at(i))?;
        }
        let (memory, images) = (rehearsal.device.peak_bytes(), settings.loading.batch_size_per_gpu);
        Ok(Self { state, memory, images, step })
    }

    /// In words: how much memory, and what for.
    pub fn describe(&self) -> String {
        format!(
            "{:.2} GiB of device memory in training, {:.2} of them for parameters and their moments",
            gib(self.memory as u64),
            gib(self.state as u64)
        )
    }
}

/// Bytes of a student's logits at a time, and of each of the products around them, on an adapter with much memory.
pub const LARGE_PIECES: usize = 512 << 20;

/// The pieces that logits are taken in by an adapter with `bytes` of memory, for a run that leaves it open, and what the
/// run then asks for as the only rank: large ones, which are fewer and larger dispatches, where they leave a quarter of the memory free.
/// `None` where they would not, and on a software adapter: what suits caches is what operations take by themselves.
///
/// # Errors
/// Where the rehearsal fails, with large pieces as without.
pub fn pieces(settings: &Settings, caps: &Caps, bytes: usize) -> Result<Option<(usize, Forecast)>> {
    if caps.software || settings.step.prototype_chunk_bytes > 0 {
        return Ok(None);
    }
    let mut changed = settings.clone();
    changed.step.prototype_chunk_bytes = LARGE_PIECES;
    let forecast = Forecast::of(&changed, caps)?;
    Ok((forecast.memory <= bytes / 4 * 3).then_some((LARGE_PIECES, forecast)))
}

/// Settings with which a run on `ranks` ranks would make do with `bytes` of memory on each, in words; `None` where none of those is known that
/// leave the network as it is.
pub fn remedy(settings: &Settings, caps: &Caps, bytes: usize, ranks: usize) -> Result<Option<String>> {
    let fits = |change: &dyn Fn(&mut Settings)| -> Result<bool> {
        let mut changed = settings.clone();
        change(&mut changed);
        Ok(Forecast::of_ranks(&changed, caps, ranks)?.memory <= bytes)
    };
    let mixed = caps.mixed_precision() && settings.step.precision != Precision::Mixed;
    let batch = settings.loading.batch_size_per_gpu;
    let recompute = |s: &mut Settings| s.step.checkpoint_blocks = true;
    let halve = |s: &mut Settings| s.step.precision = Precision::Mixed;
    if mixed && fits(&halve)? {
        return Ok(Some("train.precision=mixed".into()));
    }
    if !settings.step.checkpoint_blocks && fits(&recompute)? {
        return Ok(Some("train.checkpoint_blocks=true".into()));
    }
    // as much as fits, and the same images a step by accumulating gradients
    let (mut most, mut too_many) = (0, batch);
    while too_many - most > 1 {
        let middle = most.midpoint(too_many);
        let with_batch = |s: &mut Settings| {
            s.loading.batch_size_per_gpu = middle;
            s.step.checkpoint_blocks = true;
        };
        *if fits(&with_batch)? { &mut most } else { &mut too_many } = middle;
    }
    Ok((most > 0).then(|| format!("train.checkpoint_blocks=true train.batch_size_per_gpu={most}")))
}

/// A run that is gone through.
pub struct Rehearsal<'a> {
    settings: &'a Settings,
    device: Device,
    model: PoaModel,
    draws: Draws,
    stepper: Stepper<()>,
}

impl<'a> Rehearsal<'a> {
    /// The rehearsal of a run with resolved settings on an adapter with these capabilities.
    pub fn new(settings: &'a Settings, caps: &Caps) -> Result<Self> {
        Self::on(settings, &Device::rehearsal(caps))
    }

    /// The same steps on any device; a device that is no rehearsal computes them, with black images.
    pub fn on(settings: &'a Settings, device: &Device) -> Result<Self> {
        Self::of_share(settings, device, Share::ALL)
    }

    /// The steps of one of several ranks, with the sub-networks of the first; nothing is exchanged.
    pub fn of_share(settings: &'a Settings, device: &Device, share: Share) -> Result<Self> {
        let model = PoaModel::of_rank(settings, device, settings.train.seed, (share, &Collective::alone()))?;
        let draws = Draws::new(settings, &model.grid, Share::ALL)?;
        Ok(Self { settings, device: device.clone(), model, draws, stepper: Stepper::default() })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The run's sub-networks, those of its first rank.
    pub fn draws(&self) -> &Draws {
        &self.draws
    }

    /// The sub-networks of any rank.
    pub fn draws_of(&self, share: Share) -> Result<Draws> {
        Draws::new(self.settings, &self.model.grid, share)
    }

    /// What was asked of the device since this was called last.
    pub fn tally(&self) -> Tally {
        match &self.device {
            Device::Gpu(gpu) => gpu.tally(),
            Device::Cpu(_) => Tally::default(),
        }
    }

    /// Goes through a step with an elastic student.
    pub fn step(&mut self, step: usize, network: Network) -> Result<()> {
        let Self { settings, model, stepper, .. } = self;
        let rates = StepSettings { lr: 0.0, last_layer_lr: 0.0, weight_decay: 0.0, teacher_momentum: 1.0 };
        let loss = accumulate(settings.plan().accumulation, 1, |batch| {
            let mut rng = drop_path(settings, Share::ALL, step, batch.index);
            let inputs = StepInputs { share: batch.share, ..StepInputs::new(network, 0.05) };
            let images = black(settings, model, (step + batch.index) as u64)?;
            Ok(model.forward_backward(&images, &mut inputs.with_drop_path(&mut rng))?.total)
        })?;
        stepper.apply(&mut model.trained(), &loss, rates, ())?;
        self.device.submit()
    }
}

/// Crops without anything on them, with the masks of a step.
fn black(settings: &Settings, model: &PoaModel, step: u64) -> Result<Batch> {
    let (crops, images) = (&settings.crops, settings.loading.batch_size_per_gpu);
    let (channels, normalization) = (settings.channels(), settings.normalization()?);
    let group = |name: &'static str, views: usize, size: usize, masks: Option<Masks>| -> Result<CropGroup> {
        // nobody touches them in a rehearsal
        let pixels = zeros(views * images * channels * size * size)
            .map_err(|_| Error::Device(format!("no memory for {images} images a batch")))?;
        let pixels = Pixels::Bytes(pixels, normalization.clone());
        Ok(CropGroup { name, views, channels, size, pixels, masks })
    };
    let masks = match settings.ibot.loss_weight > 0.0 && settings.ibot_start_step() < settings.total_steps() {
        true => {
            let side = model.backbone.cells(crops.global_crops_size);
            let config = settings.ibot.masking.config(side);
            Some(Masks { side, values: config.masks(settings.train.seed, step, 0, 2 * images) })
        }
        false => None,
    };
    let mut groups = vec![group(GLOBAL, 2, crops.global_crops_size, masks)?];
    if crops.local_crops_number > 0 {
        groups.push(group(LOCAL, crops.local_crops_number, crops.local_crops_size, None)?);
    }
    Batch::new(images, groups)
}
