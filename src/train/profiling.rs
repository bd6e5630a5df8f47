//! `--profile`: a few steps of a run are recorded, and told as a trace and a table.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::files::own::create_own;
use crate::files::whole::{destination, partial_of};
use crate::ops::ceiling;
use crate::profile;
use crate::shown::shown;
use crate::tensor::Device;

/// Steps before the recording, in which kernels are compiled and memory is allocated.
const WARM_UP: usize = 3;
/// Steps that are recorded.
const STEPS: usize = 5;

/// A profile that is to be made.
#[derive(Clone, Debug)]
pub struct Profiling {
    path: PathBuf,
    /// The steps that this process has yet to do before the recording, and during it.
    ahead: (usize, usize),
    recorded: usize,
}

impl Profiling {
    /// Will write to `path`. That it can be written is tried at once, so that it does not turn out to be impossible
    /// after the work.
    pub fn create(path: PathBuf) -> Result<Self> {
        let partial = partial_of(&destination(&path).map_err(|e| e.during("--profile"))?);
        create_own(&partial).and_then(|_| std::fs::remove_file(&partial)).map_err(|e| {
            Error::file(&path, format!("the profile cannot be written ({e}); give --profile another file"))
        })?;
        Ok(Self { path, ahead: (WARM_UP, STEPS), recorded: 0 })
    }

    /// Fits the recording into a process that does so many steps; of few the last are recorded.
    pub fn of_steps(self, steps: usize) -> Self {
        let warm_up = WARM_UP.min(steps.saturating_sub(1));
        Self { ahead: (warm_up, STEPS.min(steps - warm_up)), ..self }
    }

    /// A step begins.
    pub fn before_step(&mut self, device: &Device) -> Result<()> {
        match self.ahead {
            (0, 1..) if self.recorded == 0 => {
                device.synchronize()?;
                profile::start();
            }
            (0, _) => {}
            (warm_up, _) => self.ahead.0 = warm_up - 1,
        }
        Ok(())
    }

    /// A step was handed to the device. After the last the trace is written and the table returned.
    pub fn after_step(&mut self, device: &Device) -> Result<Option<String>> {
        if !profile::is_on() {
            return Ok(None);
        }
        self.recorded += 1;
        self.ahead.1 -= 1;
        if self.ahead.1 == 0 { self.finish(device) } else { Ok(None) }
    }

    /// Ends the recording if it is under way.
    pub fn finish(&mut self, device: &Device) -> Result<Option<String>> {
        if !profile::is_on() {
            return Ok(None);
        }
        let profile = device.finish_profile()?;
        profile.write_trace(&self.path, &device.describe())?;
        let ceiling = ceiling::measure(device)?;
        Ok(Some(format!(
            "profile of {}\ntrace for ui.perfetto.dev: {}",
            profile.table(&ceiling, self.recorded),
            shown(&self.path)
        )))
    }
}
