//! An adapter at work: its compiled kernels, and the commands that are recorded for it and handed over.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use super::buffer::{GpuBuffer, Operand, PendingBuffer};
use super::caps::IMMEDIATE_BYTES;
use super::failure::{Failure, Failures};
use super::groups::Groups;
use super::pipelines::Pipelines;
use super::timing::{Dispatched, Timing, hand_over};
use super::{Caps, Kernel};
use crate::error::{Error, Result};
use crate::guard::guarded;
use crate::profile::{self, Work};

/// Dispatches recorded before they are handed to the adapter, so that it works while the rest is recorded.
const SUBMIT_EVERY: usize = 256;
/// Milliseconds after which an error is no consequence of a loss that is still to be told.
const TOLD_WITHIN: usize = 100;
/// Distance of parameter blocks in the uniform buffer, where immediates are missing.
const UNIFORM_STRIDE: usize = 256;

/// Seconds of a slow adapter's time after which recorded commands are handed over. A driver that waits for some of
/// them longer than about two seconds (Windows) resets the adapter; an order of magnitude is left for what is
/// slower still.
const SUBMIT_SECONDS: f64 = 0.2;

/// How much work is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    dispatches: usize,
    seconds: f64,
}

impl Load {
    /// Seconds that work takes on a slow adapter, as processors of some years ago have one: a teraflop and 50 GB a
    /// second.
    pub fn seconds_of(work: Work) -> f64 {
        work.flops / 1e12 + work.bytes / 50e9
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.dispatches == 0
    }

    /// Whether what is recorded must be handed over before this is recorded too; it then counts as gone.
    pub fn must_go_before(&mut self, work: Work) -> bool {
        let full = !self.is_empty() && self.seconds + Self::seconds_of(work) > SUBMIT_SECONDS;
        if full {
            *self = Self::default();
        }
        full
    }

    /// Adds what is recorded now; whether it must be handed over at once, and then counts as gone.
    pub fn must_go_after(&mut self, work: Work) -> bool {
        self.dispatches += 1;
        self.seconds += Self::seconds_of(work);
        let full = self.dispatches >= SUBMIT_EVERY || self.seconds > SUBMIT_SECONDS;
        if full {
            *self = Self::default();
        }
        full
    }
}

/// What is recorded and not yet handed over.
#[derive(Default)]
struct Recorded {
    encoder: Option<wgpu::CommandEncoder>,
    pass: Option<wgpu::ComputePass<'static>>,
    /// Parameter blocks, where immediates are missing.
    uniforms: Vec<u8>,
    load: Load,
    /// Timestamps, while a profile is recorded.
    timing: Option<Timing>,
    /// Those of earlier submissions.
    timed: Vec<(Dispatched, PendingBuffer)>,
    /// Number of the submission being recorded, from 0.
    submission: u64,
}

/// A kernel on its way to an adapter.
pub(super) struct Dispatch<'a> {
    pub kernel: &'a Kernel,
    /// What is bound, as group 0.
    pub operands: &'a [Operand<'a>],
    pub work: Work,
    /// The parameters' bytes.
    pub params: &'a [u8],
    pub grid: [u32; 3],
}

/// The way to an opened adapter.
pub(super) struct Stream {
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// What the adapter is called in errors.
    name: String,
    pipelines: Arc<Pipelines>,
    groups: RefCell<Groups>,
    recorded: RefCell<Recorded>,
    uniforms: wgpu::Buffer,
    uniform_group: wgpu::BindGroup,
    failures: Arc<Failures>,
}

impl Stream {
    /// The way to a device that was opened as `name`.
    pub fn new(device: wgpu::Device, queue: wgpu::Queue, name: String, caps: &Caps) -> Self {
        let failures = Failures::of(&device);
        let uniforms = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: (SUBMIT_EVERY * UNIFORM_STRIDE) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let uniform_layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("parameters"),
            entries: &[wgpu::BindGroupLayoutEntry {
                binding: 0,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Uniform,
                    has_dynamic_offset: true,
                    min_binding_size: None,
                },
                count: None,
            }],
        });
        let uniform_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("parameters"),
            layout: &uniform_layout,
            entries: &[wgpu::BindGroupEntry {
                binding: 0,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &uniforms,
                    offset: 0,
                    size: wgpu::BufferSize::new(IMMEDIATE_BYTES as u64),
                }),
            }],
        });
        let pipelines = Arc::new(Pipelines::new(device.clone(), caps.clone(), uniform_layout));
        Self {
            device,
            queue,
            name,
            pipelines,
            groups: RefCell::default(),
            recorded: RefCell::default(),
            uniforms,
            uniform_group,
            failures,
        }
    }

    /// A buffer of `bytes`; `None` where there is no memory for it.
    pub fn allocate(&self, bytes: usize) -> Result<Option<wgpu::Buffer>> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let full = pollster::block_on(scope.pop()).is_some();
        self.check()?;
        Ok((!full).then_some(buffer))
    }

    /// The compiled kernels.
    pub fn pipelines(&self) -> &Arc<Pipelines> {
        &self.pipelines
    }

    /// Lets go of what was kept for buffers that are gone.
    pub fn forget(&self, gone: &[GpuBuffer]) {
        self.groups.borrow_mut().forget(gone);
    }

    /// Lets go of what was kept for any buffer.
    pub fn forget_all(&self) {
        self.groups.borrow_mut().clear();
    }

    /// Overwrites whole words of a buffer, after what is recorded so far.
    pub fn write(&self, to: &GpuBuffer, at: usize, bytes: &[u8]) -> Result<()> {
        // the write happens before anything not yet submitted; recorded uses of the buffer must come first
        if to.last_use.get() == Some(self.recorded.borrow().submission) {
            self.submit()?;
        }
        self.queue.write_buffer(to.buffer(), at as u64, bytes);
        self.check()
    }

    /// Records a copy of whole words to the host, part after part (a buffer, where in it, how many bytes), and
    /// submits what is recorded.
    pub fn start_read(&self, parts: &[(&GpuBuffer, usize, usize)]) -> Result<PendingBuffer> {
        let bytes: usize = parts.iter().map(|(_, _, bytes)| bytes).sum();
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size: bytes as u64,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.check()?;
        let mut recorded = self.recorded.borrow_mut();
        recorded.pass = None;
        let encoder =
            recorded.encoder.get_or_insert_with(|| self.device.create_command_encoder(&Default::default()));
        let mut to = 0;
        for (buffer, at, bytes) in parts {
            encoder.copy_buffer_to_buffer(buffer.buffer(), *at as u64, &staging, to, *bytes as u64);
            to += *bytes as u64;
        }
        let submission = self.submit_from(&mut recorded)?;
        staging.map_async(wgpu::MapMode::Read, .., |_| {});
        Ok(PendingBuffer { staging, submission })
    }

    /// Waits for a copy to the host.
    pub fn finish_read<T: bytemuck::Pod>(&self, pending: PendingBuffer) -> Result<Vec<T>> {
        self.wait(pending.submission)?;
        let view = pending
            .staging
            .get_mapped_range(..)
            .map_err(|e| Error::Device(format!("{}: memory cannot be read back: {e:?}", self.name)))?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }

    /// Waits for all work and hands the times of the dispatches to the profile.
    pub fn finish_timing(&self) -> Result<()> {
        self.submit()?;
        self.wait(None)?;
        let timed = std::mem::take(&mut self.recorded.borrow_mut().timed);
        let mut all = Vec::with_capacity(timed.len());
        for (dispatches, stamps) in timed {
            all.push((dispatches, self.finish_read(stamps)?));
        }
        hand_over(self.queue.get_timestamp_period(), all);
        Ok(())
    }

    /// Hands the recorded commands to the adapter.
    pub fn submit(&self) -> Result<()> {
        self.submit_from(&mut self.recorded.borrow_mut()).map(|_| ())
    }

    /// Waits for a submission; for the last one where none is named.
    pub fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let wish = wgpu::PollType::Wait { submission_index: submission, timeout: None };
        // wgpu panics where the adapter is lost meanwhile
        let waited = guarded(|| self.device.poll(wish));
        self.check()?;
        match waited {
            Some(Ok(_)) => Ok(()),
            Some(Err(e)) => Err(Error::Device(format!("{} stopped answering: {e}", self.name))),
            None => Err(self.error(Failure::Lost("no reason is given".into()))),
        }
    }

    /// What has gone wrong since it was last asked for.
    fn check(&self) -> Result<()> {
        let Some(mut failure) = self.failures.take() else { return Ok(()) };
        // it may only follow from a loss, which wgpu tells when nothing runs any more, and perhaps to another thread
        for _ in 0..TOLD_WITHIN {
            if !matches!(failure, Failure::Other(_)) {
                break;
            }
            guarded(|| self.device.poll(wgpu::PollType::wait_indefinitely()));
            std::thread::sleep(Duration::from_millis(1));
            failure = self.failures.take().unwrap_or(failure);
        }
        Err(self.error(failure))
    }

    /// A failure as an error that names the adapter.
    pub fn error(&self, failure: Failure) -> Error {
        let name = &self.name;
        Error::Device(match failure {
            Failure::Memory => format!(
                "{name} is out of memory; reduce train.batch_size_per_gpu, or set train.checkpoint_blocks=true or a \
                 smaller train.prototype_chunk_bytes"
            ),
            Failure::Lost(why) => format!(
                "{name} is lost ({}): its driver was reset, or it was removed; the system's log may say why",
                why.trim_end_matches('.')
            ),
            Failure::Other(what) => format!("{name}: {what}"),
        })
    }

    /// The device of wgpu's.
    pub fn device(&self) -> wgpu::Device {
        self.device.clone()
    }

    /// Records a dispatch. `strict` refuses a kernel that its family does not list.
    pub fn record(&self, caps: &Caps, dispatch: Dispatch, strict: bool) -> Result<()> {
        let Dispatch { kernel, operands, work, params, grid } = dispatch;
        let pipeline = self.pipelines.get(kernel, strict)?;
        self.check()?;
        pipeline.check(kernel, operands)?;
        let group = self.groups.borrow_mut().get(pipeline.id, operands, || {
            let entries: Vec<_> = operands
                .iter()
                .enumerate()
                .map(|(i, operand)| wgpu::BindGroupEntry {
                    binding: i as u32,
                    resource: operand.buffer.buffer().as_entire_binding(),
                })
                .collect();
            self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.layout,
                entries: &entries,
            })
        });
        let mut recorded = self.recorded.borrow_mut();
        let recorded = &mut *recorded;
        if recorded.load.must_go_before(work) {
            self.submit_from(recorded)?;
        }
        for operand in operands {
            operand.buffer.last_use.set(Some(recorded.submission));
        }
        let encoder =
            recorded.encoder.get_or_insert_with(|| self.device.create_command_encoder(&Default::default()));
        let timed = caps.timestamps && profile::is_on();
        if timed {
            // a pass of its own, with a timestamp at its beginning and its end
            recorded.pass = None;
            let timing = recorded.timing.get_or_insert_with(|| Timing::new(&self.device, SUBMIT_EVERY));
            recorded.pass = Some(timing.begin(encoder, kernel, grid, work));
        }
        let pass = recorded
            .pass
            .get_or_insert_with(|| encoder.begin_compute_pass(&Default::default()).forget_lifetime());
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &group, &[]);
        if caps.immediates {
            pass.set_immediates(0, params);
        } else {
            let at = recorded.uniforms.len();
            recorded.uniforms.extend_from_slice(params);
            recorded.uniforms.resize(at + UNIFORM_STRIDE, 0);
            pass.set_bind_group(1, &self.uniform_group, &[at as u32]);
        }
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
        if timed {
            recorded.pass = None;
        }
        if recorded.load.must_go_after(work) { self.submit_from(recorded).map(|_| ()) } else { Ok(()) }
    }

    fn submit_from(&self, recorded: &mut Recorded) -> Result<Option<wgpu::SubmissionIndex>> {
        recorded.pass = None;
        let Some(mut encoder) = recorded.encoder.take() else { return Ok(None) };
        let timing = recorded.timing.take().map(|timing| {
            let staging = timing.resolve(&self.device, &mut encoder);
            (timing, staging)
        });
        if !recorded.uniforms.is_empty() {
            self.queue.write_buffer(&self.uniforms, 0, &recorded.uniforms);
            recorded.uniforms.clear();
        }
        let index = self.queue.submit([encoder.finish()]);
        recorded.submission += 1;
        recorded.load = Load::default();
        if let Some((timing, staging)) = timing {
            staging.map_async(wgpu::MapMode::Read, .., |_| {});
            let stamps = PendingBuffer { staging, submission: Some(index.clone()) };
            recorded.timed.push((timing.dispatched(), stamps));
        }
        self.check()?;
        Ok(Some(index))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // recorded passes must end before their encoder goes
        self.recorded.get_mut().pass = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_handed_over_by_their_work() {
        let dispatch = |load: &mut Load, flops: f64| {
            let work = Work { flops, bytes: 0.0 };
            (load.must_go_before(work), load.must_go_after(work))
        };
        let mut load = Load::default();
        // small ones by their number
        let mut gone = (0..2 * SUBMIT_EVERY).filter(|_| dispatch(&mut load, 1e6).1).count();
        assert_eq!((gone, load.is_empty()), (2, true));
        // larger ones in pieces that stay below the limit
        gone = (0..100).filter(|_| dispatch(&mut load, 0.06e12).0).count();
        assert_eq!(gone, 33);
        // what is too long alone goes alone
        assert_eq!(dispatch(&mut load, 1e12), (true, true));
        assert_eq!(dispatch(&mut load, 1e12), (false, true));
    }
}
