//! An opened adapter: pooled buffers, cached pipelines, and the stream of recorded dispatches.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::buffer::{Bind, GpuBuffer, Operand, PendingBuffer};
use super::caps::IMMEDIATE_BYTES;
use super::pipeline::Pipeline;
use super::timing::{Dispatched, Timing, hand_over};
use super::{Caps, Cooperative, Kernel, Params};
use crate::error::{Error, Result};
use crate::pool::{Pool, size_class};
use crate::profile;

/// Dispatches recorded before they are handed to the adapter, so that it works while the rest is recorded.
const SUBMIT_EVERY: usize = 256;
/// Copies begin and end at multiples of this many bytes.
const WORD: usize = wgpu::COPY_BUFFER_ALIGNMENT as usize;
/// Distance of parameter blocks in the uniform buffer, where immediates are missing.
const UNIFORM_STRIDE: usize = 256;

#[derive(Default)]
struct Stream {
    encoder: Option<wgpu::CommandEncoder>,
    pass: Option<wgpu::ComputePass<'static>>,
    /// Parameter blocks of this submission, where immediates are missing.
    uniforms: Vec<u8>,
    dispatches: usize,
    /// Number of the submission being recorded, from 1.
    submission: u64,
    /// Timestamps of this submission, while a profile is recorded.
    timing: Option<Timing>,
    /// Those of earlier ones.
    timed: Vec<(Dispatched, PendingBuffer)>,
}

/// An opened adapter.
pub struct GpuDevice {
    device: wgpu::Device,
    queue: wgpu::Queue,
    caps: Caps,
    description: String,
    pool: RefCell<Pool<GpuBuffer>>,
    pipelines: RefCell<HashMap<Kernel, Rc<Pipeline>>>,
    stream: RefCell<Stream>,
    uniforms: wgpu::Buffer,
    uniform_group: wgpu::BindGroup,
    uniform_layout: wgpu::BindGroupLayout,
    failure: Arc<Mutex<Option<String>>>,
    pub(crate) fences: Cell<bool>,
    /// Whether a kernel must be in its family's list to be launched.
    pub(crate) strict: Cell<bool>,
}

impl GpuDevice {
    /// Opens `adapter` with all the limits it has, and with no more cooperative matrices than `cooperative`
    /// allows.
    pub fn open(adapter: &wgpu::Adapter, cooperative: Cooperative) -> Result<Self> {
        let mut caps = Caps::of(adapter);
        caps.cooperative = caps.cooperative.and(cooperative);
        let info = adapter.get_info();
        let description = format!("{} ({:?}, {} {})", info.name, info.backend, info.driver, info.driver_info);
        check_limits(&caps, &info.name)?;
        let (mut wanted, mut experimental) =
            (wgpu::Features::empty(), wgpu::ExperimentalFeatures::disabled());
        if caps.cooperative.any() {
            wanted |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: the one experimental feature that is asked for; its kernels are tested before they are
            // used.
            experimental = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        wanted |= wgpu::Features::SUBGROUP
            | wgpu::Features::SHADER_F16
            | wgpu::Features::IMMEDIATES
            | wgpu::Features::TIMESTAMP_QUERY;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("poa-gpu"),
            required_features: adapter.features() & wanted,
            required_limits: adapter.limits(),
            experimental_features: experimental,
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::Device(format!("{description} cannot be opened: {e}")))?;
        let failure = Arc::new(Mutex::new(None));
        let slot = failure.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            let mut slot = slot.lock().unwrap_or_else(|p| p.into_inner());
            slot.get_or_insert_with(|| e.to_string());
        }));
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
        Ok(Self {
            device,
            queue,
            caps,
            description,
            pool: RefCell::default(),
            pipelines: RefCell::default(),
            stream: RefCell::new(Stream { submission: 1, ..Default::default() }),
            uniforms,
            uniform_group,
            uniform_layout,
            failure,
            fences: Cell::new(false),
            strict: Cell::new(cfg!(debug_assertions)),
        })
    }

    /// Capabilities and limits.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    pub(crate) fn describe(&self) -> String {
        self.description.clone()
    }

    pub(crate) fn peak_bytes(&self) -> usize {
        self.pool.borrow().peak_bytes()
    }

    pub(crate) fn allocate(&self, exact: usize) -> Result<GpuBuffer> {
        if exact > self.caps.max_binding_bytes {
            return Err(Error::Device(format!(
                "a tensor of {} MiB is more than the {} MiB that {} can bind; \
                 reduce train.batch_size_per_gpu or the crop sizes",
                exact >> 20,
                self.caps.max_binding_bytes >> 20,
                self.description
            )));
        }
        let bytes = size_class(exact).min(self.caps.max_binding_bytes);
        if let Some(buffer) = self.pool.borrow_mut().take(bytes) {
            return Ok(buffer);
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let mut buffer = self.create(bytes);
        if pollster::block_on(scope.pop()).is_some() {
            // let go of what waits for reuse and try once more
            self.submit()?;
            self.synchronize()?;
            self.pool.borrow_mut().trim();
            let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            buffer = self.create(bytes);
            if pollster::block_on(scope.pop()).is_some() {
                return Err(Error::Device(format!(
                    "{} is out of memory ({} MiB held, {} MiB more wanted); reduce train.batch_size_per_gpu",
                    self.description,
                    self.peak_bytes() >> 20,
                    bytes >> 20
                )));
            }
        }
        self.pool.borrow_mut().note_new(bytes);
        Ok(GpuBuffer { buffer, bytes, last_use: Cell::new(0) })
    }

    fn create(&self, bytes: usize) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// Takes a buffer back. Commands run in order, so a later use of it sees earlier ones finished.
    pub(crate) fn recycle(&self, buffer: GpuBuffer) {
        self.pool.borrow_mut().give(buffer.bytes, buffer);
    }

    pub(crate) fn write(&self, buffer: &GpuBuffer, at: usize, bytes: &[u8]) -> Result<()> {
        // the write happens before anything not yet submitted; recorded uses of the buffer must come first
        if buffer.last_use.get() == self.stream.borrow().submission {
            self.submit()?;
        }
        if (at | bytes.len()).is_multiple_of(WORD) {
            self.queue.write_buffer(&buffer.buffer, at as u64, bytes);
            return self.check();
        }
        // copies move whole words: what lies around halves of them is read and written back
        let start = at - at % WORD;
        let mut words = vec![0; (at + bytes.len()).next_multiple_of(WORD) - start];
        self.read(buffer, start, &mut words)?;
        words[at - start..][..bytes.len()].copy_from_slice(bytes);
        self.queue.write_buffer(&buffer.buffer, start as u64, &words);
        self.check()
    }

    pub(crate) fn read(&self, buffer: &GpuBuffer, at: usize, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let start = at - at % WORD;
        let pending = self.start_read(buffer, start, (at + bytes.len()).next_multiple_of(WORD) - start)?;
        let words: Vec<f32> = self.finish_read(pending)?;
        bytes.copy_from_slice(&bytemuck::cast_slice(&words)[at - start..][..bytes.len()]);
        Ok(())
    }

    /// Records a copy of `bytes` bytes to the host and submits what is recorded.
    pub(crate) fn start_read(&self, buffer: &GpuBuffer, at: usize, bytes: usize) -> Result<PendingBuffer> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size: bytes as u64,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut stream = self.stream.borrow_mut();
        stream.pass = None;
        let encoder =
            stream.encoder.get_or_insert_with(|| self.device.create_command_encoder(&Default::default()));
        encoder.copy_buffer_to_buffer(&buffer.buffer, at as u64, &staging, 0, bytes as u64);
        let submission = self.submit_from(&mut stream)?;
        staging.map_async(wgpu::MapMode::Read, .., |_| {});
        Ok(PendingBuffer { staging, submission })
    }

    /// Waits for a copy to the host.
    pub(crate) fn finish_read<T: bytemuck::Pod>(&self, pending: PendingBuffer) -> Result<Vec<T>> {
        self.wait(pending.submission)?;
        let view = pending
            .staging
            .get_mapped_range(..)
            .map_err(|e| Error::Device(format!("{}: memory cannot be read back: {e:?}", self.description)))?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }

    /// Waits for all work and hands the times of the dispatches to the profile.
    pub(crate) fn finish_timing(&self) -> Result<()> {
        self.synchronize()?;
        let timed = std::mem::take(&mut self.stream.borrow_mut().timed);
        let mut all = Vec::with_capacity(timed.len());
        for (dispatches, stamps) in timed {
            all.push((dispatches, self.finish_read(stamps)?));
        }
        hand_over(self.queue.get_timestamp_period(), all);
        Ok(())
    }

    /// Hands the recorded commands to the adapter.
    pub(crate) fn submit(&self) -> Result<()> {
        self.submit_from(&mut self.stream.borrow_mut()).map(|_| ())
    }

    /// Waits until all submitted work is done.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.submit()?;
        self.wait(None)
    }

    /// Waits for a submission; for the last one where none is named.
    fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<()> {
        self.device
            .poll(wgpu::PollType::Wait { submission_index: submission, timeout: None })
            .map_err(|e| Error::Device(format!("{} stopped answering: {e}", self.description)))?;
        self.check()
    }

    fn check(&self) -> Result<()> {
        match self.failure.lock().unwrap_or_else(|p| p.into_inner()).take() {
            Some(e) => Err(Error::Device(format!("{}: {e}", self.description))),
            None => Ok(()),
        }
    }

    /// Records a dispatch of `grid` workgroups. `tensors` are bound in order as group 0; a kernel may write
    /// to at most one tensor of a buffer and then read nothing else of it.
    pub(crate) fn dispatch<P: Params>(
        &self,
        kernel: &Kernel,
        tensors: &[&impl Bind],
        params: &P,
        grid: [usize; 3],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let most = self.caps.grid_dimension as usize;
        if grid.iter().any(|n| *n > most) {
            return Err(kernel.broken(format!("{grid:?} workgroups are more than {most}")));
        }
        let words = params.words().map_err(|name| {
            kernel.broken(format!("`{name}` needs more than 32 bits, which is what kernels count in"))
        })?;
        let pipeline = self.pipeline(kernel)?;
        let operands: Vec<Operand> = tensors.iter().map(|t| t.operand()).collect();
        pipeline.check(kernel, &operands)?;
        self.record(kernel, &pipeline, &operands, bytemuck::cast_slice(&words), grid.map(|n| n as u32))
    }

    fn record(
        &self,
        kernel: &Kernel,
        pipeline: &Pipeline,
        operands: &[Operand],
        params: &[u8],
        grid: [u32; 3],
    ) -> Result<()> {
        let entries: Vec<_> = operands
            .iter()
            .enumerate()
            .map(|(i, operand)| wgpu::BindGroupEntry {
                binding: i as u32,
                resource: operand.buffer.buffer.as_entire_binding(),
            })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        });
        let mut stream = self.stream.borrow_mut();
        let stream = &mut *stream;
        for operand in operands {
            operand.buffer.last_use.set(stream.submission);
        }
        let encoder =
            stream.encoder.get_or_insert_with(|| self.device.create_command_encoder(&Default::default()));
        let timed = self.caps.timestamps && profile::is_on();
        if timed {
            // a pass of its own, with a timestamp at its beginning and its end
            stream.pass = None;
            let bytes = operands.iter().map(|operand| operand.bytes).sum();
            let timing = stream.timing.get_or_insert_with(|| Timing::new(&self.device, SUBMIT_EVERY));
            stream.pass = Some(timing.begin(encoder, kernel, grid, bytes));
        }
        let pass = stream
            .pass
            .get_or_insert_with(|| encoder.begin_compute_pass(&Default::default()).forget_lifetime());
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &group, &[]);
        if self.caps.immediates {
            pass.set_immediates(0, params);
        } else {
            let at = stream.uniforms.len();
            stream.uniforms.extend_from_slice(params);
            stream.uniforms.resize(at + UNIFORM_STRIDE, 0);
            pass.set_bind_group(1, &self.uniform_group, &[at as u32]);
        }
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
        if timed {
            stream.pass = None;
        }
        stream.dispatches += 1;
        if stream.dispatches >= SUBMIT_EVERY { self.submit_from(stream).map(|_| ()) } else { Ok(()) }
    }

    fn submit_from(&self, stream: &mut Stream) -> Result<Option<wgpu::SubmissionIndex>> {
        stream.pass = None;
        let Some(mut encoder) = stream.encoder.take() else { return Ok(None) };
        let timing = stream.timing.take().map(|timing| {
            let staging = timing.resolve(&self.device, &mut encoder);
            (timing, staging)
        });
        if !stream.uniforms.is_empty() {
            self.queue.write_buffer(&self.uniforms, 0, &stream.uniforms);
            stream.uniforms.clear();
        }
        let index = self.queue.submit([encoder.finish()]);
        stream.submission += 1;
        stream.dispatches = 0;
        if let Some((timing, staging)) = timing {
            staging.map_async(wgpu::MapMode::Read, .., |_| {});
            let stamps = PendingBuffer { staging, submission: Some(index.clone()) };
            stream.timed.push((timing.dispatched(), stamps));
        }
        self.check()?;
        Ok(Some(index))
    }

    fn pipeline(&self, kernel: &Kernel) -> Result<Rc<Pipeline>> {
        if let Some(found) = self.pipelines.borrow().get(kernel) {
            return Ok(found.clone());
        }
        if self.strict.get() && !kernel.is_listed(&self.caps) {
            return Err(kernel.broken("its family does not list it"));
        }
        let made = Rc::new(Pipeline::new(&self.device, &self.caps, &self.uniform_layout, kernel)?);
        self.check()?;
        self.pipelines.borrow_mut().insert(kernel.clone(), made.clone());
        Ok(made)
    }
}

impl Drop for GpuDevice {
    fn drop(&mut self) {
        // recorded passes must end before their encoder goes
        self.stream.get_mut().pass = None;
    }
}

fn check_limits(caps: &Caps, name: &str) -> Result<()> {
    let needed = Caps::minimal();
    let lacks = [
        ("invocations in a workgroup", caps.workgroup_size as usize, needed.workgroup_size as usize),
        ("bytes of workgroup memory", caps.workgroup_bytes as usize, needed.workgroup_bytes as usize),
        ("storage buffers in a kernel", caps.storage_buffers as usize, needed.storage_buffers as usize),
        ("bytes in a binding", caps.max_binding_bytes, needed.max_binding_bytes),
    ]
    .into_iter()
    .find(|(_, has, wants)| has < wants);
    match lacks {
        None => Ok(()),
        Some((what, has, wants)) => Err(Error::Device(format!(
            "{name} allows {has} {what}, {wants} are needed; choose another adapter or --device cpu"
        ))),
    }
}
