//! Packed tokens of crops of two sizes, one of them masked.

use poa_gpu::ops::tokens::{TokenGroup, TokenParameters, tokens};
use poa_gpu::tensor::Tensor;

use crate::support::{Operand, Tolerance, check};

#[test]
fn of_two_groups() {
    for (width, (crops_a, n_a), (crops_b, n_b), registers) in [
        (3, (1, 1), (1, 2), 0),
        (16, (4, 9), (6, 4), 0),
        (33, (5, 16), (3, 3), 0),
        (3, (1, 1), (1, 2), 1),
        (16, (4, 9), (6, 4), 4),
        (33, (5, 16), (3, 3), 7),
    ] {
        // registers are columns of wider ones, as in a sub-network
        let table = Operand::new(8, &[registers.max(1), width]).strided().parameter();
        let mask: Vec<u32> = (0..crops_a * n_a).map(|i| (i % 3 == 0) as u32).collect();
        check(
            "tokens",
            &[
                Operand::new(1, &[width]).parameter(),
                Operand::new(2, &[width]).parameter(),
                Operand::new(3, &[width]).parameter(),
                Operand::new(4, &[crops_a * n_a, width]),
                Operand::new(5, &[n_a, width]).strided().parameter(),
                Operand::new(6, &[crops_b * n_b, width]).strided(),
                Operand::new(7, &[n_b, width]),
                if registers > 0 { table } else { table.constant() },
            ],
            Tolerance::default(),
            |tape, v| {
                let shared = TokenParameters {
                    cls: v[0].clone(),
                    cls_position: v[1].clone(),
                    mask_token: v[2].clone(),
                    registers: (registers > 0).then(|| v[7].clone()),
                };
                let mask = Tensor::from_slice(v[0].value().device(), &[mask.len()], &mask)?;
                let groups = [
                    TokenGroup {
                        crops: crops_a,
                        patches: v[3].clone(),
                        positions: v[4].clone(),
                        mask: Some(mask),
                    },
                    TokenGroup { crops: crops_b, patches: v[5].clone(), positions: v[6].clone(), mask: None },
                ];
                Ok(vec![tokens(tape, &groups, &shared)?])
            },
            &|x| {
                let mut y = Vec::new();
                for (crops, n, patches, positions, masked) in
                    [(crops_a, n_a, &x[3], &x[4], true), (crops_b, n_b, &x[5], &x[6], false)]
                {
                    for crop in 0..crops {
                        y.extend(x[0].iter().zip(&x[1]).map(|(a, b)| a + b));
                        y.extend(&x[7][..registers * width]);
                        for t in 0..n {
                            for c in 0..width {
                                let at = crop * n + t;
                                let value =
                                    if masked && mask[at] != 0 { x[2][c] } else { patches[at * width + c] };
                                y.push(value + positions[t * width + c]);
                            }
                        }
                    }
                }
                vec![y]
            },
        );
    }
}
