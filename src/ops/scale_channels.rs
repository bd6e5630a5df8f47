//! Maps with a factor for every channel of every image, `y = x·f[image]`: dropout of whole channels, as PyTorch's `Dropout2d`.
//! Single precision.

use crate::autograd::{Tape, Var};
use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, WG};

const SHADER: Shader = shader!("scale_channels.wgsl", kernels);

params!(ScaleChannelsParams {
    count: u32,
    cols: u32,
    per_image: u32,
    x_offset: u32,
    x_stride: u32,
    y_offset: u32,
    y_stride: u32,
    factors_offset: u32,
    accumulate: bool,
});

fn kernel() -> Kernel {
    Kernel::new::<ScaleChannelsParams>(SHADER, "scale_channels", vec![("WG", WG)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel()]
}

/// `y (+)= x·f` for rows of images, each of as many, and factors `[images, channels]`.
fn scale(y: &Tensor, x: &Tensor, factors: &Tensor, accumulate: bool) -> Result<()> {
    const NAME: &str = "scale_channels";
    let _span = profile::operation(NAME);
    let (rx, ry) = (x.rows(NAME)?, y.rows(NAME)?);
    let per_image = rx.rows / factors.dim(0).max(1);
    match y.device() {
        Device::Cpu(_) => {
            let (x, factors) = (x.cpu_rows::<f32>(NAME)?, factors.cpu_rows::<f32>(NAME)?);
            for_rows(
                y.cpu_rows_mut::<f32>(NAME)?.rows_mut(),
                #[inline(always)]
                |_, r, y| {
                    for ((y, x), f) in y.iter_mut().zip(x.row(r)).zip(factors.row(r / per_image)) {
                        *y = if accumulate { *y + x * f } else { x * f };
                    }
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params = ScaleChannelsParams {
                count: ry.rows * ry.cols,
                cols: ry.cols,
                per_image,
                x_offset: rx.offset,
                x_stride: rx.stride,
                y_offset: ry.offset,
                y_stride: ry.stride,
                factors_offset: factors.layout().offset,
                accumulate,
            };
            let grid = gpu.caps().grid((ry.rows * ry.cols).div_ceil(WG as usize));
            gpu.dispatch(&kernel(), &[y, x, factors], &params, grid)
        }
    }
}

/// The maps `x` `[images·rows, channels]`, their channels times `factors` `[images, channels]`, dense, which take no gradient.
pub fn scale_channels(tape: &Tape, x: &Var, factors: &Tensor) -> Result<Var> {
    let shape = x.value().shape();
    let fits = matches!((shape, factors.shape()), ([rows, cols], [images, channels])
        if cols == channels && *images > 0 && *rows > 0 && rows.is_multiple_of(*images));
    if !fits || !factors.layout().is_contiguous() {
        return Err(Error::shape("scale_channels", format!("{:?} by {factors:?}", x.value())));
    }
    let y = Tensor::empty(x.value().device(), shape, DType::F32)?;
    scale(&y, x.value(), factors, false)?;
    let factors = factors.clone();
    Ok(tape.record("scale_channels", [x], y, move |[dx], dy| {
        dx.write(|dx, accumulate| scale(dx, &dy, &factors, accumulate))
    }))
}
