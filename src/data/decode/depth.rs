//! From values of more than 8 bits to 8: which of them is white.
//!
//! Files of 16 bits may hold the values of a camera with 12, and would come out nearly black. A recipe says
//! how many bits there are (`data.deep_bits`), or the file does, by a tag or by its largest value.

use crate::data::reading::Reading;

/// The bits that cameras and scanners give, and those that numbers in files have.
const BITS: [u32; 7] = [8, 10, 12, 14, 16, 24, 32];

/// The bits of whole numbers in a file whose largest one is `largest`.
fn bits_in_use(largest: u32) -> u32 {
    BITS.into_iter().find(|bits| u64::from(largest) >> bits == 0).unwrap_or(32)
}

/// The upper 8 of the bits that are in use: those that the recipe says, or the file stores, or, of 16, as many
/// as its largest value needs. `largest` is what the file says that one may be.
pub(super) fn upper_bits(values: &[u16], stored: u32, largest: Option<u32>, reading: &Reading) -> Vec<u8> {
    let found = || values.iter().copied().max().map_or(0, u32::from);
    let bits = match (reading.deep_bits, stored) {
        (0, 16) => bits_in_use(found().max(largest.unwrap_or(0))).min(16),
        (0, stored) => stored,
        (bits, _) => bits,
    };
    values.iter().map(|value| (value >> (bits - 8)).min(255) as u8).collect()
}

/// What values of other kinds mean.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whole numbers of 32 bits without a sign: as by [`upper_bits`].
    Whole,
    /// Whole numbers with a sign: their own range, or that of the recipe.
    Signed,
    /// Floating point: 0 to 1 where all are, otherwise as `Signed`.
    Float,
}

/// Brings values to 0 to 255. `declared` is the range that the file gives. What is not a number becomes black.
pub(super) fn scaled(
    values: &[f32],
    kind: Kind,
    declared: Option<(f32, f32)>,
    nothing: Option<f32>,
    reading: &Reading,
) -> Vec<u8> {
    let counts = |v: &f32| v.is_finite() && Some(*v) != nothing;
    let known = || values.iter().copied().filter(counts);
    let (low, high) =
        known().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let of_bits = |bits: u32| (0.0, ((1_u64 << bits) - 1) as f32);
    let (black, white) = match (kind, reading.deep_bits, declared) {
        (Kind::Float, ..) if low >= 0.0 && high <= 1.0 => (0.0, 1.0),
        (_, bits, _) if bits > 0 => of_bits(bits),
        (Kind::Whole, _, declared) => {
            of_bits(bits_in_use(declared.map_or(high, |(_, most)| high.max(most)) as u32))
        }
        (_, _, Some(range)) => range,
        _ => (low, high),
    };
    let scale = if white > black { 255.0 / (white - black) } else { 0.0 };
    let eight = |v: &f32| if Some(*v) == nothing { 0 } else { ((v - black) * scale).round() as u8 };
    values.iter().map(eight).collect()
}
