//! Kernels compiled for an adapter, and what may be bound to them.

use super::buffer::Operand;
use super::caps::IMMEDIATE_BYTES;
use super::kernel::Binding;
use super::{Caps, Kernel};
use crate::error::Result;
use crate::profile;

/// A compiled kernel.
pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    /// Its number on the device.
    pub id: u64,
    bindings: Vec<Binding>,
}

impl Pipeline {
    /// Compiles a kernel. Its parameters are immediates, or lie in group 1, laid out as `uniforms`.
    pub fn new(
        device: &wgpu::Device,
        caps: &Caps,
        uniforms: &wgpu::BindGroupLayout,
        kernel: &Kernel,
        id: u64,
    ) -> Result<Self> {
        let _span = profile::operation("(pipeline)");
        let composed = kernel.compose(caps)?;
        let bytes = 4 * kernel.params.len() as u32;
        if bytes > IMMEDIATE_BYTES {
            return Err(kernel.broken(format!("{bytes} bytes of parameters")));
        }
        if composed.bindings.len() > caps.storage_buffers as usize {
            return Err(kernel.broken(format!(
                "it binds {} buffers, the adapter allows {}",
                composed.bindings.len(),
                caps.storage_buffers
            )));
        }
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(kernel.shader.name),
            source: wgpu::ShaderSource::Wgsl(composed.source.into()),
        };
        // SAFETY: kernels check their own bounds, which the tests prove with ragged shapes and fenced
        // outputs.
        let module = unsafe {
            device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        };
        let entries: Vec<_> = composed
            .bindings
            .iter()
            .enumerate()
            .map(|(i, binding)| wgpu::BindGroupLayoutEntry {
                binding: i as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: !binding.write },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let group = device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        let groups = [Some(&group), Some(uniforms)];
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: if caps.immediates { &groups[..1] } else { &groups },
            immediate_size: if caps.immediates { bytes } else { 0 },
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.shader.name),
            layout: Some(&layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        Ok(Self { pipeline, layout: group, id, bindings: composed.bindings })
    }

    /// Whether the operands are those that the kernel declares.
    pub fn check(&self, kernel: &Kernel, operands: &[Operand]) -> Result<()> {
        let wrong = |what: String| Err(kernel.broken(what));
        let bindings = &self.bindings;
        if bindings.len() != operands.len() {
            return wrong(format!("{} tensors are bound, {} were given", bindings.len(), operands.len()));
        }
        for (i, (binding, operand)) in bindings.iter().zip(operands).enumerate() {
            if binding.float.is_some_and(|bytes| usize::from(bytes) != operand.element_bytes) {
                return wrong(format!(
                    "binding {i} is of other elements than of {} bytes",
                    operand.element_bytes
                ));
            }
            let shared = |(j, other): (usize, &Operand)| j != i && std::ptr::eq(other.buffer, operand.buffer);
            if binding.write && operands.iter().enumerate().any(shared) {
                return wrong(format!("binding {i} is written and its buffer is bound twice"));
            }
        }
        Ok(())
    }
}
