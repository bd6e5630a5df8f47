//! Whole training steps: forward and backward of all branches, losses, clipping, AdamW and EMA.

use criterion::Criterion;
use poa_gpu::config::Config;
use poa_gpu::data::settings::loader_config;
use poa_gpu::data::{self, Loader};
use poa_gpu::optim::adamw::StepSettings;
use poa_gpu::poa::{PoaModel, StepBatch, StepInputs};
use poa_gpu::tensor::Device;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::support::{Bench, Work};

pub fn all(c: &mut Criterion, bench: &Bench) {
    for (name, recipe) in [("step/tiny", "bench_tiny"), ("step/vit-s", "bench_vit_s")] {
        if bench.wanted(name) {
            step(c, bench, name, recipe);
        }
    }
}

fn step(c: &mut Criterion, bench: &Bench, name: &str, recipe: &str) {
    let mut config = Config::recipe(recipe).unwrap();
    config.resolve(1).unwrap();
    let mut model = PoaModel::new(&config, &bench.device, 0).unwrap();
    let network = model.grid.named(&config.student.fixed_network).unwrap();
    let source = data::open(&config.data.spec).unwrap();
    let batch = Loader::new(source, loader_config(&config)).unwrap().next().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    // the share of useful arithmetic is not counted for a whole step; the time is what is compared
    let settings =
        StepSettings { lr: 1e-4, last_layer_lr: 1e-4, weight_decay: 0.04, teacher_momentum: 0.992 };
    let mut run = || {
        let inputs = StepBatch {
            images: batch.images,
            global: &batch.global,
            global_size: config.crops.global_crops_size,
            local: &batch.local,
            local_size: config.crops.local_crops_size,
            masks: Some(&batch.masks),
        };
        let mut how = StepInputs::new(network, 0.04).with_drop_path(&mut rng);
        let record = model.forward_backward(&inputs, &mut how).unwrap();
        let gradients = model.student.gradients().unwrap().clone();
        model.optimizer.measure(&gradients, &record.total).unwrap();
        model.optimizer.update(&model.student, model.teacher.values(), settings).unwrap();
        model.optimizer.applied += 1;
        record
    };
    let losses = run();
    assert!(losses.read(&poa_gpu::poa::losses::LossWeights::from_config(&config)).unwrap().total.is_finite());
    let samples = if matches!(bench.device, Device::Cpu(_)) { 5 } else { 3 };
    bench.measure(c, name, Work { flops: 0.0, bytes: 0.0 }, samples, || drop(run()));
    println!("{name}/{}: peak device memory {} MiB", bench.device.kind(), bench.device.peak_bytes() >> 20);
}
