//! The recorded numbers of the official code, on both devices.

use std::path::{Path, PathBuf};

use poa_gpu::collective::Collective;
use poa_gpu::gpu::{Caps, DeviceChoice};
use poa_gpu::ops;
use poa_gpu::ops::matmul::multiplies_bf16;
use poa_gpu::poa::settings::Precision;
use poa_gpu::tensor::Device;
use poa_gpu::verify::{Fixture, replay};

/// Replays a record and expects so many comparisons of losses, norms, gradients, student and teacher values,
/// and features.
fn check(record: &Fixture, device: &Device, compared: usize) {
    check_in(record, device, Precision::F32, compared);
}

fn check_in(record: &Fixture, device: &Device, precision: Precision, compared: usize) {
    let done = replay(record, device, precision, &Collective::alone()).unwrap();
    let qkv = done.checks.iter().filter(|c| c.kind.contains("qkv")).count();
    assert_eq!(
        done.checks.len() - qkv,
        7,
        "two kinds of losses, norms, gradients, student, teacher, features"
    );
    for c in &done.checks {
        println!("{:<20} {:>3} compared, worst {:.1e} at {}", c.kind, c.compared, c.worst, c.at);
        assert!(c.passes(), "{} on {}: {c:?}", c.kind, device.kind());
    }
    let all: usize = done.checks.iter().map(|c| c.compared).sum();
    assert_eq!(all, compared, "every recorded quantity is compared");
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures").join(name)
}

fn adapter() -> Device {
    ops::open(&DeviceChoice::Gpu).expect("kernels-tests/run installs a software adapter")
}

const VIT: usize = 36 + 6 + 79 + 79 + 79 + 6;
const SWIN: usize = 36 + 6 + 3 * 142 + 6;
const RESNET: usize = 36 + 6 + 3 * 131 + 6;

#[test]
fn hold_on_the_cpu_device() {
    check(&Fixture::embedded().unwrap(), &Device::cpu(), VIT);
}

#[test]
fn hold_on_an_adapter() {
    check(&Fixture::embedded().unwrap(), &adapter(), VIT);
}

#[test]
fn hold_in_mixed_precision_on_an_adapter() {
    check_in(&Fixture::embedded().unwrap(), &adapter(), Precision::Mixed, VIT);
    check_in(&Fixture::open(&folder("swin")).unwrap(), &adapter(), Precision::Mixed, SWIN);
}

#[test]
fn hold_in_bfloat16_on_the_cpu_device() {
    let (vit, swin) = (Fixture::embedded().unwrap(), Fixture::open(&folder("swin")).unwrap());
    if multiplies_bf16() {
        check_in(&vit, &Device::cpu(), Precision::Bf16, VIT);
        check_in(&swin, &Device::cpu(), Precision::Bf16, SWIN);
    }
    // where there is no bfloat16 it is not done in single precision instead
    let without = [(!multiplies_bf16()).then(Device::cpu), Some(adapter())];
    for device in without.into_iter().flatten() {
        let error = replay(&vit, &device, Precision::Bf16, &Collective::alone()).err().unwrap().to_string();
        assert!(error.contains("bfloat16") && error.contains("--precision"), "{error}");
    }
}

/// What cannot be done in mixed precision is not done in single instead.
#[test]
fn mixed_precision_is_refused_where_it_cannot_be() {
    let single = ops::open_within(&DeviceChoice::Gpu, &Caps { f16: false, ..Caps::everything() }).unwrap();
    for (device, why) in [(Device::cpu(), "half precision"), (single, "16-bit floats")] {
        let error = replay(&Fixture::embedded().unwrap(), &device, Precision::Mixed, &Collective::alone())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(why) && error.contains("--precision"), "{error}");
    }
}

#[test]
fn of_swin_hold_on_the_cpu_device() {
    check(&Fixture::open(&folder("swin")).unwrap(), &Device::cpu(), SWIN);
}

#[test]
fn of_swin_hold_on_an_adapter() {
    check(&Fixture::open(&folder("swin")).unwrap(), &adapter(), SWIN);
}

#[test]
fn of_a_resnet_hold_on_the_cpu_device() {
    check(&Fixture::open(&folder("resnet")).unwrap(), &Device::cpu(), RESNET);
}

#[test]
fn of_a_resnet_hold_on_an_adapter() {
    check(&Fixture::open(&folder("resnet")).unwrap(), &adapter(), RESNET);
}

/// With the least that an adapter can have: no subgroups, no half precision, parameters in a buffer, 8 storage buffers
/// a kernel, 16 KiB of workgroup memory.
#[test]
fn hold_within_the_least_limits() {
    let device = ops::open_within(&DeviceChoice::Gpu, &Caps::minimal()).unwrap();
    let Device::Gpu(gpu) = &device else { panic!("a GPU was asked for") };
    assert!(!gpu.caps().immediates && !gpu.caps().subgroups && gpu.caps().storage_buffers == 8);
    check(&Fixture::embedded().unwrap(), &device, VIT);
    check(&Fixture::open(&folder("swin")).unwrap(), &device, SWIN);
    check(&Fixture::open(&folder("resnet")).unwrap(), &device, RESNET);
}

/// With the kernels that a graphics card would be given in place of a software adapter's.
#[test]
fn hold_with_the_kernels_of_a_card() {
    let card = Caps { software: false, ..Caps::everything() };
    let device = ops::open_within(&DeviceChoice::Gpu, &card).unwrap();
    check(&Fixture::embedded().unwrap(), &device, VIT);
    check(&Fixture::open(&folder("swin")).unwrap(), &device, SWIN);
    check(&Fixture::open(&folder("resnet")).unwrap(), &device, RESNET);
}

#[test]
fn the_dump_holds_every_recorded_name() {
    let folder = folder("vit");
    let done = replay(&Fixture::open(&folder).unwrap(), &Device::cpu(), Precision::F32, &Collective::alone())
        .unwrap();
    let path = std::env::temp_dir().join(format!("poa-dump-{}.safetensors", std::process::id()));
    done.dump(&path).unwrap();
    let written = poa_gpu::files::tensor_file::TensorFile::open(&path).unwrap();
    let expected =
        poa_gpu::files::tensor_file::TensorFile::open(folder.join("expected.safetensors")).unwrap();
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
