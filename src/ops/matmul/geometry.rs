//! Where windows stand, and how a product over them lies in memory.

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Where windows stand on a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Pixels between neighbouring windows, down and across.
    pub step: usize,
    /// Row and column of the pixel under the first window's first tap; what lies outside of the map is zero.
    pub start: [isize; 2],
    /// Whether the first tap has the last weight: what a gradient of the input wants.
    pub reversed: bool,
}

impl Window {
    /// The windows of a convolution with this stride and padding.
    pub fn new(stride: usize, padding: usize) -> Self {
        Self { step: stride, start: [-(padding as isize); 2], reversed: false }
    }
}

/// Shapes and strides of a product, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub window: Window,
    pub images: usize,
    /// Rows and columns of the map.
    pub map: [usize; 2],
    /// Distances of the map's images, rows and pixels.
    pub map_strides: [usize; 3],
    /// Rows and columns of windows an image has.
    pub grid: [usize; 2],
    /// Distances of the windows' images, rows and places in the other map.
    pub grid_strides: [usize; 3],
    pub taps: [usize; 2],
    /// Channels of a tap.
    pub channels: usize,
    /// Columns of the product.
    pub outputs: usize,
    /// Distances of the weights of the taps (down, across), channels in and channels out.
    pub weight: [usize; 4],
}

impl Geometry {
    pub fn new(op: &'static str, x: &Tensor, window: Window, w: &Tensor, y: &Tensor) -> Result<Self> {
        let wrong = || Error::shape(op, format!("map {x:?}, weight {w:?}, windows {y:?}, {window:?}"));
        let dims = |t: &Tensor| <[usize; 4]>::try_from(t.shape()).map_err(|_| wrong());
        let strides = |t: &Tensor| <[usize; 4]>::try_from(&t.layout().strides[..]).map_err(|_| wrong());
        let ([images, tall, wide, channels], [xi, xr, xp, xc]) = (dims(x)?, strides(x)?);
        let ([count, rows, columns, outputs], [yi, yr, yp, yc]) = (dims(y)?, strides(y)?);
        let ([down, across, inputs, n], weight) = (dims(w)?, strides(w)?);
        let contiguous = (xc == 1 || channels == 1) && (yc == 1 || outputs == 1);
        let fits = images == count && channels == inputs && outputs == n && down * across * inputs > 0;
        if !contiguous || !fits || window.step == 0 {
            return Err(wrong());
        }
        Ok(Self {
            window,
            images,
            map: [tall, wide],
            map_strides: [xi, xr, xp],
            grid: [rows, columns],
            grid_strides: [yi, yr, yp],
            taps: [down, across],
            channels,
            outputs,
            weight,
        })
    }

    /// All windows.
    pub fn places(&self) -> usize {
        self.images * self.grid[0] * self.grid[1]
    }

    /// Floating-point operations of the product.
    pub fn flops(&self) -> f64 {
        2.0 * (self.places() * self.taps[0] * self.taps[1] * self.channels * self.outputs) as f64
    }
}
