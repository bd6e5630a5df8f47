//! What a run says about reading its image files.

/// Most pixels of an image unless a recipe says otherwise.
pub const MAX_PIXELS: u64 = 300_000_000;

/// How image files are read; the default is that of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Most pixels of an image; what has more is not decoded.
    pub max_pixels: u64,
    /// Bits that the values of images of more than 8 bits really have; 0 goes by each file.
    pub deep_bits: u32,
}

impl Default for Reading {
    fn default() -> Self {
        Self { max_pixels: MAX_PIXELS, deep_bits: 0 }
    }
}
