//! Several ranks as processes that mpirun starts: the numbers of threads to the bit, messages of every size, and ends of
//! every kind, after which nothing is left running. `kernels-tests/ranks` installs an MPI and runs this.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use poa_gpu::collective::{Collective, Mpi, Threads};
use poa_gpu::logging::console;
use poa_gpu::{Error, Result};

/// What the ranks of a test do; the name of an arm of [`one_rank`].
const CASE: &str = "POA_TEST_MPI_CASE";
/// Tells the processes of one test from all others.
const RUN: &str = "POA_TEST_MPI_RUN";

/// For as long as a test takes where nothing is awaited.
const LONG: Duration = Duration::from_secs(60);

/// How the processes of a test have ended.
struct Ended {
    status: ExitStatus,
    out: String,
    err: String,
    seconds: f64,
}

impl Ended {
    /// What the library tells, of which there is one line.
    #[track_caller]
    fn told(&self) -> &str {
        let all: Vec<&str> = self.err.lines().filter(|line| line.starts_with("poa-gpu: ")).collect();
        assert_eq!(all.len(), 1, "{}", self.err);
        assert!(!self.status.success());
        all[0]
    }
}

/// Starts so many ranks of a case under mpirun, waits for their end, and sees that nothing of them is left.
#[track_caller]
fn mpirun(ranks: usize, case: &str, limit: Duration) -> Ended {
    let run = format!("{}-{case}", std::process::id());
    let mut command = Command::new("mpirun");
    command.args(["-n", &ranks.to_string()]).arg(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "one_rank", "--nocapture"]);
    command.env(CASE, case).env(RUN, &run).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Open MPI: also as root, with more ranks than cores, and where processes may not read each other's memory
    for (name, value) in [
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
    ] {
        command.env(name, value);
    }
    let begun = Instant::now();
    let mut mpirun = command.spawn().expect("mpirun can be started; kernels-tests/ranks installs one");
    let (out, err) = (reader(mpirun.stdout.take().unwrap()), reader(mpirun.stderr.take().unwrap()));
    let status = loop {
        if let Some(status) = mpirun.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > limit {
            let left = left(&run);
            for process in &left {
                // SAFETY: the process is one of this test's own, by its environment.
                unsafe { libc::kill(*process, libc::SIGKILL) };
            }
            let (out, err) = (out.join().unwrap(), err.join().unwrap());
            panic!("{case}: {left:?} still run after {limit:?}\n{out}\n{err}");
        }
        thread::sleep(Duration::from_millis(20));
    };
    let seconds = begun.elapsed().as_secs_f64();
    while !left(&run).is_empty() {
        assert!(begun.elapsed() < limit, "{case}: processes {:?} are left", left(&run));
        thread::sleep(Duration::from_millis(50));
    }
    Ended { status, out: out.join().unwrap(), err: err.join().unwrap(), seconds }
}

fn reader(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Processes of a test that run still, on systems that tell.
fn left(run: &str) -> Vec<i32> {
    let marked = format!("{RUN}={run}");
    let of = |entry: std::fs::DirEntry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        environment.split(|b| *b == 0).any(|v| v == marked.as_bytes()).then_some(process)
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(of).collect()
}

/// Results in one number.
#[derive(Default)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.0 =
            (self.0 ^ u64::from(crc32c::crc32c(bytes))).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }
}

fn value(rank: usize, i: usize) -> f32 {
    ((rank * 7919 + i * 104_729) % 10_007) as f32 * 1e-3 - 5.0 + 1e-7 * rank as f32
}

/// All that ranks do together, with messages of every size; the same number on all ranks, over any transport.
fn numbers(c: &Collective) -> Result<u64> {
    let mut all = Sum::default();
    for count in [0, 1, 5, 1024, 1025, 4096, 100_003, 10 << 20] {
        let mut values: Vec<f32> = (0..count).map(|i| value(c.rank(), i)).collect();
        c.sum(&mut values)?;
        let wanted = |i| (0..c.size()).map(|r| f64::from(value(r, i))).sum::<f64>() as f32;
        assert!((0..count).step_by(997).all(|i| values[i] == wanted(i)), "{count} elements");
        values.chunks(1024).for_each(|part| part.iter().for_each(|v| all.add(&v.to_le_bytes())));
    }
    let begun: Vec<_> =
        (0..20).map(|i| c.sum_later(vec![value(c.rank(), i); 5000 + i])).collect::<Result<_>>()?;
    // headers, their end, pieces, their end; and some ranks have nothing
    for length in [0, 1, 3991, 3992, 3993, 4096, 70_001, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 9 << 20] {
        for message in c.gather(vec![c.rank() as u8; length * (c.rank() % 3) / 2])? {
            all.add(&message);
        }
    }
    for sum in begun.into_iter().flatten() {
        sum.wait()?.iter().for_each(|v| all.add(&v.to_le_bytes()));
    }
    for count in [1, 3000] {
        let own = |i| {
            if i % (c.rank() + 1) == 0 { f64::from(value(c.rank(), i)) * 100.0 } else { f64::NEG_INFINITY }
        };
        c.log_sum_exp((0..count).map(own).collect())?.iter().for_each(|v| all.add(&v.to_le_bytes()));
    }
    all.add(&c.broadcast(format!("from {}", c.rank()).into_bytes())?);
    (0..100).try_for_each(|_| c.barrier())?;
    Ok(all.0)
}

/// A rank of the case that its environment names.
#[test]
#[ignore = "one rank of the other tests, which start it"]
fn one_rank() {
    let case = std::env::var(CASE).expect("the other tests start this one");
    console::install(None).unwrap();
    let patience =
        if case == "stopped" || case == "stopped_at_the_end" { Duration::from_secs(1) } else { LONG };
    let c = Collective::over(Mpi::open, patience).unwrap();
    let signal = |number| {
        // SAFETY: a process may signal itself.
        unsafe { libc::raise(number) };
    };
    c.barrier().unwrap();
    match (case.as_str(), c.rank()) {
        ("numbers", rank) => println!("rank {rank} of {}: {:016x}", c.size(), numbers(&c).unwrap()),
        ("large", rank) => {
            let length = (2 << 30) + 5;
            let own = if rank == 0 { (0..length).map(|i| (i % 251) as u8).collect() } else { Vec::new() };
            let all = c.gather(own).unwrap();
            assert!(all[0].len() == length && all[1].is_empty());
            assert!(all[0].iter().enumerate().all(|(i, b)| *b == (i % 251) as u8));
            println!("rank {rank} has all");
        }
        ("killed", 2) => signal(libc::SIGKILL),
        ("stopped", 2) => signal(libc::SIGSTOP),
        ("stopped_at_the_end", rank) => {
            if rank == 2 {
                signal(libc::SIGSTOP);
            }
            return;
        }
        ("aborts", 1) => {
            thread::sleep(Duration::from_millis(200));
            c.abort("out of memory");
        }
        ("leaves", 1) => return,
        ("panics", 1) => panic!("a fault of this rank"),
        ("out_of_step", rank) => println!("told: {}", c.sum(&mut vec![1.0; 3 + rank]).unwrap_err()),
        ("differs", rank) => {
            let images = if rank == 2 { "99" } else { "100" };
            let result = c.agree(&[("the version", "1".into()), ("the number of images", images.into())]);
            match result.unwrap_err() {
                Error::Ranks(text) => println!("told: {text}"),
                e => assert!(rank > 0 && matches!(e, Error::Elsewhere(_)), "{e}"),
            }
        }
        _ => {}
    }
    if !["numbers", "large", "out_of_step", "differs"].contains(&case.as_str()) {
        // where something has happened to one of them
        let e = c.barrier().and_then(|()| c.barrier()).unwrap_err();
        panic!("should have been ended before: {e}");
    }
}

#[test]
fn numbers_are_those_of_threads_to_the_bit() {
    for size in [2, 4] {
        let by_threads: Vec<u64> = thread::scope(|scope| {
            let run = |side: Threads| {
                scope.spawn(|| numbers(&Collective::over(move || Ok(side), LONG).unwrap()).unwrap())
            };
            let all: Vec<_> = Threads::meeting(size).into_iter().map(run).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let ended = mpirun(size, "numbers", 2 * LONG);
        assert!(ended.status.success(), "{}{}", ended.out, ended.err);
        for (rank, number) in by_threads.iter().enumerate() {
            let line = format!("rank {rank} of {size}: {number:016x}");
            assert!(ended.out.contains(&line), "{line} is not in {}", ended.out);
        }
    }
}

#[test]
#[ignore = "takes 5 GiB"]
fn a_message_may_have_more_than_2_gib() {
    let ended = mpirun(2, "large", 2 * LONG);
    assert!(ended.status.success(), "{}{}", ended.out, ended.err);
    assert!(ended.out.contains("rank 0 has all") && ended.out.contains("rank 1 has all"), "{}", ended.out);
}

#[test]
fn a_rank_that_is_killed_ends_all() {
    let ended = mpirun(4, "killed", LONG);
    assert!(!ended.status.success() && ended.seconds < 10.0, "{} s: {}", ended.seconds, ended.err);
    assert!(ended.err.to_lowercase().contains("signal"), "{}", ended.err);
}

#[test]
fn a_rank_that_is_stopped_is_named_and_all_end() {
    for case in ["stopped", "stopped_at_the_end"] {
        let ended = mpirun(4, case, LONG);
        let told = ended.told();
        assert!(told.starts_with("poa-gpu: rank 2 (") && told.contains("has not come"), "{case}: {told}");
        assert!(ended.seconds < 15.0, "{case}: {} s", ended.seconds);
    }
}

#[test]
fn a_rank_that_aborts_tells_why_and_ends_all() {
    let ended = mpirun(4, "aborts", LONG);
    assert_eq!(ended.told(), "poa-gpu: out of memory");
    assert!(ended.seconds < 10.0, "{} s", ended.seconds);
}

#[test]
fn a_rank_that_ends_before_the_others_ends_all_at_once() {
    for case in ["leaves", "panics"] {
        let ended = mpirun(4, case, LONG);
        assert!(ended.err.contains("poa-gpu: rank 1 ("), "{case}: {}", ended.err);
        assert!(ended.err.contains("has ended before the others"), "{case}: {}", ended.err);
        assert_eq!(ended.err.contains("a fault of this rank"), case == "panics", "{}", ended.err);
        assert!(!ended.status.success() && ended.seconds < 10.0, "{case}: {} s", ended.seconds);
    }
}

#[test]
fn ranks_that_are_out_of_step_get_an_error_and_no_wrong_sum() {
    let ended = mpirun(2, "out_of_step", LONG);
    assert!(ended.status.success(), "{}", ended.err);
    assert_eq!(ended.out.matches("told: ranks are out of step").count(), 2, "{}", ended.out);
}

#[test]
fn what_differs_between_ranks_is_named_and_all_end_in_order() {
    let ended = mpirun(4, "differs", LONG);
    assert!(ended.status.success(), "{}", ended.err);
    let text = "told: the number of images is 100 on rank 0 (";
    assert!(ended.out.contains(text) && ended.out.contains("and 99 on rank 2 ("), "{}", ended.out);
}
