//! Everything that knows wgpu: adapters and their limits, pooled buffers, shader composition, pipelines, and
//! the stream of recorded commands.

mod absent;
mod adapter;
mod buffer;
mod caps;
mod choices;
mod device;
mod failure;
mod groups;
mod kernel;
mod pipeline;
mod pipelines;
mod preprocess;
mod rehearsal;
mod stream;
mod timing;

pub use absent::hidden_card;
pub use adapter::{AdapterSummary, DeviceChoice, adapters, select};
pub(crate) use buffer::{Bind, GpuBuffer, Operand, PendingCopy};
pub use caps::{Caps, Cooperative};
pub use choices::{Choices, Gain, cache_folder};
pub use device::GpuDevice;
pub use kernel::{Defines, Kernel, Param, ParamKind, Params, Shader, compose, digest};
pub(crate) use kernel::{Word, params, shader};
pub use pipelines::Pipelines;
pub use rehearsal::Tally;
