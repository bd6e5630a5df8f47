//! Resampled position embeddings.

use poa_gpu::ops::position::{bicubic_matrix, resample_positions};
use poa_gpu::tensor::Tensor;

use crate::support::{Operand, Tolerance, check};

#[test]
fn resampling_is_the_matrix() {
    for (from, to, width) in [(2, 1, 3), (4, 2, 16), (14, 6, 33), (3, 5, 48)] {
        let matrix = bicubic_matrix(from, to);
        check(
            "resample_positions",
            &[Operand::new(1, &[from * from, width]).strided().parameter()],
            Tolerance::default(),
            |tape, v| {
                let m = Tensor::from_slice(v[0].value().device(), &[to * to, from * from], &matrix)?;
                Ok(vec![resample_positions(tape, &v[0], &m)?])
            },
            &|x| {
                let row = |r: usize, c: usize| {
                    (0..from * from)
                        .map(|k| matrix[r * from * from + k] as f64 * x[0][k * width + c])
                        .sum::<f64>()
                };
                vec![
                    (0..to * to)
                        .flat_map(|r| (0..width).map(move |c| (r, c)))
                        .map(|(r, c)| row(r, c))
                        .collect(),
                ]
            },
        );
    }
}

#[test]
fn a_smaller_grid_of_a_ramp_is_a_ramp() {
    // far from the border a cubic reproduces a linear field at the mapped coordinates
    let (from, to) = (14usize, 6usize);
    let matrix = bicubic_matrix(from, to);
    let scale = (to as f64 + 0.1) / from as f64;
    for i in 1..to - 1 {
        let row = &matrix[(3 * to + i) * from * from..][..from * from];
        let x: f64 = row.iter().enumerate().map(|(k, w)| *w as f64 * (k % from) as f64).sum();
        assert!((x - ((i as f64 + 0.5) / scale - 0.5)).abs() < 0.15, "column {i} is at {x}");
    }
}
