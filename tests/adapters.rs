//! What adapters do in the field: they are lost, have no memory left, bind little.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use poa_gpu::data::pixels::Image;
use poa_gpu::data::{self, BadSample, Reading, Source};
use poa_gpu::gpu::{Caps, DeviceChoice};
use poa_gpu::poa::PoaTask;
use poa_gpu::recipes::Config;
use poa_gpu::tensor::{DType, Device, Tensor};
use poa_gpu::train::run_folder::RunFolder;
use poa_gpu::train::trainer::{Start, Trainer};
use poa_gpu::{Error, ops};

fn open(most: &Caps) -> Device {
    ops::open_within(&DeviceChoice::Gpu, most).expect("kernels-tests/run installs a software adapter")
}

fn config(settings: &[&str]) -> Config {
    let mut config = Config::recipe("demo").unwrap();
    config.apply(settings).unwrap();
    config.resolve(1).unwrap();
    config
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("poa-adapters-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

/// Images during the loading of one of which something happens.
struct Eventful<F> {
    images: Arc<dyn Source>,
    until: AtomicUsize,
    event: F,
}

impl<F: Fn() + Send + Sync> Source for Eventful<F> {
    fn len(&self) -> usize {
        self.images.len()
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        if self.until.fetch_sub(1, Ordering::SeqCst) == 1 {
            (self.event)();
        }
        self.images.load(i)
    }
    fn label(&self, i: usize) -> Option<u32> {
        self.images.label(i)
    }
    fn classes(&self) -> &[String] {
        self.images.classes()
    }
    fn name(&self, i: usize) -> String {
        self.images.name(i)
    }
    fn describe(&self) -> String {
        self.images.describe()
    }
}

#[test]
fn a_lost_adapter_is_an_error_of_every_call() {
    let device = open(&Caps::everything());
    let Device::Gpu(gpu) = &device else { unreachable!("a GPU was asked for") };
    let tensor = Tensor::from_slice(&device, &[4], &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    gpu.loss()();
    for _ in 0..2 {
        let told = [
            tensor.to_vec::<f32>().unwrap_err(),
            tensor.upload(&[0.0f32; 4]).unwrap_err(),
            Tensor::empty(&device, &[1 << 20], DType::F32).unwrap_err(),
            device.synchronize().unwrap_err(),
        ];
        for e in told {
            assert!(matches!(e, Error::Device(_)) && e.to_string().contains("is lost ("), "{e}");
        }
    }
}

#[test]
fn a_run_whose_adapter_is_lost_names_its_checkpoint() {
    // twenty steps, a checkpoint every two
    let config = config(&[
        "train.batch_size_per_gpu=4",
        "train.OFFICIAL_EPOCH_LENGTH=2",
        "train.saveckp_freq=1",
        "data.held_out=0.0",
    ]);
    let device = open(&Caps::everything());
    let Device::Gpu(gpu) = &device else { unreachable!("a GPU was asked for") };
    let images = data::open("shapes", &Reading::default()).unwrap();
    let source = Arc::new(Eventful { images, until: AtomicUsize::new(4 * 14), event: gpu.loss() });
    let dir = folder("lost");
    let run = RunFolder::create(Some(&dir), "demo", &config.to_toml().unwrap()).unwrap();
    let task = PoaTask::new(config.clone(), config.to_toml().unwrap(), &device, source, run.dir()).unwrap();
    let trainer = Trainer::new(task, config.plan(), run, &Start::default()).unwrap();
    let e = trainer.run().err().expect("the adapter is lost").to_string();
    assert!(e.contains("is lost (") && e.contains("the run goes on from") && e.contains("step-"), "{e}");
    let log = std::fs::read_to_string(dir.join("train.log")).unwrap();
    assert!(log.contains("stopped: device: ") && log.contains("--resume"), "{log}");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn parameters_and_logits_are_cut_to_what_can_be_bound() {
    // two steps on an adapter that binds a megabyte: parameters in several buffers, logits in pieces
    let config = config(&["train.batch_size_per_gpu=4"]);
    let losses = |device: &Device| {
        let run = poa_gpu::poa::PoaModel::new(&config, device, 0).unwrap();
        let source = data::open("shapes", &Reading::default()).unwrap();
        let batch = data::Loader::new(source, config.loader().unwrap()).unwrap().next().unwrap();
        let mut inputs = poa_gpu::poa::StepInputs::new(run.grid.intact(), 0.05);
        let record = run.forward_backward(&batch, &mut inputs).unwrap();
        let gradients = run.student.gradients().unwrap();
        let buffers = gradients.buffers().len();
        (
            buffers,
            record.total.item().unwrap(),
            gradients.read("backbone.blocks.0.mlp.fc1.linear.weight").unwrap(),
        )
    };
    let whole = losses(&open(&Caps::everything()));
    let cut = losses(&open(&Caps { max_binding_bytes: 1 << 20, ..Caps::everything() }));
    assert!(whole.0 == 1 && cut.0 > 1, "{} and {} buffers", whole.0, cut.0);
    assert!((whole.1 - cut.1).abs() < 1e-5 * whole.1.abs(), "{} {}", whole.1, cut.1);
    let largest = whole.2.iter().fold(0f32, |most, g| most.max(g.abs()));
    for (a, b) in whole.2.iter().zip(&cut.2) {
        assert!((a - b).abs() < 1e-4 * largest, "{a} {b}");
    }
}

#[test]
fn what_no_adapter_can_bind_is_refused_by_its_size() {
    let device = open(&Caps { max_binding_bytes: 1 << 20, ..Caps::everything() });
    let e = Tensor::empty(&device, &[1 << 19], DType::F32).unwrap_err().to_string();
    assert!(e.contains("a tensor of 2 MiB is more than the 1 MiB"), "{e}");
    // beyond what 32 bits count
    let rehearsal = Device::rehearsal(&Caps { max_binding_bytes: 1 << 40, ..Caps::minimal() });
    let e = poa_gpu::tensor::fill(&Tensor::empty(&rehearsal, &[1 << 33], DType::F32).unwrap(), 0);
    assert!(e.unwrap_err().to_string().contains("32 bits"));
}
