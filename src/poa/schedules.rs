//! Momentum and temperature of the teacher as functions of the step alone.

use crate::optim::schedules::{Cosine, line};
use crate::poa::settings::Settings;

/// The values of the teacher that move during a run. Steps count from 0.
#[derive(Debug, Clone, PartialEq)]
pub struct TeacherSchedules {
    momentum: Cosine,
    first_temp: f64,
    temp: f64,
    warmup: usize,
}

impl TeacherSchedules {
    /// The schedules of a run.
    pub fn new(settings: &Settings) -> Self {
        let (t, length) = (&settings.teacher, settings.length());
        Self {
            momentum: Cosine {
                base: t.momentum_teacher,
                end: t.final_momentum_teacher,
                warmup: 0,
                layout: settings.optim.layout(&length),
            },
            first_temp: t.warmup_teacher_temp,
            temp: t.teacher_temp,
            warmup: length.steps_of_epochs(t.warmup_teacher_temp_epochs),
        }
    }

    /// Share of the old teacher in the moving average.
    pub fn momentum(&self, step: usize) -> f64 {
        self.momentum.at(step)
    }

    /// Temperature of the targets.
    pub fn temp(&self, step: usize) -> f64 {
        match step < self.warmup {
            true => line(self.first_temp, self.temp, self.warmup, step),
            false => self.temp,
        }
    }
}
