//! The recorded numbers of the official code, on both devices.

use std::path::Path;

use poa_gpu::tensor::{Device, DeviceChoice};
use poa_gpu::verify::{Fixture, replay};

fn check(device: &Device) {
    let done = replay(&Fixture::embedded().unwrap(), device).unwrap();
    assert_eq!(
        done.checks.len(),
        8,
        "losses, norms, gradients, two kinds of student and teacher values, features"
    );
    for c in &done.checks {
        println!("{:<20} {:>3} compared, worst {:.1e} at {}", c.kind, c.compared, c.worst, c.at);
        assert!(c.passes(), "{} on {}: {c:?}", c.kind, device.kind());
    }
    let compared: usize = done.checks.iter().map(|c| c.compared).sum();
    assert_eq!(compared, 36 + 6 + 79 + 79 + 79 + 6, "every recorded quantity is compared");
}

#[test]
fn hold_on_the_cpu_device() {
    check(&Device::cpu());
}

#[test]
fn hold_on_an_adapter() {
    check(&Device::open(&DeviceChoice::Gpu).expect("kernels-tests/run installs a software adapter"));
}

fn check_resnet(device: &Device) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures/resnet");
    let done = replay(&Fixture::open(&folder).unwrap(), device).unwrap();
    assert_eq!(done.checks.len(), 6, "losses, norms, gradients, student and teacher values, features");
    for c in &done.checks {
        println!("{:<20} {:>3} compared, worst {:.1e} at {}", c.kind, c.compared, c.worst, c.at);
        assert!(c.passes(), "{} on {}: {c:?}", c.kind, device.kind());
    }
    let compared: usize = done.checks.iter().map(|c| c.compared).sum();
    assert_eq!(compared, 36 + 6 + 3 * 131 + 6, "every recorded quantity is compared");
}

#[test]
fn of_a_resnet_hold_on_the_cpu_device() {
    check_resnet(&Device::cpu());
}

#[test]
fn of_a_resnet_hold_on_an_adapter() {
    check_resnet(&Device::open(&DeviceChoice::Gpu).expect("kernels-tests/run installs a software adapter"));
}

#[test]
fn the_dump_holds_every_recorded_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures/vit");
    let done = replay(&Fixture::open(&folder).unwrap(), &Device::cpu()).unwrap();
    let path = std::env::temp_dir().join(format!("poa-dump-{}.safetensors", std::process::id()));
    done.dump(&path).unwrap();
    let written = poa_gpu::train::tensor_file::TensorFile::open(&path).unwrap();
    let expected =
        poa_gpu::train::tensor_file::TensorFile::open(folder.join("expected.safetensors")).unwrap();
    for name in expected.names() {
        assert_eq!(written.shape(name).unwrap(), expected.shape(name).unwrap(), "{name}");
    }
    for step in 0..3 {
        for name in
            ["loss.total", "loss.koleo_loss", "loss.ibot_loss_1", "grad_norm.backbone", "grad_norm.dino_head"]
        {
            assert!(written.contains(&format!("step{step}.{name}")), "step{step}.{name}");
        }
    }
    std::fs::remove_file(&path).unwrap();
}
