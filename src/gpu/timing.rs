//! Timestamps around every dispatch, while a profile is recorded.

use super::Kernel;
use crate::profile::{self, KernelRecord, Work};

/// The dispatches of one submission, and the queries that time them.
pub(super) struct Timing {
    queries: wgpu::QuerySet,
    dispatches: Vec<Dispatch>,
    /// Seconds on the recording's clock when the submission was begun, before which its kernels cannot run.
    begun: f64,
}

struct Dispatch {
    kernel: Kernel,
    grid: [u32; 3],
    work: Work,
}

/// The dispatches of a submission that is on its way, to go with its timestamps.
pub(super) struct Dispatched {
    dispatches: Vec<Dispatch>,
    begun: f64,
}

impl Timing {
    /// Room for `capacity` dispatches.
    pub(super) fn new(device: &wgpu::Device, capacity: usize) -> Self {
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("profile"),
            ty: wgpu::QueryType::Timestamp,
            count: 2 * capacity as u32,
        });
        Self { queries, dispatches: Vec::with_capacity(capacity), begun: profile::now() }
    }

    /// Begins a compute pass of its own for a dispatch.
    pub(super) fn begin(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        kernel: &Kernel,
        grid: [u32; 3],
        work: Work,
    ) -> wgpu::ComputePass<'static> {
        let at = 2 * self.dispatches.len() as u32;
        self.dispatches.push(Dispatch { kernel: kernel.clone(), grid, work });
        encoder
            .begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &self.queries,
                    beginning_of_pass_write_index: Some(at),
                    end_of_pass_write_index: Some(at + 1),
                }),
            })
            .forget_lifetime()
    }

    /// Records the copy of the timestamps to a buffer that the host can read.
    pub(super) fn resolve(&self, device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder) -> wgpu::Buffer {
        let count = 2 * self.dispatches.len() as u32;
        let buffer = |label, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: 8 * count as u64,
                usage,
                mapped_at_creation: false,
            })
        };
        let resolved = buffer("timestamps", wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        let staging =
            buffer("timestamps to read", wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        encoder.resolve_query_set(&self.queries, 0..count, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, 8 * count as u64);
        staging
    }

    /// The submission is on its way.
    pub(super) fn dispatched(self) -> Dispatched {
        Dispatched { dispatches: self.dispatches, begun: self.begun }
    }
}

/// Hands the dispatches of all submissions to the recording. The adapter's clock has another zero than the
/// recording's: it is shifted by the least with which no submission begins before the host began it.
pub(super) fn hand_over(nanoseconds_per_tick: f32, all: Vec<(Dispatched, Vec<u64>)>) {
    let seconds = |ticks: u64| ticks as f64 * nanoseconds_per_tick as f64 * 1e-9;
    let shift = all
        .iter()
        .filter_map(|(timing, stamps)| Some(timing.begun - seconds(*stamps.first()?)))
        .fold(f64::NEG_INFINITY, f64::max);
    for (timing, stamps) in all {
        for (Dispatch { kernel, grid, work }, stamps) in
            timing.dispatches.into_iter().zip(stamps.chunks_exact(2))
        {
            let constants: Vec<_> = kernel.defines.iter().map(|(k, v)| format!("{k}={v}")).collect();
            profile::kernel(KernelRecord {
                name: format!("{}/{}", kernel.shader.name.trim_end_matches(".wgsl"), kernel.entry),
                detail: format!("{} grid={}x{}x{}", constants.join(" "), grid[0], grid[1], grid[2]),
                start: seconds(stamps[0]) + shift,
                seconds: seconds(stamps[1].saturating_sub(stamps[0])),
                work,
            });
        }
    }
}
