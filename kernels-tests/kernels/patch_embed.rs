//! Patch embedding against a convolution loop.

use poa_gpu::ops::linear::LinearWeights;
use poa_gpu::ops::patch_embed::{patch_embed, unfold};
use poa_gpu::tensor::{DType, Tensor};

use crate::support::{Operand, Tolerance, check, devices, random};

#[test]
fn is_a_strided_convolution() {
    for (n, channels, height, width, patch, out) in [
        (1, 3, 4, 4, 4, 3),
        (2, 3, 6, 9, 3, 17),
        (3, 3, 32, 32, 8, 20),
        (2, 1, 6, 9, 3, 17),
        (1, 1, 16, 8, 8, 4),
        (2, 4, 6, 9, 3, 17),
        (3, 4, 16, 24, 8, 20),
        (1, 7, 4, 6, 2, 5),
    ] {
        let images = random(9, n * channels * height * width);
        let k = channels * patch * patch;
        check(
            "patch_embed",
            &[Operand::new(1, &[out, k]).strided().parameter(), Operand::new(2, &[out])],
            Tolerance::default(),
            |tape, v| {
                let images =
                    Tensor::from_slice(v[0].value().device(), &[n, channels, height, width], &images)?;
                let layer = LinearWeights { weight: v[0].clone(), bias: Some(v[1].clone()), alpha: 1.0 };
                Ok(vec![patch_embed(tape, &images, patch, &layer)?])
            },
            &|x| {
                let mut y = Vec::new();
                for i in 0..n {
                    for (py, px) in (0..height / patch).flat_map(|y| (0..width / patch).map(move |x| (y, x)))
                    {
                        for o in 0..out {
                            let mut total = x[1][o];
                            for e in 0..k {
                                let (c, dy, dx) = (e / (patch * patch), e / patch % patch, e % patch);
                                let at =
                                    ((i * channels + c) * height + py * patch + dy) * width + px * patch + dx;
                                total += x[0][o * k + e] * images[at] as f64;
                            }
                            y.push(total);
                        }
                    }
                }
                vec![y]
            },
        );
    }
}

#[test]
fn a_size_that_does_not_divide_is_refused() {
    for device in devices() {
        let images = Tensor::from_slice(&device, &[1, 3, 10, 8], &random(1, 240)).unwrap();
        assert!(unfold(&images, 4, DType::F32).unwrap_err().to_string().contains("patches of 4"));
    }
}
