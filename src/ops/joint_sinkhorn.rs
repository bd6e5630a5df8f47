//! Sinkhorn-Knopp of matrices whose rows lie on several ranks (poa-facts "Several ranks"): sums of columns are over
//! the rows of all ranks, those of rows are each rank's own. The result is that of one rank with all rows.
//!
//! Columns are scaled by their log-sum-exps, of which every rank has a part with its own maximum. So ranks add up
//! log-sum-exps and need no common maximum; those of all matrices travel together, once an iteration.

use crate::error::{Error, Result};
use crate::ops::sinkhorn::{ColumnSums, Targets};
use crate::profile;
use crate::tensor::Tensor;

/// This rank's rows of a matrix.
pub struct OwnRows {
    /// Its logits in chunks `[rows, K]`; none where this rank has no row.
    pub logits: Vec<Tensor>,
    /// K.
    pub prototypes: usize,
}

/// Targets of every matrix for the rows here, `None` where there are none. `combine` gets log-sum-exps of all columns
/// of all matrices, −∞ where a column has no rows here, and returns those over all ranks.
pub fn sinkhorn_jointly(
    matrices: Vec<OwnRows>,
    temperature: f64,
    iterations: usize,
    combine: &mut dyn FnMut(Vec<f64>) -> Result<Vec<f64>>,
) -> Result<Vec<Option<Targets>>> {
    let _span = profile::operation("sinkhorn");
    let widths: Vec<usize> = matrices.iter().map(|matrix| matrix.prototypes).collect();
    let mut all = Vec::new();
    for OwnRows { logits, prototypes } in matrices {
        let some: Vec<Tensor> = logits.into_iter().filter(|chunk| chunk.elements() > 0).collect();
        let targets = if some.is_empty() { None } else { Some(Targets::new(some, temperature)?) };
        if targets.as_ref().is_some_and(|targets| targets.prototypes() != prototypes) {
            return Err(Error::shape(
                "sinkhorn",
                format!("logits of another width than {prototypes} prototypes"),
            ));
        }
        all.push(targets);
    }
    for iteration in 0..iterations {
        // all are begun before any is waited for
        let begin = |targets: &Targets| match iteration {
            0 => targets.column_sums(),
            _ => targets.rows_and_column_sums(),
        };
        let begun: Vec<Option<ColumnSums>> =
            all.iter().map(|targets| targets.as_ref().map(begin).transpose()).collect::<Result<_>>()?;
        let mut sums = Vec::with_capacity(widths.iter().sum());
        for (own, width) in begun.into_iter().zip(&widths) {
            match own {
                Some(own) => sums.extend(own.wait()?),
                None => sums.extend(std::iter::repeat_n(f64::NEG_INFINITY, *width)),
            }
        }
        let sums = combine(sums)?;
        let mut rest = sums.as_slice();
        for (targets, width) in all.iter().zip(&widths) {
            let (own, others) = rest.split_at(*width);
            rest = others;
            targets.as_ref().map_or(Ok(()), |targets| targets.set_columns(own))?;
        }
    }
    all.iter().flatten().try_for_each(Targets::row_pass)?;
    Ok(all)
}
