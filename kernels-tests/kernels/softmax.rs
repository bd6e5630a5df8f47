//! Softmax over short and long rows.

use poa_gpu::ops::rows::Team;
use poa_gpu::ops::softmax::{softmax, softmax_planned};
use poa_gpu::tensor::Device;

use crate::support::{Operand, Tolerance, check, gpu};

fn reference(x: &[f64], cols: usize, scale: f64) -> Vec<f64> {
    let row = |x: &[f64]| {
        let peak = x.iter().fold(f64::MIN, |m, v| m.max(scale * v));
        let e: Vec<f64> = x.iter().map(|v| (scale * v - peak).exp()).collect();
        let total: f64 = e.iter().sum();
        e.into_iter().map(|e| e / total).collect::<Vec<_>>()
    };
    x.chunks(cols).flat_map(row).collect()
}

fn case(x: Operand, scale: f32) {
    forced(x, scale, None);
}

fn forced(x: Operand, scale: f32, team: Option<Team>) {
    let cols = x.shape[1];
    check(
        &format!("softmax of {:?} times {scale}, {:?}, {team:?}", x.shape, x.placing),
        &[x],
        Tolerance::default(),
        |tape, v| {
            Ok(vec![match team {
                Some(team) => softmax_planned(tape, &v[0], scale, team)?,
                None => softmax(tape, &v[0], scale)?,
            }])
        },
        &|x| vec![reference(&x[0], cols, scale as f64)],
    );
}

#[test]
fn of_rows_of_any_length() {
    for [rows, cols] in [[1, 1], [3, 7], [150, 16], [2, 17], [17, 65], [33, 384], [5, 513], [2, 5000]] {
        case(Operand::new(1, &[rows, cols]), 1.0);
        case(Operand::new(2, &[rows, cols]).strided(), 2.5);
        case(Operand::new(3, &[rows, cols]).strided().parameter(), 0.1);
    }
    case(Operand::new(4, &[3, 65_536]), 10.0);
}

#[test]
fn with_every_team() {
    let device = gpu();
    let Device::Gpu(gpu) = &device else { unreachable!("gpu() is a GPU") };
    for team in Team::all(gpu.caps()) {
        for [rows, cols] in [[1, 1], [67, 5], [3, 64], [5, 65], [2, 1500]] {
            forced(Operand::new(1, &[rows, cols]).strided(), 0.7, Some(team));
        }
        // vectors: rows that are kept whole, with a rest and not at all
        for [rows, cols] in [[1, 4], [300, 12], [37, 64], [5, 100], [3, 1032], [2, 9000]] {
            forced(Operand::new(1, &[rows, cols]).vec4_aligned(), 0.7, Some(team));
        }
    }
}

#[test]
fn of_large_values() {
    for cols in [5, 100, 2000] {
        case(Operand::new(1, &[4, cols]).map(|v| v.round() * 1e4).constant(), 1.0);
        case(Operand::new(1, &[4, cols]).map(|v| (v * 8.0).round() - 1e6).constant(), 1.0);
        case(Operand::new(1, &[4, cols]).map(|_| -1e30).constant(), -3.0);
    }
}

#[test]
fn of_many_rows() {
    // more workgroups than one dimension of a grid takes
    case(Operand::new(1, &[66_000, 20]).constant(), 1.0);
}

#[test]
fn a_second_use_adds_to_the_gradient() {
    check(
        "softmax twice",
        &[Operand::new(1, &[9, 24])],
        Tolerance::default(),
        |tape, v| Ok(vec![softmax(tape, &v[0], 1.0)?, softmax(tape, &v[0], 3.0)?]),
        &|x| vec![reference(&x[0], 24, 1.0), reference(&x[0], 24, 3.0)],
    );
}
