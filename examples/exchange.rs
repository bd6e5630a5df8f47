//! How fast ranks exchange messages: each size goes from every rank to every other at once, and how much of a core waiting
//! for a rank that is late takes.
//!
//! ```sh
//! mpirun -n 2 target/release/examples/exchange             # as built by the line below; sizes in bytes may follow
//! cargo build --release --no-default-features --features mpi --example exchange
//! kernels-tests/two-hosts --rate 1gbit --delay 0.1ms target/release/examples/exchange
//! ```

use std::time::{Duration, Instant};

use poa_gpu::Result;
use poa_gpu::collective::{Collective, Mpi, PATIENCE};
use poa_gpu::logging::console;

fn main() -> Result<()> {
    console::install(None)?;
    let c = Collective::over(Mpi::open, PATIENCE)?;
    let mut sizes: Vec<usize> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![0, 1 << 10, 64 << 10, 1 << 20, 8 << 20, 64 << 20];
    }
    tell(&c, "      bytes   microseconds    MB/s each way    cores");
    for bytes in sizes {
        let times = if bytes < 1 << 20 { 1000 } else { (512 << 20) / bytes };
        let message = vec![c.rank() as u8; bytes];
        c.gather(message.clone())?;
        let (begun, used) = (Instant::now(), processor());
        for _ in 0..times {
            c.gather(message.clone())?;
        }
        let (taken, used) = (begun.elapsed().as_secs_f64(), processor() - used);
        let rate = (bytes * (c.size() - 1) * times) as f64 / taken / 1e6;
        let each = taken / times as f64 * 1e6;
        tell(&c, &format!("{bytes:>11} {each:>14.1} {rate:>16.1} {:>8.2}", used / taken));
    }
    c.barrier()?;
    if c.rank() == 1 {
        std::thread::sleep(Duration::from_secs(2));
    }
    let (begun, used) = (Instant::now(), processor());
    c.barrier()?;
    let share = (processor() - used) / begun.elapsed().as_secs_f64();
    tell(&c, &format!("waiting for a rank that is 2 s late: {share:.3} cores"));
    Ok(())
}

fn tell(c: &Collective, line: &str) {
    if c.leads() {
        println!("{line}");
    }
}

/// Seconds of processors that this process has used.
fn processor() -> f64 {
    let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place is there to be written to.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut used) };
    used.tv_sec as f64 + used.tv_nsec as f64 * 1e-9
}
