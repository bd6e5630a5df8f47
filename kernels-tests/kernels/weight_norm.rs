//! The effective weight of the prototypes and its gradient.

use poa_gpu::ops::weight_norm::effective;
use poa_gpu::tensor::Tensor;

use crate::support::{Operand, Tolerance, check};

pub fn reference(v: &[f64], g: &[f64]) -> Vec<f64> {
    let cols = v.len() / g.len();
    let mut w = Vec::new();
    for (row, g) in v.chunks(cols).zip(g) {
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        w.extend(row.iter().map(|v| g * v / norm));
    }
    w
}

#[test]
fn of_parameters() {
    for [rows, cols] in [[1, 3], [7, 64], [24, 256], [1000, 16], [5, 300]] {
        for strided in [false, true] {
            let v = Operand::new(1, &[rows, cols]).parameter();
            check(
                &format!("weight_norm {rows}x{cols}"),
                &[
                    if strided { v.strided() } else { v },
                    Operand::new(2, &[rows, 1]).map(|g| g + 1.5).parameter(),
                ],
                Tolerance { atol: 3e-6, rtol: 3e-6 },
                |tape, x| {
                    let norm = effective(x[0].value(), x[1].value())?;
                    let weight = norm.weight().clone();
                    Ok(vec![tape.record("weight_norm", [&x[0], &x[1]], weight, move |[dv, dg], dw| {
                        let two = Tensor::from_slice(dw.device(), &[1], &[2.0f32])?;
                        // the factor: half of the cotangent, twice
                        norm.without_weight().backward(dv, dg, &half(&dw)?, &two)
                    })])
                },
                &|x| vec![reference(&x[0], &x[1])],
            );
        }
    }
}

fn half(t: &Tensor) -> poa_gpu::Result<Tensor> {
    let out = Tensor::from_slice(t.device(), t.shape(), &vec![0.0f32; t.elements()])?;
    poa_gpu::tensor::scale(&out, t, 0.5)?;
    Ok(out)
}
