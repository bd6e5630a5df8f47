//! Rows over their norm.

use poa_gpu::autograd::Tape;
use poa_gpu::ops::l2_normalize::l2_normalize;
use poa_gpu::tensor::Tensor;

use crate::support::{Operand, Tolerance, check, devices};

pub fn reference(x: &[f64], cols: usize, eps: f64) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks(cols) {
        let d = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(eps);
        y.extend(row.iter().map(|v| v / d));
    }
    y
}

#[test]
fn rows_of_any_length() {
    for [rows, cols] in [[1, 1], [3, 7], [17, 24], [100, 256], [5, 1024], [33, 300]] {
        for strided in [false, true] {
            let x = Operand::new(1, &[rows, cols]);
            check(
                &format!("l2_normalize {rows}x{cols}"),
                &[if strided { x.strided() } else { x }],
                Tolerance { atol: 2e-6, rtol: 2e-6 },
                |tape, v| Ok(vec![l2_normalize(tape, &v[0], 1e-12)?]),
                &|x| vec![reference(&x[0], cols, 1e-12)],
            );
        }
    }
}

#[test]
fn rows_shorter_than_eps_are_scaled_by_it() {
    let values = [0.0, 0.0, 0.0, 2e-3, -1e-3, 3e-3];
    for device in devices() {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::from_slice(&device, &[2, 3], &values).unwrap());
        let y = l2_normalize(&tape, &x, 0.5).unwrap();
        let want: Vec<f32> = values.iter().map(|v| v / 0.5).collect();
        assert_eq!(y.value().to_vec::<f32>().unwrap(), want);
        let dy = [1.0, 2.0, -3.0, 0.5, 0.25, 4.0];
        let seed = Tensor::from_slice(&device, &[2, 3], &dy).unwrap();
        let gradients = tape.backward(vec![(&y, seed)]).unwrap();
        let got = gradients.get(&x).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(got, dy.map(|v| v / 0.5));
    }
}
