//! Products whose left operand is windows over the pixels of maps: convolutions as matrix products, without
//! the matrix.
//!
//! Every operand is a view of four dimensions with contiguous channels. Maps are `[images, rows, columns,
//! channels]`; weights `[taps down, taps across, channels in, channels out]`. The matrix that is not made has
//! a row for every place of a window and a column for every tap and channel; its elements are read where they
//! lie in the map.
//!
//! On a GPU operands may be of half precision as those of [`super::matmul`]; the gradient of weights is
//! single then.

use super::geometry::Geometry;
pub use super::geometry::Window;
use super::{Force, demand_types, window_cpu, window_gpu};
use crate::error::{Error, Result};
use crate::profile;
use crate::tensor::{Device, Tensor};

/// `y[i, r, c, :] (+)= α · Σ x[i, step·r + start + t, step·c + start + u, :] · w[t, u, :, :]` over the taps
/// (t, u).
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
    demand_types("window_product", [x, w, y])?;
    if g.places() == 0 || g.outputs == 0 {
        return Ok(());
    }
    profile::flops(g.flops());
    match y.device() {
        Device::Cpu(_) => window_cpu::product(&g, x, w, y, alpha, accumulate),
        Device::Gpu(gpu) => window_gpu::product(gpu, &g, [x, w, y], alpha, accumulate, force),
    }
}

/// `dw[t, u, :, :] = α · Σ x[i, step·r + start + t, step·c + start + u, :]ᵀ · dy[i, r, c, :]` over all
/// windows (i, r, c): the gradient of [`window_product`] by its weight. `dw` and `dy` must be contiguous.
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
    demand_types("window_gradient", [x, dy, dw])?;
    if window.reversed || !dy.layout().is_contiguous() || !dw.layout().is_contiguous() {
        return Err(Error::shape("window_gradient", format!("of {dy:?} into {dw:?}, {window:?}")));
    }
    if g.places() == 0 {
        return crate::tensor::fill(dw, 0);
    }
    profile::flops(g.flops());
    match dw.device() {
        Device::Cpu(_) => {
            window_cpu::gradient(&g, x, dy, dw, alpha)?;
            Ok(())
        }
        Device::Gpu(gpu) => window_gpu::gradient(gpu, &g, [x, dy, dw], alpha, force),
    }
}
