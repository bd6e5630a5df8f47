//! The networks that none beats in both cost and accuracy.

/// For each point (cost, accuracy) whether it is on the front: no other costs less or as much and is at least as accurate, one of both better.
/// Of equal points the first.
pub fn front(points: &[(f64, f64)]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    // the cheapest first, of these the most accurate, of these the first
    order.sort_by(|a, b| {
        points[*a].0.total_cmp(&points[*b].0).then(points[*b].1.total_cmp(&points[*a].1)).then(a.cmp(b))
    });
    let (mut on, mut best) = (vec![false; points.len()], f64::NEG_INFINITY);
    for i in order {
        if points[i].0.is_finite() && points[i].1 > best {
            (on[i], best) = (true, points[i].1);
        }
    }
    on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_nothing_beats() {
        let points =
            [(3.0, 0.9), (1.0, 0.5), (2.0, 0.5), (2.0, 0.8), (4.0, 0.9), (1.0, 0.5), (f64::NAN, 1.0)];
        assert_eq!(front(&points), [true, true, false, true, false, false, false]);
    }
}
