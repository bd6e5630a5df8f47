//! Means of runs of rows: runs that overlap, rows in none, runs that repeat.

use poa_gpu::ops::pool_rows::{RowSpans, pool_rows};

use crate::support::{Operand, Tolerance, check, devices};

#[test]
fn of_runs_that_overlap() {
    for (rows, width, spans) in [
        (1, 1, vec![(0, 1)]),
        (9, 5, vec![(0, 9), (4, 1), (4, 1), (2, 3), (8, 1)]),
        (40, 33, vec![(10, 20), (39, 1), (10, 1)]),
        (64, 96, (0..100).map(|i| (i * 13 % 60, 1 + i % 4)).collect::<Vec<_>>()),
    ] {
        for parameter in [false, true] {
            let mut x = Operand::new(1, &[rows, width]).strided();
            if parameter {
                x = x.parameter();
            }
            check(
                &format!("pool_rows of {} runs over {rows}x{width}", spans.len()),
                &[x],
                Tolerance::default(),
                |tape, v| {
                    let spans = RowSpans::new(v[0].value().device(), rows, &spans)?;
                    Ok(vec![pool_rows(tape, &v[0], &spans)?])
                },
                &|x| {
                    let mean = |&(first, length): &(usize, usize), c: usize| {
                        (first..first + length).map(|r| x[0][r * width + c]).sum::<f64>() / length as f64
                    };
                    vec![spans.iter().flat_map(|s| (0..width).map(move |c| mean(s, c))).collect()]
                },
            );
        }
    }
}

#[test]
fn refuses_runs_beyond_the_rows() {
    for device in devices() {
        assert!(RowSpans::new(&device, 4, &[(0, 4)]).is_ok());
        assert!(RowSpans::new(&device, 4, &[(3, 2)]).is_err());
        assert!(RowSpans::new(&device, 4, &[(1, 0)]).is_err());
    }
}
