//! LayerScale + residual, on all rows, on subsets and with a factor a sample.

use poa_gpu::ops::residual::residual;
use poa_gpu::ops::row_subset::{RowSubset, RowTable, Run};

use crate::support::{Operand, Placing, Tolerance, check};

fn reference(x: &[f64], b: &[f64], gamma: &[f64], rows: &[u32], scale: &[f32]) -> Vec<f64> {
    let n = gamma.len();
    let mut z = x.to_vec();
    for (i, (&r, &s)) in rows.iter().zip(scale).enumerate() {
        for c in 0..n {
            z[r as usize * n + c] += s as f64 * gamma[c] * b[i * n + c];
        }
    }
    z
}

#[test]
fn with_all_rows() {
    for [rows, cols] in [[1, 1], [7, 17], [197, 48], [300, 100], [20, 384], [3, 9000]] {
        for placing in [Placing::Dense, Placing::Strided, Placing::Vec4Aligned] {
            let mut operands =
                [Operand::new(1, &[rows, cols]), Operand::new(2, &[rows, cols]), Operand::new(3, &[cols])];
            operands.iter_mut().for_each(|o| o.placing = placing);
            operands[2].parameter = placing != Placing::Dense;
            let all: Vec<u32> = (0..rows as u32).collect();
            check(
                &format!("residual {rows}x{cols}"),
                &operands,
                Tolerance::default(),
                |tape, v| Ok(vec![residual(tape, &v[0], &v[1], &v[2], None)?]),
                &|x| vec![reference(&x[0], &x[1], &x[2], &all, &vec![1.0; rows])],
            );
        }
    }
}

#[test]
fn with_a_constant_beside() {
    for constant in [1, 2] {
        let mut operands = [Operand::new(1, &[70, 48]), Operand::new(2, &[70, 48]), Operand::new(3, &[48])];
        operands[constant].tracked = false;
        let all: Vec<u32> = (0..70).collect();
        check(
            "residual with a constant",
            &operands,
            Tolerance::default(),
            |tape, v| Ok(vec![residual(tape, &v[0], &v[1], &v[2], None)?]),
            &|x| vec![reference(&x[0], &x[1], &x[2], &all, &[1.0; 70])],
        );
    }
}

#[test]
fn with_a_subset_of_rows() {
    for (rows, cols, picked) in
        [(5, 16, vec![3u32, 0]), (300, 48, (0..150).map(|i| (i * 7 % 300) as u32).collect())]
    {
        let scale: Vec<f32> = (0..picked.len()).map(|i| 1.25 + 0.1 * (i % 3) as f32).collect();
        check(
            "residual of a subset",
            &[
                Operand::new(1, &[rows, cols]),
                Operand::new(2, &[picked.len(), cols]).strided(),
                Operand::new(3, &[cols]).parameter(),
            ],
            Tolerance::default(),
            |tape, v| {
                let subset = RowSubset::new(v[0].value().device(), rows, &picked, &scale)?;
                Ok(vec![residual(tape, &v[0], &v[1], &v[2], Some(&subset))?])
            },
            &|x| vec![reference(&x[0], &x[1], &x[2], &picked, &scale)],
        );
    }
}

#[test]
fn with_dropped_samples() {
    let (lengths, keep) = ([3usize, 3, 2], [true, false, true]);
    let scale = [1.25f32, 1.25, 1.25, 0.0, 0.0, 0.0, 1.25, 1.25];
    let rows: Vec<u32> = (0..8).collect();
    check(
        "drop path",
        &[Operand::new(1, &[8, 12]), Operand::new(2, &[8, 12]), Operand::new(3, &[12])],
        Tolerance::default(),
        |tape, v| {
            let table = RowTable::of_samples(&lengths, &keep, 1.25);
            let subset = RowSubset::all(v[0].value().device(), &[&table])?.remove(0);
            Ok(vec![residual(tape, &v[0], &v[1], &v[2], Some(&subset))?])
        },
        &|x| vec![reference(&x[0], &x[1], &x[2], &rows, &scale)],
    );
}

/// Runs of all lengths, in any order and with gaps before, between and behind them, and several branches in one upload.
#[test]
fn with_runs_of_rows() {
    let (trunk_rows, cols) = (400, 8);
    let run = |first: usize, count: usize, factor: f32| Run { first, count, factor };
    let tables = [
        vec![run(300, 65, 1.5), run(3, 1, 0.5), run(100, 200, 2.0)],
        vec![run(0, 400, 0.25)],
        vec![run(336, 64, 3.0), run(0, 63, 1.0), run(63, 2, 0.0)],
    ];
    let tables = tables.map(|runs| RowTable { trunk_rows, runs });
    for (i, table) in tables.iter().enumerate() {
        let rows: Vec<u32> =
            table.runs.iter().flat_map(|r| r.first..r.first + r.count).map(|row| row as u32).collect();
        let scale: Vec<f32> = table.runs.iter().flat_map(|r| vec![r.factor; r.count]).collect();
        assert_eq!(table.rows(), rows.len());
        let operands = [
            Operand::new(1, &[trunk_rows, cols]),
            Operand::new(2, &[rows.len(), cols]),
            Operand::new(3, &[cols]).parameter(),
        ];
        check(
            "residual of runs",
            &operands,
            Tolerance::default(),
            |tape, v| {
                let all: Vec<&RowTable> = tables.iter().collect();
                let subsets = RowSubset::all(v[0].value().device(), &all)?;
                assert_eq!(subsets[i].rows.to_vec::<u32>()?, rows);
                Ok(vec![residual(tape, &v[0], &v[1], &v[2], Some(&subsets[i]))?])
            },
            &|x| vec![reference(&x[0], &x[1], &x[2], &rows, &scale)],
        );
    }
}

/// The same rows in two branches, of which each sample has a factor of its own.
#[test]
fn with_other_factors() {
    let runs = [(3, 1.0f32), (65, 0.5), (2, 0.0), (40, 2.0), (30, 0.25)];
    let scale: Vec<f32> = runs.iter().flat_map(|(count, factor)| vec![*factor; *count]).collect();
    let rows: Vec<u32> = (0..70).collect();
    for branch in 0..2 {
        check(
            "residual with other factors",
            &[Operand::new(1, &[70, 4]), Operand::new(2, &[70, 4]), Operand::new(3, &[4])],
            Tolerance::default(),
            |tape, v| {
                let every_row = RowTable::of_samples(&[70], &[true], 1.0);
                let every_row = RowSubset::all(v[0].value().device(), &[&every_row])?.remove(0);
                assert!(every_row.with_scales(&runs[..2]).is_err(), "68 factors of 70 rows");
                let drawn = every_row.with_scales(&runs)?;
                assert_eq!(drawn.len(), 2);
                Ok(vec![residual(tape, &v[0], &v[1], &v[2], Some(&drawn[branch]))?])
            },
            &|x| vec![reference(&x[0], &x[1], &x[2], &rows, &scale[70 * branch..][..70])],
        );
    }
}

#[test]
fn a_row_named_twice_is_refused() {
    for device in crate::support::devices() {
        assert!(RowSubset::new(&device, 4, &[1, 1], &[1.0, 1.0]).is_err());
        assert!(RowSubset::new(&device, 4, &[4], &[1.0]).is_err());
        assert!(RowSubset::new(&device, 4, &[3], &[]).is_err());
        let run = |first: usize, count: usize| Run { first, count, factor: 1.0 };
        for runs in [vec![run(2, 2), run(0, 3)], vec![run(1, 4)], vec![run(0, 2), run(0, 2)]] {
            assert!(RowSubset::all(&device, &[&RowTable { trunk_rows: 4, runs }]).is_err());
        }
        assert_eq!(RowSubset::new(&device, 4, &[], &[]).unwrap().rows.elements(), 0);
    }
}
