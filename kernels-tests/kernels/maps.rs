//! What a ResNet does with maps beside convolving them: GroupNorm, max-pooling, mask tokens.

use poa_gpu::ops::conv::MapShape;
use poa_gpu::ops::group_norm::{GroupNorm, group_norm};
use poa_gpu::ops::max_pool::max_pool;

use crate::support::{Operand, Tolerance, check};

const EPS: f64 = 1e-5;

fn group_norm_reference(x: &[f64], gamma: &[f64], beta: &[f64], images: usize, groups: usize) -> Vec<f64> {
    let n = gamma.len();
    let (rows, width) = (x.len() / n / images, n / groups);
    let mut y = vec![0.0; x.len()];
    for (image, group) in (0..images).flat_map(|i| (0..groups).map(move |g| (i, g))) {
        let places: Vec<usize> =
            (0..rows * width).map(|e| (image * rows + e / width) * n + group * width + e % width).collect();
        let count = places.len() as f64;
        let mean = places.iter().map(|&at| x[at]).sum::<f64>() / count;
        let variance = places.iter().map(|&at| (x[at] - mean).powi(2)).sum::<f64>() / count;
        for at in places {
            y[at] = (x[at] - mean) / (variance + EPS).sqrt() * gamma[at % n] + beta[at % n];
        }
    }
    y
}

#[test]
fn group_norms() {
    for (images, rows, cols, groups) in
        [(1, 1, 8, 2), (2, 35, 12, 3), (3, 49, 64, 32), (2, 700, 6, 2), (1, 9, 600, 2), (2, 4, 5, 5)]
    {
        for relu in [false, true] {
            for with_residual in [false, true] {
                let shape = [images * rows, cols];
                let mut x = Operand::new(1, &shape).map(|v| v + 3.0);
                let mut gamma = Operand::new(2, &[cols]).map(|v| v + 1.0);
                let mut beta = Operand::new(3, &[cols]);
                if relu {
                    (x, gamma, beta) = (x.strided(), gamma.strided().parameter(), beta.strided().parameter());
                }
                let mut operands = vec![x, gamma, beta];
                operands.extend(with_residual.then(|| Operand::new(4, &shape)));
                let norm = GroupNorm { images, groups, eps: EPS as f32, relu };
                check(
                    &format!("group_norm {shape:?} {norm:?}, residual {with_residual}"),
                    &operands,
                    Tolerance { atol: 4e-5, rtol: 4e-5 },
                    |tape, v| Ok(vec![group_norm(tape, &v[0], &v[1], &v[2], v.get(3), norm)?]),
                    &|x| {
                        let mut y = group_norm_reference(&x[0], &x[1], &x[2], images, groups);
                        if let Some(residual) = x.get(3) {
                            y.iter_mut().zip(residual).for_each(|(y, r)| *y += r);
                        }
                        if relu {
                            y.iter_mut().for_each(|y| *y = y.max(0.0));
                        }
                        vec![y]
                    },
                );
            }
        }
    }
}

#[test]
fn a_residual_can_be_what_is_normalised() {
    let norm = GroupNorm { images: 2, groups: 2, eps: EPS as f32, relu: true };
    check(
        "group_norm of its own residual",
        &[Operand::new(1, &[14, 8]), Operand::new(2, &[8]), Operand::new(3, &[8])],
        Tolerance::default(),
        |tape, v| Ok(vec![group_norm(tape, &v[0], &v[1], &v[2], Some(&v[0]), norm)?]),
        &|x| {
            let y = group_norm_reference(&x[0], &x[1], &x[2], 2, 2);
            vec![y.iter().zip(&x[0]).map(|(y, x)| (y + x).max(0.0)).collect()]
        },
    );
}

#[test]
fn max_pools() {
    for ([images, height, width], cols) in
        [([1, 1, 1], 1), ([2, 9, 7], 5), ([1, 8, 12], 17), ([3, 4, 4], 64), ([1, 2, 3], 3)]
    {
        let shape = MapShape { images, height, width };
        let after = shape.after(3, 2, 1);
        for strided in [false, true] {
            let mut x = Operand::new(1, &[shape.rows(), cols]);
            if strided {
                x = x.strided();
            }
            check(
                &format!("max_pool {shape:?}"),
                &[x],
                Tolerance { atol: 1e-6, rtol: 1e-6 },
                |tape, v| Ok(vec![max_pool(tape, &v[0], shape)?.0]),
                &|x| {
                    let mut y = Vec::new();
                    for place in 0..after.rows() {
                        let (line, c) = (place / after.width, place % after.width);
                        let (i, r) = (line / after.height, line % after.height);
                        for ch in 0..cols {
                            let mut most = f64::NEG_INFINITY;
                            for (py, px) in (0..3).flat_map(|a| (0..3).map(move |b| (2 * r + a, 2 * c + b))) {
                                if (1..=height).contains(&py) && (1..=width).contains(&px) {
                                    let at = ((i * height + py - 1) * width + px - 1) * cols + ch;
                                    most = most.max(x[0][at]);
                                }
                            }
                            y.push(most);
                        }
                    }
                    vec![y]
                },
            );
        }
    }
}
