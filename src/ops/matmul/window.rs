//! Products whose left operand is windows over the pixels of maps: convolutions as matrix products, without the matrix.
//!
//! Every operand is a view of four dimensions with contiguous channels. Maps are `[images, rows, columns, channels]`;
//! weights `[taps down, taps across, channels in, channels out]`. The matrix that is not made has a row for every place
//! of a window and a column for every tap and channel; its elements are read where they lie in the map.

use super::{Force, window_cpu, window_gpu};
use crate::error::{Error, Result};
use crate::profile;
use crate::tensor::{Device, Tensor};

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
    fn new(op: &'static str, x: &Tensor, window: Window, w: &Tensor, y: &Tensor) -> Result<Self> {
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
    fn flops(&self) -> f64 {
        2.0 * (self.places() * self.taps[0] * self.taps[1] * self.channels * self.outputs) as f64
    }

    /// Distance of neighbouring windows in the other map, where all are evenly spaced.
    pub fn even(&self) -> Option<usize> {
        let [image, row, place] = self.grid_strides;
        let rows = self.grid[0] == 1 || row == self.grid[1] * place;
        let images = self.images == 1 || image == self.grid[0] * self.grid[1] * place;
        (rows && images).then_some(place)
    }
}

/// `y[i, r, c, :] (+)= α · Σ x[i, step·r + start + t, step·c + start + u, :] · w[t, u, :, :]` over the taps (t, u).
#[allow(clippy::too_many_arguments)]
pub fn window_product(
    x: &Tensor,
    window: Window,
    w: &Tensor,
    y: &Tensor,
    alpha: f32,
    accumulate: bool,
    force: Force,
) -> Result<()> {
    let _span = profile::operation("window_product");
    let g = Geometry::new("window_product", x, window, w, y)?;
    if g.places() == 0 || g.outputs == 0 {
        return Ok(());
    }
    profile::flops(g.flops());
    match y.device() {
        Device::Cpu(_) => window_cpu::product(&g, x, w, y, alpha, accumulate),
        Device::Gpu(gpu) => window_gpu::product(gpu, &g, [x, w, y], alpha, accumulate, force),
    }
}

/// `dw[t, u, :, :] = α · Σ x[i, step·r + start + t, step·c + start + u, :]ᵀ · dy[i, r, c, :]` over all windows
/// (i, r, c): the gradient of [`window_product`] by its weight. `dw` and `dy` must be contiguous.
pub fn window_gradient(
    x: &Tensor,
    window: Window,
    dy: &Tensor,
    dw: &Tensor,
    alpha: f32,
    force: Force,
) -> Result<()> {
    let _span = profile::operation("window_gradient");
    let g = Geometry::new("window_gradient", x, window, dw, dy)?;
    if window.reversed || !dy.layout().is_contiguous() || !dw.layout().is_contiguous() {
        return Err(Error::shape("window_gradient", format!("of {dy:?} into {dw:?}, {window:?}")));
    }
    if g.places() == 0 {
        return crate::ops::fill::fill(dw, 0);
    }
    profile::flops(g.flops());
    match dw.device() {
        Device::Cpu(_) => {
            window_cpu::gradient(&g, x, dy, dw, alpha);
            Ok(())
        }
        Device::Gpu(gpu) => window_gpu::gradient(gpu, &g, [x, dy, dw], alpha, force),
    }
}
