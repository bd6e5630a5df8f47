//! Linear layers and the two-layer perceptron with elastic weights.

use poa_gpu::ops::linear::{LinearWeights, linear, linear_pair, mlp};

use super::elementwise::gelu;
use crate::support::{Operand, Tolerance, check};

/// α·x·Wᵀ + b with x `[rows, k]`, W `[n, k]`.
fn product(x: &[f64], w: &[f64], b: &[f64], alpha: f64) -> Vec<f64> {
    let n = b.len();
    let k = w.len() / n;
    let mut y = Vec::new();
    for row in x.chunks(k) {
        for (j, bias) in b.iter().enumerate() {
            y.push(alpha * row.iter().zip(&w[j * k..][..k]).map(|(x, w)| x * w).sum::<f64>() + bias);
        }
    }
    y
}

#[test]
fn plain_and_sliced_weights() {
    for [rows, k, n] in [[1, 1, 1], [7, 17, 5], [197, 48, 64], [33, 100, 99], [130, 64, 130]] {
        for strided in [false, true] {
            let mut operands = [Operand::new(1, &[rows, k]), Operand::new(2, &[n, k]), Operand::new(3, &[n])];
            if strided {
                operands = operands.map(Operand::strided);
                operands[1].parameter = true;
                operands[2].parameter = true;
            }
            check(
                &format!("linear {rows}x{k}x{n}"),
                &operands,
                Tolerance::default(),
                |tape, v| {
                    let layer = LinearWeights { weight: v[1].clone(), bias: Some(v[2].clone()), alpha: 1.5 };
                    Ok(vec![linear(tape, &v[0], &layer)?])
                },
                &|x| vec![product(&x[0], &x[1], &x[2], 1.5)],
            );
        }
    }
}

#[test]
fn two_layers_in_one_piece_of_memory() {
    for ([few, many], k, n) in [([1, 5], 16, 16), ([37, 70], 24, 40), ([3, 33], 17, 7)] {
        check(
            &format!("linear_pair {few}x{k}x{n} and {many}x{k}x2·{n}"),
            &[
                Operand::new(1, &[few, k]).strided(),
                Operand::new(2, &[many, k]),
                Operand::new(3, &[n, k]).strided().parameter(),
                Operand::new(4, &[2, n, k]).strided().parameter(),
                Operand::new(5, &[n]).parameter(),
                Operand::new(6, &[2, n]).strided().parameter(),
            ],
            Tolerance::default(),
            |tape, v| {
                let layer = |w: usize, b: usize| LinearWeights {
                    weight: v[w].clone(),
                    bias: Some(v[b].clone()),
                    alpha: 0.7,
                };
                Ok(vec![linear_pair(tape, [(&v[0], &layer(2, 4)), (&v[1], &layer(3, 5))])?])
            },
            &|x| vec![[product(&x[0], &x[2], &x[4], 0.7), product(&x[1], &x[3], &x[5], 0.7)].concat()],
        );
    }
}

#[test]
fn three_row_groups() {
    for [rows, k, n] in [[5, 16, 16], [37, 24, 40], [70, 48, 33]] {
        check(
            &format!("grouped linear {rows}x{k}x3·{n}"),
            &[
                Operand::new(1, &[rows, k]).strided(),
                Operand::new(2, &[3, n, k]).strided().parameter(),
                Operand::new(3, &[3, n]).strided().parameter(),
            ],
            Tolerance::default(),
            |tape, v| {
                let layer = LinearWeights { weight: v[1].clone(), bias: Some(v[2].clone()), alpha: 0.7 };
                Ok(vec![linear(tape, &v[0], &layer)?])
            },
            &|x| vec![product(&x[0], &x[1], &x[2], 0.7)],
        );
    }
}

#[test]
fn perceptron_with_gelu() {
    for [rows, k, hidden, n] in [[1, 3, 5, 2], [17, 16, 64, 16], [130, 33, 70, 65]] {
        check(
            &format!("mlp {rows}x{k}x{hidden}x{n}"),
            &[
                Operand::new(1, &[rows, k]),
                Operand::new(2, &[hidden, k]).map(|v| v * 0.3).strided().parameter(),
                Operand::new(3, &[hidden]),
                Operand::new(4, &[n, hidden]).map(|v| v * 0.3).strided().parameter(),
                Operand::new(5, &[n]),
            ],
            Tolerance::default(),
            |tape, v| {
                let layer = |w: usize, alpha| LinearWeights {
                    weight: v[w].clone(),
                    bias: Some(v[w + 1].clone()),
                    alpha,
                };
                Ok(vec![mlp(tape, &v[0], &layer(1, 2.0), &layer(3, 1.25))?])
            },
            &|x| {
                let h: Vec<f64> = product(&x[0], &x[1], &x[2], 2.0).into_iter().map(gelu).collect();
                vec![product(&h, &x[3], &x[4], 1.25)]
            },
        );
    }
}
