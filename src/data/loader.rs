//! Batches from worker threads. The unit of work is one image: it is decoded once for all its crops, and all
//! workers share the images of a batch. At most `prefetch` batches exist beside the one handed out.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::data::assembly::Assembly;
use crate::data::bad_samples::{BadKind, BadSample, BadSamples, Fault};
use crate::data::batch::Batch;
use crate::data::channels::in_channels;
use crate::data::loader_config::LoaderConfig;
use crate::data::order::{Order, Pick};
use crate::data::pixels::Image;
use crate::data::scratch::Scratch;
use crate::data::source::Source;
use crate::data::waiting::InWork;
use crate::error::{Error, Result};
use crate::logging;
use crate::rng::stream;
use crate::share::{Place, Share};
use crate::stop::{LOOK_EVERY, Stop};

/// How long to wait for workers at the end.
const LAST_IMAGE: Duration = Duration::from_secs(2);

/// How long a batch is waited for before it is said which image it is that takes so long.
const LONG: Duration = Duration::from_secs(30);

/// An endless sequence of batches, the same bits for any number of threads.
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    scratch: Scratch,
    waited: Duration,
    long: Duration,
    /// Bad images handed out.
    bad: usize,
    stop: Stop,
}

impl Loader {
    /// Starts the worker threads. Images of another number of channels than the crops' are brought to it, or
    /// are an error.
    pub fn new(source: Arc<dyn Source>, config: LoaderConfig) -> Result<Self> {
        config.recipe.check()?;
        let source = in_channels(source, config.recipe.normalization().channels())?;
        if source.len() == 0 {
            return Err(Error::file(source.describe(), "holds no images"));
        }
        if config.batch == 0 {
            return Err(Error::Usage("a batch must have at least one image".into()));
        }
        let Share { rank, ranks } = config.share;
        if rank >= ranks {
            return Err(Error::Usage(format!(
                "there is no rank {rank} among {ranks} ranks, which count from 0"
            )));
        }
        let mut order = Order::new(source.len(), config.batch.saturating_mul(ranks), config.seed)
            .repeating(config.recipe.repeats());
        if let Some(place) = config.start {
            order = order.starting(config.start_step, place);
        }
        let progress = Progress { next: config.start_step, slot: 0, open: VecDeque::new(), halt: None };
        let (count, prefetch) = (config.threads, config.prefetch.max(1) as u64);
        let shared = Arc::new(Shared {
            source,
            config,
            order,
            prefetch,
            bad: Mutex::default(),
            in_work: InWork::default(),
            progress: Mutex::new(progress),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let (threads, scratch) = (Vec::new(), Scratch::default());
        let (waited, bad, stop) = (Duration::ZERO, 0, Stop::new());
        let mut loader = Self { shared, threads, scratch, waited, long: LONG, bad, stop };
        for i in 0..count {
            let shared = loader.shared.clone();
            match std::thread::Builder::new().name(format!("loader-{i}")).spawn(move || shared.work()) {
                Ok(thread) => loader.threads.push(thread),
                // those that run do all the work, or this thread does
                Err(e) => {
                    logging::warn(format_args!(
                        "{i} of {count} threads that load images could be started: {e}; loading is slower \
                         (ulimit -u and -v limit threads, train.num_workers asks for fewer)"
                    ));
                    break;
                }
            }
        }
        Ok(loader)
    }

    /// From now on [`Loader::next`] waits no longer once `stop` wishes for the end; that is an error then.
    pub fn stopped_by(&mut self, stop: &Stop) {
        self.stop = stop.clone();
    }

    /// The batch of the next step.
    #[allow(clippy::should_implement_trait)] // endless and fallible: not an iterator
    pub fn next(&mut self) -> Result<Batch> {
        let start = Instant::now();
        let batch = if self.threads.is_empty() { self.make() } else { self.take() };
        self.waited += start.elapsed();
        batch
    }

    /// Makes a batch in the calling thread.
    fn make(&mut self) -> Result<Batch> {
        let shared = &self.shared;
        let mut progress = shared.lock();
        let assembly = Assembly::new(&shared.config, progress.next);
        for slot in 0..shared.config.batch {
            self.stop.check()?;
            if let Err(halt) = shared.fill(&assembly, slot, &mut self.scratch) {
                let error = halt.error(&*shared.source);
                progress.halt = Some(halt);
                return Err(error);
            }
        }
        progress.next += 1;
        assembly.finish(&shared.config, &*shared.source)
    }

    /// Waits for the next batch of the workers.
    fn take(&mut self) -> Result<Batch> {
        let shared = &self.shared;
        let mut progress = shared.lock();
        let (mut long, mut since) = (self.long, Instant::now());
        loop {
            if let Some(halt) = &progress.halt {
                return Err(halt.error(&*shared.source));
            }
            if progress.open.front().is_some_and(|open| open.missing == 0) {
                break;
            }
            self.stop.check()?;
            let waiting = shared.done.wait_timeout(progress, LOOK_EVERY);
            progress = waiting.unwrap_or_else(PoisonError::into_inner).0;
            if since.elapsed() >= long {
                drop(progress);
                shared.tell_slow(self.long);
                (long, since) = (long.saturating_mul(2), Instant::now()); // less and less often
                progress = shared.lock();
            }
        }
        let complete = progress.open.pop_front();
        progress.next += 1;
        shared.work.notify_all();
        drop(progress);
        // Workers let go of a batch before they count their image as done.
        let assembly = complete.and_then(|open| Arc::into_inner(open.assembly));
        let assembly = assembly.ok_or_else(|| Halt::Crash.error(&*shared.source))?;
        assembly.finish(&shared.config, &*shared.source)
    }

    /// Steps of one epoch: its batches of all ranks together.
    pub fn steps_per_epoch(&self) -> u64 {
        self.shared.order.steps_per_epoch()
    }

    /// Where in the images a step begins; not before the first one that is made.
    pub fn place(&self, step: u64) -> Place {
        self.shared.order.place(step)
    }

    /// The images found unusable since the last call, by number. Each was replaced by the next usable one,
    /// and is handed out once, after the first batch that it should have been in: so a run reports the same
    /// images at the same steps for any number of threads. After an error of [`Loader::next`], all that are
    /// known.
    pub fn take_bad_samples(&mut self) -> Vec<BadSample> {
        let progress = self.shared.lock();
        let end = if progress.halt.is_some() { u64::MAX } else { progress.next };
        drop(progress);
        let bad = self.shared.bad().take(end);
        self.bad += bad.len();
        bad
    }

    /// How many images [`Loader::take_bad_samples`] has handed out in all.
    pub fn bad_count(&self) -> usize {
        self.bad
    }

    /// Changes after how long a wait it is said which image takes so long; half a minute without this.
    pub fn tell_after(&mut self, wait: Duration) {
        self.long = wait;
    }

    /// How long [`Loader::next`] has taken in all: the time a training loop stood still for data.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.halt(Halt::Drop);
        // one that waits for a disk that does not answer is left behind
        let begun = Instant::now();
        while self.threads.iter().any(|thread| !thread.is_finished()) && begun.elapsed() < LAST_IMAGE {
            std::thread::sleep(Duration::from_millis(1));
        }
        for thread in self.threads.drain(..).filter(JoinHandle::is_finished) {
            let _ = thread.join(); // a crash has been reported by `next`
        }
    }
}

/// What the workers and the loader share.
struct Shared {
    source: Arc<dyn Source>,
    config: LoaderConfig,
    order: Order,
    prefetch: u64,
    bad: Mutex<BadSamples>,
    in_work: InWork,
    progress: Mutex<Progress>,
    /// Told when there may be a new image to work on.
    work: Condvar,
    /// Told when a batch may be complete.
    done: Condvar,
}

/// Where the work stands.
struct Progress {
    /// The step that `next` will hand out.
    next: u64,
    /// The next image to be claimed of the last open batch; the batch size if all are.
    slot: usize,
    /// The batches begun, of steps next, next + 1, ...
    open: VecDeque<Open>,
    /// Why no more work is done.
    halt: Option<Halt>,
}

/// A batch begun.
struct Open {
    assembly: Arc<Assembly>,
    /// Images not yet done.
    missing: usize,
}

/// Why the workers stopped.
#[derive(Clone, Debug)]
enum Halt {
    Drop,
    Crash,
    /// No image could be read; one of the reasons.
    AllBad(Option<BadSample>),
}

impl Halt {
    fn error(&self, source: &dyn Source) -> Error {
        let problem = match self {
            Self::Drop | Self::Crash => "a loader thread stopped on an internal error (see above)".into(),
            Self::AllBad(first) => {
                let example =
                    first.as_ref().map(|b| format!(" ({}: {})", b.name, b.reason)).unwrap_or_default();
                format!("none of its {} images can be read{example}; check the files", source.len())
            }
        };
        Error::file(source.describe(), problem)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bad(&self) -> MutexGuard<'_, BadSamples> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all work; the first reason stays.
    fn halt(&self, reason: Halt) {
        self.lock().halt.get_or_insert(reason);
        self.work.notify_all();
        self.done.notify_all();
    }

    /// Says which image has been read for so long.
    fn tell_slow(&self, time: Duration) {
        let Some((i, taken, count)) = self.in_work.longer_than(time) else { return };
        let others = if count > 1 { format!(", and for {} more", count - 1) } else { String::new() };
        let (name, seconds) = (self.source.name(i), taken.as_secs_f32());
        logging::warn(format_args!("waiting for images: for {name} since {seconds:.0} s{others}"));
    }

    /// The life of a worker.
    fn work(&self) {
        let guard = CrashGuard(self);
        let mut scratch = Scratch::default();
        while let Some((assembly, slot)) = self.claim() {
            let step = assembly.step;
            let filled = self.fill(&assembly, slot, &mut scratch);
            drop(assembly);
            match filled {
                Ok(()) => self.count(step),
                Err(reason) => self.halt(reason),
            }
        }
        std::mem::forget(guard);
    }

    /// The next image to work on; waits while enough batches are ready. None at the end.
    fn claim(&self) -> Option<(Arc<Assembly>, usize)> {
        let mut progress = self.lock();
        loop {
            if progress.halt.is_some() {
                return None;
            }
            if progress.open.is_empty() || progress.slot == self.config.batch {
                if progress.open.len() as u64 >= self.prefetch {
                    progress = self.work.wait(progress).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let step = progress.next + progress.open.len() as u64;
                let assembly = Arc::new(Assembly::new(&self.config, step));
                progress.open.push_back(Open { assembly, missing: self.config.batch });
                progress.slot = 0;
            }
            let slot = progress.slot;
            progress.slot += 1;
            return progress.open.back().map(|open| (open.assembly.clone(), slot));
        }
    }

    /// Counts one image of `step` as done.
    fn count(&self, step: u64) {
        let mut progress = self.lock();
        let place = (step - progress.next) as usize;
        if let Some(open) = progress.open.get_mut(place) {
            open.missing -= 1;
            if open.missing == 0 && place == 0 {
                self.done.notify_all();
            }
        }
    }

    /// Makes all crops of image `slot` of a batch.
    fn fill(&self, assembly: &Assembly, slot: usize, scratch: &mut Scratch) -> Result<(), Halt> {
        let Share { rank, ranks } = self.config.share;
        let place = match self.config.recipe.repeats() {
            1 => self.config.share.number(self.config.batch, slot),
            // an image's crops go to one rank each, as DeiT deals them
            _ => slot * ranks + rank,
        };
        let Pick { epoch, index, repeat } = self.order.pick(assembly.step, place);
        let (shown, image) = self.load(index, assembly.step)?;
        assembly.note(slot, shown);
        let recipe = &self.config.recipe;
        let number = (index + repeat * self.source.len()) as u64;
        let mut rng = stream(self.config.seed, recipe.purpose(), epoch, number);
        // SAFETY: every slot of a batch is claimed once, so no other thread has its crops.
        let crops = unsafe { assembly.crops(slot) };
        recipe.make(&image, &mut rng, scratch, crops);
        Ok(())
    }

    /// Image `index`, which `step` needs, or the next one that can be read, and its number.
    fn load(&self, index: usize, step: u64) -> Result<(usize, Image), Halt> {
        let len = self.source.len();
        for i in (index..len).chain(0..index) {
            if self.bad().known(i, step) {
                continue;
            }
            let reading = self.in_work.begin(i);
            let loaded = self.source.load(i);
            drop(reading);
            let bad = match loaded {
                Ok(image) if image.width() > 0 && image.height() > 0 => return Ok((i, image)),
                Ok(_) => Fault::new(BadKind::Empty, "has no pixels").of(self.source.name(i)),
                Err(bad) => bad,
            };
            self.bad().note(i, step, bad);
        }
        Err(Halt::AllBad(self.bad().any().cloned()))
    }
}

/// Tells the loader when its thread ends by a panic.
struct CrashGuard<'a>(&'a Shared);

impl Drop for CrashGuard<'_> {
    fn drop(&mut self) {
        self.0.halt(Halt::Crash);
    }
}
