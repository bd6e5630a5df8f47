//! What a file has for each parameter of a model.

use crate::models::plain::Pieces;

/// What a file has for a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A tensor of its shape.
    Matched,
    /// A position embedding for another grid, or a patch embedding for another patch size, to be resampled;
    /// sides of the squares.
    Resized {
        /// In the file.
        from: usize,
        /// In the model.
        to: usize,
    },
    /// A position embedding that has no row for the class token, or rows for more tokens, to be resampled where the
    /// sides differ.
    Rows {
        /// Rows before the patches' in the file; the model has one.
        before: usize,
        /// Side of the grid in the file.
        from: usize,
        /// Side of the grid in the model.
        to: usize,
    },
    /// No tensor of its name, but the file's network is as if it had one of this number alone.
    Constant(f32),
    /// Weights of the first layer for images of another number of channels: summed for one channel, else
    /// repeated and scaled, as timm does.
    Channels {
        /// In the file.
        from: usize,
        /// In the model.
        to: usize,
        /// Sides of the patches in the file and in the model.
        sides: [usize; 2],
    },
    /// No tensor of its name.
    Missing,
    /// A tensor of its name, of a shape that cannot be made its.
    OtherShape(Vec<usize>),
}

/// A parameter to be filled.
#[derive(Debug, Clone, PartialEq)]
pub struct Filling {
    /// Official name of the parameter.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Name of the tensor in the file; empty where it has none.
    pub source: String,
    /// Pieces of the parameter that the file has in another order: which of the file's each of them is.
    pub pieces: Option<Pieces>,
    /// What the file has for it.
    pub outcome: Outcome,
}

impl Filling {
    /// Whether the file has values for it.
    pub fn is_filled(&self) -> bool {
        !matches!(self.outcome, Outcome::Missing | Outcome::OtherShape(_))
    }

    /// Whether it gets values that are in the file.
    pub fn is_from_file(&self) -> bool {
        self.is_filled() && !matches!(self.outcome, Outcome::Constant(_))
    }
}
