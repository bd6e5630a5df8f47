//! What the libraries below find in the environment.

use std::path::Path;
use std::process::ExitCode;

use crate::error::{Error, Result};
use crate::guard::is_guarded;

/// The folder of a user's session.
const RUNTIME: &str = "XDG_RUNTIME_DIR";
/// What stands for it where there is none: an absolute path under which nothing can be.
const NOWHERE: &str = "/dev/null";

/// Lets graphics drivers find a session's folder, in which they look for a display that no one needs here:
/// where there is none (containers, batch systems, `sudo`) Mesa complains on standard error at every start.
/// To be called before anything else, while the process has one thread.
pub(super) fn without_a_session() {
    if cfg!(unix) && std::env::var_os(RUNTIME).is_none_or(|dir| !Path::new(&dir).is_absolute()) {
        // SAFETY: no other thread runs that could read the environment at the same time.
        unsafe { std::env::set_var(RUNTIME, NOWHERE) };
    }
}

/// Says nothing of a panic that is foreseen: it is caught and told as an error.
pub(super) fn without_foreseen_panics() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !is_guarded() {
            hook(panic);
        }
    }));
}

/// Bytes of stack that the program has, whatever `ulimit -s` gives its first thread.
const STACK: usize = 8 << 20;

/// Runs the program with enough stack: in a thread of its own or, where there can be none, in this one.
pub(super) fn with_stack(program: fn() -> ExitCode) -> ExitCode {
    match std::thread::Builder::new().name("main".into()).stack_size(STACK).spawn(program) {
        // the status of a panic
        Ok(thread) => thread.join().unwrap_or(ExitCode::from(101)),
        Err(_) => program(),
    }
}

/// What would help where a limit of the system shows in an error of any file.
pub(super) fn advice(e: &Error) -> &'static str {
    match e.to_string().contains("Too many open files") {
        true => "; raise the limit of open files (ulimit -n 1024)",
        false => "",
    }
}

/// Files that a run may have open: those that it wants, and those without which it does not start. Otherwise
/// it would find out when it saves its first checkpoint.
#[cfg(unix)]
const FILES: (libc::rlim_t, libc::rlim_t) = (1024, 32);

/// Lets this process open as many files as a run wants, as far as the system allows it.
#[cfg(unix)]
pub(super) fn open_files() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is there to be written to.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 || limit.rlim_cur >= FILES.0 {
        return Ok(());
    }
    let wanted = libc::rlimit { rlim_cur: limit.rlim_max.min(FILES.0), ..limit };
    // SAFETY: the struct is there to be read.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) } == 0 {
        limit = wanted;
    }
    match limit.rlim_cur < FILES.1 {
        true => Err(Error::Device(format!(
            "this process may have at most {} files open, and a run needs {}; raise the limit (ulimit -n {})",
            limit.rlim_cur, FILES.1, FILES.0
        ))),
        false => Ok(()),
    }
}

#[cfg(not(unix))]
pub(super) fn open_files() -> Result<()> {
    Ok(())
}
