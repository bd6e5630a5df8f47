//! Maps of features inside a backbone, for what predicts something for every pixel.

use crate::autograd::Var;
use crate::ops::conv::MapShape;

/// Features of square images on a regular grid, as a block or a stage leaves them: no norm after it.
#[derive(Clone)]
pub struct FeatureMap {
    /// `[n·height·width, channels]`, pixel by pixel.
    pub rows: Var,
    /// How many maps, and how large.
    pub shape: MapShape,
}

/// A place in a backbone that has a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapPlace {
    /// Channels.
    pub width: usize,
    /// Pixels of the image along a pixel of the map.
    pub stride: usize,
}

/// The places of a backbone whose blocks all have maps of one kind: after a third, a half, two thirds and all of them, as the
/// official code takes 3, 5, 7, 11 of twelve and 7, 11, 15, 23 of twenty-four, counted from 0.
pub fn usual_blocks(depth: usize) -> Vec<usize> {
    let at = |share: usize| (depth * share).div_ceil(6).max(1) - 1;
    let mut all = vec![at(2), at(3), at(4), at(6)];
    // of few blocks as many as there are
    for i in (0..3).rev() {
        all[i] = all[i].min(all[i + 1].saturating_sub(1));
    }
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::usual_blocks;

    #[test]
    fn blocks_are_those_of_the_official_configs() {
        assert_eq!(usual_blocks(12), [3, 5, 7, 11]);
        assert_eq!(usual_blocks(24), [7, 11, 15, 23]);
        assert_eq!(usual_blocks(13), [4, 6, 8, 12]);
        assert_eq!(usual_blocks(1), [0]);
        assert_eq!(usual_blocks(3), [0, 1, 2]);
        assert_eq!(usual_blocks(4), [0, 1, 2, 3]);
    }
}
