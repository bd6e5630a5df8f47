//! The compiled kernels of an adapter. Compiling takes from milliseconds to seconds each, so several threads may do it,
//! before a kernel is wanted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::pipeline::Pipeline;
use super::{Caps, Kernel};
use crate::error::{Error, Result};

/// A kernel that is compiled, or being compiled by another thread.
type Slot = Arc<OnceLock<Result<Arc<Pipeline>, String>>>;

/// The compiled kernels of an adapter.
pub struct Pipelines {
    device: wgpu::Device,
    caps: Caps,
    /// How parameters are bound, where immediates are missing.
    uniforms: wgpu::BindGroupLayout,
    slots: Mutex<HashMap<Kernel, Slot>>,
    made: AtomicU64,
}

impl Pipelines {
    pub(super) fn new(device: wgpu::Device, caps: Caps, uniforms: wgpu::BindGroupLayout) -> Self {
        Self { device, caps, uniforms, slots: Mutex::default(), made: AtomicU64::new(0) }
    }

    /// The compiled kernel; compiled now if it is not, or waited for where another thread is compiling it. `strict`
    /// refuses one that its family does not list.
    pub(super) fn get(&self, kernel: &Kernel, strict: bool) -> Result<Arc<Pipeline>> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match slots.get(kernel) {
                Some(slot) => slot.clone(),
                None => slots.entry(kernel.clone()).or_default().clone(),
            }
        };
        if strict && slot.get().is_none() && !kernel.is_listed(&self.caps) {
            return Err(kernel.broken("its family does not list it"));
        }
        let make = || {
            let id = self.made.fetch_add(1, Ordering::Relaxed);
            match Pipeline::new(&self.device, &self.caps, &self.uniforms, kernel, id) {
                Ok(made) => Ok(Arc::new(made)),
                Err(Error::Device(why)) => Err(why),
                Err(other) => Err(other.to_string()),
            }
        };
        slot.get_or_init(make).clone().map_err(Error::Device)
    }

    /// Kernels compiled so far.
    pub(super) fn len(&self) -> usize {
        self.made.load(Ordering::Relaxed) as usize
    }

    /// Compiles a kernel before it is wanted. What goes wrong is told when it is; one that its family does not list
    /// is left for then.
    pub fn prepare(&self, kernel: &Kernel) {
        let _ = self.get(kernel, true);
    }
}
