//! Kernels compiled ahead. Every width of the elastic student has kernels of its own, and each would stall the step in
//! which it is first drawn: threads rehearse the run's sub-networks in the order in which they will be drawn, and
//! compile what they will want.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use crate::error::Result;
use crate::gpu::{Caps, Choices, Kernel, Pipelines};
use crate::logging;
use crate::poa::forecast::Rehearsal;
use crate::poa::settings::Settings;
use crate::share::Share;
use crate::tensor::Device;

/// Threads that compile at most; drivers do not compile in more at a time.
const MOST_THREADS: usize = 8;

/// Threads that compile the kernels of a run. They end when this is dropped, with the kernels they are at.
pub struct Ahead {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Ahead {
    /// Begins with the kernels of a rank's step `first`; nothing is to be done on the CPU device.
    pub fn start(settings: &Settings, device: &Device, share: Share, first: usize) -> Option<Self> {
        let Device::Gpu(gpu) = device else { return None };
        let (pipelines, caps) = (gpu.pipelines()?, gpu.caps().clone());
        let stop = Arc::new(AtomicBool::new(false));
        let (wanted, kernels) = mpsc::channel();
        let kernels = Arc::new(Mutex::new(kernels));
        let mut threads = Vec::new();
        let compilers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        for _ in 0..compilers {
            let (pipelines, kernels, stop) = (pipelines.clone(), kernels.clone(), stop.clone());
            threads.extend(spawn("compiler", move || compile(&pipelines, &kernels, &stop)));
        }
        let (settings, stopped, choices) = (settings.clone(), stop.clone(), gpu.choices().cloned());
        threads.extend(spawn("rehearsal", move || {
            // what is wrong with a step is told by the step itself
            if let Err(e) = rehearse(&settings, &caps, choices, (share, first), &wanted, &stopped) {
                logging::debug(format_args!("kernels are not compiled ahead: {e}"));
            }
        }));
        Some(Self { stop, threads })
    }
}

impl Ahead {
    /// Waits until all of them are compiled.
    pub fn finish(mut self) {
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A thread; where there can be none, the run compiles what it wants itself.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(work).ok()
}

fn compile(pipelines: &Pipelines, kernels: &Mutex<mpsc::Receiver<Kernel>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let next = kernels.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
        let Ok(kernel) = next else { return };
        pipelines.prepare(&kernel);
    }
}

/// Sends the kernels of all sub-networks of a rank from a step on, each once.
fn rehearse(
    settings: &Settings,
    caps: &Caps,
    choices: Option<Arc<Choices>>,
    (share, first): (Share, usize),
    wanted: &mpsc::Sender<Kernel>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut rehearsal = Rehearsal::of_share(settings, &Device::rehearsal(caps), share)?;
    if let (Device::Gpu(gpu), Some(choices)) = (rehearsal.device(), choices) {
        gpu.set_choices(choices);
    }
    let draws = rehearsal.draws_of(share)?;
    let (mut networks, mut kernels) = (HashSet::new(), HashSet::new());
    for step in first..first + draws.cycle() {
        let network = draws.at(step);
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !networks.insert(network) {
            continue;
        }
        rehearsal.step(step, network)?;
        for kernel in rehearsal.tally().kernels {
            if kernels.insert(kernel.clone()) && wanted.send(kernel).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
