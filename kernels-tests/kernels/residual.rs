//! LayerScale + residual, on all rows, on subsets and with a factor a sample.

use poa_gpu::ops::residual::{RowSubset, RowTable, residual};

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

#[test]
fn a_row_named_twice_is_refused() {
    for device in crate::support::devices() {
        assert!(RowSubset::new(&device, 4, &[1, 1], &[1.0, 1.0]).is_err());
        assert!(RowSubset::new(&device, 4, &[4], &[1.0]).is_err());
    }
}
