//! What heads of segmentation do with maps: other sizes, BatchNorm, whole channels dropped, channels side by side and spread
//! over pixels, the largest of 2×2 pixels, the largest class.

use poa_gpu::autograd::Tape;
use poa_gpu::ops::argmax::argmax;
use poa_gpu::ops::batch_norm::{EPS, batch_norm, batch_norm_by};
use poa_gpu::ops::conv::MapShape;
use poa_gpu::ops::label_cross_entropy::{IGNORED, label_cross_entropy};
use poa_gpu::ops::maps::{add, concat_columns, spread, without_first};
use poa_gpu::ops::max_pool::max_pool_2;
use poa_gpu::ops::resample::{Axis, Resampling, resample};
use poa_gpu::ops::scale_channels::scale_channels;
use poa_gpu::tensor::{DType, Tensor};

use crate::support::{Operand, Placing, Tolerance, assert_close, check, devices, place, random};

const CLOSE: Tolerance = Tolerance { atol: 2e-6, rtol: 2e-6 };

/// From so many pixels to so many, as the operation has it and as a whole matrix.
type OwnAxis = fn(usize, usize) -> Axis;
type Matrix = fn(usize, usize) -> Vec<Vec<f64>>;

/// A column of a linear interpolation matrix by its definition: PyTorch's, corners not aligned.
fn linear(inputs: usize, outputs: usize) -> Vec<Vec<f64>> {
    let row = |i: usize| {
        let at = ((i as f64 + 0.5) * inputs as f64 / outputs as f64 - 0.5).max(0.0);
        (0..inputs)
            .map(|k| {
                // beyond the last pixel it is repeated
                let near = (1.0 - (at - k as f64).abs()).max(0.0);
                if k + 1 == inputs && at > k as f64 { 1.0 } else { near }
            })
            .collect()
    };
    (0..outputs).map(row).collect()
}

fn bins(inputs: usize, outputs: usize) -> Vec<Vec<f64>> {
    let row = |i: usize| {
        let (start, end) = (
            (i as f64 * inputs as f64 / outputs as f64).floor(),
            ((i + 1) as f64 * inputs as f64 / outputs as f64).ceil(),
        );
        let inside = |k: usize| (k as f64) >= start && (k as f64) < end;
        (0..inputs).map(|k| if inside(k) { 1.0 / (end - start) } else { 0.0 }).collect()
    };
    (0..outputs).map(row).collect()
}

/// Maps of one size at another, by two whole matrices.
fn resampled(x: &[f64], images: usize, cols: usize, down: &[Vec<f64>], across: &[Vec<f64>]) -> Vec<f64> {
    let (height, width) = (down[0].len(), across[0].len());
    let mut y = Vec::new();
    for image in 0..images {
        for v in down {
            for w in across {
                for c in 0..cols {
                    let at = |a: usize, b: usize| x[((image * height + a) * width + b) * cols + c];
                    y.push(
                        (0..height).map(|a| (0..width).map(|b| v[a] * w[b] * at(a, b)).sum::<f64>()).sum(),
                    );
                }
            }
        }
    }
    y
}

#[test]
fn maps_at_other_sizes() {
    for ([images, height, width], [high, wide], cols) in [
        ([1, 1, 1], [1, 1], 1),
        ([2, 3, 4], [12, 16], 5),
        ([1, 5, 3], [7, 11], 17),
        ([2, 9, 6], [4, 6], 3),
        ([1, 1, 2], [5, 9], 33),
        ([3, 8, 8], [3, 3], 2),
    ] {
        let shape = MapShape { images, height, width };
        for strided in [false, true] {
            let mut x = Operand::new(1, &[shape.rows(), cols]);
            if strided {
                x = x.strided();
            }
            let kinds: [(&str, OwnAxis, Matrix); 2] =
                [("bilinear", Axis::linear, linear), ("bins", Axis::bins, bins)];
            for (name, axis, matrix) in kinds {
                if name == "bins" && (high > height || wide > width) {
                    continue;
                }
                check(
                    &format!("resample {name} {shape:?} to {high}x{wide}"),
                    &[x.clone()],
                    CLOSE,
                    |tape, v| {
                        let device = v[0].value().device();
                        let by = Resampling::new(device, &axis(height, high), &axis(width, wide))?;
                        Ok(vec![resample(tape, &v[0], shape, &by)?.0])
                    },
                    &|x| vec![resampled(&x[0], images, cols, &matrix(height, high), &matrix(width, wide))],
                );
            }
        }
    }
}

#[test]
fn a_part_of_a_map_is_that_of_the_whole() {
    for device in devices() {
        let (shape, cols) = (MapShape { images: 1, height: 5, width: 4 }, 3);
        let x =
            place(&device, &[shape.rows(), cols], &random(1, shape.rows() * cols), Placing::Dense).unwrap();
        let (rows, columns) = (Axis::linear(5, 13), Axis::linear(4, 9));
        let tape = Tape::no_grad();
        let x = poa_gpu::autograd::Var::constant(x);
        let of = |rows: &Axis| {
            let by = Resampling::new(&device, rows, &columns).unwrap();
            resample(&tape, &x, shape, &by).unwrap().0.value().to_vec::<f32>().unwrap()
        };
        let whole = of(&rows);
        let parts: Vec<f32> =
            [0..6, 6..7, 7..13].into_iter().flat_map(|range| of(&rows.part(range))).collect();
        assert_eq!(whole, parts);
    }
}

#[test]
fn batch_norms() {
    for ([rows, cols], relu) in [([5, 1], false), ([35, 12], true), ([700, 5], true), ([9, 130], false)] {
        let x = Operand::new(1, &[rows, cols]).map(|v| v * 2.0 + 1.5).strided();
        let gamma = Operand::new(2, &[cols]).map(|v| v + 1.0).parameter();
        let beta = Operand::new(3, &[cols]).parameter();
        let eps = f64::from(EPS);
        check(
            &format!("batch_norm {rows}x{cols}, relu {relu}"),
            &[x, gamma, beta],
            Tolerance { atol: 4e-5, rtol: 4e-5 },
            |tape, v| {
                let running = Tensor::zeros(v[0].value().device(), &[cols, 2], DType::F32)?;
                Ok(vec![batch_norm(tape, &v[0], [&v[1], &v[2]], &running, 0.1, relu)?])
            },
            &|x| {
                let mut y = vec![0.0; rows * cols];
                for c in 0..cols {
                    let column: Vec<f64> = (0..rows).map(|r| x[0][r * cols + c]).collect();
                    let mean = column.iter().sum::<f64>() / rows as f64;
                    let variance = column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / rows as f64;
                    for (r, v) in column.iter().enumerate() {
                        let value = (v - mean) / (variance + eps).sqrt() * x[1][c] + x[2][c];
                        y[r * cols + c] = if relu { value.max(0.0) } else { value };
                    }
                }
                vec![y]
            },
        );
    }
}

#[test]
fn running_statistics_follow_and_are_applied() {
    let (rows, cols, momentum) = (37, 19, 0.1);
    let [x, gamma, beta] = [random(1, rows * cols), random(2, cols), random(3, cols)];
    let running: Vec<f32> =
        random(4, cols).iter().zip(random(5, cols)).flat_map(|(m, v)| [*m, v.abs() + 0.1]).collect();
    for device in devices() {
        for placing in [Placing::Dense, Placing::Strided] {
            let x_at = place(&device, &[rows, cols], &x, placing).unwrap();
            let [g, b] = [&gamma, &beta].map(|v| place(&device, &[cols], v, placing).unwrap());
            let statistics = Tensor::from_slice(&device, &[cols, 2], &running).unwrap();
            for relu in [false, true] {
                let y = batch_norm_by(&x_at, [&g, &b], &statistics, relu).unwrap();
                assert!(y.fences_intact().unwrap());
                let want: Vec<f64> = (0..rows * cols)
                    .map(|at| {
                        let c = at % cols;
                        let [mean, variance] = [running[2 * c], running[2 * c + 1]].map(f64::from);
                        let value = (f64::from(x[at]) - mean) / (variance + f64::from(EPS)).sqrt();
                        let value = value * f64::from(gamma[c]) + f64::from(beta[c]);
                        if relu { value.max(0.0) } else { value }
                    })
                    .collect();
                assert_close("batch_norm_by", &y.to_vec().unwrap(), &want, 4e-6, 4e-6);
            }
            let tape = Tape::no_grad();
            let [vx, vg, vb] = [&x_at, &g, &b].map(|t| poa_gpu::autograd::Var::constant(t.clone()));
            batch_norm(&tape, &vx, [&vg, &vb], &statistics, momentum, false).unwrap();
            let mut want = Vec::new();
            for c in 0..cols {
                let column: Vec<f64> = (0..rows).map(|r| f64::from(x[r * cols + c])).collect();
                let mean = column.iter().sum::<f64>() / rows as f64;
                let variance = column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (rows - 1) as f64;
                let old = [running[2 * c], running[2 * c + 1]].map(f64::from);
                let near = |old: f64, new: f64| old + f64::from(momentum) * (new - old);
                want.extend([near(old[0], mean), near(old[1], variance)]);
            }
            assert!(statistics.fences_intact().unwrap());
            assert_close("running", &statistics.to_vec().unwrap(), &want, 2e-6, 2e-6);
        }
    }
}

#[test]
fn dropped_channels() {
    for ([images, per_image], cols) in [([1, 1], 1), ([2, 7], 5), ([3, 33], 20)] {
        let rows = images * per_image;
        let factors: Vec<f32> =
            (0..images * cols).map(|i| if i % 3 == 0 { 0.0 } else { 1.0 + i as f32 / 8.0 }).collect();
        for x in [Operand::new(1, &[rows, cols]), Operand::new(1, &[rows, cols]).strided()] {
            check(
                "scale_channels",
                &[x],
                CLOSE,
                |tape, v| {
                    let factors = Tensor::from_slice(v[0].value().device(), &[images, cols], &factors)?;
                    Ok(vec![scale_channels(tape, &v[0], &factors)?])
                },
                &|x| {
                    let of = |at: usize| factors[at / cols / per_image * cols + at % cols];
                    vec![x[0].iter().enumerate().map(|(at, v)| v * f64::from(of(at))).collect()]
                },
            );
        }
    }
}

#[test]
fn channels_side_by_side_and_sums() {
    let (rows, widths) = (11, [3, 1, 8]);
    let operands: Vec<Operand> = widths
        .iter()
        .enumerate()
        .map(|(i, w)| Operand::new(i as u64, &[rows, *w]))
        .map(|o| if o.shape[1] == 8 { o.strided() } else { o })
        .collect();
    check(
        "concat_columns",
        &operands,
        CLOSE,
        |tape, v| Ok(vec![concat_columns(tape, &[&v[0], &v[1], &v[2], &v[0]])?]),
        &|x| {
            let all = [0, 1, 2, 0].map(|i| (&x[i], widths[i]));
            let row = |r: usize| all.iter().flat_map(move |(x, w)| x[r * w..(r + 1) * w].to_vec());
            vec![(0..rows).flat_map(row).collect()]
        },
    );
    check(
        "add",
        &[Operand::new(1, &[rows, 5]), Operand::new(2, &[rows, 5])],
        CLOSE,
        // one of them is used once more
        |tape, v| Ok(vec![add(tape, &add(tape, &v[0], &v[1])?, &v[0])?]),
        &|x| vec![x[0].iter().zip(&x[1]).map(|(a, b)| 2.0 * a + b).collect()],
    );
}

#[test]
fn tokens_without_their_first() {
    for ([count, length], before, cols) in [([1, 2], 1, 1), ([3, 7], 2, 5), ([2, 33], 5, 20)] {
        for x in
            [Operand::new(1, &[count * length, cols]), Operand::new(1, &[count * length, cols]).parameter()]
        {
            check(
                "without_first",
                &[x],
                CLOSE,
                |tape, v| Ok(vec![without_first(tape, &v[0], length, before)?]),
                &|x| vec![x[0].chunks(length * cols).flat_map(|all| all[before * cols..].to_vec()).collect()],
            );
        }
    }
}

#[test]
fn channels_spread_over_pixels() {
    for ([images, height, width], channels) in [([1, 1, 1], 1), ([2, 3, 5], 4), ([1, 4, 2], 17)] {
        let shape = MapShape { images, height, width };
        for x in [
            Operand::new(1, &[shape.rows(), 4 * channels]),
            Operand::new(1, &[shape.rows(), 4 * channels]).strided(),
        ] {
            check(
                &format!("spread {shape:?}"),
                &[x],
                CLOSE,
                |tape, v| Ok(vec![spread(tape, &v[0], shape)?.0]),
                &|x| {
                    let mut y = Vec::new();
                    for line in 0..images * 2 * height {
                        for column in 0..2 * width {
                            let from = line / 2 * width + column / 2;
                            let quarter = line % 2 * 2 + column % 2;
                            y.extend(&x[0][(from * 4 + quarter) * channels..][..channels]);
                        }
                    }
                    vec![y]
                },
            );
        }
    }
}

#[test]
fn the_largest_of_four_pixels() {
    for ([images, height, width], cols) in [([1, 2, 2], 1), ([2, 5, 7], 5), ([1, 8, 4], 33)] {
        let shape = MapShape { images, height, width };
        let (high, wide) = (height / 2, width / 2);
        for x in [Operand::new(1, &[shape.rows(), cols]), Operand::new(1, &[shape.rows(), cols]).strided()] {
            check(
                &format!("max_pool_2 {shape:?}"),
                &[x],
                CLOSE,
                |tape, v| Ok(vec![max_pool_2(tape, &v[0], shape)?.0]),
                &|x| {
                    let mut y = Vec::new();
                    for (image, i) in (0..images).flat_map(|n| (0..high).map(move |i| (n, i))) {
                        for (j, c) in (0..wide).flat_map(|j| (0..cols).map(move |c| (j, c))) {
                            let at = |a: usize, b: usize| {
                                x[0][((image * height + 2 * i + a) * width + 2 * j + b) * cols + c]
                            };
                            y.push(at(0, 0).max(at(0, 1)).max(at(1, 0)).max(at(1, 1)));
                        }
                    }
                    vec![y]
                },
            );
        }
    }
    for device in devices() {
        let x = Operand::new(1, &[2, 3]);
        let x = poa_gpu::autograd::Var::constant(place(&device, &x.shape, &x.values, x.placing).unwrap());
        let flat = MapShape { images: 1, height: 1, width: 2 };
        assert!(max_pool_2(&Tape::no_grad(), &x, flat).is_err(), "a map of one line has no window");
    }
}

#[test]
fn the_largest_class() {
    for [rows, cols] in [[1, 1], [300, 7], [65, 150], [3, 1030]] {
        let mut values = random(rows as u64, rows * cols);
        if cols > 2 {
            // equal ones, and one that is no number
            values[cols - 1] = 9.0;
            values[cols - 2] = 9.0;
            values[0] = f32::NAN;
        }
        let want: Vec<u32> = values
            .chunks(cols)
            .map(|row| {
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                row.iter().position(|v| *v == most).unwrap_or(0) as u32
            })
            .collect();
        for device in devices() {
            for placing in [Placing::Dense, Placing::Strided] {
                let x = place(&device, &[rows, cols], &values, placing).unwrap();
                let found = argmax(&x).unwrap();
                assert!(found.fences_intact().unwrap());
                assert_eq!(
                    found.to_vec::<u32>().unwrap(),
                    want,
                    "{rows}x{cols} {placing:?} on {}",
                    device.kind()
                );
            }
        }
    }
}

#[test]
fn pixels_that_are_not_looked_at() {
    let (rows, cols) = (40, 21);
    let values = random(1, rows * cols);
    for device in devices() {
        for placing in [Placing::Dense, Placing::Strided] {
            let labels: Vec<u32> =
                (0..rows).map(|r| if r % 3 == 1 { IGNORED } else { (r % cols) as u32 }).collect();
            let run = |labels: &[u32]| {
                let x = place(&device, &[rows, cols], &values, placing).unwrap();
                let classes = Tensor::from_slice(&device, &[rows], labels).unwrap();
                let losses = label_cross_entropy(&x, &classes, 0.5).unwrap();
                assert!(losses.fences_intact().unwrap());
                (losses.to_vec::<f32>().unwrap(), x.to_vec::<f32>().unwrap())
            };
            let (losses, gradient) = run(&labels);
            let whole: Vec<u32> = (0..rows).map(|r| (r % cols) as u32).collect();
            let (all_losses, all) = run(&whole);
            for r in 0..rows {
                let row = r * cols..(r + 1) * cols;
                match labels[r] {
                    IGNORED => {
                        assert_eq!(losses[r], 0.0);
                        assert!(gradient[row].iter().all(|g| *g == 0.0));
                    }
                    _ => {
                        assert_eq!(losses[r], all_losses[r]);
                        assert_eq!(gradient[row.clone()], all[row]);
                    }
                }
            }
        }
    }
}
