//! Average pooling over runs of rows: runs that overlap, rows in none, runs that repeat, several matrices.

use poa_gpu::autograd::{Tape, Var};
use poa_gpu::ops::avg_pool::{Run, avg_pool};
use poa_gpu::tensor::Tensor;

use crate::support::{Operand, Tolerance, check, devices};

fn means(x: &[f64], width: usize, Run { first, length, .. }: Run) -> impl Iterator<Item = f64> {
    (0..width).map(move |c| (first..first + length).map(|r| x[r * width + c]).sum::<f64>() / length as f64)
}

#[test]
fn of_runs_that_overlap() {
    for (rows, width, spans) in [
        (1, 1, vec![(0, 1)]),
        (9, 5, vec![(0, 9), (4, 1), (4, 1), (2, 3), (8, 1)]),
        (40, 33, vec![(10, 20), (39, 1), (10, 1)]),
        (64, 96, (0..100).map(|i| (i * 13 % 60, 1 + i % 4)).collect::<Vec<_>>()),
    ] {
        let runs: Vec<Run> = spans.iter().map(|&(first, length)| Run { source: 0, first, length }).collect();
        for parameter in [false, true] {
            let mut x = Operand::new(1, &[rows, width]).strided();
            if parameter {
                x = x.parameter();
            }
            check(
                &format!("avg_pool of {} runs over {rows}x{width}", runs.len()),
                &[x],
                Tolerance::default(),
                |tape, v| Ok(vec![avg_pool(tape, &[&v[0]], &runs)?]),
                &|x| vec![runs.iter().flat_map(|run| means(&x[0], width, *run)).collect()],
            );
        }
    }
}

#[test]
fn of_several_matrices() {
    let run = |(source, first, length)| Run { source, first, length };
    let runs = [(1, 2, 1), (0, 0, 5), (1, 2, 1), (0, 4, 1), (1, 0, 2), (1, 2, 1), (0, 0, 1)].map(run);
    let second = [run((0, 1, 1))];
    for width in [1, 7, 300] {
        check(
            "avg_pool of two matrices, one of them twice",
            &[Operand::new(1, &[5, width]).strided(), Operand::new(2, &[3, width])],
            Tolerance::default(),
            |tape, v| {
                let y = avg_pool(tape, &[&v[0], &v[1]], &runs)?;
                Ok(vec![y, avg_pool(tape, &[&v[0], &v[1]], &second)?])
            },
            &|x| {
                let all = |runs: &[Run]| {
                    runs.iter().flat_map(|r| means(&x[r.source], width, *r)).collect::<Vec<f64>>()
                };
                vec![all(&runs), all(&second)]
            },
        );
    }
}

#[test]
fn refuses_runs_beyond_the_rows() {
    for device in devices() {
        let tape = Tape::no_grad();
        let matrix = |rows: usize| {
            Var::constant(Tensor::from_slice(&device, &[rows, 2], &vec![0.0f32; 2 * rows]).unwrap())
        };
        let x = matrix(4);
        let fits = |source, first, length| avg_pool(&tape, &[&x], &[Run { source, first, length }]).is_ok();
        assert!(fits(0, 0, 4));
        assert!(!fits(0, 3, 2) && !fits(0, 1, 0) && !fits(1, 0, 1));
        assert!(avg_pool(&tape, &[], &[]).is_err());
    }
}
