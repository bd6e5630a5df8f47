//! Parameters of a ViT for another number of positions or another patch size.

use crate::ops::position::bicubic_matrix;

/// Side of the square grid of a position embedding `[1, before + side², width]`.
pub fn grid_side(shape: &[usize], before: usize) -> Option<usize> {
    let &[1, tokens, _] = shape else { return None };
    let patches = tokens.checked_sub(before)?;
    let side = patches.isqrt();
    (side > 0 && side * side == patches).then_some(side)
}

/// Rows before the patches' and side of the grid of a position embedding that has not one row for a class token:
/// none, or one for each of class token and distillation token, or for class token and four or eight registers.
pub fn rows_before(shape: &[usize]) -> Option<(usize, usize)> {
    [0, 2, 5, 9].into_iter().find_map(|before| Some((before, grid_side(shape, before)?)))
}

/// Side of the square patches of a patch embedding `[width, channels, side, side]`.
pub fn patch_side(shape: &[usize]) -> Option<usize> {
    let &[_, _, side, across] = shape else { return None };
    (side > 0 && side == across).then_some(side)
}

/// A position embedding `[1, before + from², width]` as `[1, 1 + to², width]`: the row of the class token as it is
/// (zeros where there is none, since the token then got no position), those of other tokens left out, the patches'
/// bicubically, as the network itself does for crops of another size.
pub fn positions(values: &[f32], width: usize, before: usize, from: usize, to: usize) -> Vec<f32> {
    let (others, patches) = values.split_at(before * width);
    let mut out = others.get(..width).map_or_else(|| vec![0.0; width], <[f32]>::to_vec);
    if from == to {
        out.extend_from_slice(patches);
        return out;
    }
    for weights in bicubic_matrix(from, to).chunks_exact(from * from) {
        let mut row = vec![0.0f64; width];
        for (weight, patch) in weights.iter().zip(patches.chunks_exact(width)).filter(|(w, _)| **w != 0.0) {
            row.iter_mut().zip(patch).for_each(|(sum, x)| *sum += f64::from(*weight) * f64::from(*x));
        }
        out.extend(row.iter().map(|x| *x as f32));
    }
    out
}

/// A patch embedding's kernels `[width, channels, from, from]` for patches of `to`: each bicubically, and
/// times from²/to², so that an image of one colour gives the tokens it gave.
pub fn kernels(values: &[f32], from: usize, to: usize) -> Vec<f32> {
    let matrix = bicubic_matrix(from, to);
    let factor = (from * from) as f64 / (to * to) as f64;
    let mut out = Vec::with_capacity(values.len() / (from * from) * to * to);
    for plane in values.chunks_exact(from * from) {
        out.extend(matrix.chunks_exact(from * from).map(|weights| {
            let sum: f64 = weights.iter().zip(plane).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            (sum * factor) as f32
        }));
    }
    out
}

/// Weights `[width, from, cells]` of the first layer for images of `to` channels, by timm's rule: for one
/// channel the sum over all, so that a grey image gives what it gave in equal colours; else the channels in
/// turn, times from/to, which leaves what an image of equal channels gives as it is where `to` is a multiple
/// of `from`, and nearly so elsewhere.
pub fn channels(values: &[f32], from: usize, to: usize, cells: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len() / from * to);
    let factor = from as f64 / to as f64;
    for row in values.chunks_exact(from * cells) {
        if to == 1 {
            out.extend(
                (0..cells).map(|cell| {
                    row.iter().skip(cell).step_by(cells).map(|v| f64::from(*v)).sum::<f64>() as f32
                }),
            );
        } else {
            let planes = row.chunks_exact(cells).cycle().take(to);
            out.extend(planes.flatten().map(|v| (f64::from(*v) * factor) as f32));
        }
    }
    out
}
