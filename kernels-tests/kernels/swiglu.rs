//! SwiGLU's gate, by itself and in a perceptron of elastic layers.

use poa_gpu::autograd::{Tape, Var};
use poa_gpu::ops::linear::{LinearWeights, linear};
use poa_gpu::ops::swiglu::{swiglu, swiglu_backward};
use poa_gpu::tensor::{DType, Tensor};

use crate::support::{Operand, Placing, Tolerance, assert_close, check, devices, place, random};

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// silu(x1)·x2 of rows of two halves.
fn gated(x: &[f64], columns: usize) -> Vec<f64> {
    let rows = x.chunks_exact(2 * columns);
    rows.flat_map(|row| (0..columns).map(|c| silu(row[c]) * row[columns + c])).collect()
}

#[test]
fn the_gate_and_its_gradient() {
    // one row, one column, columns that are no multiple of four, more than a workgroup
    for [rows, columns] in [[1, 1], [1, 4], [7, 17], [33, 100], [3, 1026], [300, 3]] {
        for placing in [Placing::Dense, Placing::Strided, Placing::Vec4Aligned] {
            let mut x = Operand::new(1, &[rows, 2 * columns]).map(|v| v * 3.0);
            x.placing = placing;
            check(
                "swiglu",
                &[x],
                Tolerance { atol: 2e-6, rtol: 2e-6 },
                |tape, v| Ok(vec![swiglu(tape, &v[0])?]),
                &|x| vec![gated(&x[0], columns)],
            );
        }
    }
}

#[test]
fn far_out_it_is_zero_or_the_gate() {
    for device in devices() {
        let gates = [-1e4f32, -120.0, -30.0, 0.0, 30.0, 120.0, 1e4];
        let x: Vec<f32> = gates.iter().copied().chain([2.0; 7]).collect();
        let tape = Tape::new();
        let x = tape.leaf(place(&device, &[1, 14], &x, Placing::Dense).unwrap());
        let y = swiglu(&tape, &x).unwrap();
        let want: Vec<f64> = gates.iter().map(|g| 2.0 * silu(*g as f64)).collect();
        assert_close("swiglu", &y.value().to_vec().unwrap(), &want, 1e-11, 1e-6);
        let ones = place(&device, &[1, 7], &[1.0; 7], Placing::Dense).unwrap();
        let gradients = tape.backward(vec![(&y, ones)]).unwrap();
        let dx = gradients.get(&x).unwrap().to_vec::<f32>().unwrap();
        assert_close("d gate", &dx[..1], &[0.0], 1e-11, 0.0);
        assert_close("d gate", &dx[6..7], &[2.0], 0.0, 1e-6);
        assert!(dx.iter().all(|v| v.is_finite()), "{dx:?}");
    }
}

#[test]
fn a_gradient_is_added_to_another() {
    for device in devices() {
        for (placing, columns) in [(Placing::Dense, 5), (Placing::Strided, 8), (Placing::Vec4Aligned, 8)] {
            let (x, dy, prior) =
                (random(1, 9 * 2 * columns), random(2, 9 * columns), random(3, 9 * 2 * columns));
            let whole = [9, 2 * columns];
            let [x_at, old] = [&x, &prior].map(|v| place(&device, &whole, v, placing).unwrap());
            let dy_at = place(&device, &[9, columns], &dy, placing).unwrap();
            let fresh = Tensor::empty(&device, &whole, DType::F32).unwrap();
            swiglu_backward(&fresh, &x_at, &dy_at, false).unwrap();
            swiglu_backward(&old, &x_at, &dy_at, true).unwrap();
            assert!(fresh.fences_intact().unwrap());
            let fresh = fresh.to_vec::<f32>().unwrap();
            let want: Vec<f64> = fresh.iter().zip(&prior).map(|(new, old)| f64::from(new + old)).collect();
            assert_close("sum", &old.to_vec().unwrap(), &want, 1e-7, 1e-6);
        }
    }
}

#[test]
fn a_perceptron_of_two_groups_of_rows() {
    for [rows, k, hidden, n] in [[1, 3, 5, 2], [17, 16, 24, 16], [70, 33, 43, 65]] {
        let product = |x: &[f64], w: &[f64], b: &[f64], inputs: usize, alpha: f64| -> Vec<f64> {
            let row = |x: &[f64]| -> Vec<f64> {
                let of =
                    |(w, b): (&[f64], &f64)| b + alpha * w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
                w.chunks_exact(inputs).zip(b).map(of).collect()
            };
            x.chunks_exact(inputs).flat_map(row).collect()
        };
        check(
            "SwiGLU perceptron",
            &[
                Operand::new(1, &[rows, k]),
                Operand::new(2, &[2, hidden, k]).map(|v| v * 0.3).strided().parameter(),
                Operand::new(3, &[2, hidden]).strided().parameter(),
                Operand::new(4, &[n, hidden]).map(|v| v * 0.3).strided().parameter(),
                Operand::new(5, &[n]).parameter(),
            ],
            Tolerance::default(),
            |tape, v| {
                let layer = |w: usize, alpha| LinearWeights {
                    weight: v[w].clone(),
                    bias: Some(v[w + 1].clone()),
                    alpha,
                };
                let x = linear(tape, &v[0], &layer(1, 1.5))?;
                Ok(vec![linear(tape, &swiglu(tape, &x)?, &layer(3, 1.25))?])
            },
            &|x| {
                let h = gated(&product(&x[0], &x[1], &x[2], k, 1.5), hidden);
                vec![product(&h, &x[3], &x[4], hidden, 1.25)]
            },
        );
    }
}

#[test]
fn operands_that_do_not_belong_together_are_refused() {
    for device in devices() {
        let zeros = |shape: &[usize]| Tensor::zeros(&device, shape, DType::F32).unwrap();
        let tape = Tape::no_grad();
        let odd = Var::constant(zeros(&[2, 5]));
        assert!(swiglu(&tape, &odd).err().unwrap().to_string().contains("two halves"));
        let error = swiglu_backward(&zeros(&[2, 6]), &zeros(&[2, 6]), &zeros(&[2, 2]), false).unwrap_err();
        assert!(error.to_string().contains("half as wide"), "{error}");
    }
}
