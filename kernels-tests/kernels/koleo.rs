//! KoLeo against the plain algorithm, with the gradient through both rows of every pair.

use poa_gpu::ops::koleo::koleo;

use crate::l2_normalize::reference as normalize;
use crate::support::{Operand, Tolerance, check};

fn reference(x: &[f64], cols: usize, groups: usize) -> f64 {
    let x = normalize(x, cols, 1e-8);
    let group = x.len() / cols / groups;
    let row = |i: usize| &x[i * cols..][..cols];
    let mut total = 0.0;
    for first in (0..groups).map(|g| g * group) {
        for i in first..first + group {
            let dot = |j: usize| row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum::<f64>();
            let others = (first..first + group).filter(|&j| j != i);
            let nearest = others.max_by(|&a, &b| dot(a).total_cmp(&dot(b))).unwrap_or(i);
            let distance =
                row(i).iter().zip(row(nearest)).map(|(a, b)| (a - b + 1e-8).powi(2)).sum::<f64>().sqrt();
            total -= (distance + 1e-8).ln() / group as f64;
        }
    }
    total
}

#[test]
fn of_views_of_any_size() {
    for (rows, cols, groups) in [(2, 7, 1), (6, 24, 2), (34, 16, 2), (300, 33, 1), (100, 1024, 2)] {
        for strided in [false, true] {
            let x = Operand::new(rows as u64, &[rows, cols]);
            check(
                &format!("koleo {rows}x{cols} in {groups}"),
                &[if strided { x.strided() } else { x }],
                Tolerance { atol: 3e-6, rtol: 3e-6 },
                |tape, v| Ok(vec![koleo(tape, &v[0], groups)?]),
                &|x| vec![vec![reference(&x[0], cols, groups)]],
            );
        }
    }
}

#[test]
fn rows_without_a_neighbour_get_no_gradient() {
    // the distance is that of the added 1e-8 alone
    check(
        "koleo of single rows",
        &[Operand::new(3, &[2, 16])],
        Tolerance::default(),
        |tape, v| Ok(vec![koleo(tape, &v[0], 2)?]),
        &|_| vec![vec![-2.0 * (5e-8f64).ln()]],
    );
}
