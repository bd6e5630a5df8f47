//! Memory that the system does not give: a line that says so, in place of an abort.
//!
//! What is large asks for its memory within [`attempt`] and can fail with an error of its own. Everything
//! else (each vector and string, also of the crates below) cannot go on; the program's allocator, [`Told`],
//! ends it then.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::TryReserveError;
use std::fmt::{self, Display};
use std::sync::atomic::{AtomicBool, Ordering};

/// Requests of so many bytes are answered with "no" and end nothing: a decoder that believes a damaged file
/// and then asks with care.
const ABSURD: usize = 1 << 32;

/// Bytes as GiB, for messages.
pub fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

/// Bytes of memory that can be had without swapping, as Linux estimates them.
pub fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

thread_local! {
    static ATTEMPTS: Cell<bool> = const { Cell::new(false) };
}

/// Does something that can fail for want of memory, such as `Vec::try_reserve_exact`: within it the answer is
/// the caller's to judge.
pub fn attempt<T>(ask: impl FnOnce() -> T) -> T {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            ATTEMPTS.set(self.0);
        }
    }
    let _back = Back(ATTEMPTS.replace(true));
    ask()
}

/// Zeros of the system's, which take no memory until somebody touches them.
///
/// # Errors
/// Where there would be no memory for them.
pub fn zeros(length: usize) -> Result<Vec<u8>, TryReserveError> {
    // `Vec` has no way to ask for zeros that can fail: so the room first, and then the zeros in it
    attempt(|| Vec::<u8>::new().try_reserve_exact(length))?;
    Ok(vec![0; length])
}

/// The system's allocator, which ends the program with a line where there is no memory left. For programs:
/// what is trained is lost since the last checkpoint, as with an abort.
#[derive(Clone, Copy, Debug)]
pub struct Told;

// SAFETY: every call goes to the system's allocator as it came, and its answer comes back as it is.
unsafe impl GlobalAlloc for Told {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        judged(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        judged(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        judged(unsafe { System.realloc(pointer, layout, size) }, size)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn judged(memory: *mut u8, bytes: usize) -> *mut u8 {
    if memory.is_null() && bytes < ABSURD && !ATTEMPTS.get() {
        end(bytes);
    }
    memory
}

/// Ends the program. Nothing here allocates, and nothing of the program runs any more.
#[cold]
fn end(bytes: usize) -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    if ENDING.swap(true, Ordering::Relaxed) {
        // another thread is at it
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
    let mut line = [0; 400];
    let mut rest = &mut line[..];
    // what does not fit is left out
    let _ = std::io::Write::write_fmt(
        &mut rest,
        format_args!(
            "poa-gpu: out of memory: {bytes} more bytes are not to be had{}; take a smaller train.batch_size_per_gpu or \
             fewer train.num_workers, or give it more, and go on with --resume\n",
            Limit::of_this_process()
        ),
    );
    let left = rest.len();
    let text = &line[..line.len() - left];
    #[cfg(unix)]
    // SAFETY: the bytes live, and ending needs nothing.
    unsafe {
        let _ = libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(1)
    }
    #[cfg(not(unix))]
    {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), text);
        std::process::exit(1)
    }
}

/// The limit of a process's memory, to be shown behind a number.
pub(crate) struct Limit(Option<u64>);

impl Limit {
    /// That of `ulimit -v`, if it is set.
    pub(crate) fn of_this_process() -> Self {
        #[cfg(unix)]
        {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: the struct is there to be written to.
            let known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } == 0;
            #[allow(clippy::unnecessary_cast, trivial_numeric_casts)] // its type differs between systems
            Self((known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur as u64))
        }
        #[cfg(not(unix))]
        Self(None)
    }
}

impl Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, " (this process may have {} MiB, see ulimit -v)", bytes >> 20),
            None => Ok(()),
        }
    }
}
