//! Bind groups of earlier dispatches: a step binds the same buffers to the same kernels as the one before, and making
//! a group costs the host as much as the rest of a dispatch.

use std::collections::HashMap;

use super::buffer::{GpuBuffer, Operand};

/// Groups kept at most; a step of ViT-L has some 3,000 dispatches.
const MOST: usize = 1 << 14;
/// Buffers that a kernel binds at most.
const BINDINGS: usize = 12;

/// A pipeline's number and those of the buffers bound to it, the rest zero.
type Key = [u64; 1 + BINDINGS];

/// Bind groups by pipeline and buffers. They keep the memory of their buffers alive, so buffers that are let go must
/// be taken out.
#[derive(Default)]
pub(super) struct Groups {
    known: HashMap<Key, wgpu::BindGroup>,
}

impl Groups {
    /// The group that binds these operands to a pipeline, made where there is none.
    pub fn get(
        &mut self,
        pipeline: u64,
        operands: &[Operand],
        make: impl FnOnce() -> wgpu::BindGroup,
    ) -> wgpu::BindGroup {
        let mut key = [0; 1 + BINDINGS];
        key[0] = pipeline;
        match key.get_mut(1..1 + operands.len()) {
            Some(ids) => ids.iter_mut().zip(operands).for_each(|(id, operand)| *id = operand.buffer.id),
            None => return make(),
        }
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.entry(key).or_insert_with(make).clone()
    }

    /// Takes out all groups with one of these buffers.
    pub fn forget(&mut self, buffers: &[GpuBuffer]) {
        if !buffers.is_empty() {
            self.known.retain(|key, _| !key[1..].iter().any(|id| buffers.iter().any(|b| b.id == *id)));
        }
    }

    /// Takes out all of them.
    pub fn clear(&mut self) {
        self.known.clear();
    }
}
