//! Patch embedding: images cut into patches (each a row) and projected. The convolution's stride is its
//! kernel size, so the cut is a permutation and the rest a product.

use crate::autograd::{Tape, Var};
use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::linear::{LinearWeights, linear};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, activation_types, half_define};

const SHADER: Shader = shader!("patch_embed.wgsl", kernels);
const WG: u32 = 256;

params!(PatchParams {
    count: u32,
    channels: u32,
    height: u32,
    width: u32,
    patch_size: u32,
    x_offset: u32,
    out_offset: u32,
});

fn kernel(dtype: DType) -> Kernel {
    let mut defines = vec![("WG", WG)];
    defines.extend(half_define(dtype));
    Kernel::new::<PatchParams>(SHADER, "unfold", defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    activation_types(caps).map(kernel).collect()
}

/// Images `[n, channels, height, width]` as rows `[n · (height/patch) · (width/patch), channels·patch²]`,
/// patches row by row, channels outermost within a row as in a convolution's weight. `dtype` is that of the
/// rows; half precision only on a GPU.
pub fn unfold(images: &Tensor, patch: usize, dtype: DType) -> Result<Tensor> {
    let &[n, channels, height, width] = images.shape() else {
        return Err(Error::shape("patch_embed", format!("images [n, c, h, w] expected, got {images:?}")));
    };
    let rows = n * (height / patch.max(1)) * (width / patch.max(1));
    let out = Tensor::empty(images.device(), &[rows, channels * patch * patch], dtype)?;
    unfold_into(images, patch, &out)?;
    Ok(out)
}

/// As [`unfold`], into the rows of a dense `out`: crops of several sizes are packed into one matrix.
pub fn unfold_into(images: &Tensor, patch: usize, out: &Tensor) -> Result<()> {
    let _span = profile::operation("unfold");
    let &[n, channels, height, width] = images.shape() else {
        return Err(Error::shape("patch_embed", format!("images [n, c, h, w] expected, got {images:?}")));
    };
    if patch == 0 || height % patch != 0 || width % patch != 0 || !images.layout().is_contiguous() {
        return Err(Error::shape("patch_embed", format!("{images:?} in patches of {patch}")));
    }
    let (down, across) = (height / patch, width / patch);
    let cols = channels * patch * patch;
    if out.shape() != [n * down * across, cols] || !out.layout().is_contiguous() {
        return Err(Error::shape("patch_embed", format!("{images:?} in patches of {patch} into {out:?}")));
    }
    match images.device() {
        Device::Cpu(_) => {
            let x = &*images.cpu_read::<f32>("patch_embed")?;
            for_rows(
                out.cpu_rows_mut::<f32>("patch_embed")?.rows_mut(),
                #[inline(always)]
                |_, r, row| {
                    let (image, at) = (r / (down * across), r % (down * across));
                    let (py, px) = (at / across * patch, at % across * patch);
                    for (line, to) in row.chunks_exact_mut(patch).enumerate() {
                        let (c, y) = (line / patch, line % patch);
                        let from = ((image * channels + c) * height + py + y) * width + px;
                        to.copy_from_slice(&x[from..][..patch]);
                    }
                },
            );
        }
        Device::Gpu(gpu) => {
            let params = PatchParams {
                count: out.elements(),
                channels,
                height,
                width,
                patch_size: patch,
                x_offset: images.layout().offset,
                out_offset: out.layout().offset,
            };
            let grid = gpu.caps().grid(out.elements().div_ceil(WG as usize));
            gpu.dispatch(&kernel(out.dtype()), &[out, images], &params, grid)?;
        }
    }
    Ok(())
}

/// Images through a patch embedding: `layer.weight` is `[width, channels·patch²]`, of the precision that
/// comes out. Images take no gradient.
pub fn patch_embed(tape: &Tape, images: &Tensor, patch: usize, layer: &LinearWeights) -> Result<Var> {
    let dtype = layer.weight.value().dtype();
    linear(tape, &Var::constant(unfold(images, patch, dtype)?), layer)
}
