//! Ranges and relations of the settings. Each check is one line that names the key and a value that would work.

use super::Config;
use crate::error::{Error, Result};

pub(crate) fn whole(key: &str, value: usize, low: usize, high: usize, example: usize) -> Result<()> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => {
            Err(Error::config(key, format!("is {value}; it must be {low} to {high}, for example {example}")))
        }
    }
}

pub(crate) fn number(key: &str, value: f64, low: f64, high: f64, example: f64) -> Result<()> {
    match value >= low && value <= high {
        true => Ok(()),
        false => {
            Err(Error::config(key, format!("is {value}; it must be {low} to {high}, for example {example}")))
        }
    }
}

pub(crate) fn positive(key: &str, value: f64, example: f64) -> Result<()> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => {
            Err(Error::config(key, format!("is {value}; it must be more than 0, for example {example}")))
        }
    }
}

/// A range: smallest first, both within `low..=high`.
pub(crate) fn range(key: &str, [a, b]: [f64; 2], low: f64, high: f64, example: [f64; 2]) -> Result<()> {
    match a >= low && b <= high && a <= b {
        true => Ok(()),
        false => Err(Error::config(
            key,
            format!("is [{a}, {b}]; smallest first, both {low} to {high}, for example {example:?}"),
        )),
    }
}

pub(crate) fn demand(holds: bool, key: &str, problem: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::config(key, problem())) }
}

impl Config {
    /// Checks every range and every relation between settings.
    pub fn validate(&self) -> Result<()> {
        self.validate_student()?;
        self.validate_crops()?;
        self.validate_losses()?;
        self.validate_schedules()?;
        self.validate_run()
    }

    fn validate_student(&self) -> Result<()> {
        let s = &self.student;
        whole("student.patch_size", s.patch_size, 1, 256, 16)?;
        number("student.net_select_scale", s.net_select_scale, 1.0, 100.0, 3.0)?;
        number("student.drop_path_rate", s.drop_path_rate, 0.0, 0.95, 0.2)?;
        whole("student.width_interval", s.width_interval, 1, 1024, 1)?;
        whole("student.depth_interval", s.depth_interval, 1, 1024, 1)?;
        crate::models::backbone::validate(self)?;
        self.validate_networks()
    }

    /// The sub-networks that are named must be in the grid.
    fn validate_networks(&self) -> Result<()> {
        let grid = crate::models::backbone::open(self)?.grid().clone();
        if !self.student.fixed_network.is_empty() {
            grid.named(&self.student.fixed_network)
                .map_err(|problem| Error::config("student.fixed_network", problem))?;
        }
        for name in &self.evaluation.networks {
            grid.named(name).map_err(|problem| Error::config("evaluation.networks", problem))?;
        }
        Ok(())
    }

    fn validate_crops(&self) -> Result<()> {
        let c = &self.crops;
        let patch = self.student.patch_size;
        for (key, size) in
            [("crops.global_crops_size", c.global_crops_size), ("crops.local_crops_size", c.local_crops_size)]
        {
            whole(key, size, patch, 4096, 16 * patch)?;
            demand(size.is_multiple_of(patch), key, || {
                let example = size.next_multiple_of(patch);
                format!("is {size}, not a multiple of student.patch_size = {patch}, for example {example}")
            })?;
        }
        whole("crops.local_crops_number", c.local_crops_number, 0, 64, 8)?;
        range("crops.global_crops_scale", c.global_crops_scale, 1e-4, 1.0, [0.32, 1.0])?;
        range("crops.local_crops_scale", c.local_crops_scale, 1e-4, 1.0, [0.05, 0.32])?;
        for (key, probability, example) in [
            ("crops.flip_probability", c.flip_probability, 0.5),
            ("crops.color_jitter_probability", c.color_jitter_probability, 0.8),
            ("crops.grayscale_probability", c.grayscale_probability, 0.2),
            ("crops.solarize_probability", c.solarize_probability, 0.2),
        ] {
            number(key, probability, 0.0, 1.0, example)?;
        }
        let [brightness, contrast, saturation, hue] = c.color_jitter;
        let strengths = [brightness, contrast, saturation].iter().all(|s| (0.0..=1.0).contains(s));
        demand(strengths && (0.0..=0.5).contains(&hue), "crops.color_jitter", || {
            "must be brightness, contrast and saturation of 0 to 1 and hue of 0 to 0.5, for example \
             [0.4, 0.4, 0.2, 0.1]"
                .into()
        })?;
        Ok(())
    }

    fn validate_losses(&self) -> Result<()> {
        let (d, i) = (&self.dino, &self.ibot);
        for (key, weight) in [
            ("dino.loss_weight", d.loss_weight),
            ("dino.koleo_loss_weight", d.koleo_loss_weight),
            ("ibot.loss_weight", i.loss_weight),
        ] {
            number(key, weight, 0.0, 1e6, 1.0)?;
        }
        heads("dino", &d.head_n_prototypes, d.head_bottleneck_dim, d.head_nlayers, d.head_hidden_dim)?;
        heads("ibot", &i.head_n_prototypes, i.head_bottleneck_dim, i.head_nlayers, i.head_hidden_dim)?;
        number("dino.lambda_ie", d.lambda_ie, 0.0, 1.0, 0.8)?;
        positive("dino.student_temp", d.student_temp, 0.1)?;
        whole("dino.sinkhorn_iterations", d.sinkhorn_iterations, 1, 100, 3)?;
        number("ibot.mask_sample_probability", i.mask_sample_probability, 0.0, 1.0, 0.5)?;
        range("ibot.mask_ratio_min_max", i.mask_ratio_min_max, 0.0, 1.0, [0.1, 0.5])?;
        let batch = self.train.batch_size_per_gpu;
        whole("train.batch_size_per_gpu", batch, 1, 1 << 16, 64)?;
        demand(d.koleo_loss_weight == 0.0 || batch >= 2, "train.batch_size_per_gpu", || {
            format!(
                "is {batch}, and KoLeo needs a neighbour in the batch: take 2 or more, or \
                 dino.koleo_loss_weight = 0"
            )
        })?;
        let masked = (2 * batch) as f64 * i.mask_sample_probability;
        demand(i.loss_weight == 0.0 || masked >= 1.0, "ibot.mask_sample_probability", || {
            format!(
                "is {}, so that none of the {} global crops is masked: take {} or more, or ibot.loss_weight = 0",
                i.mask_sample_probability,
                2 * batch,
                1.0 / (2 * batch) as f64
            )
        })?;
        let side = crate::models::backbone::open(self)?.cells(self.crops.global_crops_size);
        let most = (side * side) as f64 * i.mask_ratio_min_max[1];
        demand(i.loss_weight == 0.0 || most >= 1.0, "ibot.mask_ratio_min_max", || {
            format!(
                "hides less than one of the {} patches of a global crop: let the second number be {} or more, or \
                 ibot.loss_weight = 0",
                side * side,
                1.0 / (side * side) as f64
            )
        })
    }

    fn validate_schedules(&self) -> Result<()> {
        let (o, t, r) = (&self.optim, &self.teacher, &self.train);
        whole("optim.epochs", o.epochs, 1, 1_000_000, 346)?;
        whole("train.OFFICIAL_EPOCH_LENGTH", r.epoch_length, 1, 100_000_000, 800)?;
        whole("train.total_steps", r.total_steps, 0, 1_000_000_000_000, 0)?;
        for (key, epochs) in [
            ("optim.warmup_epochs", o.warmup_epochs),
            ("optim.freeze_last_layer_epochs", o.freeze_last_layer_epochs),
        ] {
            demand(epochs < o.epochs, key, || {
                let example = o.epochs / 10;
                format!("is {epochs}, not fewer than optim.epochs = {}, for example {example}", o.epochs)
            })?;
        }
        number("optim.base_lr", o.base_lr, 0.0, 100.0, 0.004)?;
        number("optim.lr", o.lr, 0.0, 100.0, 0.0)?;
        number("optim.min_lr", o.min_lr, 0.0, 100.0, 2e-5)?;
        number("optim.weight_decay", o.weight_decay, 0.0, 100.0, 0.04)?;
        number("optim.weight_decay_end", o.weight_decay_end, 0.0, 100.0, 0.4)?;
        number("optim.clip_grad", o.clip_grad, 0.0, 1e9, 1.5)?;
        number("optim.patch_embed_lr_mult", o.patch_embed_lr_mult, 0.0, 100.0, 0.2)?;
        number("optim.layerwise_decay", o.layerwise_decay, 1e-3, 1.0, 0.9)?;
        number("optim.adamw_beta1", o.adamw_beta1, 0.0, 0.999999, 0.9)?;
        number("optim.adamw_beta2", o.adamw_beta2, 0.0, 0.99999999, 0.999)?;
        positive("optim.adamw_eps", o.adamw_eps, 1e-8)?;
        // Beyond 1 the cosines would end before the run does.
        number("optim.iter_num_scale", o.iter_num_scale, 0.01, 1.0, 1.0)?;
        number("teacher.momentum_teacher", t.momentum_teacher, 0.0, 1.0, 0.992)?;
        number("teacher.final_momentum_teacher", t.final_momentum_teacher, 0.0, 1.0, 0.9999)?;
        positive("teacher.warmup_teacher_temp", t.warmup_teacher_temp, 0.04)?;
        positive("teacher.teacher_temp", t.teacher_temp, 0.07)
    }

    fn validate_run(&self) -> Result<()> {
        let (r, d, e) = (&self.train, &self.data, &self.evaluation);
        demand(r.seed <= i64::MAX as u64, "train.seed", || {
            format!("is {}; it must be 0 to 2^63 - 1", r.seed)
        })?;
        whole("train.accumulation_steps", r.accumulation_steps, 1, 1 << 16, 1)?;
        whole("train.num_workers", r.num_workers, 0, 1024, 0)?;
        whole("train.saveckp_freq", r.saveckp_freq, 1, 1_000_000, 20)?;
        whole("train.saveckp_minutes", r.saveckp_minutes, 0, 1 << 20, 30)?;
        whole("train.log_every", r.log_every, 1, 1_000_000, 10)?;
        number("data.max_bad_fraction", d.max_bad_fraction, 0.0, 1.0, 0.01)?;
        number("data.held_out", d.held_out, 0.0, 0.9, 0.1)?;
        demand(e.train.is_empty() == e.val.is_empty(), "evaluation.val", || {
            "and evaluation.train belong together: give both, or neither to hold some training images out"
                .into()
        })?;
        demand(!e.k.is_empty(), "evaluation.k", || {
            "is empty; give one number or more, for example [10, 20]".into()
        })?;
        for &k in &e.k {
            whole("evaluation.k", k, 1, 10_000, 10)?;
            demand(e.train_images == 0 || k <= e.train_images, "evaluation.k", || {
                let images = e.train_images;
                format!(
                    "holds {k}, more than evaluation.train_images = {images}, for example {}",
                    images.min(10)
                )
            })?;
        }
        positive("evaluation.temperature", e.temperature, 0.07)
    }
}

fn heads(section: &str, prototypes: &[usize], bottleneck: usize, layers: usize, hidden: usize) -> Result<()> {
    let key = |name: &str| format!("{section}.{name}");
    demand(!prototypes.is_empty(), &key("head_n_prototypes"), || {
        "is empty; give one number for each head, for example [8192, 16384]".into()
    })?;
    for &count in prototypes {
        whole(&key("head_n_prototypes"), count, 1, 1 << 24, 8192)?;
    }
    whole(&key("head_bottleneck_dim"), bottleneck, 1, 1 << 16, 256)?;
    whole(&key("head_hidden_dim"), hidden, 1, 1 << 16, 2048)?;
    demand(layers == 3, &key("head_nlayers"), || {
        format!("is {layers}, and heads can be built with 3 layers only; it must be 3")
    })
}
