//! Learning rate, weight decay, teacher momentum and teacher temperature as functions of the step alone.
//!
//! Warm-ups are numpy's `linspace` with both ends included. The cosines are laid out over more steps than the run
//! has (`optim.iter_num_scale`) and cut at its end. Source: the official POA recipe, whose values at 14 steps are
//! in `kernels-tests/fixtures/schedules`.

use std::f64::consts::PI;

use crate::recipes::Config;

/// A straight warm-up followed by half a cosine.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cosine {
    /// Value where the cosine starts, and the end of the warm-up from 0.
    base: f64,
    /// Value where the cosine ends.
    end: f64,
    /// Steps of the warm-up.
    warmup: usize,
    /// Step at which the cosine ends.
    layout: usize,
}

impl Cosine {
    fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return line(0.0, self.base, self.warmup, step);
        }
        if step >= self.layout {
            return self.end;
        }
        let share = (step - self.warmup) as f64 / (self.layout - self.warmup) as f64;
        self.end + 0.5 * (self.base - self.end) * (1.0 + (PI * share).cos())
    }
}

/// Entry `i` of numpy's `linspace(start, stop, n)`, for `i < n`.
fn line(start: f64, stop: f64, n: usize, i: usize) -> f64 {
    match n {
        0 | 1 => start,
        _ if i + 1 == n => stop,
        _ => i as f64 * ((stop - start) / (n - 1) as f64) + start,
    }
}

/// The values that move during a run. Steps count from 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedules {
    lr: Cosine,
    weight_decay: Cosine,
    momentum: Cosine,
    first_temp: f64,
    temp: f64,
    temp_warmup: usize,
    frozen: usize,
}

impl Schedules {
    /// The schedules of a configuration whose learning rate is resolved.
    pub fn new(config: &Config) -> Self {
        let (o, t) = (&config.optim, &config.teacher);
        let layout = (config.total_steps() as f64 / o.iter_num_scale) as usize;
        let cosine = |base, end, warmup| Cosine { base, end, warmup, layout };
        Self {
            lr: cosine(o.lr, o.min_lr, config.steps_of_epochs(o.warmup_epochs)),
            weight_decay: cosine(o.weight_decay, o.weight_decay_end, 0),
            momentum: cosine(t.momentum_teacher, t.final_momentum_teacher, 0),
            first_temp: t.warmup_teacher_temp,
            temp: t.teacher_temp,
            temp_warmup: config.steps_of_epochs(t.warmup_teacher_temp_epochs),
            frozen: config.steps_of_epochs(o.freeze_last_layer_epochs),
        }
    }

    /// Learning rate, before the multiplier of a parameter.
    pub fn lr(&self, step: usize) -> f64 {
        self.lr.at(step)
    }

    /// Learning rate of the prototypes, which do not move at first.
    pub fn last_layer_lr(&self, step: usize) -> f64 {
        if step < self.frozen { 0.0 } else { self.lr.at(step) }
    }

    /// Weight decay, before the multiplier of a parameter.
    pub fn weight_decay(&self, step: usize) -> f64 {
        self.weight_decay.at(step)
    }

    /// Share of the old teacher in the moving average.
    pub fn teacher_momentum(&self, step: usize) -> f64 {
        self.momentum.at(step)
    }

    /// Temperature of the teacher's targets.
    pub fn teacher_temp(&self, step: usize) -> f64 {
        match step < self.temp_warmup {
            true => line(self.first_temp, self.temp, self.temp_warmup, step),
            false => self.temp,
        }
    }
}
