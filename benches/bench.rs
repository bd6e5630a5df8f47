//! Throughput of the kernels and of whole training steps, on both devices, each beside the device's measured ceiling.
//!
//! `cargo bench` runs everything; `cargo bench -- matmul step/tiny` what contains these texts.
//! POA_BENCH_DEVICE=cpu, gpu or part of a name chooses one device.

use std::time::Duration;

use criterion::Criterion;

mod kernels;
mod steps;
mod support;

fn main() {
    let mut c = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for bench in support::devices() {
        kernels::all(&mut c, &bench);
        steps::all(&mut c, &bench);
    }
    c.final_summary();
}
