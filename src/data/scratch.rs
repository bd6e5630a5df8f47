//! Buffers that one thread reuses from crop to crop.

use fast_image_resize::Resizer;

/// What augmentations compute in; none of it is kept from one crop to the next.
#[derive(Default)]
pub struct Scratch {
    pub(super) resizer: Resizer,
    /// 8-bit values, the channels of a pixel side by side.
    pub(super) pixels: Vec<u8>,
    /// As many once more, for what cannot be done in place.
    pub(super) other: Vec<u8>,
    /// A crop before it is normalised.
    pub(super) bytes: Vec<u8>,
    /// 8-bit values as stages that blur and recolour compute with them.
    pub(super) planes: Vec<f32>,
    pub(super) blur: Vec<f32>,
}
