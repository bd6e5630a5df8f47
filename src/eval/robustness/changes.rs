//! Changes of images: covered cells and shuffled pieces. They are made of normalised values on the host, so that what is
//! covered is exactly 0 and what is not changed keeps its bits.

use rand::seq::SliceRandom;

use crate::rng::{Purpose, stream};

/// What is done to an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Nothing.
    Clean,
    /// Covers ⌊ratio · cells⌋ cells of the grid, drawn at random.
    Random(f64),
    /// Covers the cells with the most attention, which have this share of it together.
    Salient(f64),
    /// Covers the cells with the least attention, which have this share of it together.
    NonSalient(f64),
    /// Cuts into rows × columns pieces and puts these in another order.
    Shuffle([usize; 2]),
}

impl Change {
    /// Whether it goes by attention.
    pub fn needs_salience(self) -> bool {
        matches!(self, Self::Salient(_) | Self::NonSalient(_))
    }
}

/// How draws follow from the images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draws {
    /// The seed.
    pub seed: u64,
    /// So many images in a row, by their numbers in the source, have the same draw: 1 for one of its own each.
    pub shared_by: usize,
}

impl Draws {
    /// A permutation of `0..count` for the image with this number.
    fn permutation(self, purpose: Purpose, kind: u64, count: usize, image: usize) -> Vec<usize> {
        let mut rng = stream(self.seed, purpose, kind, (image / self.shared_by.max(1)) as u64);
        let mut all: Vec<usize> = (0..count).collect();
        all.shuffle(&mut rng);
        all
    }

    /// Which of `cells`² cells are covered at a ratio. Those of a lower ratio are among them.
    pub fn covered(self, ratio: f64, cells: usize, image: usize) -> Vec<bool> {
        let count = cells * cells;
        // 0.7 · 100 is to be 70
        let dropped = ((ratio * count as f64 + 1e-9) as usize).min(count);
        let mut covered = vec![false; count];
        for cell in &self.permutation(Purpose::Occlusion, 0, count, image)[..dropped] {
            covered[*cell] = true;
        }
        covered
    }

    /// For every one of rows × columns pieces which piece of the image comes there.
    pub fn order(self, [rows, columns]: [usize; 2], image: usize) -> Vec<usize> {
        let kind = (rows as u64) << 32 | columns as u64;
        self.permutation(Purpose::Shuffle, kind, rows * columns, image)
    }
}

/// Sets the pixels `[channels, side, side]` of the cells that are covered to 0. The grid lies `offset` pixels to the right
/// and down; what is left of it or above is not covered.
pub fn cover(pixels: &mut [f32], side: usize, covered: &[bool], offset: usize) {
    let cells = covered.len().isqrt();
    // cells of all covers of a row are the same
    let cell = |at: usize| at.checked_sub(offset).map(|at| at * cells / side);
    for plane in pixels.chunks_exact_mut(side * side) {
        for (y, row) in plane.chunks_exact_mut(side).enumerate() {
            let Some(down) = cell(y) else { continue };
            for (x, value) in row.iter_mut().enumerate() {
                if cell(x).is_some_and(|across| covered[down * cells + across]) {
                    *value = 0.0;
                }
            }
        }
    }
}

/// The pixels `[channels, side, side]` with their pieces in another order: in place i comes piece `order[i]`. Rows and
/// columns of pieces divide the side.
pub fn shuffled(pixels: &[f32], side: usize, [rows, columns]: [usize; 2], order: &[usize]) -> Vec<f32> {
    let (height, width) = (side / rows, side / columns);
    let mut out = vec![0.0; pixels.len()];
    for (from, to) in pixels.chunks_exact(side * side).zip(out.chunks_exact_mut(side * side)) {
        for (place, piece) in order.iter().enumerate() {
            let corner = |i: usize| i / columns * height * side + i % columns * width;
            for y in 0..height {
                let (from_row, to_row) = (corner(*piece) + y * side, corner(place) + y * side);
                to[to_row..to_row + width].copy_from_slice(&from[from_row..from_row + width]);
            }
        }
    }
    out
}
