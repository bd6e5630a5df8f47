//! What ranks send each other in a step, as it is foretold, against what they send; and how its speed is measured.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use poa_gpu::Result;
use poa_gpu::bench::collective::{meeting, sum};
use poa_gpu::collective::{Collective, Message, Threads, Transport, Watch};
use poa_gpu::data;
use poa_gpu::gpu::Caps;
use poa_gpu::poa::PoaTask;
use poa_gpu::poa::traffic::Traffic;
use poa_gpu::recipes::Config;
use poa_gpu::tensor::Device;
use poa_gpu::train::run_folder::RunFolder;
use poa_gpu::train::trainer::{Start, Trainer};

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("poa-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Messages to other ranks, and their bytes.
#[derive(Default)]
struct Sent([AtomicUsize; 2]);

/// Ranks as threads, the messages of one of which are counted.
struct Counted(Threads, Arc<Sent>);

impl Transport for Counted {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn exchange(&mut self, messages: Vec<Message>, watch: &Watch) -> Result<Vec<Message>> {
        if self.rank() == 0 {
            let [count, bytes] = &self.1.0;
            count.fetch_add(self.size() - 1, Ordering::SeqCst);
            bytes.fetch_add(messages[1..].iter().map(|m| m.len()).sum(), Ordering::SeqCst);
        }
        self.0.exchange(messages, watch)
    }

    fn abort(&mut self, why: &str) {
        self.0.abort(why);
    }
}

fn config(settings: &[&str], ranks: usize) -> Config {
    let always = [
        "train.batch_size_per_gpu=4",
        "train.total_steps=9",
        "train.log_every=100",
        "train.saveckp_minutes=0",
        "evaluation.train_images=40",
        "evaluation.val_images=20",
        "student.min_embed_dim=64",
        "student.max_embed_dim=128",
        "student.min_depth=1",
        "dino.head_hidden_dim=640",
        "dino.head_bottleneck_dim=32",
        "dino.head_n_prototypes=[160, 1024]",
        "ibot.head_hidden_dim=48",
        "ibot.head_bottleneck_dim=16",
    ];
    let all: Vec<String> = always.iter().chain(settings).map(|s| s.to_string()).collect();
    let mut config = Config::load("demo", &all).unwrap();
    config.resolve(ranks).unwrap();
    config
}

/// Messages and bytes that rank 0 sends in a run that ends after so many steps.
fn sent(config: &Config, ranks: usize, steps: usize) -> [usize; 2] {
    let (sent, dir) = (Arc::<Sent>::default(), Folder::new(&format!("traffic-{ranks}-{steps}")));
    thread::scope(|scope| {
        for side in Threads::meeting(ranks) {
            let dir = &dir.0;
            let side = Counted(side, sent.clone());
            scope.spawn(move || {
                let c = Collective::over(move || Ok(side), Duration::from_secs(300)).unwrap();
                let source = data::open("shapes:400", &data::Reading::default()).unwrap();
                let (text, config) = (config.to_toml().unwrap(), config.clone());
                let plan = config.plan();
                let folder =
                    c.leads().then(|| RunFolder::create(Some(&dir.join("run")), "demo", &text).unwrap());
                let dir = folder.as_ref().map(RunFolder::dir);
                let task = PoaTask::of_rank(&c, config, text, &Device::cpu(), source, dir).unwrap();
                let start = Start { ranks: c.clone(), ..Start::default() };
                let mut trainer = Trainer::new(task, plan, folder, &start).unwrap();
                trainer.stop_after(steps);
                assert_eq!(trainer.run().unwrap().steps, steps);
            });
        }
    });
    sent.0.each_ref().map(|n| n.load(Ordering::SeqCst))
}

#[test]
fn a_step_sends_what_is_foretold() {
    let caps = Caps { max_binding_bytes: 1 << 40, ..Caps::minimal() };
    for (ranks, settings) in [
        (2, &[][..]),
        (3, &["train.accumulation_steps=2", "ibot.separate_head=true", "ibot.head_n_prototypes=[96]"]),
        (2, &["train.centering=\"centering\""]),
        (2, &["dino.branches=v3"]),
        (2, &["dino.branches=alone", "student.fixed_network=96x2", "evaluation.networks=[\"intact\"]"]),
    ] {
        let config = config(settings, ranks);
        let (two, three) = (sent(&config, ranks, 2), sent(&config, ranks, 3));
        let foretold = Traffic::of(&config, &caps, ranks).unwrap().all();
        // decisions and unusable images are told once a step
        assert_eq!(three[0] - two[0], foretold.messages + 2 * (ranks - 1), "{ranks} ranks, {settings:?}");
        let more = three[1] - two[1] - foretold.sent;
        assert!(more < 200 * (ranks - 1), "{more} bytes beside those foretold, {ranks} ranks, {settings:?}");
        assert!(foretold.bytes > 1 << 20 && foretold.sent >= foretold.bytes);
    }
}

/// The paper's ViT, of which docs/scaling.md speaks.
#[test]
fn gradients_are_nearly_all_of_it() {
    let caps = Caps { max_binding_bytes: 1 << 40, ..Caps::minimal() };
    let mut config = Config::recipe("vit_ee1200").unwrap();
    config.resolve(8).unwrap();
    let Traffic { gradients, targets, flags, .. } = Traffic::of(&config, &caps, 8).unwrap();
    // columns of four heads, for class tokens and patches, three times
    assert_eq!((targets.lists, targets.bytes), (3, 3 * 2 * (8192 + 16384 + 32768 + 65536) * 8));
    assert!(gradients.bytes > 1 << 30 && flags.bytes < 1 << 10, "{gradients:?}, {flags:?}");
    assert_eq!(gradients.sent, gradients.bytes / 8 * 7 * 2);
}

#[test]
fn ranks_are_timed() {
    thread::scope(|scope| {
        for side in Threads::meeting(3) {
            scope.spawn(move || {
                let c = Collective::over(move || Ok(side), Duration::from_secs(300)).unwrap();
                assert!(meeting(&c, 0).unwrap() > 0.0 && meeting(&c, 64).unwrap() > 0.0);
                for bytes in [4 << 10, 100 << 10] {
                    let sum = sum(&c, bytes).unwrap().expect("there is as much memory");
                    assert!(sum.bytes == bytes && sum.seconds > 0.0 && sum.bus_rate(3) > sum.rate());
                }
                assert_eq!(sum(&c, 1 << 50).unwrap(), None);
            });
        }
    });
}
