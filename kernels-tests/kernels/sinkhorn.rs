//! Targets against the plain algorithm in f64.

use poa_gpu::Result;
use poa_gpu::ops::sinkhorn::{Targets, centering, row_chunks, sinkhorn, teacher_logits, update_center};
use poa_gpu::tensor::{Device, Tensor};

use crate::support::{Placing, assert_close, devices, gpu, place, random};

fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = values.clone().fold(f64::NEG_INFINITY, f64::max);
    max + values.map(|v| (v - max).exp()).sum::<f64>().ln()
}

/// Sinkhorn-Knopp as published, in the logarithmic domain so that any logits will do.
pub fn reference(logits: &[f32], cols: usize, temperature: f64, iterations: usize) -> Vec<f64> {
    let rows = logits.len() / cols;
    let mut q: Vec<f64> = logits.iter().map(|l| *l as f64 / temperature).collect();
    for _ in 0..iterations {
        for j in 0..cols {
            let lse = log_sum_exp((0..rows).map(|i| q[i * cols + j]));
            (0..rows).for_each(|i| q[i * cols + j] -= lse + (cols as f64).ln());
        }
        for row in q.chunks_mut(cols) {
            let lse = log_sum_exp(row.iter().copied());
            row.iter_mut().for_each(|v| *v -= lse + (rows as f64).ln());
        }
    }
    q.iter().map(|v| (v + (rows as f64).ln()).exp()).collect()
}

/// The logits as chunks of `chunk` rows, some of them views with a row stride.
pub fn chunks(device: &Device, logits: &[f32], cols: usize, chunk: usize) -> Result<Vec<Tensor>> {
    let placing = |i: usize| if i % 2 == 1 { Placing::Strided } else { Placing::Dense };
    logits
        .chunks(chunk * cols)
        .enumerate()
        .map(|(i, part)| place(device, &[part.len() / cols, cols], part, placing(i)))
        .collect()
}

#[track_caller]
fn compare(what: &str, targets: &Targets, want: &[f64], tolerance: f64) {
    let got = targets.to_vec().unwrap();
    let mut worst = 0.0f64;
    for (g, w) in got.iter().zip(want).filter(|(_, w)| **w > 1e-30) {
        worst = worst.max((g / w - 1.0).abs());
    }
    for (g, w) in got.iter().zip(want).filter(|(_, w)| **w <= 1e-30) {
        assert!(*g <= 1e-29, "{what}: {g:e} where {w:e} is expected");
    }
    assert!(worst < tolerance, "{what}: relative error {worst:e}");
    let cols = targets.prototypes();
    let sums: Vec<f64> = got.chunks(cols).map(|row| row.iter().sum()).collect();
    assert!(sums.iter().all(|s| (s - 1.0).abs() < tolerance), "{what}: rows sum to {sums:?}");
    assert!(targets.row_scale().fences_intact().unwrap() && targets.column_scale().fences_intact().unwrap());
    println!("{what}: relative error {worst:.1e}");
}

#[test]
fn of_any_shape_in_any_chunks() {
    for (rows, cols, chunk) in [
        (1, 1, 1),
        (3, 7, 3),
        (3, 7, 1),
        (17, 24, 5),
        (100, 1, 100),
        (100, 1000, 100),
        (100, 1000, 33),
        (1100, 24, 500),
        (1, 1000, 1),
    ] {
        for temperature in [0.04, 0.0537, 0.07] {
            let logits: Vec<f32> = random(rows as u64, rows * cols).iter().map(|v| v * 0.3).collect();
            let want = reference(&logits, cols, temperature, 3);
            for device in devices() {
                let what = format!("sinkhorn {rows}x{cols} by {chunk} at {temperature} on {}", device.kind());
                let targets =
                    sinkhorn(chunks(&device, &logits, cols, chunk).unwrap(), temperature, 3).unwrap();
                let entropy = targets.entropy().unwrap();
                assert!(entropy.fences_intact().unwrap());
                let want_entropy: Vec<f64> = want
                    .chunks(cols)
                    .map(|row| -row.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>())
                    .collect();
                let most = (cols as f64).ln().max(1.0);
                for (got, want) in entropy.to_vec::<f32>().unwrap().iter().zip(&want_entropy) {
                    assert!((*got as f64 - want).abs() < 5e-6 * most, "{what}: entropy {got}, not {want}");
                }
                // with few rows b spans all of the logits' range, and is rounded at that size
                compare(&what, &targets, &want, if rows < 17 { 4e-6 } else { 2e-6 });
            }
        }
    }
}

#[test]
fn of_many_prototypes() {
    let (rows, cols) = (5, 65_536);
    let logits: Vec<f32> = random(9, rows * cols).iter().map(|v| v * 0.2).collect();
    let want = reference(&logits, cols, 0.04, 3);
    for device in devices() {
        let targets = sinkhorn(chunks(&device, &logits, cols, 3).unwrap(), 0.04, 3).unwrap();
        compare(&format!("sinkhorn 5x65536 on {}", device.kind()), &targets, &want, 4e-6);
    }
}

#[test]
fn of_logits_that_overflow_exp() {
    let (rows, cols) = (17, 50);
    // |l/τ| up to thousands, with a common offset in every row
    for (spread, offset) in [(30.0, 0.0), (1.0, -40.0), (0.5, 60.0)] {
        let logits: Vec<f32> = random(4, rows * cols)
            .iter()
            .enumerate()
            .map(|(i, v)| v * spread + offset * (1.0 + (i / cols) as f32 * 0.1))
            .collect();
        let want = reference(&logits, cols, 0.04, 3);
        // an f32 of size x is known to x·6e-8, and exp makes that a relative error
        let size = logits.iter().fold(0.0f64, |m, l| m.max((*l as f64 / 0.04).abs()));
        for device in devices() {
            let targets = sinkhorn(chunks(&device, &logits, cols, 6).unwrap(), 0.04, 3).unwrap();
            let what = format!("sinkhorn of large logits {spread} {offset} on {}", device.kind());
            compare(&what, &targets, &want, 2e-6 + size * 1.5e-7);
        }
    }
}

#[test]
fn centred_softmax_and_its_centre() {
    let (rows, cols) = (23, 100);
    let logits = random(1, rows * cols);
    let center: Vec<f32> = random(2, cols);
    let mut want = Vec::new();
    for row in logits.chunks(cols) {
        let z = row.iter().zip(&center).map(|(l, c)| (*l as f64 - *c as f64) / 0.05);
        let lse = log_sum_exp(z.clone());
        want.extend(z.map(|v| (v - lse).exp()));
    }
    let mean = |j: usize| (0..rows).map(|i| logits[i * cols + j] as f64).sum::<f64>() / rows as f64;
    let moved: Vec<f64> = (0..cols).map(|j| 0.9 * center[j] as f64 + 0.1 * mean(j)).collect();
    for device in devices() {
        let c = Tensor::from_slice(&device, &[cols], &center).unwrap();
        let targets = centering(chunks(&device, &logits, cols, 10).unwrap(), &c, 0.05).unwrap();
        compare(&format!("centring on {}", device.kind()), &targets, &want, 1e-5);
        update_center(&c, targets.logits(), 0.9).unwrap();
        assert_close("centre", &c.to_vec::<f32>().unwrap(), &moved, 1e-6, 1e-6);
    }
}

#[test]
fn chunks_fit_bindings_and_cover_all_rows() {
    let device = gpu();
    let limit = device.max_tensor_bytes() / 4 / 65_536;
    let ranges = row_chunks(2 * limit + 3, 65_536, &device);
    assert_eq!(ranges.len(), 3);
    assert!(ranges.iter().all(|r| r.len() <= limit && !r.is_empty()));
    assert_eq!((ranges[0].start, ranges[2].end), (0, 2 * limit + 3));
    assert!(ranges.windows(2).all(|w| w[0].end == w[1].start));
    assert_eq!(row_chunks(100, 8192, &Device::cpu()).first(), Some(&(0..100)));
}

#[test]
fn teacher_logits_are_products() {
    let (rows, d, k) = (5, 16, 24);
    let (z, w) = (random(1, rows * d), random(2, k * d));
    let want: Vec<f64> = (0..rows * k)
        .map(|at| (0..d).map(|c| z[at / k * d + c] as f64 * w[at % k * d + c] as f64).sum())
        .collect();
    for device in devices() {
        let z = Tensor::from_slice(&device, &[rows, d], &z).unwrap();
        let w = Tensor::from_slice(&device, &[k, d], &w).unwrap();
        let all = teacher_logits(&z, &w).unwrap();
        assert_close("teacher logits", &all[0].to_vec::<f32>().unwrap(), &want, 1e-5, 1e-5);
    }
}

/// Two matrices whose rows lie on three ranks, one of which has no row of the second; `(rows of each rank, K)`.
const SHARED: [([usize; 3], usize); 2] = [([3, 1, 40], 24), ([7, 0, 2], 1000)];

#[test]
fn rows_on_several_ranks_have_the_targets_of_all_rows_together() {
    use poa_gpu::collective::{Collective, Threads};
    use poa_gpu::ops::joint_sinkhorn::{OwnRows, sinkhorn_jointly};

    let temperature = 0.05;
    // every rank's logits have a size of their own: a maximum of one rank would drown the others
    let logits: Vec<Vec<f32>> = SHARED
        .iter()
        .enumerate()
        .map(|(m, (rows, cols))| {
            let all = random(m as u64 + 5, rows.iter().sum::<usize>() * cols);
            let rank_of = |row: usize| (0..3).find(|r| row < rows[..=*r].iter().sum()).unwrap();
            all.iter().enumerate().map(|(i, v)| v * 0.3 + [0.0, 3.0, -2.0][rank_of(i / cols)]).collect()
        })
        .collect();
    let want: Vec<Vec<f64>> =
        logits.iter().zip(SHARED).map(|(l, (_, cols))| reference(l, cols, temperature, 3)).collect();
    let kinds = devices().len();
    for kind in 0..kinds {
        std::thread::scope(|scope| {
            for side in Threads::meeting(3) {
                let (logits, want) = (&logits, &want);
                scope.spawn(move || {
                    let ranks =
                        Collective::over(move || Ok(side), std::time::Duration::from_secs(120)).unwrap();
                    let device = devices().swap_remove(kind);
                    let range = |(rows, cols): ([usize; 3], usize)| {
                        let first: usize = rows[..ranks.rank()].iter().sum();
                        first * cols..(first + rows[ranks.rank()]) * cols
                    };
                    let own = SHARED.iter().zip(logits).map(|(shape, l)| OwnRows {
                        logits: chunks(&device, &l[range(*shape)], shape.1, 4).unwrap(),
                        prototypes: shape.1,
                    });
                    let mut combine = |sums| ranks.log_sum_exp(sums);
                    let all = sinkhorn_jointly(own.collect(), temperature, 3, &mut combine).unwrap();
                    for ((targets, shape), want) in all.iter().zip(SHARED).zip(want) {
                        let what = format!("rank {} on {}", ranks.rank(), device.kind());
                        match targets {
                            None => assert_eq!(shape.0[ranks.rank()], 0, "{what}"),
                            Some(targets) => compare(&what, targets, &want[range(shape)], 4e-6),
                        }
                    }
                    ranks.barrier().unwrap();
                });
            }
        });
    }
}
