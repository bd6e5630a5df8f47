//! Products by timed kernels: whatever is found fastest, and whatever a file says is, the bits are those by rule.

use std::path::{Path, PathBuf};

use half::f16;
use poa_gpu::gpu::{Caps, DeviceChoice};
use poa_gpu::ops;
use poa_gpu::ops::matmul::window::{Window, window_gradient, window_product};
use poa_gpu::ops::matmul::{
    Epilogue, Force, Matrix, Options, Precision, Variant, by_timing_in, matmul, variants,
};
use poa_gpu::profile;
use poa_gpu::tensor::{DType, Device, Element, Tensor, to_type};

use crate::support::random;

/// An adapter on which no kernel counts on the size of subgroups: products are made by tiles.
fn device() -> Device {
    let most = Caps { subgroup_size: (4, 64), ..Caps::everything() };
    let device = ops::open_within(&DeviceChoice::Gpu, &most).unwrap();
    device.set_strict(true);
    device
}

fn tiles(device: &Device) -> Vec<Variant> {
    let Device::Gpu(gpu) = device else { unreachable!("a GPU was asked for") };
    let all = variants(gpu.caps(), Precision::Single).into_iter();
    all.filter(|variant| matches!(variant, Variant::Tiled { .. })).collect()
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("poa-tune-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

/// The one file of choices in a folder.
fn file(folder: &Path) -> PathBuf {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

fn bits(t: &Tensor) -> Vec<u32> {
    to_type(t, DType::F32).unwrap().to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn tensor<T: Element>(device: &Device, seed: u64, shape: &[usize], of: fn(f32) -> T) -> Tensor {
    let values: Vec<T> = random(seed, shape.iter().product()).into_iter().map(of).collect();
    Tensor::from_slice(device, shape, &values).unwrap()
}

/// One product of each kind, over the edges of all tiles and with more work than the least that is timed: replaced,
/// added to what is there (a slice between others), with an epilogue, in parts, of halves, over windows.
fn products(device: &Device) -> Vec<Vec<u32>> {
    let single = |seed, shape: &[usize]| tensor(device, seed, shape, |x| x);
    let matrix = |t: &Tensor| Matrix::new(t).unwrap();
    let [m, n, k] = [270, 268, 260];
    let (a, b) = (single(1, &[m, k]), single(2, &[k, n]));
    let mut all = Vec::new();

    let plain = single(3, &[m, n]);
    matmul(&matrix(&a), &matrix(&b), &matrix(&plain), &Options::default()).unwrap();
    all.push(bits(&plain));

    let whole = single(4, &[3, m, n + 8]);
    let slice = whole.slice(0, 1..2).unwrap().slice(2, 4..n + 4).unwrap();
    let adds = Options { accumulate: true, alpha: 0.5, ..Options::default() };
    matmul(&matrix(&a), &matrix(&b), &matrix(&slice), &adds).unwrap();
    all.push(bits(&whole));

    let pre = single(5, &[m, n]);
    let epilogue = Epilogue::BiasGelu { bias: single(6, &[n]), pre: Some(pre.clone()) };
    let with_epilogue = Options { epilogue, ..Options::default() };
    matmul(&matrix(&a), &matrix(&b), &matrix(&plain), &with_epilogue).unwrap();
    all.extend([bits(&plain), bits(&pre)]);

    // a weight's gradient: few tiles and a long K are cut into parts
    let (x, dy, dw) = (single(7, &[4200, 68]), single(8, &[4200, 64]), single(9, &[68, 64]));
    matmul(&matrix(&x).t(), &matrix(&dy), &matrix(&dw), &adds).unwrap();
    all.push(bits(&dw));

    if let Device::Gpu(gpu) = device
        && gpu.caps().f16
    {
        let half = |seed, shape: &[usize]| tensor(device, seed, shape, f16::from_f32);
        let (a, b, c) = (half(1, &[m, k]), half(2, &[k, n]), half(3, &[m, n]));
        matmul(&matrix(&a), &matrix(&b), &matrix(&c), &adds).unwrap();
        all.push(bits(&c));
    }

    let (map, weight, out) =
        (single(1, &[1, 40, 41, 36]), single(2, &[3, 3, 36, 36]), single(3, &[1, 40, 41, 36]));
    let window = Window::new(1, 1);
    window_product(&map, window, &weight, &out, 0.5, true, Force::default()).unwrap();
    all.push(bits(&out));
    window_gradient(&map, window, &out, &weight, 1.0, Force::default()).unwrap();
    all.push(bits(&weight));
    all
}

/// Rows and columns of the tiles by which a product is made now.
fn tile_of(device: &Device, m: usize, n: usize, k: usize) -> String {
    let single = |seed, shape: &[usize]| Matrix::new(&tensor(device, seed, shape, |x| x)).unwrap();
    let (a, b, c) = (single(1, &[m, k]), single(2, &[k, n]), single(3, &[m, n]));
    device.synchronize().unwrap();
    profile::start();
    matmul(&a, &b, &c, &Options::default()).unwrap();
    let profile = device.finish_profile().unwrap();
    assert_eq!(profile.kernels.len(), 1);
    let tile = profile.kernels[0]
        .detail
        .split(' ')
        .filter(|word| word.starts_with("BM=") || word.starts_with("BN="));
    tile.collect::<Vec<_>>().join(" ")
}

#[test]
fn choices_change_no_bits() {
    let by_rule = products(&device());

    let timed = folder("timed");
    let kept = || -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(file(&timed)).unwrap()).unwrap()
    };
    let kinds = by_rule.len() - 1;
    // slow adapters need several runs for it, each of which goes on where the one before had no more time
    for run in 1.. {
        let on = device();
        by_timing_in(&on, Some(&timed));
        assert!(products(&on) == by_rule, "timed");
        assert!(products(&on) == by_rule, "and known from then on");
        drop(on);
        let known = kept()["choices"].as_object().unwrap().len();
        assert!(
            known <= kinds && run <= kinds,
            "{known} of {kinds} kinds of products are known after {run} runs"
        );
        if known == kinds {
            break;
        }
    }

    // whatever a file says
    for variant in tiles(&device()) {
        let forced = folder("forced");
        std::fs::create_dir_all(&forced).unwrap();
        let mut kept = kept();
        let wanted = serde_json::Value::from(format!("{variant:?}"));
        kept["choices"].as_object_mut().unwrap().values_mut().for_each(|choice| *choice = wanted.clone());
        std::fs::write(forced.join(file(&timed).file_name().unwrap()), kept.to_string()).unwrap();
        let on = device();
        by_timing_in(&on, Some(&forced));
        assert!(products(&on) == by_rule, "{variant:?}");
        let (rows, cols) = variant.tile();
        assert_eq!(tile_of(&on, 270, 268, 260), format!("BM={rows} BN={cols}"), "the file is believed");
        drop(on);
        std::fs::remove_dir_all(forced).unwrap();
    }

    std::fs::remove_dir_all(timed).unwrap();
}

/// Small products, products whose kernel is given, and those of a device that was not asked to are not timed.
#[test]
fn only_what_is_worth_it_is_timed() {
    let folder = folder("small");
    let on = device();
    by_timing_in(&on, Some(&folder));
    tile_of(&on, 64, 64, 64);
    let single = |seed, shape: &[usize]| Matrix::new(&tensor(&on, seed, shape, |x| x)).unwrap();
    let (a, b, c) = (single(1, &[260, 260]), single(2, &[260, 260]), single(3, &[260, 260]));
    let force = Force { variant: Some(tiles(&on)[0]), ..Force::default() };
    ops::matmul::matmul_with(&a, &b, &c, &Options::default(), force).unwrap();
    drop((a, b, c, on));
    assert!(!folder.exists());
}
