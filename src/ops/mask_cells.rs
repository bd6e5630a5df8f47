//! The mask token in place of masked pixels of a map. A mask has cells×cells values an image, each for a square of pixels.

use crate::autograd::{Tape, Var};
use crate::cpu::{for_rows, for_rows2};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params};
use crate::ops::conv::MapShape;
use crate::ops::elementwise::WG;
use crate::ops::reduce::column_sum;
use crate::tensor::{DType, Device, Rows, Tensor};

const SHADER: Shader =
    Shader { name: "mask_cells.wgsl", source: include_str!("../../shaders/mask_cells.wgsl") };

params!(MaskCellsParams {
    count: u32,
    cols: u32,
    height: u32,
    width: u32,
    cells: u32,
    out_offset: u32,
    out_stride: u32,
    x_offset: u32,
    x_stride: u32,
    token_offset: u32,
    mask_offset: u32,
    accumulate: u32,
});

fn forward_kernel() -> Kernel {
    Kernel::new::<MaskCellsParams>(SHADER, "forward", vec![("WG", WG), ("FORWARD", 1)])
}

fn backward_kernel() -> Kernel {
    Kernel::new::<MaskCellsParams>(SHADER, "backward", vec![("WG", WG), ("BACKWARD", 1)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![forward_kernel(), backward_kernel()]
}

struct Mask {
    shape: MapShape,
    cells: usize,
    values: Tensor,
}

/// The place in the mask of a pixel.
fn cell_of(pixel: usize, MapShape { height, width, .. }: MapShape, cells: usize) -> usize {
    let (line, column) = (pixel / width, pixel % width);
    let (image, line) = (line / height, line % height);
    (image * cells + line / (height / cells)) * cells + column / (width / cells)
}

impl Mask {
    fn params(&self, out: Rows, x: Rows) -> MaskCellsParams {
        MaskCellsParams {
            count: (out.rows * out.cols) as u32,
            cols: out.cols as u32,
            height: self.shape.height as u32,
            width: self.shape.width as u32,
            cells: self.cells as u32,
            out_offset: out.offset as u32,
            out_stride: out.stride as u32,
            x_offset: x.offset as u32,
            x_stride: x.stride as u32,
            mask_offset: self.values.layout().offset as u32,
            ..Default::default()
        }
    }

    fn forward(&self, x: &Tensor, token: &Tensor, out: &Tensor) -> Result<()> {
        let (rx, ro) = (x.rows("mask_cells")?, out.rows("mask_cells")?);
        let (shape, cells) = (self.shape, self.cells);
        match out.device() {
            Device::Cpu(_) => {
                let (x, token, mask) = (x.cpu::<f32>(), token.cpu::<f32>(), self.values.cpu::<u32>());
                for_rows(out.cpu_mut::<f32>(), ro, |pixel, out| {
                    out.copy_from_slice(match mask[cell_of(pixel, shape, cells)] {
                        0 => &x[pixel * rx.stride..][..rx.cols],
                        _ => &token[..rx.cols],
                    });
                });
                Ok(())
            }
            Device::Gpu(gpu) => {
                let token_offset = token.layout().offset as u32;
                let params = MaskCellsParams { token_offset, ..self.params(ro, rx) };
                let grid = gpu.caps().grid(out.elements().div_ceil(WG as usize));
                gpu.dispatch(&forward_kernel(), &[out, x, token, &self.values], &params, grid)
            }
        }
    }

    /// dx (+)= dy where nothing is masked; `hidden` = dy where something is, zero elsewhere.
    fn backward(&self, dy: &Tensor, dx: &Tensor, accumulate: bool, hidden: &Tensor) -> Result<()> {
        let (rd, ro) = (dy.rows("mask_cells")?, dx.rows("mask_cells")?);
        let (shape, cells) = (self.shape, self.cells);
        match dx.device() {
            Device::Cpu(_) => {
                let (dy, mask) = (dy.cpu::<f32>(), self.values.cpu::<u32>());
                let picked = (hidden.cpu_mut::<f32>(), hidden.rows("mask_cells")?);
                for_rows2((dx.cpu_mut::<f32>(), ro), picked, |pixel, dx: &mut [f32], hidden: &mut [f32]| {
                    let dy = &dy[pixel * rd.stride..][..rd.cols];
                    let masked = mask[cell_of(pixel, shape, cells)] != 0;
                    match (masked, accumulate) {
                        (false, true) => dx.iter_mut().zip(dy).for_each(|(o, d)| *o += d),
                        (false, false) => dx.copy_from_slice(dy),
                        (true, true) => {}
                        (true, false) => dx.fill(0.0),
                    }
                    match masked {
                        true => hidden.copy_from_slice(dy),
                        false => hidden.fill(0.0),
                    }
                });
                Ok(())
            }
            Device::Gpu(gpu) => {
                let token_offset = hidden.layout().offset as u32;
                let accumulate = accumulate as u32;
                let params = MaskCellsParams { token_offset, accumulate, ..self.params(ro, rd) };
                let grid = gpu.caps().grid(dx.elements().div_ceil(WG as usize));
                gpu.dispatch(&backward_kernel(), &[dx, hidden, dy, &self.values], &params, grid)
            }
        }
    }
}

/// Maps `x` `[rows, channels]` with `token` `[channels]` in every pixel whose cell in `mask` (`u32 [images·cells²]`) is
/// not zero. The map's sides must be multiples of the mask's.
pub fn mask_cells(tape: &Tape, x: &Var, shape: MapShape, token: &Var, mask: &Tensor) -> Result<Var> {
    let cells = (mask.elements() / shape.images.max(1)).isqrt();
    let square = shape.images * cells * cells == mask.elements() && cells > 0;
    let fits = square && shape.height.is_multiple_of(cells) && shape.width.is_multiple_of(cells);
    let rx = x.value().rows("mask_cells")?;
    let vector = token.value().elements() == rx.cols && token.value().layout().is_contiguous();
    if !fits || !vector || rx.rows != shape.rows() || mask.dtype() != DType::U32 {
        return Err(Error::shape(
            "mask_cells",
            format!("{:?} as {shape:?}, token {:?}, mask {mask:?}", x.value(), token.value()),
        ));
    }
    let out = Tensor::empty(x.value().device(), &[rx.rows, rx.cols], DType::F32)?;
    let mask = Mask { shape, cells, values: mask.clone() };
    mask.forward(x.value(), token.value(), &out)?;
    let (input, token) = (x.clone(), token.clone());
    Ok(tape.record("mask_cells", &[x, &token.clone()], out, move |g, dy| {
        let hidden = Tensor::empty(dy.device(), dy.shape(), DType::F32)?;
        match g.target(&input)? {
            Some(t) => mask.backward(&dy, &t.tensor, t.accumulate, &hidden)?,
            None => {
                let scratch = Tensor::empty(dy.device(), dy.shape(), DType::F32)?;
                mask.backward(&dy, &scratch, false, &hidden)?;
            }
        }
        match g.target(&token)? {
            Some(t) => column_sum(&hidden, &t.tensor, 1.0, t.accumulate),
            None => Ok(()),
        }
    }))
}
