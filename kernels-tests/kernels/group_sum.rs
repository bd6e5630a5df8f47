//! Sums of rows by group.

use poa_gpu::ops::group_sum::group_sum;
use poa_gpu::tensor::Tensor;

use crate::support::{Placing, devices, place, random};

/// Against double precision, on top of what is there; two runs give the same bits.
#[track_caller]
fn case(rows: usize, cols: usize, groups: usize, group: &[u32]) {
    let (x, before) = (random(1, rows * cols), random(2, groups * cols));
    let mut expected: Vec<f64> = before.iter().map(|v| f64::from(*v)).collect();
    let mut squares: Vec<f64> = before.iter().map(|v| f64::from(*v).powi(2)).collect();
    for (r, g) in group.iter().enumerate() {
        for c in 0..cols {
            expected[*g as usize * cols + c] += f64::from(x[r * cols + c]);
            squares[*g as usize * cols + c] += f64::from(x[r * cols + c]).powi(2);
        }
    }
    let beside: Vec<f32> = before.chunks(cols).flat_map(|row| [&[7.0], row, &[7.0]].concat()).collect();
    for device in devices() {
        for placing in [Placing::Dense, Placing::Strided] {
            let x = place(&device, &[rows, cols], &x, placing).unwrap();
            let run = || {
                // with columns beside it that are not its own
                let wide = Tensor::from_slice(&device, &[groups, cols + 2], &beside).unwrap();
                let out = wide.slice(1, 1..1 + cols).unwrap();
                group_sum(&out, &x, group).unwrap();
                assert!(wide.fences_intact().unwrap(), "written beside, on {}", device.kind());
                let all = wide.to_vec::<f32>().unwrap();
                for row in all.chunks(cols + 2) {
                    assert_eq!((row[0], row[cols + 1]), (7.0, 7.0), "on {}", device.kind());
                }
                out.to_vec::<f32>().unwrap()
            };
            let (got, again) = (run(), run());
            assert_eq!(got, again, "{rows} rows of {cols} in {groups} groups on {}", device.kind());
            for ((got, want), squares) in got.iter().zip(&expected).zip(&squares) {
                // a rounding each term, of sums that wander some roots of the squares from zero; roundings cancel
                let most = 1e-7 * (2.0 + (rows as f64).sqrt()) * 4.0 * squares.sqrt();
                let off = (f64::from(*got) - want).abs();
                assert!(off <= most, "{rows} rows of {cols} in {groups}, on {}: off by {off}", device.kind());
            }
        }
    }
}

#[test]
fn of_groups_of_any_size() {
    for (rows, cols, groups) in
        [(1, 1, 1), (7, 3, 2), (100, 17, 100), (257, 48, 5), (4096, 5, 3), (33, 300, 40)]
    {
        let spread: Vec<u32> = (0..rows as u32).map(|r| r * 7919 % groups as u32).collect();
        case(rows, cols, groups, &spread);
        // all in the last one, the others empty
        case(rows, cols, groups, &vec![groups as u32 - 1; rows]);
    }
}

/// More rows than a software adapter's loop may have rounds.
#[test]
fn of_a_group_of_very_many_rows() {
    case(70_000, 2, 2, &vec![1; 70_000]);
}

#[test]
fn of_no_rows_nothing_is_added() {
    case(0, 3, 2, &[]);
}

#[test]
fn every_row_needs_a_group_that_is_there() {
    for device in devices() {
        let x = place(&device, &[3, 2], &[1.0; 6], Placing::Dense).unwrap();
        let out = place(&device, &[2, 2], &[0.0; 4], Placing::Dense).unwrap();
        assert!(group_sum(&out, &x, &[0, 1]).is_err());
        assert!(group_sum(&out, &x, &[0, 1, 2]).is_err());
        assert!(group_sum(&out.slice(1, 0..1).unwrap(), &x, &[0, 1, 1]).is_err());
    }
}
