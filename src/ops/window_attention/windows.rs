//! Which rows of a matrix stand in which window: partition, cyclic shift and padding as a table.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::tensor::{Device, Tensor};

/// Bits of a table entry that hold the row; the four above hold the region.
pub(super) const ROW_BITS: u32 = 28;

/// `count` maps of one size, one after the other, each row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MapGroup {
    /// Number of maps.
    pub count: usize,
    /// Rows of a map.
    pub height: usize,
    /// Columns of a map.
    pub width: usize,
}

impl MapGroup {
    /// Tokens of all maps of the group.
    pub fn rows(&self) -> usize {
        self.count * self.height * self.width
    }

    /// The maps after 2×2 neighbours became one; odd ones were padded.
    pub fn halved(&self) -> Self {
        Self { height: self.height.div_ceil(2), width: self.width.div_ceil(2), ..*self }
    }
}

/// A token of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowToken {
    /// Its row among those of its map; none where it is padding.
    pub row: Option<usize>,
    /// The region that it belongs to; those of different regions do not attend to each other.
    pub region: u32,
}

/// The tokens of all windows of a map of these rows and columns, window by window, each row by row; see [`Windows::new`].
pub fn window_tokens([height, width]: [usize; 2], window: usize, shift: usize) -> Vec<WindowToken> {
    let (down, across) = (height.next_multiple_of(window), width.next_multiple_of(window));
    // where a token of the moved map was before, and in which third of the axis it is now
    let axis = |length: usize| -> Vec<(usize, u32)> {
        let third = |i: usize| (i + window >= length) as u32 + (i + shift >= length) as u32;
        (0..length).map(|i| ((i + shift) % length, if shift > 0 { third(i) } else { 0 })).collect()
    };
    let (vertical, horizontal) = (axis(down), axis(across));
    let mut tokens = Vec::with_capacity(down * across);
    for y0 in (0..down).step_by(window) {
        for x0 in (0..across).step_by(window) {
            for &(y, third) in &vertical[y0..y0 + window] {
                tokens.extend(horizontal[x0..x0 + window].iter().map(|&(x, other)| WindowToken {
                    row: (y < height && x < width).then_some(y * width + x),
                    region: 3 * third + other,
                }));
            }
        }
    }
    tokens
}

/// The windows of all maps, on a device.
#[derive(Clone)]
pub struct Windows {
    /// `u32 [windows, window²]`: for every token of a window its row, or [`Self::rows`] for padding, and in
    /// the four highest bits its region.
    pub(super) index: Tensor,
    window: usize,
    rows: usize,
    /// Rows of maps that are padded.
    pub(super) padded: Vec<Range<usize>>,
}

impl Windows {
    /// Cuts maps into windows of `window`² tokens, after moving them up and left by `shift` where that is not
    /// zero: what leaves at one side comes back at the other and is a region of its own there. Maps are
    /// padded at the bottom right to multiples of the window before they are moved.
    pub fn new(device: &Device, maps: &[MapGroup], window: usize, shift: usize) -> Result<Self> {
        let rows: usize = maps.iter().map(MapGroup::rows).sum();
        let shape_fits = window > 0 && shift < window && rows > 0;
        if !shape_fits || rows >> ROW_BITS != 0 {
            let problem = format!("windows of {window} shifted by {shift} over {rows} rows of {maps:?}");
            return Err(Error::shape("window_attention", problem));
        }
        let (mut index, mut padded, mut first) = (Vec::new(), Vec::<Range<usize>>::new(), 0);
        for map in maps {
            let whole = map.height.is_multiple_of(window) && map.width.is_multiple_of(window);
            if !whole && map.count > 0 {
                match padded.last_mut() {
                    Some(range) if range.end == first => range.end = first + map.rows(),
                    _ => padded.push(first..first + map.rows()),
                }
            }
            let tokens = window_tokens([map.height, map.width], window, shift);
            for _ in 0..map.count {
                index.extend(tokens.iter().map(|token| {
                    let row = token.row.map_or(rows, |row| first + row);
                    row as u32 | token.region << ROW_BITS
                }));
                first += map.height * map.width;
            }
        }
        let shape = [index.len() / window.pow(2), window.pow(2)];
        Ok(Self { index: Tensor::from_slice(device, &shape, &index)?, window, rows, padded })
    }

    /// Side of a window, in tokens.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Tokens of all maps.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of windows.
    pub fn count(&self) -> usize {
        self.index.dim(0)
    }

    /// Whether there is padding, so that q, k and v have a row of it.
    pub fn is_padded(&self) -> bool {
        !self.padded.is_empty()
    }

    /// Rows of q, k and v: the maps' tokens, and the row of padding where there is any.
    pub fn input_rows(&self) -> usize {
        self.rows + self.is_padded() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_moved_padded_and_told_apart() {
        let map = MapGroup { count: 1, height: 3, width: 2 };
        let windows = Windows::new(&Device::cpu(), &[map], 2, 1).unwrap();
        assert_eq!((windows.count(), windows.rows(), windows.input_rows()), (2, 6, 7));
        let entries: Vec<(u32, u32)> =
            windows.index.to_vec::<u32>().unwrap().iter().map(|e| (e & 0xfff_ffff, e >> ROW_BITS)).collect();
        // the map of rows 0 1 / 2 3 / 4 5 / 6 6 (padding), one up and one to the left
        let expected = [(3, 1), (2, 2), (5, 1), (4, 2), (6, 4), (6, 5), (1, 7), (0, 8)];
        assert_eq!(entries, expected);
    }

    #[test]
    fn padded_groups_merge() {
        let map = |side| MapGroup { count: 2, height: side, width: side };
        let windows = Windows::new(&Device::cpu(), &[map(4), map(3), map(1)], 4, 0).unwrap();
        assert_eq!(windows.padded, vec![32..52]);
        assert!(Windows::new(&Device::cpu(), &[map(4)], 4, 4).is_err());
    }
}
