//! What a run will need of its device, by rehearsal, against what it then takes.

use poa_gpu::Result;
use poa_gpu::gpu::{Caps, DeviceChoice};
use poa_gpu::memory::gib;
use poa_gpu::ops;
use poa_gpu::poa::ahead::Ahead;
use poa_gpu::poa::forecast::{Forecast, LARGE_PIECES, Rehearsal, pieces, remedy};
use poa_gpu::recipes::Config;
use poa_gpu::share::Share;
use poa_gpu::tensor::Device;

fn config(recipe: &str, settings: &[&str]) -> Config {
    let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
    let mut config = Config::load(recipe, &settings).unwrap();
    config.resolve(1).unwrap();
    config
}

/// Peak memory after each of some steps with sub-networks of the run.
fn peaks(config: &Config, device: &Device, steps: usize) -> Result<Vec<usize>> {
    let mut run = Rehearsal::on(config, device)?;
    let one = |i| {
        run.step(i, run.draws().at(i))?;
        Ok(run.device().peak_bytes())
    };
    (0..steps).map(one).collect()
}

/// A ViT of other blocks and more tokens.
const VARIANT: [&str; 2] = ["student.ffn_layer=\"swiglufused\"", "student.num_register_tokens=4"];

#[test]
fn a_rehearsal_takes_the_memory_that_the_adapter_gives() {
    for more in [&[][..], &VARIANT] {
        let device = ops::open(&DeviceChoice::Gpu).expect("an adapter");
        let Device::Gpu(gpu) = &device else { unreachable!("a GPU was asked for") };
        let config = config("demo", &[&["train.batch_size_per_gpu=4"], more].concat());
        let rehearsed = peaks(&config, &Device::rehearsal(gpu.caps()), 3).unwrap();
        assert_eq!(rehearsed, peaks(&config, &device, 3).unwrap());
    }
}

#[test]
fn kernels_that_are_compiled_ahead_are_all_that_a_run_wants() {
    let device = ops::open(&DeviceChoice::Gpu).expect("an adapter");
    let Device::Gpu(gpu) = &device else { unreachable!("a GPU was asked for") };
    let config = config("demo", &[&["train.batch_size_per_gpu=4"][..], &VARIANT].concat());
    // what preparing the weights takes
    let mut run = Rehearsal::on(&config, &device).unwrap();
    let before = gpu.compiled();
    Ahead::start(&config, &device, Share::ALL, 0).expect("this is an adapter").finish();
    let ahead = gpu.compiled();
    for step in 0..run.draws().cycle() {
        run.step(step, run.draws().at(step)).unwrap();
    }
    println!("{before} kernels before, {ahead} ahead");
    assert!(ahead > before + 20);
    assert_eq!(gpu.compiled(), ahead, "no step compiles any more");
}

/// An adapter with limits as large graphics cards have them.
fn card() -> Caps {
    Caps {
        subgroups: true,
        f16: true,
        immediates: true,
        workgroup_bytes: 48 << 10,
        workgroup_size: 1024,
        max_binding_bytes: (1 << 31) - 16,
        storage_buffers: 16,
        ..Caps::minimal()
    }
}

#[test]
fn images_go_up_as_bytes() {
    let config = config("vit_ee1200", &["train.batch_size_per_gpu=50"]);
    let step = Forecast::of(&config, &card()).unwrap().step;
    let values = 50 * 3 * (2 * 224 * 224 + 8 * 96 * 96);
    println!("{} bytes in {} uploads, {values} values of crops", step.uploaded, step.uploads);
    // masks, and a run for each sample and branch of stochastic depth, beside them
    assert!((values..values + (2 << 20)).contains(&step.uploaded));
}

#[test]
fn moments_that_are_split_over_ranks_take_their_share_of_memory() {
    let settings = ["train.batch_size_per_gpu=8", "train.precision=mixed"];
    let whole = config("vit_ee1200", &settings);
    let split = config("vit_ee1200", &[&settings[..], &["optim.shard=true"]].concat());
    let of = |config: &Config, ranks| Forecast::of_ranks(config, &card(), ranks).unwrap();
    let alone = of(&split, 1);
    assert_eq!(
        alone.state,
        of(&whole, 4).state,
        "nothing is split where it is not asked for, or with one rank"
    );
    let saved = |ranks| (alone.state - of(&split, ranks).state) as f64;
    let moments = 2.0 * saved(2);
    for ranks in [2usize, 3, 4, 8] {
        let (state, memory) = (of(&split, ranks).state, of(&split, ranks).memory);
        println!(
            "{ranks} ranks: {:.3} GiB of state where one has {:.3}, {:.3} in all where one has {:.3}",
            gib(state as u64),
            gib(alone.state as u64),
            gib(memory as u64),
            gib(alone.memory as u64)
        );
        let rest = moments * (1.0 - 1.0 / ranks as f64);
        // large buffers are rounded up
        assert!((saved(ranks) / rest - 1.0).abs() < 0.03, "{ranks}: {} of {rest}", saved(ranks));
        assert!(memory < alone.memory);
    }
    // on a device that computes
    let small = config("demo", &["train.batch_size_per_gpu=4", "optim.shard=true"]);
    let peak = |share| {
        let device = Device::cpu();
        let mut run = Rehearsal::of_share(&small, &device, share).unwrap();
        let made = device.peak_bytes();
        run.step(0, run.draws().at(0)).unwrap();
        (made, device.peak_bytes())
    };
    let (one, two) = (peak(Share::ALL), peak(Share { rank: 1, ranks: 2 }));
    println!("demo on the CPU, bytes after its making and at most: {one:?}, as one of two ranks {two:?}");
    assert!(two.0 < one.0 && two.1 < one.1);
}

#[test]
fn the_memory_of_vit_l_stays_flat_over_random_sub_networks() {
    let config = config("vit_ee1200", &["train.batch_size_per_gpu=8", "train.precision=mixed"]);
    let all = peaks(&config, &Device::rehearsal(&card()), 70).unwrap();
    let gib = |i: usize| gib(all[i] as u64);
    println!("{:.2} GiB after one step, {:.2} after 30, {:.2} after 70", gib(0), gib(29), gib(69));
    assert!(gib(69) < 1.2 * gib(0) && gib(69) < 1.01 * gib(29));
}

#[test]
fn mixed_precision_takes_little_more_than_half_of_the_memory_of_activations() {
    for recipe in ["vit_ee1200", "swin_ee1200", "resnet_ee2400"] {
        let [single, mixed] = ["f32", "mixed"].map(|precision| {
            let precision = format!("train.precision={precision}");
            let config = config(recipe, &["train.batch_size_per_gpu=16", &precision]);
            let forecast = Forecast::of(&config, &card()).unwrap();
            [forecast.memory, forecast.state].map(|bytes| gib(bytes as u64))
        });
        let share = (mixed[0] - mixed[1]) / (single[0] - single[1]);
        println!(
            "{recipe}: {:.2} GiB, {:.2} of them state; mixed {:.2}, {:.2}: {share:.3} of the activations",
            single[0], single[1], mixed[0], mixed[1]
        );
        assert!(share <= 0.6, "{recipe}: {share}");
    }
}

#[test]
fn memory_grows_with_the_batch_and_shrinks_with_what_is_meant_to_save_it() {
    let mixed = "train.precision=mixed";
    let bytes = ["8", "32"].map(|images| {
        let batch = format!("train.batch_size_per_gpu={images}");
        [&[][..], &[mixed], &[mixed, "train.checkpoint_blocks=true"]].map(|settings| {
            let config = config("vit_ee1200", &[settings, &[batch.as_str()]].concat());
            let memory = Forecast::of(&config, &card()).unwrap().memory;
            println!("{images} images, {settings:?}: {:.1} GiB", gib(memory as u64));
            memory
        })
    });
    assert!(bytes[0].iter().zip(&bytes[1]).all(|(few, many)| few < many));
    assert!(bytes.iter().all(|[single, mixed, again]| single > mixed && mixed > again));
}

#[test]
fn no_command_of_vit_l_keeps_a_slow_adapter_busy_for_long() {
    // a driver that waits for two seconds resets the adapter
    for batch in ["train.batch_size_per_gpu=8", "train.batch_size_per_gpu=50"] {
        let forecast = Forecast::of(&config("vit_ee1200", &[batch]), &card()).unwrap();
        let step = &forecast.step;
        let (kernel, longest) = step.longest.as_ref().expect("there are kernels");
        println!(
            "{batch}: {:.3e} operations in {} dispatches and {} submissions, {} uploads; {} has {:.1e} in one",
            step.work.flops,
            step.dispatches,
            step.submissions,
            step.uploads,
            kernel.shader.name,
            longest.flops
        );
        assert!(longest.flops < 0.5e12 && longest.bytes < 25e9);
        assert!(step.work.flops / (step.submissions as f64) < 0.2e12);
    }
}

#[test]
fn large_pieces_of_logits_are_fewer_dispatches_where_memory_allows_them() {
    for (batch, precision) in [("8", "mixed"), ("50", "f32"), ("50", "mixed")] {
        let settings = [format!("train.batch_size_per_gpu={batch}"), format!("train.precision={precision}")];
        let of = |bytes: usize| {
            let pieces = format!("train.prototype_chunk_bytes={bytes}");
            let settings = [settings[0].as_str(), settings[1].as_str(), pieces.as_str()];
            let forecast = Forecast::of(&config("vit_ee1200", &settings), &card()).unwrap();
            println!(
                "{batch} images, {precision}, {} MiB: {:.2} GiB, {} dispatches, longest {:.1e}",
                bytes >> 20,
                gib(forecast.memory as u64),
                forecast.step.dispatches,
                forecast.step.longest.as_ref().expect("there are kernels").1.flops,
            );
            forecast
        };
        let (default, small, large) = (of(0), of(64 << 20), of(LARGE_PIECES));
        assert_eq!(default.memory, small.memory);
        assert!(large.step.dispatches < small.step.dispatches);
        // the logits of both students and, in mixed precision, their gradient in halves
        assert!(large.memory < small.memory + 5 * LARGE_PIECES / 2);
        assert!(large.step.longest.unwrap().1.flops < 0.5e12);
    }
    let config = config("vit_ee1200", &["train.batch_size_per_gpu=8", "train.precision=mixed"]);
    let needed = Forecast::of(&config, &card()).unwrap().memory;
    let pieces = |caps: &Caps, bytes: usize| {
        let settled = pieces(&config, caps, bytes).unwrap();
        settled.map(|(pieces, forecast)| (pieces, forecast.memory > needed))
    };
    assert_eq!(pieces(&card(), 80 << 30), Some((LARGE_PIECES, true)));
    assert_eq!(pieces(&card(), needed), None, "not into the last of the memory");
    let software = Caps { software: true, ..card() };
    assert_eq!(pieces(&software, 80 << 30), None);
}

#[test]
fn what_does_not_fit_has_a_remedy_that_fits() {
    let caps = card();
    let large = config("vit_ee1200", &["train.batch_size_per_gpu=50"]);
    let bytes = |settings: &str| {
        let given: Vec<&str> = settings.split(' ').chain(["train.batch_size_per_gpu=50"]).collect();
        // what comes later counts
        let given: Vec<&str> = given.into_iter().rev().collect();
        Forecast::of(&config("vit_ee1200", &given), &caps).unwrap().memory
    };
    for gib in [80, 24, 12] {
        let has = gib << 30;
        let settings = remedy(&large, &caps, has, 1).unwrap().expect("a smaller batch fits");
        println!("{gib} GiB: {settings}");
        assert!(bytes(&settings) <= has, "{settings}");
    }
    assert_eq!(remedy(&large, &caps, 1 << 30, 1).unwrap(), None);
}
