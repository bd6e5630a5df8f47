//! What is said before a run that its settings do not fit.

use poa_gpu::poa::advice::{advice, fitting_momentum};
use poa_gpu::poa::settings::fitting_prototypes;
use poa_gpu::recipes::Config;

fn of(recipe: &str, overrides: &[&str], images: Option<usize>) -> Vec<String> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    advice(&Config::load(recipe, &overrides).unwrap(), images, 1)
}

#[test]
fn the_recipes_of_the_program_fit_their_images() {
    for (recipe, images) in [
        ("vit_ee1200", 1_281_167),
        ("swin_ee1200", 1_281_167),
        ("resnet_ee2400", 1_281_167),
        ("demo", 20_000),
        ("demo_swin", 20_000),
        ("demo_resnet", 20_000),
        ("small", 2_000),
        ("cifar10", 50_000),
        ("cifar10_swin", 50_000),
        ("cifar10_resnet", 50_000),
    ] {
        assert_eq!(of(recipe, &[], Some(images)), Vec::<String>::new(), "{recipe}");
    }
}

#[test]
fn what_is_proposed_fits() {
    // each mistake is named once, by its key, and what is proposed silences it
    for (set, images, key, fitting) in [
        ("train.batch_size_per_gpu=4", None, "train.batch_size_per_gpu", "train.batch_size_per_gpu=16"),
        ("teacher.momentum_teacher=0.9999", None, "teacher.momentum_teacher", "0.97"),
        ("teacher.warmup_teacher_temp_epochs=400", None, "warmup_teacher_temp_epochs", "34"),
        ("optim.ibot_activate_epochs=346", None, "optim.ibot_activate_epochs", "34"),
        ("dino.head_bottleneck_dim=9000", None, "dino.head_bottleneck_dim", "1024"),
        ("dino.head_n_prototypes=[8192]", Some(1_422), "dino.head_n_prototypes", "[256, 512]"),
    ] {
        let steps = "train.total_steps=400";
        let short = if key.contains("momentum") { &[set, steps][..] } else { &[set][..] };
        let found = of("vit_ee1200", short, images.or(Some(1 << 20)));
        assert!(found.len() == 1 && found[0].contains(key), "{set}: {found:?}");
        assert!(found[0].contains(fitting.rsplit('=').next().unwrap()), "{set}: {found:?}");
    }
    for steps in [10, 100, 300, 1_000, 12_345, 1_000_000] {
        let set = format!("teacher.momentum_teacher={}", fitting_momentum(steps));
        let steps = format!("train.total_steps={steps}");
        assert_eq!(of("vit_ee1200", &[&set, &steps], None), Vec::<String>::new(), "{set} {steps}");
    }
}

/// The targets are made of the rows of all ranks.
#[test]
fn small_batches_of_many_ranks_are_large_enough() {
    let config = Config::load("vit_ee1200", &["train.batch_size_per_gpu=4".to_string()]).unwrap();
    assert_eq!(advice(&config, None, 4), Vec::<String>::new());
    let found = advice(&config, None, 3);
    assert!(
        found.len() == 1 && found[0].contains("is 4 on each of 3 ranks") && found[0].contains("take 6"),
        "{found:?}"
    );
}

#[test]
fn prototypes_follow_from_the_images() {
    // the paper's largest head on ImageNet, the demo's on its images, CIFAR-10, folders of a person's own
    for (images, bottleneck, numbers) in [
        (1_281_167, 256, [32_768, 65_536]),
        (300_000_000, 256, [32_768, 65_536]),
        (18_000, 32, [512, 1_024]),
        (50_000, 32, [1_024, 2_048]),
        (1_422, 32, [256, 512]),
        (200, 32, [32, 64]),
        (0, 32, [32, 64]),
        (usize::MAX, usize::MAX, [32_768, 65_536]),
    ] {
        assert_eq!(fitting_prototypes(images, bottleneck), numbers, "{images} over {bottleneck}");
    }
    let mut config = Config::load("small", &["dino.head_n_prototypes=[]".into()]).unwrap();
    config.resolve(1).unwrap();
    assert_eq!(advice(&config, None, 1), Vec::<String>::new());
    config.fit(1_422);
    assert_eq!(config.dino.heads.head_n_prototypes, [256, 512]);
    assert_eq!(advice(&config, Some(1_422), 1), Vec::<String>::new());
    // what is given stays
    config.fit(1_000_000);
    assert_eq!(config.dino.heads.head_n_prototypes, [256, 512]);
}
