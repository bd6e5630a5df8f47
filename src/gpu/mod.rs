//! Everything that knows wgpu: adapters and their limits, pooled buffers, shader composition, pipelines, and the
//! stream of recorded commands.

mod adapter;
mod caps;
mod device;
mod kernel;
mod preprocess;
mod timing;

pub use adapter::{AdapterSummary, DeviceChoice, adapters, select};
pub use caps::{Caps, Cooperative};
pub use device::GpuDevice;
pub(crate) use device::{Bind, GpuBuffer, Operand, PendingBuffer};
pub use kernel::{Defines, Kernel, Param, ParamKind, Params, Shader, compose, emit_spirv, validate};
pub(crate) use kernel::{Word, params, shader};
