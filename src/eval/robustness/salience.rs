//! Foreground and background by a class token's attention, as in DINO's pictures and the official occlusion study.

use crate::error::{Error, Result};
use crate::eval::robustness::changes::Change;

/// The attention that one head, or the mean of all, pays to every cell, of `[heads, cells]`; it sums to 1. A head that
/// there is not is an error.
pub fn mass(attention: &[f32], heads: usize, head: Option<usize>) -> Result<Vec<f64>> {
    let cells = attention.len() / heads.max(1);
    let rows: Vec<&[f32]> = match head {
        None => attention.chunks_exact(cells).collect(),
        Some(head) if head < heads => vec![&attention[head * cells..(head + 1) * cells]],
        Some(head) => {
            return Err(Error::Usage(format!(
                "--salience-head {head}: there are heads 0 to {}, or mean",
                heads - 1
            )));
        }
    };
    let mut mass = vec![0.0; cells];
    for row in rows {
        // each head alike, however much it pays to the class token itself
        let total: f64 = row.iter().map(|v| f64::from(*v)).sum();
        mass.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / total.max(f64::MIN_POSITIVE));
    }
    let total: f64 = mass.iter().sum();
    mass.iter_mut().for_each(|m| *m /= total.max(f64::MIN_POSITIVE));
    Ok(mass)
}

/// Which cells are the foreground that has the share λ of the mass: from the smallest mass on these are summed up, of equal
/// ones the first cell first, and a cell belongs to it where the sum is more than 1 − λ. None for λ = 0, all for λ = 1.
pub fn foreground(mass: &[f64], lambda: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..mass.len()).collect();
    order.sort_by(|a, b| mass[*a].total_cmp(&mass[*b]));
    let mut inside = vec![lambda >= 1.0; mass.len()];
    if lambda <= 0.0 || lambda >= 1.0 {
        return inside;
    }
    let mut sum = 0.0;
    for cell in order {
        sum += mass[cell];
        inside[cell] = sum > 1.0 - lambda;
    }
    inside
}

/// Which cells a change by attention covers; none by any other.
pub fn covered(change: Change, mass: &[f64]) -> Vec<bool> {
    match change {
        Change::Salient(ratio) => foreground(mass, ratio),
        Change::NonSalient(ratio) => {
            foreground(mass, 1.0 - ratio).into_iter().map(|inside| !inside).collect()
        }
        _ => vec![false; mass.len()],
    }
}
