//! Patch merging: neighbours normed side by side, odd maps, sliced parameters, and the reduction that
//! follows.

use poa_gpu::ops::patch_merge::{Neighbours, merge_norm, reduction};
use poa_gpu::ops::window_attention::MapGroup;

use crate::support::{Operand, Tolerance, check};

const EPS: f64 = 1e-5;

fn merged(x: &[f64], maps: &[MapGroup], width: usize) -> Vec<Vec<f64>> {
    let (mut all, mut first) = (Vec::new(), 0);
    for map in maps {
        for _ in 0..map.count {
            for (y, x0) in (0..map.height.div_ceil(2))
                .flat_map(|y| (0..map.width.div_ceil(2)).map(move |x| (2 * y, 2 * x)))
            {
                let mut row = Vec::new();
                for k in 0..4 {
                    let (y, x0) = (y + k / 2, x0 + k % 2);
                    match y < map.height && x0 < map.width {
                        true => row.extend(&x[(first + y * map.width + x0) * width..][..width]),
                        false => row.extend(vec![0.0; width]),
                    }
                }
                all.push(row);
            }
            first += map.height * map.width;
        }
    }
    all
}

fn reference(x: &[f64], gamma: &[f64], beta: &[f64], maps: &[MapGroup]) -> Vec<f64> {
    let n = gamma.len();
    let norm = |row: Vec<f64>| -> Vec<f64> {
        let mean = row.iter().sum::<f64>() / n as f64;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        (0..n).map(|c| (row[c] - mean) / (variance + EPS).sqrt() * gamma[c] + beta[c]).collect()
    };
    merged(x, maps, n / 4).into_iter().flat_map(norm).collect()
}

fn groups(maps: &[(usize, usize, usize)]) -> Vec<MapGroup> {
    maps.iter().map(|&(count, height, width)| MapGroup { count, height, width }).collect()
}

#[test]
fn norms_neighbours() {
    for (maps, width) in [
        (vec![(1, 2, 2)], 3),
        (vec![(2, 4, 6), (1, 3, 3)], 16),
        (vec![(3, 1, 1), (2, 5, 2), (0, 4, 4)], 70),
        (vec![(40, 4, 4)], 96),
    ] {
        let maps = groups(&maps);
        let rows = maps.iter().map(MapGroup::rows).sum();
        for strided in [false, true] {
            let mut x = Operand::new(1, &[rows, width]).map(|v| v + 3.0);
            let mut gamma = Operand::new(2, &[4, width]).map(|v| v + 1.0);
            let mut beta = Operand::new(3, &[4, width]);
            if strided {
                (x, gamma, beta) = (x.strided(), gamma.strided().parameter(), beta.strided().parameter());
            }
            check(
                &format!("merge_norm of {maps:?}, width {width}"),
                &[x, gamma, beta],
                Tolerance::default(),
                |tape, v| {
                    let neighbours = Neighbours::new(v[0].value().device(), &maps)?;
                    Ok(vec![merge_norm(tape, &v[0], &v[1], &v[2], EPS as f32, &neighbours)?])
                },
                &|x| vec![reference(&x[0], &x[1], &x[2], &maps)],
            );
        }
    }
}

#[test]
fn reduces_through_slices() {
    for (rows, width, out) in [(1, 1, 1), (37, 12, 24), (130, 20, 7)] {
        for strided in [false, true] {
            let mut x = Operand::new(1, &[rows, 4 * width]);
            // the slices of a wider network's weight
            let mut weight = Operand::new(2, &[out, 4, width]);
            if strided {
                (x, weight) = (x.strided(), weight.strided().parameter());
            }
            check(
                &format!("reduction {rows}x{width} to {out}"),
                &[x, weight],
                Tolerance::default(),
                |tape, v| Ok(vec![reduction(tape, &v[0], &v[1], 1.5)?]),
                &|x| {
                    let row = |r: usize, o: usize| -> f64 {
                        let (a, b) = (&x[0][r * 4 * width..], &x[1][o * 4 * width..]);
                        (0..4 * width).map(|c| 1.5 * a[c] * b[c]).sum()
                    };
                    vec![
                        (0..rows)
                            .flat_map(|r| (0..out).map(move |o| (r, o)))
                            .map(|(r, o)| row(r, o))
                            .collect(),
                    ]
                },
            );
        }
    }
}
