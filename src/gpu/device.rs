//! A device of wgpu: an adapter with pooled buffers, or the rehearsal of one.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;

use super::adapter::memory_of;
use super::buffer::{Bind, CopySource, GpuBuffer, Operand, PendingCopy};
use super::failure::Failure;
use super::pipelines::Pipelines;
use super::rehearsal::Tally;
use super::stream::{Dispatch, Stream};
use super::{Caps, Choices, Cooperative, Kernel, Params};
use crate::error::{Error, Result};
use crate::guard::guarded;
use crate::pool::{Pool, size_class};
use crate::profile::{self, Work};

/// Copies begin and end at multiples of this many bytes.
const WORD: usize = wgpu::COPY_BUFFER_ALIGNMENT as usize;

/// An opened adapter, or the rehearsal of one.
pub struct GpuDevice {
    caps: Caps,
    /// Bytes of memory of the adapter's, where its driver says so.
    memory: Option<u64>,
    description: String,
    choices: OnceCell<Arc<Choices>>,
    pool: RefCell<Pool<GpuBuffer>>,
    /// The way to the adapter; a rehearsal has none.
    stream: Option<Stream>,
    tally: RefCell<Tally>,
    /// Dispatches so far.
    dispatched: Cell<u64>,
    drains: Cell<u64>,
    pub(crate) fences: Cell<bool>,
    /// Whether a kernel must be in its family's list to be launched.
    pub(crate) strict: Cell<bool>,
}

impl GpuDevice {
    /// Opens `adapter` with what it has and no more than `most`, which is [`Caps::everything`] or, in tests, what
    /// another adapter would have.
    pub fn open(adapter: &wgpu::Adapter, most: &Caps) -> Result<Self> {
        let caps = Caps::of(adapter);
        let info = adapter.get_info();
        let description = format!("{} ({:?}, {} {})", info.name, info.backend, info.driver, info.driver_info);
        check_limits(&caps, &info.name)?;
        let caps = caps.within(most);
        let experimental = match caps.cooperative.any() {
            // SAFETY: the one experimental feature that is asked for; its kernels are tested before they are
            // used.
            true => unsafe { wgpu::ExperimentalFeatures::enabled() },
            false => wgpu::ExperimentalFeatures::disabled(),
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("poa-gpu"),
            required_features: caps.features(),
            required_limits: caps.limits(adapter.limits()),
            experimental_features: experimental,
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let cannot = |why: &str| Error::Device(format!("{description} cannot be opened: {why}"));
        let (device, queue) = match guarded(|| pollster::block_on(adapter.request_device(&descriptor))) {
            Some(opened) => opened.map_err(|e| cannot(&e.to_string()))?,
            // some versions of Mesa list cooperative matrices and then deny them, at which wgpu panics
            None if caps.cooperative.any() => {
                return Self::open(adapter, &Caps { cooperative: Cooperative::default(), ..most.clone() });
            }
            None => return Err(cannot("its driver denies what it lists")),
        };
        let stream = Stream::new(device, queue, description.clone(), &caps);
        let memory = memory_of(adapter);
        Ok(Self { memory, ..Self::of(caps, description, Some(stream)) })
    }

    /// Goes through everything that is asked of it as an adapter with these capabilities would, without memory and
    /// without work: what is read back is zero. See [`Self::tally`].
    pub fn rehearsal(caps: &Caps) -> Self {
        Self::of(caps.clone(), "the device".into(), None)
    }

    fn of(caps: Caps, description: String, stream: Option<Stream>) -> Self {
        Self {
            caps,
            memory: None,
            description,
            choices: OnceCell::new(),
            pool: RefCell::default(),
            stream,
            tally: RefCell::default(),
            dispatched: Cell::new(0),
            drains: Cell::new(0),
            fences: Cell::new(false),
            strict: Cell::new(cfg!(debug_assertions)),
        }
    }

    /// Bytes of memory that the adapter has, where its driver says so.
    pub fn memory(&self) -> Option<u64> {
        self.memory
    }

    /// The compiled kernels, which other threads may add to; a rehearsal has none.
    pub fn pipelines(&self) -> Option<Arc<Pipelines>> {
        self.stream.as_ref().map(|stream| stream.pipelines().clone())
    }

    /// Kernels compiled so far.
    pub fn compiled(&self) -> usize {
        self.stream.as_ref().map_or(0, |stream| stream.pipelines().len())
    }

    /// What timing has found of its kernels, where they are timed.
    pub fn choices(&self) -> Option<&Arc<Choices>> {
        self.choices.get()
    }

    /// Has its kernels timed, or takes what was found on the device that this is the rehearsal of. Once is enough: a
    /// second time changes nothing.
    pub fn set_choices(&self, choices: Arc<Choices>) {
        self.choices.get_or_init(|| choices);
    }

    /// Whether this is the rehearsal of a device.
    pub fn is_rehearsal(&self) -> bool {
        self.stream.is_none()
    }

    /// What a rehearsal has seen since this was asked for last.
    pub fn tally(&self) -> Tally {
        self.tally.take()
    }

    /// Times that the host has waited for the last work it had recorded, in a rehearsal too: the adapter then has
    /// nothing to do until it gets more.
    pub fn drains(&self) -> u64 {
        self.drains.get()
    }

    /// For tests: calling what is returned, from any thread, is as if the driver had given the adapter up.
    pub fn loss(&self) -> impl Fn() + Send + Sync + 'static {
        let device = self.stream.as_ref().map(Stream::device);
        move || {
            device.iter().for_each(|device| {
                device.destroy();
                // until then wgpu tells nobody
                guarded(|| device.poll(wgpu::PollType::wait_indefinitely()));
            });
        }
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
        let gone = self.pool.borrow_mut().make_room(bytes);
        self.stream.iter().for_each(|stream| stream.forget(&gone));
        drop(gone);
        let memory = match &self.stream {
            None => None,
            Some(stream) => Some(self.new_memory(stream, bytes)?),
        };
        self.pool.borrow_mut().note_new(bytes);
        Ok(GpuBuffer::new(memory, bytes))
    }

    /// Memory of the adapter's.
    fn new_memory(&self, stream: &Stream, bytes: usize) -> Result<wgpu::Buffer> {
        if let Some(memory) = stream.allocate(bytes)? {
            return Ok(memory);
        }
        // let go of what waits for reuse and try once more
        self.synchronize()?;
        stream.forget_all();
        self.pool.borrow_mut().trim();
        let held = self.pool.borrow().bytes() >> 20;
        stream.allocate(bytes)?.ok_or_else(|| {
            let wanted = bytes.div_ceil(1 << 20);
            stream.error(Failure::Memory).and(format!("{held} MiB are held, {wanted} MiB more were wanted"))
        })
    }

    /// Takes a buffer back. Commands run in order, so a later use of it sees earlier ones finished.
    pub(crate) fn recycle(&self, buffer: GpuBuffer) {
        self.pool.borrow_mut().give(buffer.bytes, buffer);
    }

    pub(crate) fn write(&self, buffer: &GpuBuffer, at: usize, bytes: &[u8]) -> Result<()> {
        let Some(stream) = &self.stream else {
            let mut tally = self.tally.borrow_mut();
            tally.uploads += 1;
            tally.uploaded += bytes.len();
            return Ok(());
        };
        if (at | bytes.len()).is_multiple_of(WORD) {
            return stream.write(buffer, at, bytes);
        }
        // copies move whole words: what lies around halves of them is read and written back
        let start = at - at % WORD;
        let mut words = vec![0; (at + bytes.len()).next_multiple_of(WORD) - start];
        self.read(buffer, start, &mut words)?;
        words[at - start..][..bytes.len()].copy_from_slice(bytes);
        stream.write(buffer, start, &words)
    }

    pub(crate) fn read(&self, buffer: &GpuBuffer, at: usize, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let start = at - at % WORD;
        let length = (at + bytes.len()).next_multiple_of(WORD) - start;
        let pending = self.start_read(&[(buffer, start, length)])?;
        let words: Vec<f32> = self.finish_read(pending)?;
        bytes.copy_from_slice(&bytemuck::cast_slice(&words)[at - start..][..bytes.len()]);
        Ok(())
    }

    /// Records a copy to the host, part after part (a buffer, where in it, how many bytes), and submits what is
    /// recorded.
    pub(crate) fn start_read(&self, parts: &[(&GpuBuffer, usize, usize)]) -> Result<PendingCopy> {
        let source = match &self.stream {
            Some(stream) => CopySource::Buffer(stream.start_read(parts)?),
            None => {
                self.tally.borrow_mut().submit();
                CopySource::Nothing(parts.iter().map(|(_, _, bytes)| bytes).sum())
            }
        };
        Ok(PendingCopy { source, after: self.dispatched.get() })
    }

    /// Waits for a copy to the host.
    pub(crate) fn finish_read<T: bytemuck::Pod>(&self, pending: PendingCopy) -> Result<Vec<T>> {
        if pending.after == self.dispatched.get() {
            self.drains.set(self.drains.get() + 1);
        }
        match (&self.stream, pending.source) {
            (Some(stream), CopySource::Buffer(buffer)) => stream.finish_read(buffer),
            (_, CopySource::Nothing(bytes)) => Ok(vec![T::zeroed(); bytes / size_of::<T>()]),
            (None, CopySource::Buffer(_)) => unreachable!("a read-back belongs to its device"),
        }
    }

    /// Waits for all work and hands the times of the dispatches to the profile.
    pub(crate) fn finish_timing(&self) -> Result<()> {
        self.stream.as_ref().map_or(Ok(()), Stream::finish_timing)
    }

    /// Hands the recorded commands to the adapter.
    pub(crate) fn submit(&self) -> Result<()> {
        match &self.stream {
            Some(stream) => stream.submit(),
            None => {
                self.tally.borrow_mut().submit();
                Ok(())
            }
        }
    }

    /// Waits until all submitted work is done.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.submit()?;
        self.drains.set(self.drains.get() + 1);
        self.stream.as_ref().map_or(Ok(()), |stream| stream.wait(None))
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
        self.dispatched.set(self.dispatched.get() + 1);
        let operands: Vec<Operand> = tensors.iter().map(|t| t.operand()).collect();
        let bytes = operands.iter().map(|operand| operand.bytes as f64).sum();
        let work = Work { flops: profile::take_flops(), bytes };
        match &self.stream {
            Some(stream) => {
                let (params, grid) = (bytemuck::cast_slice(&words), grid.map(|n| n as u32));
                let dispatch = Dispatch { kernel, operands: &operands, work, params, grid };
                stream.record(&self.caps, dispatch, self.strict.get())
            }
            None => {
                self.tally.borrow_mut().dispatch(kernel, work);
                Ok(())
            }
        }
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
