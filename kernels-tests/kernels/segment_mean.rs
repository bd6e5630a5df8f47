//! Means over runs of rows.

use poa_gpu::autograd::{Tape, Var};
use poa_gpu::ops::segment_mean::segment_mean;

use crate::support::{Operand, Tolerance, check, devices, place};

#[test]
fn of_runs_of_any_length() {
    for (segments, length, cols) in [(1, 1, 1), (3, 4, 17), (5, 197, 48), (64, 1, 300), (2, 16, 1024)] {
        for strided in [false, true] {
            let mut x = Operand::new(1, &[segments * length, cols]);
            x = if strided { x.strided().parameter() } else { x };
            check(
                &format!("means of {segments} runs of {length} rows of {cols}"),
                &[x],
                Tolerance { atol: 2e-6, rtol: 2e-6 },
                |tape, v| Ok(vec![segment_mean(tape, &v[0], segments)?]),
                &|x| {
                    let mean = |s: usize, c: usize| {
                        (0..length).map(|i| x[0][(s * length + i) * cols + c]).sum::<f64>() / length as f64
                    };
                    vec![(0..segments).flat_map(|s| (0..cols).map(move |c| mean(s, c))).collect()]
                },
            );
        }
    }
}

#[test]
fn a_second_use_adds_to_the_gradient() {
    check(
        "two means",
        &[Operand::new(1, &[12, 5])],
        Tolerance { atol: 2e-6, rtol: 2e-6 },
        |tape, v| Ok(vec![segment_mean(tape, &v[0], 3)?, segment_mean(tape, &v[0], 12)?]),
        &|x| {
            let thirds =
                (0..15).map(|at| (0..4).map(|i| x[0][(at / 5 * 4 + i) * 5 + at % 5]).sum::<f64>() / 4.0);
            vec![thirds.collect(), x[0].clone()]
        },
    );
}

#[test]
fn runs_must_divide_the_rows() {
    for device in devices() {
        let x = Operand::new(1, &[7, 2]);
        let x = Var::constant(place(&device, &x.shape, &x.values, x.placing).unwrap());
        assert!(segment_mean(&Tape::no_grad(), &x, 3).is_err());
        assert!(segment_mean(&Tape::no_grad(), &x, 0).is_err());
    }
}
