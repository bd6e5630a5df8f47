//! Cross-entropy against classes: losses and gradients of every row against f64.

use poa_gpu::ops::label_cross_entropy::label_cross_entropy;
use poa_gpu::tensor::Tensor;

use crate::cross_entropy::log_softmax;
use crate::support::{Placing, devices, place, random};

#[test]
fn rows_of_any_length() {
    for (rows, cols, per_label, size) in
        [(1, 1, 1, 1.0), (6, 10, 3, 1.0), (26, 257, 13, 4.0), (9, 1000, 1, 30.0), (4, 21_841, 2, 5.0)]
    {
        let values: Vec<f32> = random(cols as u64, rows * cols).iter().map(|v| v * size).collect();
        let labels: Vec<u32> = (0..rows / per_label).map(|i| (i * 7919 % cols) as u32).collect();
        let scale = 0.125;
        for device in devices() {
            for placing in [Placing::Dense, Placing::Strided] {
                let logits = place(&device, &[rows, cols], &values, placing).unwrap();
                let classes = Tensor::from_slice(&device, &[labels.len()], &labels).unwrap();
                let losses = label_cross_entropy(&logits, &classes, scale).unwrap();
                assert!(losses.fences_intact().unwrap(), "losses were written beside");
                let (losses, gradient) = (losses.to_vec::<f32>().unwrap(), logits.to_vec::<f32>().unwrap());
                for (r, row) in values.chunks(cols).enumerate() {
                    let what = format!("{rows}x{cols} {placing:?} on {}, row {r}", device.kind());
                    let row: Vec<f64> = row.iter().map(|v| *v as f64).collect();
                    let (log, label) = (log_softmax(&row, 1.0), labels[r / per_label] as usize);
                    let error = (losses[r] as f64 + log[label]).abs();
                    assert!(error <= 2e-6 * (1.0 + size as f64), "{what}: {} and {}", losses[r], -log[label]);
                    for (c, l) in log.iter().enumerate() {
                        let want = scale as f64 * (l.exp() - f64::from(c == label));
                        let got = gradient[r * cols + c] as f64;
                        assert!(
                            (got - want).abs() <= 1e-6 * (1.0 + size as f64) * 0.1,
                            "{what}: {got} {want}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn labels_must_divide_the_rows() {
    for device in devices() {
        let logits = Tensor::from_slice(&device, &[4, 2], &[0.0f32; 8]).unwrap();
        let labels = Tensor::from_slice(&device, &[3], &[0u32; 3]).unwrap();
        assert!(label_cross_entropy(&logits, &labels, 1.0).is_err());
    }
}
