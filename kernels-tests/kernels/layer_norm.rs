//! LayerNorm, plain and on a subset of the rows.

use poa_gpu::ops::layer_norm::{layer_norm, layer_norm_padded, layer_norm_planned};
use poa_gpu::ops::rows::Team;
use poa_gpu::tensor::{Device, Tensor};

use crate::support::{Operand, Tolerance, check, gpu};

const EPS: f64 = 1e-6;

fn reference(x: &[f64], gamma: &[f64], beta: &[f64], index: Option<&[u32]>) -> Vec<f64> {
    let n = gamma.len();
    let rows: Vec<usize> = match index {
        Some(index) => index.iter().map(|i| *i as usize).collect(),
        None => (0..x.len() / n).collect(),
    };
    let mut y = Vec::new();
    for r in rows {
        let row = &x[r * n..][..n];
        let mean = row.iter().sum::<f64>() / n as f64;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        y.extend((0..n).map(|c| (row[c] - mean) / (variance + EPS).sqrt() * gamma[c] + beta[c]));
    }
    y
}

#[test]
fn of_all_rows() {
    for [rows, cols] in [[1, 7], [17, 48], [197, 100], [33, 384], [5, 1024], [300, 65]] {
        for strided in [false, true] {
            // a large mean: the squares must not be summed before it is taken off
            let mut x = Operand::new(1, &[rows, cols]).map(|v| v + 30.0);
            let mut gamma = Operand::new(2, &[cols]).map(|v| v + 1.0);
            let mut beta = Operand::new(3, &[cols]);
            if strided {
                (x, gamma, beta) = (x.strided(), gamma.strided().parameter(), beta.strided().parameter());
            }
            check(
                &format!("layer_norm {rows}x{cols}"),
                &[x, gamma, beta],
                Tolerance::default(),
                |tape, v| Ok(vec![layer_norm(tape, &v[0], &v[1], &v[2], EPS as f32, None)?]),
                &|x| vec![reference(&x[0], &x[1], &x[2], None)],
            );
        }
    }
}

#[test]
fn with_every_team() {
    let device = gpu();
    let Device::Gpu(gpu) = &device else { unreachable!("gpu() is a GPU") };
    // rows that are kept whole, with a rest and not at all
    for team in Team::all(gpu.caps()) {
        for [rows, cols] in [[1, 4], [300, 12], [37, 64], [5, 100], [40, 384], [3, 1032], [2, 9000]] {
            check(
                &format!("layer_norm {rows}x{cols} by {team:?}"),
                &[
                    Operand::new(1, &[rows, cols]).vec4_aligned(),
                    Operand::new(2, &[cols]).map(|v| v + 1.0).vec4_aligned().parameter(),
                    Operand::new(3, &[cols]).vec4_aligned().parameter(),
                ],
                Tolerance::default(),
                |tape, v| Ok(vec![layer_norm_planned(tape, &v[0], &v[1], &v[2], EPS as f32, team)?]),
                &|x| vec![reference(&x[0], &x[1], &x[2], None)],
            );
        }
    }
}

#[test]
fn without_gradients_of_parameters() {
    for cols in [48, 7] {
        check(
            "layer_norm with constant parameters",
            &[
                Operand::new(1, &[70, cols]).vec4_aligned(),
                Operand::new(2, &[cols]).constant(),
                Operand::new(3, &[cols]).constant(),
            ],
            Tolerance::default(),
            |tape, v| Ok(vec![layer_norm(tape, &v[0], &v[1], &v[2], EPS as f32, None)?]),
            &|x| vec![reference(&x[0], &x[1], &x[2], None)],
        );
    }
}

#[test]
fn with_the_gradient_of_one_parameter() {
    for wanted in [1, 2] {
        let keep = |i: usize, o: Operand| if i == wanted { o } else { o.constant() };
        check(
            "layer_norm with one constant parameter",
            &[
                Operand::new(1, &[70, 48]).vec4_aligned(),
                keep(1, Operand::new(2, &[48]).parameter()),
                keep(2, Operand::new(3, &[48]).parameter()),
            ],
            Tolerance::default(),
            |tape, v| Ok(vec![layer_norm(tape, &v[0], &v[1], &v[2], EPS as f32, None)?]),
            &|x| vec![reference(&x[0], &x[1], &x[2], None)],
        );
    }
}

#[test]
fn of_a_constant() {
    check(
        "layer_norm of a constant",
        &[
            Operand::new(1, &[70, 48]).constant(),
            Operand::new(2, &[48]).parameter(),
            Operand::new(3, &[48]).parameter(),
        ],
        Tolerance::default(),
        |tape, v| Ok(vec![layer_norm(tape, &v[0], &v[1], &v[2], EPS as f32, None)?]),
        &|x| vec![reference(&x[0], &x[1], &x[2], None)],
    );
}

#[test]
fn of_a_subset_of_rows() {
    for (rows, cols, index) in
        [(5, 16, vec![3u32, 0]), (300, 48, (0..150).map(|i| (i * 7 % 300) as u32).collect())]
            .into_iter()
            .chain([(300, 192, (0..290).map(|i| (i * 7 % 300) as u32).collect())])
    {
        check(
            &format!("layer_norm of {} rows of {rows}", index.len()),
            &[
                if cols == 16 {
                    Operand::new(1, &[rows, cols]).strided()
                } else {
                    Operand::new(1, &[rows, cols]).vec4_aligned()
                },
                Operand::new(2, &[cols]),
                Operand::new(3, &[cols]),
            ],
            Tolerance::default(),
            |tape, v| {
                let index = Tensor::from_slice(v[0].value().device(), &[index.len()], &index)?;
                Ok(vec![layer_norm(tape, &v[0], &v[1], &v[2], EPS as f32, Some(&index))?])
            },
            &|x| vec![reference(&x[0], &x[1], &x[2], Some(&index))],
        );
    }
}

#[test]
fn a_second_use_adds_to_the_gradient() {
    // no vectors, rows that are kept whole, with a rest and not at all
    for [rows, cols] in [[9, 24], [9, 23], [70, 384], [19, 1000], [9, 1024], [2, 9000]] {
        check(
            &format!("layer_norm {rows}x{cols} twice"),
            &[
                Operand::new(1, &[rows, cols]).vec4_aligned(),
                Operand::new(2, &[cols]).vec4_aligned(),
                Operand::new(3, &[cols]).vec4_aligned(),
            ],
            Tolerance::default(),
            |tape, v| {
                let first = layer_norm(tape, &v[0], &v[1], &v[2], EPS as f32, None)?;
                let second = layer_norm(tape, &v[0], &v[1], &v[2], EPS as f32, None)?;
                Ok(vec![first, second])
            },
            &|x| {
                let y = reference(&x[0], &x[1], &x[2], None);
                vec![y.clone(), y]
            },
        );
    }
}

#[test]
fn followed_by_zeros() {
    for (rows, cols) in [(1, 3), (50, 24)] {
        check(
            "layer_norm and a row of zeros",
            &[
                Operand::new(1, &[rows, cols]).strided(),
                Operand::new(2, &[cols]).parameter(),
                Operand::new(3, &[cols]).parameter(),
            ],
            Tolerance::default(),
            |tape, v| Ok(vec![layer_norm_padded(tape, &v[0], &v[1], &v[2], EPS as f32, 1)?]),
            &|x| {
                let mut y = reference(&x[0], &x[1], &x[2], None);
                y.extend(vec![0.0; cols]);
                vec![y]
            },
        );
    }
}
