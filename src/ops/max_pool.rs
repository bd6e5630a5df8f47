//! Max-pooling over 3×3 windows two pixels apart, padded by one, or over 2×2 windows beside each other. Saved: which tap of each window was the
//! largest, the first of equals. On a GPU maps may be of half precision.

use crate::autograd::{Tape, Var};
use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::conv::MapShape;
use crate::profile;
use crate::tensor::{DType, Device, Rows, Tensor, WG, activation_types, half_define};

const SHADER: Shader = shader!("max_pool.wgsl", kernels);

params!(MaxPoolParams {
    count: u32,
    cols: u32,
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    x_offset: u32,
    x_stride: u32,
    y_offset: u32,
    y_stride: u32,
    tap_offset: u32,
    kernel: u32,
    padding: u32,
    accumulate: bool,
});

fn kernel(entry: &'static str, define: &'static str, dtype: DType) -> Kernel {
    let mut defines = vec![("WG", WG), (define, 1)];
    defines.extend(half_define(dtype));
    Kernel::new::<MaxPoolParams>(SHADER, entry, defines)
}

fn forward_kernel(dtype: DType) -> Kernel {
    kernel("forward", "FORWARD", dtype)
}

fn backward_kernel(dtype: DType) -> Kernel {
    kernel("backward", "BACKWARD", dtype)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    activation_types(caps).flat_map(|dtype| [forward_kernel(dtype), backward_kernel(dtype)]).collect()
}

/// Maps before and after, and the taps `u32 [rows after, channels]` of the largest.
struct Pool {
    /// Pixels a side of a window, and how far the first begins before the map.
    window: [usize; 2],
    before: MapShape,
    after: MapShape,
    taps: Tensor,
}

impl Pool {
    fn params(&self, x: Rows, y: Rows, count: usize) -> MaxPoolParams {
        MaxPoolParams {
            count,
            cols: x.cols,
            height: self.before.height,
            width: self.before.width,
            out_height: self.after.height,
            out_width: self.after.width,
            x_offset: x.offset,
            x_stride: x.stride,
            y_offset: y.offset,
            y_stride: y.stride,
            tap_offset: self.taps.layout().offset,
            kernel: self.window[0],
            padding: self.window[1],
            accumulate: false,
        }
    }

    fn forward(&self, x: &Tensor, y: &Tensor) -> Result<()> {
        let (rx, ry) = (x.rows("max_pool")?, y.rows("max_pool")?);
        let (before, after, [kernel, padding]) = (self.before, self.after, self.window);
        if let Device::Gpu(gpu) = x.device() {
            let grid = gpu.caps().grid(y.elements().div_ceil(WG as usize));
            let params = self.params(rx, ry, y.elements());
            return gpu.dispatch(&forward_kernel(y.dtype()), &[y, &self.taps, x], &params, grid);
        }
        let x = &*x.cpu_read::<f32>("max_pool")?;
        for_rows(
            (
                y.cpu_rows_mut::<f32>("max_pool")?.rows_mut(),
                self.taps.cpu_rows_mut::<u32>("max_pool")?.rows_mut(),
            ),
            #[inline(always)]
            |_, place, (y, taps)| {
                let (line, column) = (place / after.width, place % after.width);
                let (image, line) = (line / after.height, line % after.height);
                y.fill(f32::NEG_INFINITY);
                taps.fill(0);
                for tap in 0..kernel * kernel {
                    let r = (2 * line + tap / kernel).wrapping_sub(padding);
                    let c = (2 * column + tap % kernel).wrapping_sub(padding);
                    if r >= before.height || c >= before.width {
                        continue;
                    }
                    let row = &x[((image * before.height + r) * before.width + c) * rx.stride..][..y.len()];
                    for ((y, t), v) in y.iter_mut().zip(&mut *taps).zip(row) {
                        // NaN is passed on, so that the check for it finds it
                        if *v > *y || v.is_nan() {
                            (*y, *t) = (*v, tap as u32);
                        }
                    }
                }
            },
        );
        Ok(())
    }

    /// dx (+)= dy of the windows in which a pixel was the largest.
    fn backward(&self, dy: &Tensor, dx: &Tensor, accumulate: bool) -> Result<()> {
        let (rx, ry) = (dx.rows("max_pool")?, dy.rows("max_pool")?);
        let (before, after, [kernel, padding]) = (self.before, self.after, self.window);
        if let Device::Gpu(gpu) = dx.device() {
            let grid = gpu.caps().grid(dx.elements().div_ceil(WG as usize));
            let params = MaxPoolParams { accumulate, ..self.params(rx, ry, dx.elements()) };
            return gpu.dispatch(&backward_kernel(dy.dtype()), &[dx, &self.taps, dy], &params, grid);
        }
        let (dy, taps) = (&*dy.cpu_read::<f32>("max_pool")?, &*self.taps.cpu_read::<u32>("max_pool")?);
        for_rows(
            dx.cpu_rows_mut::<f32>("max_pool")?.rows_mut(),
            #[inline(always)]
            |_, pixel, dx| {
                let (line, column) = (pixel / before.width, pixel % before.width);
                let (image, line) = (line / before.height, line % before.height);
                if !accumulate {
                    dx.fill(0.0);
                }
                for r in line / 2..=(line + padding) / 2 {
                    for c in column / 2..=(column + padding) / 2 {
                        if r >= after.height || c >= after.width {
                            continue;
                        }
                        let tap = ((line + padding - 2 * r) * kernel + column + padding - 2 * c) as u32;
                        let place = (image * after.height + r) * after.width + c;
                        let (dy, taps) = (&dy[place * ry.stride..], &taps[place * rx.cols..]);
                        for ((o, d), t) in dx.iter_mut().zip(dy).zip(taps) {
                            *o += if *t == tap { *d } else { 0.0 };
                        }
                    }
                }
            },
        );
        Ok(())
    }
}

/// The largest of every 3×3 window of maps `x` `[rows, channels]`, and the shape of the maps of those.
pub fn max_pool(tape: &Tape, x: &Var, shape: MapShape) -> Result<(Var, MapShape)> {
    pool(tape, x, shape, [3, 1])
}

/// The largest of every 2×2 window of maps of two pixels a side or more, and the shape of the maps of those; of an odd number of
/// lines or columns the last is in no window.
pub fn max_pool_2(tape: &Tape, x: &Var, shape: MapShape) -> Result<(Var, MapShape)> {
    pool(tape, x, shape, [2, 0])
}

fn pool(tape: &Tape, x: &Var, shape: MapShape, window: [usize; 2]) -> Result<(Var, MapShape)> {
    let _span = profile::operation("max_pool");
    let rx = x.value().rows("max_pool")?;
    let [kernel, padding] = window;
    let small = shape.height.min(shape.width) + 2 * padding < kernel;
    if rx.rows != shape.rows() || shape.rows() == 0 || small {
        return Err(Error::shape("max_pool", format!("{:?} as {shape:?}", x.value())));
    }
    let after = shape.after(kernel, 2, padding);
    let device = x.value().device();
    let y = Tensor::empty(device, &[after.rows(), rx.cols], x.value().dtype())?;
    let taps = Tensor::empty(device, &[after.rows(), rx.cols], DType::U32)?;
    let pool = Pool { window, before: shape, after, taps };
    pool.forward(x.value(), &y)?;
    let y = tape.record("max_pool", [x], y, move |[dx], dy| {
        dx.write(|dx, accumulate| pool.backward(&dy, dx, accumulate))
    });
    Ok((y, after))
}
