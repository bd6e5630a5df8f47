//! The last block of a ViT runs for the tokens that are asked for alone: what comes out, and all gradients, are what they
//! are where all tokens are asked for, for less arithmetic.

use poa_gpu::autograd::Tape;
use poa_gpu::gpu::{Caps, DeviceChoice};
use poa_gpu::models::backbone::{CropBatch, Token};
use poa_gpu::ops;
use poa_gpu::poa::PoaModel;
use poa_gpu::recipes::Config;
use poa_gpu::rng::{Purpose, stream};
use poa_gpu::tensor::{DType, Device, Tensor};

const GLOBALS: usize = 4;
const LOCALS: usize = 6;

fn config(drop: f64, uniform: bool, more: &[&str]) -> Config {
    let mut config = Config::recipe("demo").unwrap();
    let drop = [format!("student.drop_path_rate={drop}"), format!("student.drop_path_uniform={uniform}")];
    config.apply(&drop).unwrap();
    config.apply(more).unwrap();
    config.apply(&["dino.head_n_prototypes=[32]", "dino.head_hidden_dim=32"]).unwrap();
    config.resolve(1).unwrap();
    config
}

/// Values that look random, and depend on their place alone.
fn values(n: usize, step: f64) -> Vec<f32> {
    (0..n).map(|i| ((i as f64 + 1.0) * step).sin() as f32).collect()
}

/// Class tokens of all crops, and some patches of the global ones in no order.
fn some(cells: usize) -> Vec<Token> {
    let global = (0..GLOBALS).rev().map(|crop| Token::Cls { group: 0, crop });
    let local = (0..LOCALS).map(|crop| Token::Cls { group: 1, crop });
    let patches = [(2, 5), (0, 3), (2, 0), (2, cells - 1), (3, 7)];
    global.chain(patches.map(|(crop, cell)| Token::Patch { group: 0, crop, cell })).chain(local).collect()
}

/// The same, and then all the others.
fn all(cells: usize, local_cells: usize) -> Vec<Token> {
    let mut tokens = some(cells);
    for (group, crops, cells) in [(0, GLOBALS, cells), (1, LOCALS, local_cells)] {
        for crop in 0..crops {
            tokens.extend((0..cells).map(|cell| Token::Patch { group, crop, cell }));
        }
    }
    let mut seen = Vec::new();
    tokens.retain(|token| {
        !seen.contains(token) && {
            seen.push(*token);
            true
        }
    });
    tokens
}

/// Features of [`some`] tokens, and the gradients of all parameters where those count, with all tokens asked for or these
/// alone; and the arithmetic that it takes, in a rehearsal.
fn run(config: &Config, device: &Device, whole: bool, tape: Tape) -> (Vec<f32>, Vec<Vec<f32>>, f64) {
    let model = PoaModel::new(config, device, 5).unwrap();
    let network = model.grid.intact();
    let sides = [config.crops.global_crops_size, config.crops.local_crops_size];
    let cells = sides.map(|side| model.backbone.cells(side).pow(2));
    let mut crops: Vec<CropBatch> = [(GLOBALS, sides[0], 0.37), (LOCALS, sides[1], 0.73)]
        .into_iter()
        .map(|(n, side, step)| {
            let images = values(n * 3 * side * side, step);
            CropBatch::new(Tensor::from_slice(device, &[n, 3, side, side], &images).unwrap())
        })
        .collect();
    let mask: Vec<u32> = (0..GLOBALS * cells[0]).map(|i| u32::from(i % 3 == 0)).collect();
    crops[0].mask = Some(Tensor::from_slice(device, &[mask.len()], &mask).unwrap());
    let mut rng = stream(3, Purpose::DropPath, 0, 0);
    let forward = model.backbone.forward(&tape, &model.student, network, &crops, Some(&mut rng)).unwrap();
    let few = some(cells[0]).len();
    let asked = if whole { all(cells[0], cells[1]) } else { some(cells[0]) };
    let features = forward.features(&tape, &asked).unwrap();
    let width = features.value().dim(1);
    assert_eq!(features.value().dim(0), asked.len());
    let mut cotangent = values(few * width, 0.11);
    cotangent.resize(asked.len() * width, 0.0);
    let cotangent = Tensor::from_slice(device, features.value().shape(), &cotangent).unwrap();
    let picked = features.value().slice(0, 0..few).unwrap();
    let dense = Tensor::empty(device, &[few, width], DType::F32).unwrap();
    poa_gpu::tensor::copy(&dense, &picked).unwrap();
    tape.backward(vec![(&features, cotangent)]).unwrap();
    if let Device::Gpu(gpu) = device
        && gpu.is_rehearsal()
    {
        return (Vec::new(), Vec::new(), gpu.tally().work.flops);
    }
    let gradients = model.student.gradients().unwrap();
    let names = gradients.layout().places().iter().map(|place| place.spec.name.clone());
    let gradients = names.map(|name| gradients.read(&name).unwrap()).collect();
    (dense.to_vec::<f32>().unwrap(), gradients, 0.0)
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let d: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    (d / b.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>().max(1e-30)).sqrt()
}

#[test]
fn tokens_alone_are_what_they_are_among_all() {
    for device in [Device::cpu(), ops::open(&DeviceChoice::Gpu).unwrap()] {
        // none, samples times zero in all blocks, and branches of a subset of the samples
        let registers = ["student.num_register_tokens=3", "student.ffn_layer=\"swiglu\""];
        for (drop, uniform, more) in
            [(0.0, true, &[][..]), (0.08, false, &[]), (0.5, true, &[]), (0.5, true, &registers)]
        {
            let config = config(drop, uniform, more);
            let (want, gradients, _) = run(&config, &device, true, Tape::new());
            for (kind, tape) in [("recording", Tape::new()), ("recomputing", Tape::recomputing())] {
                let (got, others, _) = run(&config, &device, false, tape);
                let case = format!("{}, drop path {drop}, {kind}", device.describe());
                let error = distance(&got, &want);
                assert!(error < 2e-6, "{case}: features {error:e} apart");
                let mut moved = 0;
                for (i, (got, want)) in others.iter().zip(&gradients).enumerate() {
                    let error = distance(got, want);
                    assert!(error < 1e-5, "{case}: gradient {i} is {error:e} apart");
                    moved += usize::from(want.iter().any(|g| *g != 0.0));
                }
                assert!(moved > 40, "{case}: {moved} parameters have a gradient");
            }
        }
    }
}

#[test]
fn the_last_block_costs_a_fraction_of_another() {
    let config = config(0.0, true, &[]);
    let flops =
        [true, false].map(|whole| run(&config, &Device::rehearsal(&Caps::minimal()), whole, Tape::new()).2);
    // three blocks, of whose last a fifth is left for 15 of 98 tokens
    println!("{:.4e} operations for all tokens, {:.4e} for some", flops[0], flops[1]);
    assert!(flops[1] < 0.8 * flops[0] && flops[1] > 0.6 * flops[0]);
}
