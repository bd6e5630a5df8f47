//! Picked rows and row ranges.

use poa_gpu::ops::gather::{gather_rows, narrow_rows};
use poa_gpu::tensor::Tensor;

use crate::support::{Operand, Tolerance, check};

#[test]
fn picked_rows() {
    for (rows, cols, index) in [
        (1, 1, vec![0u32]),
        (9, 17, vec![8, 2, 5]),
        (500, 48, (0..400).map(|i| (i * 3 % 500) as u32).collect()),
    ] {
        for strided in [false, true] {
            let mut x = Operand::new(1, &[rows, cols]);
            x = if strided { x.strided().parameter() } else { x };
            check(
                "gather_rows",
                &[x],
                Tolerance { atol: 1e-6, rtol: 1e-6 },
                |tape, v| {
                    let index = Tensor::from_slice(v[0].value().device(), &[index.len()], &index)?;
                    Ok(vec![gather_rows(tape, &v[0], &index)?])
                },
                &|x| vec![index.iter().flat_map(|&i| x[0][i as usize * cols..][..cols].to_vec()).collect()],
            );
        }
    }
}

#[test]
fn row_ranges_share_one_gradient() {
    check(
        "narrow_rows",
        &[Operand::new(1, &[11, 8])],
        Tolerance { atol: 1e-6, rtol: 1e-6 },
        |tape, v| Ok(vec![narrow_rows(tape, &v[0], 2, 4)?, narrow_rows(tape, &v[0], 5, 6)?]),
        &|x| vec![x[0][16..48].to_vec(), x[0][40..88].to_vec()],
    );
}
