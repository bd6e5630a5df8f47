//! Activations of half precision on a GPU: every operation that takes them beside the CPU's single precision
//! on the same rounded values.

use std::collections::HashSet;

use poa_gpu::gpu::{Caps, Cooperative};
use poa_gpu::ops::attention::{
    Plan, Problem, Queries, SequenceGroup, Variant, attention, attention_of, attention_of_planned,
    attention_planned, plain_plans, plans,
};
use poa_gpu::ops::avg_pool::{Run, avg_pool};
use poa_gpu::ops::conv::{Conv, MapShape, conv_images, conv2d};
use poa_gpu::ops::gather::{gather_rows, narrow_rows};
use poa_gpu::ops::gelu::gelu;
use poa_gpu::ops::group_norm::{GroupNorm, group_norm};
use poa_gpu::ops::layer_norm::{layer_norm, layer_norm_padded};
use poa_gpu::ops::linear::{LinearWeights, linear, mlp};
use poa_gpu::ops::mask_rows::{MaskedMaps, mask_rows};
use poa_gpu::ops::max_pool::max_pool;
use poa_gpu::ops::patch_embed::patch_embed;
use poa_gpu::ops::patch_merge::{Neighbours, merge_norm, reduction};
use poa_gpu::ops::reduce::column_sum;
use poa_gpu::ops::residual::residual;
use poa_gpu::ops::row_subset::RowSubset;
use poa_gpu::ops::swiglu::swiglu;
use poa_gpu::ops::tokens::{TokenGroup, TokenParameters, tokens};
use poa_gpu::ops::window_attention::{
    MapGroup, Windows, problem, window_attention, window_attention_planned,
};
use poa_gpu::tensor::{DType, Device, Tensor, scale};

use crate::support::{Operand, Placing, assert_close, check_half, devices, gpu, place, place_half, random};

fn act(seed: u64, shape: &[usize]) -> (Operand, bool) {
    (Operand::new(seed, shape), true)
}

/// An operand of products: half precision, with a gradient in single.
fn weight(seed: u64, shape: &[usize]) -> (Operand, bool) {
    (Operand::new(seed, shape).map(|v| v * 0.3).strided().parameter(), true)
}

fn vector(seed: u64, shape: &[usize]) -> (Operand, bool) {
    (Operand::new(seed, shape).parameter(), false)
}

#[test]
fn linear_layers() {
    for [rows, k, n] in [[1, 3, 5], [17, 16, 24], [130, 33, 70], [65, 64, 40]] {
        let operands = [act(1, &[rows, k]), weight(2, &[n, k]), vector(3, &[n])];
        check_half(&format!("linear {rows}x{k}x{n}"), &operands, |tape, v| {
            let layer = LinearWeights { weight: v[1].clone(), bias: Some(v[2].clone()), alpha: 1.5 };
            Ok(vec![linear(tape, &v[0], &layer)?])
        });
    }
    // three groups of rows, as of q, k and v
    let operands = [act(1, &[37, 16]), weight(2, &[3, 8, 16]), vector(3, &[3, 8])];
    check_half("qkv", &operands, |tape, v| {
        let layer = LinearWeights { weight: v[1].clone(), bias: Some(v[2].clone()), alpha: 0.7 };
        Ok(vec![linear(tape, &v[0], &layer)?])
    });
}

#[test]
fn perceptrons() {
    for [rows, k, hidden, n] in [[1, 3, 5, 2], [17, 16, 64, 16], [130, 33, 70, 65]] {
        let operands = [
            act(1, &[rows, k]),
            weight(2, &[hidden, k]),
            vector(3, &[hidden]),
            weight(4, &[n, hidden]),
            vector(5, &[n]),
        ];
        check_half(&format!("mlp {rows}x{k}x{hidden}x{n}"), &operands, |tape, v| {
            let layer =
                |w: usize| LinearWeights { weight: v[w].clone(), bias: Some(v[w + 1].clone()), alpha: 1.25 };
            Ok(vec![mlp(tape, &v[0], &layer(1), &layer(3))?])
        });
    }
}

#[test]
fn layer_norms() {
    for [rows, cols] in [[1, 5], [17, 64], [33, 197], [5, 1030]] {
        for gathered in [false, true] {
            let operands =
                [(Operand::new(1, &[rows, cols]).strided(), true), vector(2, &[cols]), vector(3, &[cols])];
            check_half(&format!("layer norm {rows}x{cols}, gathered: {gathered}"), &operands, |tape, v| {
                let index: Vec<u32> = (0..rows as u32).rev().step_by(2).collect();
                let index = Tensor::from_slice(v[0].value().device(), &[index.len()], &index)?;
                Ok(vec![layer_norm(tape, &v[0], &v[1], &v[2], 1e-6, gathered.then_some(&index))?])
            });
        }
    }
}

#[test]
fn residuals() {
    for subset in [false, true] {
        let branch_rows = if subset { 7 } else { 19 };
        let operands = [act(1, &[19, 33]), act(2, &[branch_rows, 33]), vector(3, &[33])];
        check_half(&format!("residual, subset: {subset}"), &operands, |tape, v| {
            let rows: Vec<u32> = (0..7).map(|i| (i * 5) % 19).collect();
            let factors = [0.0, 1.0, 2.0, 1.5, 1.0, 3.0, 0.5];
            let rows = RowSubset::new(v[0].value().device(), 19, &rows, &factors)?;
            Ok(vec![residual(tape, &v[0], &v[1], &v[2], subset.then_some(&rows))?])
        });
    }
}

/// Attention of two heads by this plan on a GPU.
fn check_attention(operand: Operand, groups: &[SequenceGroup], plan: &Plan) {
    check_half(&format!("attention {plan:?}"), &[(operand, true)], |tape, v| {
        let scale = 1.0 / (plan.head_dim as f32).sqrt();
        Ok(vec![match v[0].value().device() {
            Device::Cpu(_) => attention(tape, &v[0], groups, 2, scale)?,
            Device::Gpu(_) => attention_planned(tape, &v[0], groups, 2, scale, plan)?,
        }])
    });
}

#[test]
fn attention_with_every_plan() {
    let groups = [SequenceGroup { count: 2, length: 21 }, SequenceGroup { count: 1, length: 37 }];
    let Device::Gpu(device) = gpu() else { unreachable!("gpu() is a GPU") };
    for head_dim in [6, 16, 64] {
        let problem = Problem { groups: groups.to_vec(), heads: 2, head_dim, half: true };
        for plan in plans(&problem, device.caps()) {
            check_attention(Operand::new(1, &[79, 6 * head_dim]).strided(), &groups, &plan);
        }
    }
}

/// Queries of some tokens alone, with every plan and those of plain arithmetic in cooperative matrices' place.
#[test]
fn attention_of_some_queries() {
    let groups = [SequenceGroup { count: 2, length: 21 }, SequenceGroup { count: 1, length: 75 }];
    let counts = [1, 0, 40];
    let Device::Gpu(device) = gpu() else { unreachable!("gpu() is a GPU") };
    for head_dim in [6, 16] {
        let problem = Problem { groups: groups.to_vec(), heads: 2, head_dim, half: true };
        // of those without such matrices the first says as much as all
        let mut all = plain_plans(&problem, device.caps());
        assert_eq!(all.len(), if head_dim == 16 { 3 } else { 0 });
        all.extend(plans(&problem, device.caps()).into_iter().take(1));
        for plan in all {
            let operand = Operand::new(1, &[(41 + 2 * 117) * 2 * head_dim]);
            check_half(&format!("attention of {counts:?} by {plan:?}"), &[(operand, true)], |tape, v| {
                let (scale, device) = (1.0 / (head_dim as f32).sqrt(), v[0].value().device());
                let words = Queries::words(&groups, &counts);
                let table = Tensor::from_slice(device, &[words.len()], &words)?;
                let (queries, heads) = (Queries::new(counts.to_vec(), table)?, [2, head_dim]);
                Ok(vec![match device {
                    Device::Cpu(_) => attention_of(tape, &v[0], &groups, &queries, heads, scale)?,
                    Device::Gpu(_) => {
                        attention_of_planned(tape, &v[0], &groups, &queries, heads, scale, &plan)?
                    }
                }])
            });
        }
    }
}

#[test]
fn gathered_rows() {
    for strided in [false, true] {
        let x = Operand::new(1, &[23, 17]);
        let x = if strided { x.strided() } else { x };
        check_half("gather_rows", &[(x, true)], |tape, v| {
            let index = Tensor::from_slice(v[0].value().device(), &[4], &[22u32, 0, 7, 8])?;
            Ok(vec![gather_rows(tape, &v[0], &index)?])
        });
    }
}

/// The kernels for cooperative matrices, with plain arithmetic in the matrices' place.
#[test]
fn tiles_of_cooperative_attention() {
    let groups = [SequenceGroup { count: 2, length: 21 }, SequenceGroup { count: 1, length: 75 }];
    let Device::Gpu(device) = gpu() else { unreachable!("gpu() is a GPU") };
    let mut fragments = HashSet::new();
    // dense, and in rows that lie apart, of which other kernels take those that no vectors can be read from
    for (head_dim, placing) in [(16, Placing::Vec4Aligned), (16, Placing::Strided), (48, Placing::Dense)] {
        let problem = Problem { groups: groups.to_vec(), heads: 2, head_dim, half: true };
        for plan in plain_plans(&problem, device.caps()) {
            fragments.insert(plan.variant);
            check_attention(Operand { placing, ..Operand::new(1, &[117, 6 * head_dim]) }, &groups, &plan);
        }
    }
    assert_eq!(fragments.len(), 3, "only {fragments:?} fit");
}

/// Rows whose largest score rises from tile to tile by less than what forward sums take without being shrunk, by more,
/// first one and then the other, and not at all; in one workgroup, so that some shrink by nothing.
#[test]
fn rising_scores_of_cooperative_attention() {
    let groups = [SequenceGroup { count: 1, length: 140 }];
    let Device::Gpu(device) = gpu() else { unreachable!("gpu() is a GPU") };
    let (head_dim, scale) = (16, 0.25);
    // the first element of a row's q and k makes its scores, which are the product of these and the scale
    let (factor, largest) = ([1.0, -1.0, 0.25, 0.0], [0.0, 16.0, 24.0, 64.0, 62.0]);
    let rises = largest.windows(2).map(|w| scale * (w[1] - w[0]));
    assert!(rises.clone().any(|rise| rise > 5.6) && rises.clone().any(|rise| rise > 1.0 && rise < 5.5));
    let mut qkv = Operand::new(1, &[140, 6 * head_dim]);
    for (row, values) in qkv.values.chunks_exact_mut(6 * head_dim).enumerate() {
        for (i, part) in values.chunks_exact_mut(head_dim).take(4).enumerate() {
            part.fill(0.0);
            part[0] = if i < 2 { factor[row % 4] } else { largest[row / 32] - (row % 5) as f32 };
        }
    }
    let problem = Problem { groups: groups.to_vec(), heads: 2, head_dim, half: true };
    let plans = plain_plans(&problem, device.caps());
    assert_eq!(plans.len(), 3);
    plans.iter().for_each(|plan| check_attention(qkv.clone(), &groups, plan));
}

/// What adapters are asked for when they are opened, of kernels that are right: each plan beside the first.
#[test]
fn what_is_asked_of_cooperative_attention() {
    let device = gpu();
    let Device::Gpu(adapter) = &device else { unreachable!("gpu() is a GPU") };
    let problem = Problem { groups: Vec::new(), heads: 2, head_dim: 32, half: true };
    let plain = &plans(&problem, adapter.caps())[0];
    for plan in plain_plans(&problem, adapter.caps()) {
        poa_gpu::ops::attention::check_attention(&device, &plan, plain, 131, 2).unwrap();
    }
}

/// Attention of heads of 64 where subgroups are of one size and where the driver chooses: in how many invocations,
/// and in none where there may be too many subgroups or too little memory.
#[test]
fn plans_of_cooperative_attention() {
    let problem = Problem { groups: Vec::new(), heads: 2, head_dim: 64, half: true };
    let lanes = |least: u32, most: u32, kibibytes: u32| {
        let caps = Caps {
            f16: true,
            subgroups: true,
            subgroup_size: (least, most),
            cooperative: Cooperative { eight: false, ..Cooperative::ALL },
            workgroup_bytes: kibibytes << 10,
            workgroup_size: 1024,
            ..Caps::minimal()
        };
        let all = plans(&problem, &caps).into_iter();
        let cooperative = all.filter(|plan| matches!(plan.variant, Variant::Cooperative { .. }));
        cooperative.map(|plan| plan.lanes).collect::<Vec<_>>()
    };
    assert_eq!(lanes(32, 32, 48), [128]);
    assert_eq!(lanes(64, 64, 48), [256]);
    assert_eq!(lanes(32, 64, 64), [256]);
    assert_eq!(lanes(32, 64, 48), [128]);
    assert_eq!(lanes(32, 64, 16), [0; 0]);
    assert_eq!(lanes(4, 64, 64), [0; 0]);
}

/// Two heads by this plan on a GPU, or by the one that would be chosen, in windows that are shifted by half.
fn check_windows(
    maps: &[(usize, usize, usize)],
    window: usize,
    d: usize,
    placing: Placing,
    plan: Option<&Plan>,
) {
    let map = |&(count, height, width): &(usize, usize, usize)| MapGroup { count, height, width };
    let maps: Vec<MapGroup> = maps.iter().map(map).collect();
    let padded = |m: &MapGroup| [m.height, m.width].iter().any(|side| !side.is_multiple_of(window));
    let rows = maps.iter().map(MapGroup::rows).sum::<usize>() + usize::from(maps.iter().any(padded));
    let span = 2 * window - 1;
    let qkv = (Operand { placing, ..Operand::new(1, &[rows, 6 * d]) }, true);
    let bias = (Operand::new(2, &[span * span, 2]).strided().parameter(), false);
    check_half(&format!("{maps:?} in windows of {window}, {plan:?}"), &[qkv, bias], |tape, v| {
        let device = v[0].value().device();
        let windows = Windows::new(device, &maps, window, window / 2)?;
        let scale = (d as f32).powf(-0.5);
        Ok(vec![match (device, plan) {
            (Device::Gpu(_), Some(plan)) => {
                window_attention_planned(tape, &v[0], &v[1], &windows, (2, scale), plan)?
            }
            _ => window_attention(tape, &v[0], &v[1], &windows, 2, scale)?,
        }])
    });
}

#[test]
fn window_attention_with_every_plan() {
    let Device::Gpu(device) = gpu() else { unreachable!("gpu() is a GPU") };
    for (d, window, placing) in
        [(6, 3, Placing::Strided), (16, 4, Placing::Vec4Aligned), (32, 5, Placing::Dense)]
    {
        let maps = [(2, 2 * window, window), (2, window - 1, window + 1)];
        let group = MapGroup { count: 1, height: window, width: window };
        let windows = Windows::new(&gpu(), &[group], window, 0).unwrap();
        for plan in plans(&problem(&windows, 2, d), device.caps()) {
            check_windows(&maps, window, d, placing, Some(&plan));
        }
    }
}

#[test]
fn window_attention_of_several_maps() {
    // padded and not, on both sides of a group without maps; windows of more tokens than a workgroup owns
    check_windows(&[(2, 6, 6), (3, 2, 4), (0, 5, 5), (1, 3, 3)], 3, 12, Placing::Strided, None);
    check_windows(&[(1, 12, 7)], 7, 16, Placing::Dense, None);
}

#[test]
fn merged_patches() {
    for (maps, width) in [(vec![(1, 2, 2)], 3), (vec![(2, 4, 6), (1, 3, 3)], 16), (vec![(3, 5, 2)], 70)] {
        let map = |(count, height, width): (usize, usize, usize)| MapGroup { count, height, width };
        let maps: Vec<MapGroup> = maps.into_iter().map(map).collect();
        let rows = maps.iter().map(MapGroup::rows).sum();
        let parameter = |seed| (Operand::new(seed, &[4, width]).strided().parameter(), false);
        let operands = [
            (Operand::new(1, &[rows, width]).strided(), true),
            parameter(2),
            parameter(3),
            weight(4, &[10, 4 * width]),
        ];
        check_half(&format!("merged patches of {maps:?}"), &operands, |tape, v| {
            let neighbours = Neighbours::new(v[0].value().device(), &maps)?;
            let y = merge_norm(tape, &v[0], &v[1], &v[2], 1e-5, &neighbours)?;
            let weight = v[3].view(|w| w.reshape(&[10, 4, width]))?;
            Ok(vec![reduction(tape, &y, &weight, 1.5)?, y])
        });
    }
}

#[test]
fn padded_norms_and_masked_maps() {
    let operands = [(Operand::new(1, &[17, 20]).strided(), true), vector(2, &[20]), vector(3, &[20])];
    check_half("layer norm with zeros", &operands, |tape, v| {
        Ok(vec![layer_norm_padded(tape, &v[0], &v[1], &v[2], 1e-6, 1)?])
    });
    let operands = [(Operand::new(1, &[48 + 12, 20]).strided(), true), vector(2, &[13])];
    check_half("masked maps", &operands, |tape, v| {
        let mask: Vec<u32> = (0..12).map(|i| u32::from(i % 5 < 2)).collect();
        let mask = Tensor::from_slice(v[0].value().device(), &[12], &mask)?;
        let maps = [
            MaskedMaps { count: 3, side: 4, cells: 2, mask: Some(mask) },
            MaskedMaps { count: 3, side: 2, cells: 1, mask: None },
        ];
        // a second use: its gradient is added
        Ok(vec![mask_rows(tape, &v[0], &v[1], &maps)?, gelu(tape, &v[0])?])
    });
}

#[test]
fn pools() {
    let run = |(source, first, length)| Run { source, first, length };
    let runs = [(1, 2, 1), (0, 0, 5), (1, 2, 1), (0, 4, 1), (1, 0, 2)].map(run);
    let operands = [(Operand::new(1, &[5, 37]).strided(), true), act(2, &[3, 37])];
    check_half("means of runs", &operands, |tape, v| {
        let means = avg_pool(tape, &[&v[0], &v[1]], &runs)?;
        Ok(vec![means, avg_pool(tape, &[&v[0]], &[run((0, 1, 3))])?])
    });
    for ([images, height, width], cols) in [([1, 1, 1], 1), ([2, 9, 7], 5), ([1, 8, 12], 17)] {
        let shape = MapShape { images, height, width };
        let operands = [(Operand::new(1, &[shape.rows(), cols]).strided(), true)];
        check_half(&format!("largest of {shape:?}"), &operands, |tape, v| {
            Ok(vec![max_pool(tape, &v[0], shape)?.0, gelu(tape, &v[0])?])
        });
    }
}

#[test]
fn group_norms() {
    for (images, rows, cols, groups) in [(1, 9, 8, 2), (2, 35, 12, 3), (2, 300, 6, 2), (1, 9, 600, 2)] {
        for (relu, residual) in [(false, false), (true, false), (false, true), (true, true)] {
            let shape = [images * rows, cols];
            let mut operands = vec![
                (Operand::new(1, &shape).map(|v| v + 1.0).strided(), true),
                vector(2, &[cols]),
                vector(3, &[cols]),
            ];
            operands.extend(residual.then(|| act(4, &shape)));
            let norm = GroupNorm { images, groups, eps: 1e-5, relu };
            check_half(&format!("{norm:?}, residual: {residual}"), &operands, |tape, v| {
                Ok(vec![group_norm(tape, &v[0], &v[1], &v[2], v.get(3), norm)?, gelu(tape, &v[0])?])
            });
        }
    }
}

#[test]
fn convolutions() {
    let shape = MapShape { images: 2, height: 9, width: 7 };
    for [kernel, stride, padding] in [[1, 1, 0], [1, 2, 0], [3, 1, 1], [3, 2, 1]] {
        for [channels, out] in [[8, 12], [3, 5], [36, 33]] {
            let operands = [
                (Operand::new(1, &[shape.rows(), channels]).strided(), true),
                weight(2, &[out, channels * kernel * kernel]),
            ];
            check_half(&format!("{channels} to {out} by {kernel} every {stride}"), &operands, |tape, v| {
                let weight = v[1].view(|w| w.reshape(&[out, channels, kernel, kernel]))?;
                let conv = Conv { weight, stride, padding, alpha: 1.25 };
                Ok(vec![conv2d(tape, &v[0], shape, &conv)?.0, gelu(tape, &v[0])?])
            });
        }
    }
    for channels in [1, 3] {
        // what is copied is rounded on the way
        let images = Operand::new(1, &[2, channels, 12, 9]).map(|v| half::f16::from_f32(v).to_f32());
        let operands = [(images.constant(), false), weight(2, &[10, channels * 49])];
        check_half(&format!("images of {channels} channels"), &operands, |tape, v| {
            let weight = v[1].view(|w| w.reshape(&[10, channels, 7, 7]))?;
            let conv = Conv { weight, stride: 2, padding: 3, alpha: 1.0 };
            Ok(vec![conv_images(tape, v[0].value(), &conv)?.0])
        });
    }
}

#[test]
fn token_sequences() {
    for masked in [false, true] {
        let operands = [
            act(1, &[3 * 4, 10]),
            vector(2, &[4, 10]),
            act(3, &[2, 10]),
            vector(4, &[1, 10]),
            vector(5, &[10]),
            vector(6, &[10]),
            vector(7, &[10]),
            vector(8, &[3, 10]),
        ];
        check_half(&format!("tokens, masked: {masked}"), &operands, |tape, v| {
            let mask: Vec<u32> = (0..12).map(|i| u32::from(i % 5 == 1)).collect();
            let mask = Tensor::from_slice(v[0].value().device(), &[12], &mask)?;
            let groups = [
                TokenGroup {
                    crops: 3,
                    patches: v[0].clone(),
                    positions: v[1].clone(),
                    mask: masked.then_some(mask),
                },
                TokenGroup { crops: 2, patches: v[2].clone(), positions: v[3].clone(), mask: None },
            ];
            let shared = TokenParameters {
                cls: v[4].clone(),
                cls_position: v[5].clone(),
                mask_token: v[6].clone(),
                registers: None,
            };
            let with = TokenParameters { registers: Some(v[7].clone()), ..shared.clone() };
            // a mask token that masks nothing has no gradient
            let out = tokens(tape, &groups, &shared)?;
            let token = narrow_rows(tape, &v[6].view(|t| t.reshape(&[1, 10]))?, 0, 1)?;
            Ok(vec![out, token, tokens(tape, &groups, &with)?])
        });
    }
}

#[test]
fn gates() {
    for [rows, cols] in [[1, 1], [17, 5], [33, 64], [5, 130]] {
        // two uses: the second gradient is added to the first
        check_half(&format!("swiglu {rows}x{cols}"), &[act(1, &[rows, 2 * cols])], |tape, v| {
            Ok(vec![swiglu(tape, &v[0])?, swiglu(tape, &v[0])?])
        });
    }
    let operands = [
        act(1, &[37, 16]),
        weight(2, &[2, 9, 16]),
        vector(3, &[2, 9]),
        weight(4, &[12, 9]),
        vector(5, &[12]),
    ];
    check_half("SwiGLU perceptron", &operands, |tape, v| {
        let layer =
            |w: usize| LinearWeights { weight: v[w].clone(), bias: Some(v[w + 1].clone()), alpha: 1.25 };
        Ok(vec![linear(tape, &swiglu(tape, &linear(tape, &v[0], &layer(1))?)?, &layer(3))?])
    });
}

#[test]
fn patches() {
    let images = (Operand::new(1, &[3, 3, 8, 12]).constant(), false);
    check_half("patch embedding", &[images, weight(2, &[10, 48]), vector(3, &[10])], |tape, v| {
        let layer = LinearWeights { weight: v[1].clone(), bias: Some(v[2].clone()), alpha: 1.0 };
        Ok(vec![patch_embed(tape, v[0].value(), 4, &layer)?])
    });
}

#[test]
fn rows_and_elements() {
    // two uses of one activation: the second gradient is added to the first
    check_half("narrowed rows and GELU", &[act(1, &[9, 13])], |tape, v| {
        Ok(vec![narrow_rows(tape, &v[0], 2, 5)?, gelu(tape, &v[0])?])
    });
    let gpu = gpu();
    let x = random(1, 5 * 9);
    let x = place_half(&gpu, &[5, 9], &x, Placing::Strided).unwrap();
    let out = Tensor::empty(&gpu, &[5, 9], DType::F16).unwrap();
    scale(&out, &x, 2.0).unwrap();
    let twice: Vec<f64> = x.to_vec::<half::f16>().unwrap().iter().map(|v| 2.0 * v.to_f64()).collect();
    let got: Vec<f32> = out.to_vec::<half::f16>().unwrap().iter().map(|v| v.to_f32()).collect();
    assert_close("scale", &got, &twice, 0.0, 0.0);
}

#[test]
fn column_sums() {
    for rows in [1, 300, 1000] {
        let values = random(1, rows * 7);
        let both = devices();
        let sums = both.iter().map(|device| {
            let x = match device.kind() {
                "gpu" => place_half(device, &[rows, 7], &values, Placing::Strided).unwrap(),
                _ => {
                    let rounded: Vec<f32> = values.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect();
                    place(device, &[rows, 7], &rounded, Placing::Strided).unwrap()
                }
            };
            let out = Tensor::empty(device, &[7], DType::F32).unwrap();
            column_sum(&x, &out, 0.5, false).unwrap();
            out.to_vec::<f32>().unwrap()
        });
        let sums: Vec<_> = sums.collect();
        let want: Vec<f64> = sums[0].iter().map(|v| *v as f64).collect();
        assert_close(&format!("column sums of {rows} rows"), &sums[1], &want, 1e-4, 1e-5);
    }
}

#[test]
fn a_kernel_refuses_the_wrong_precision() {
    let gpu = gpu();
    let single = Tensor::from_slice(&gpu, &[2, 3], &random(1, 6)).unwrap();
    let half = Tensor::empty(&gpu, &[2, 3], DType::F16).unwrap();
    let error = poa_gpu::tensor::add_assign(&single, &half).unwrap_err().to_string();
    assert!(error.contains("of other elements"), "{error}");
}
