//! Learning rate and weight decay as functions of the step alone, and the curves that they are made of.
//!
//! Warm-ups are numpy's `linspace` with both ends included. The cosines are laid out over more steps than the
//! run has (`optim.iter_num_scale`) and cut at its end. Source: the official POA recipe, whose values at 14
//! steps are in `kernels-tests/fixtures/schedules`.

use std::f64::consts::PI;

use crate::optim::settings::{Length, Optim};

/// A straight warm-up followed by half a cosine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cosine {
    /// Value where the cosine starts, and the end of the warm-up from 0.
    pub base: f64,
    /// Value where the cosine ends.
    pub end: f64,
    /// Steps of the warm-up.
    pub warmup: usize,
    /// Step at which the cosine ends.
    pub layout: usize,
}

impl Cosine {
    /// The value at a step.
    pub fn at(&self, step: usize) -> f64 {
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
pub fn line(start: f64, stop: f64, n: usize, i: usize) -> f64 {
    match n {
        0 | 1 => start,
        _ if i + 1 == n => stop,
        _ => i as f64 * ((stop - start) / (n - 1) as f64) + start,
    }
}

/// The values of the optimiser that move during a run. Steps count from 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedules {
    lr: Cosine,
    weight_decay: Cosine,
    frozen: usize,
}

impl Schedules {
    /// The schedules of a run of this length, with a learning rate that is resolved.
    pub fn new(o: &Optim, length: &Length) -> Self {
        let layout = o.layout(length);
        Self {
            lr: Cosine { base: o.lr, end: o.min_lr, warmup: length.steps_of_epochs(o.warmup_epochs), layout },
            weight_decay: Cosine { base: o.weight_decay, end: o.weight_decay_end, warmup: 0, layout },
            frozen: length.steps_of_epochs(o.freeze_last_layer_epochs),
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
}
