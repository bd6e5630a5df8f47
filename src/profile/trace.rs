//! A profile as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.

use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::{Kind, Profile, Work};
use crate::error::{Error, Result};
use crate::files::own::create_own;
use crate::files::whole::write_whole;

/// Tracks of the trace.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

impl Profile {
    /// Writes the trace (Chrome's trace event format, JSON): a track of the host, and one of the adapter. Until it
    /// is whole, `path` keeps what it held before.
    pub fn write_trace(&self, path: &Path, device: &str) -> Result<()> {
        write_whole(path, |partial| {
            let written = create_own(partial).and_then(|file| {
                let mut out = BufWriter::new(file);
                self.write_events(&mut out, device)?;
                out.flush()
            });
            written.map_err(|e| Error::file(path, format!("cannot be written: {e}")))
        })
    }

    fn write_events(&self, out: &mut impl Write, device: &str) -> std::io::Result<()> {
        write!(
            out,
            "{{\"displayTimeUnit\":\"ms\",\"otherData\":{},\"traceEvents\":[",
            json!({"device": device})
        )?;
        let name = |track: u32, name: &str| json!({"ph": "M", "pid": 1, "tid": track, "name": "thread_name", "args": {"name": name}});
        write!(out, "{}", name(HOST, "host"))?;
        if !self.kernels.is_empty() {
            write!(out, ",\n{}", name(DEVICE, device))?;
        }
        for span in &self.spans {
            let category = match span.kind {
                Kind::Phase => "phase",
                Kind::Forward => "operation",
                Kind::Backward => "gradient",
            };
            write!(
                out,
                ",\n{}",
                event(span.name, category, HOST, (span.start, span.seconds), span.work, None)
            )?;
        }
        for kernel in &self.kernels {
            let times = (kernel.start, kernel.seconds);
            write!(
                out,
                ",\n{}",
                event(&kernel.name, "kernel", DEVICE, times, kernel.work, Some(&kernel.detail))
            )?;
        }
        writeln!(out, "]}}")
    }
}

fn event(
    name: &str,
    category: &str,
    track: u32,
    (start, seconds): (f64, f64),
    work: Work,
    detail: Option<&str>,
) -> Value {
    // microseconds, to the nanosecond
    let micros = |seconds: f64| (seconds * 1e9).round() / 1e3;
    let mut args = serde_json::Map::new();
    if let Some(detail) = detail {
        args.insert("variant".into(), detail.into());
    }
    for (key, amount) in [("GFLOP/s", work.flops), ("GB/s", work.bytes)] {
        if amount > 0.0 && seconds > 0.0 {
            args.insert(key.into(), ((amount / seconds / 1e9 * 1e3).round() / 1e3).into());
        }
    }
    json!({
        "ph": "X", "pid": 1, "tid": track, "name": name, "cat": category,
        "ts": micros(start), "dur": micros(seconds), "args": args,
    })
}
