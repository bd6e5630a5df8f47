//! Latency of networks that were not measured, from what their forward pass asks of a device: so much a pass, a dispatch, an
//! operation and a byte, none of it negative.

use crate::eval::budget::work::ForwardWork;

/// What a latency is made of.
const TERMS: usize = 4;

/// A model of latencies, fitted to some that were measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Seconds a pass, a dispatch, an operation and a byte.
    seconds: [f64; TERMS],
    /// The relative errors of the measured ones, each predicted from the others.
    errors: Vec<f64>,
}

impl Fitted {
    /// The model whose relative errors of `measured` (work and seconds) have the smallest sum of squares. Fewer than three networks tell nothing:
    /// then there is none.
    pub fn new(measured: &[(ForwardWork, f64)]) -> Option<Self> {
        if measured.len() < 3 {
            return None;
        }
        let rows: Vec<([f64; TERMS], f64)> = measured.iter().map(|(work, t)| (terms(work), *t)).collect();
        let seconds = least_squares(&rows)?;
        let errors = (0..rows.len()).filter_map(|out| {
            let others: Vec<_> = rows[..out].iter().chain(&rows[out + 1..]).copied().collect();
            let (terms, t) = rows[out];
            Some((dot(&least_squares(&others)?, &terms) - t).abs() / t)
        });
        let mut errors: Vec<f64> = errors.collect();
        errors.sort_by(f64::total_cmp);
        Some(Self { seconds, errors })
    }

    /// Predicted seconds.
    pub fn predict(&self, work: &ForwardWork) -> f64 {
        dot(&self.seconds, &terms(work))
    }

    /// Median relative error of a network that was measured, where it is predicted from the others.
    pub fn median_error(&self) -> f64 {
        self.errors.get(self.errors.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The largest such error.
    pub fn largest_error(&self) -> f64 {
        self.errors.last().copied().unwrap_or(f64::NAN)
    }
}

fn terms(work: &ForwardWork) -> [f64; TERMS] {
    [1.0, work.dispatches, work.flops, work.bytes]
}

fn dot(a: &[f64; TERMS], b: &[f64; TERMS]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The factors, none negative, with the smallest sum of squared relative errors: of all choices of terms that are left out the best whose factors
/// are positive by themselves, which is the minimum, as the problem is convex.
fn least_squares(rows: &[([f64; TERMS], f64)]) -> Option<[f64; TERMS]> {
    // terms of the same size, or the equations could not be solved
    let mut scale = [0.0; TERMS];
    for (terms, t) in rows {
        for (scale, term) in scale.iter_mut().zip(terms) {
            *scale += term / t;
        }
    }
    let error = |factors: &[f64; TERMS]| -> f64 {
        rows.iter().map(|(terms, t)| (dot(factors, terms) / t - 1.0).powi(2)).sum()
    };
    let solutions = (1..1 << TERMS).filter_map(|taken: usize| {
        let taken: Vec<usize> = (0..TERMS).filter(|i| taken >> i & 1 == 1 && scale[*i] > 0.0).collect();
        let row = |terms: &[f64; TERMS], t: f64| -> Vec<f64> {
            taken.iter().map(|i| terms[*i] / (t * scale[*i])).collect()
        };
        let mut matrix = vec![vec![0.0; taken.len() + 1]; taken.len()];
        for (terms, t) in rows {
            let row = row(terms, *t);
            for (i, line) in matrix.iter_mut().enumerate() {
                for (j, cell) in line.iter_mut().enumerate() {
                    *cell += row[i] * row.get(j).copied().unwrap_or(1.0);
                }
            }
        }
        let solution = solved(matrix)?;
        let mut factors = [0.0; TERMS];
        for (i, x) in taken.iter().zip(solution) {
            factors[*i] = x / scale[*i];
        }
        (factors.iter().all(|x| *x >= 0.0) && factors.iter().any(|x| *x > 0.0)).then_some(factors)
    });
    solutions.min_by(|a, b| error(a).total_cmp(&error(b)))
}

/// Solves linear equations, a row each with its right side last; none where they have no single solution.
fn solved(mut rows: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let n = rows.len();
    let largest = rows.iter().flatten().fold(0.0_f64, |m, x| m.max(x.abs()));
    for column in 0..n {
        let pivot = (column..n).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()))?;
        rows.swap(column, pivot);
        if rows[column][column].abs() <= 1e-12 * largest {
            return None;
        }
        let head = rows[column].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != column) {
            let factor = row[column] / head[column];
            row.iter_mut().zip(&head).for_each(|(x, h)| *x -= factor * h);
        }
    }
    Some((0..n).map(|i| rows[i][n] / rows[i][i]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(i: usize) -> ForwardWork {
        let (width, depth) = (64.0 * (1 + i % 5) as f64, (2 + i / 5) as f64);
        ForwardWork {
            dispatches: 10.0 * depth,
            flops: 1e4 * width * width * depth,
            bytes: 1e4 * width * depth,
            memory: 0,
        }
    }

    #[test]
    fn times_made_of_the_terms_are_found_again() {
        let t = |w: &ForwardWork| 1e-3 + 2e-5 * w.dispatches + 1e-11 * w.flops;
        let measured: Vec<_> = (0..12).map(|i| (work(i), t(&work(i)))).collect();
        let fitted = Fitted::new(&measured).unwrap();
        assert!(fitted.largest_error() < 1e-6, "{fitted:?}");
        for i in 12..25 {
            let (found, right) = (fitted.predict(&work(i)), t(&work(i)));
            assert!((found / right - 1.0).abs() < 1e-6, "{found} {right}");
        }
    }

    #[test]
    fn no_term_is_negative_and_errors_are_those_of_networks_left_out() {
        // falls with the work, which no sum of positive terms does: the mean is the best that is left
        let measured: Vec<_> = (0..6).map(|i| (work(i), 1.0 / (1.0 + i as f64))).collect();
        let fitted = Fitted::new(&measured).unwrap();
        assert!(fitted.seconds.iter().all(|x| *x >= 0.0) && fitted.median_error() > 0.1, "{fitted:?}");
        assert_eq!(Fitted::new(&measured[..2]), None);
    }
}
