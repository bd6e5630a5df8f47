//! Embedded patches cut to a width, with masked ones replaced: several groups of maps, masks coarser than the
//! maps.

use poa_gpu::ops::mask_rows::{MaskedMaps, mask_rows};
use poa_gpu::tensor::Tensor;

use crate::support::{Operand, Tolerance, check};

#[test]
fn of_two_groups() {
    for (width, cols, (count_a, side_a, cells), (count_b, side_b)) in [
        (3, 3, (1, 1, 1), (1, 2)),
        (16, 12, (3, 8, 4), (4, 3)),
        (70, 65, (5, 6, 2), (0, 4)),
        (8, 4, (9, 12, 4), (2, 1)),
    ] {
        let mask: Vec<u32> = (0..count_a * cells * cells).map(|i| (i * 7 % 5 < 2) as u32).collect();
        let (rows_a, rows_b) = (count_a * side_a * side_a, count_b * side_b * side_b);
        for parameter in [false, true] {
            let mut x = Operand::new(1, &[rows_a + rows_b, width]).strided();
            let mut token = Operand::new(2, &[cols]);
            if parameter {
                (x, token) = (x.parameter(), token.strided().parameter());
            }
            check(
                &format!("mask_rows of {rows_a} and {rows_b} rows"),
                &[x, token],
                Tolerance::default(),
                |tape, v| {
                    let mask = Tensor::from_slice(v[0].value().device(), &[mask.len()], &mask)?;
                    let maps = [
                        MaskedMaps { count: count_a, side: side_a, cells, mask: Some(mask) },
                        MaskedMaps { count: count_b, side: side_b, cells: 1, mask: None },
                    ];
                    Ok(vec![mask_rows(tape, &v[0], &v[1], &maps)?])
                },
                &|x| {
                    let factor = side_a / cells;
                    let masked = |r: usize| {
                        let (map, y, z) = (r / side_a / side_a, r / side_a % side_a, r % side_a);
                        r < rows_a && mask[(map * cells + y / factor) * cells + z / factor] != 0
                    };
                    let row = |r: usize| if masked(r) { &x[1][..] } else { &x[0][r * width..][..cols] };
                    vec![(0..rows_a + rows_b).flat_map(|r| row(r).to_vec()).collect()]
                },
            );
        }
    }
}
