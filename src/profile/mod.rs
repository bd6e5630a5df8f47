//! Where the time of training goes: spans of the host (phases of a step, operations, gradients), and on a GPU
//! the time of every dispatch by timestamps. Recording is switched on for a few steps by [`start`]; until
//! then a span costs a look at a flag. One thread records: the one that trains.
//!
//! An operation says how much arithmetic its next kernel does with `flops`. Bytes need not be said: they are
//! those of the tensors that a kernel binds, or on the CPU asks for, each once.

mod table;
mod trace;

pub use table::{Ceiling, Line};

use std::cell::{Cell, RefCell};
use std::time::Instant;

/// What kind of work a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A part of the step, which contains operations.
    Phase,
    /// An operation, forward or without a gradient.
    Forward,
    /// The gradient of an operation.
    Backward,
}

/// What an exponential counts as: the operations of `exp_accurate` (`shaders/include/math.wgsl`), as of
/// `cpu::math::Math::exp`.
pub(crate) const EXPONENTIAL: f64 = 24.0;

/// Arithmetic and memory traffic that a piece of work needs at least.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read and written, each operand once.
    pub bytes: f64,
}

/// A finished span of the host. Times in seconds since the recording began.
#[derive(Clone, Debug)]
pub struct SpanRecord {
    /// Phase or operation.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// When it began.
    pub start: f64,
    /// How long it took.
    pub seconds: f64,
    /// How long it took without the spans inside it.
    pub own_seconds: f64,
    /// What it did itself, on the CPU device.
    pub work: Work,
}

/// A timed dispatch. Times in seconds on the clock of the spans.
#[derive(Clone, Debug)]
pub struct KernelRecord {
    /// Shader and entry point.
    pub name: String,
    /// Constants it was built with, and grid.
    pub detail: String,
    /// When it began.
    pub start: f64,
    /// How long it took.
    pub seconds: f64,
    /// What it had to do.
    pub work: Work,
}

/// What was recorded.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// From [`start`] to the end of the recording.
    pub seconds: f64,
    /// Spans of the host, in the order in which they ended.
    pub spans: Vec<SpanRecord>,
    /// Dispatches, where the adapter has timestamps.
    pub kernels: Vec<KernelRecord>,
}

struct Open {
    name: &'static str,
    kind: Kind,
    start: f64,
    inside: f64,
    bytes: f64,
}

struct Recorder {
    origin: Instant,
    open: Vec<Open>,
    spans: Vec<SpanRecord>,
    kernels: Vec<KernelRecord>,
}

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static FLOPS: Cell<f64> = const { Cell::new(0.0) };
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Whether this thread records.
#[inline]
pub(crate) fn is_on() -> bool {
    ON.get()
}

/// Begins to record on this thread; what was recorded before is dropped.
pub fn start() {
    let recorder = Recorder { origin: Instant::now(), open: vec![], spans: vec![], kernels: vec![] };
    RECORDER.set(Some(recorder));
    FLOPS.set(0.0);
    ON.set(true);
}

/// Ends the recording. Spans still open are left out. Timed dispatches must have been handed over before (see
/// [`crate::tensor::Device::finish_profile`], which does both).
pub(crate) fn finish() -> Profile {
    ON.set(false);
    RECORDER.take().map_or_else(Profile::default, |r| Profile {
        seconds: r.origin.elapsed().as_secs_f64(),
        spans: r.spans,
        kernels: r.kernels,
    })
}

/// Seconds since the recording began.
pub(crate) fn now() -> f64 {
    RECORDER.with_borrow(|r| r.as_ref().map_or(0.0, |r| r.origin.elapsed().as_secs_f64()))
}

/// A span that ends when this is dropped.
#[must_use = "the span ends when this is dropped"]
pub(crate) struct Span {
    recorded: bool,
}

/// Begins a part of the step.
pub(crate) fn phase(name: &'static str) -> Span {
    begin(name, Kind::Phase)
}

/// Begins an operation.
#[inline]
pub(crate) fn operation(name: &'static str) -> Span {
    begin(name, Kind::Forward)
}

/// Begins the gradient of an operation.
pub(crate) fn gradient(name: &'static str) -> Span {
    begin(name, Kind::Backward)
}

#[inline]
fn begin(name: &'static str, kind: Kind) -> Span {
    if !is_on() {
        return Span { recorded: false };
    }
    RECORDER.with_borrow_mut(|r| {
        let Some(r) = r else { return };
        // an operation that a gradient is made of belongs to it
        let kind = match r.open.last() {
            Some(outer) if kind == Kind::Forward && outer.kind == Kind::Backward => Kind::Backward,
            _ => kind,
        };
        let start = r.origin.elapsed().as_secs_f64();
        r.open.push(Open { name, kind, start, inside: 0.0, bytes: 0.0 });
    });
    Span { recorded: true }
}

impl Drop for Span {
    fn drop(&mut self) {
        if !self.recorded || !is_on() {
            return;
        }
        let flops = take_flops();
        RECORDER.with_borrow_mut(|r| {
            let Some((r, open)) = r.as_mut().and_then(|r| r.open.pop().map(|open| (r, open))) else { return };
            let seconds = r.origin.elapsed().as_secs_f64() - open.start;
            if let Some(outer) = r.open.last_mut() {
                outer.inside += seconds;
            }
            r.spans.push(SpanRecord {
                name: open.name,
                kind: open.kind,
                start: open.start,
                seconds,
                own_seconds: seconds - open.inside,
                work: Work { flops, bytes: open.bytes },
            });
        });
    }
}

/// Says how many floating-point operations the next kernel does. A GPU weighs its commands by it, recorded or not.
#[inline]
pub(crate) fn flops(count: f64) {
    FLOPS.set(FLOPS.get() + count);
}

/// What was said with [`flops`] and belongs to no kernel yet.
pub(crate) fn take_flops() -> f64 {
    FLOPS.replace(0.0)
}

/// Notes that the open span's operation has asked for so many bytes.
#[inline]
pub(crate) fn touch(bytes: usize) {
    if !is_on() {
        return;
    }
    RECORDER.with_borrow_mut(|r| {
        if let Some(open) = r.as_mut().and_then(|r| r.open.last_mut()) {
            open.bytes += bytes as f64;
        }
    });
}

/// Takes a timed dispatch.
pub(crate) fn kernel(record: KernelRecord) {
    RECORDER.with_borrow_mut(|r| {
        if let Some(r) = r {
            r.kernels.push(record);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_nest_and_gradients_colour_what_is_inside() {
        start();
        {
            let _step = phase("step");
            {
                let _gradient = gradient("linear");
                let _product = operation("matmul");
                flops(10.0);
                touch(8);
            }
            drop(operation("fill"));
        }
        let profile = finish();
        let seen: Vec<_> = profile.spans.iter().map(|s| (s.name, s.kind)).collect();
        assert_eq!(
            seen,
            [
                ("matmul", Kind::Backward),
                ("linear", Kind::Backward),
                ("fill", Kind::Forward),
                ("step", Kind::Phase)
            ]
        );
        assert_eq!(profile.spans[0].work, Work { flops: 10.0, bytes: 8.0 });
        assert_eq!(profile.spans[1].work, Work::default());
        let own: f64 = profile.spans.iter().map(|s| s.own_seconds).sum();
        assert!((own - profile.spans[3].seconds).abs() < 1e-9 && profile.seconds >= own);
        // switched off nothing is kept
        drop(operation("fill"));
        assert!(finish().spans.is_empty());
    }
}
