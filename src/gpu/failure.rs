//! What has gone wrong on an adapter. wgpu tells it to callbacks, at the call that is at fault or at a later one, and
//! from then on treats a lost adapter's calls as if nothing were wrong; so it is asked for after each.

use std::sync::{Arc, Mutex, MutexGuard};

/// What went wrong first, and since when nothing goes any more.
#[derive(Default)]
pub(super) struct Failures(Mutex<Told>);

#[derive(Default)]
struct Told {
    error: Option<Failure>,
    /// Why the adapter is lost, which it stays.
    lost: Option<String>,
}

/// Something that went wrong on an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It has no memory left.
    Memory,
    /// Its driver has given it up, with this reason: a reset, a removal.
    Lost(String),
    /// Something else, as wgpu tells it.
    Other(String),
}

impl Failures {
    /// Watches a device from here on.
    pub fn of(device: &wgpu::Device) -> Arc<Self> {
        let failures = Arc::new(Self::default());
        let slot = failures.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            let failure = match e {
                wgpu::Error::OutOfMemory { .. } => Failure::Memory,
                other => Failure::Other(other.to_string()),
            };
            slot.told().error.get_or_insert(failure);
        }));
        let slot = failures.clone();
        device.set_device_lost_callback(move |_, why| {
            slot.told().lost.get_or_insert(why);
        });
        failures
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What went wrong since it was last asked for; of a lost adapter every time.
    pub fn take(&self) -> Option<Failure> {
        let mut told = self.told();
        let error = told.error.take();
        match &told.lost {
            // wgpu gives up an adapter that has no memory for its commands
            Some(why) if why.to_lowercase().contains("memory") => Some(Failure::Memory),
            Some(why) => Some(Failure::Lost(why.clone())),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_once_and_a_loss_every_time() {
        let failures = Failures::default();
        assert_eq!(failures.take(), None);
        failures.told().error = Some(Failure::Memory);
        assert_eq!(failures.take(), Some(Failure::Memory));
        assert_eq!(failures.take(), None);
        failures.told().error = Some(Failure::Other("a buffer is invalid".into()));
        failures.told().lost = Some("Parent device is lost".into());
        for _ in 0..2 {
            assert_eq!(failures.take(), Some(Failure::Lost("Parent device is lost".into())));
        }
        failures.told().lost = Some("Not enough memory left.".into());
        assert_eq!(failures.take(), Some(Failure::Memory));
    }
}
