//! The start of a network over maps: embedded patches cut to a sub-network's width, masked ones replaced by
//! the mask token. Maps of several sizes are packed one group after the other into one matrix. On a GPU they
//! may be of half precision; the token is single.

use crate::autograd::{Tape, Var};
use crate::cpu::{for_rows, reduce_columns};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::reduce::column_sum;
use crate::profile;
use crate::tensor::{CpuRead, DType, Device, Tensor, activation_types, half_define};

const SHADER: Shader = shader!("mask_rows.wgsl", kernels);
/// Rows that an invocation sums for the token's gradient.
const ROWS: usize = 256;

params!(MaskParams {
    rows: u32,
    cols: u32,
    width: u32,
    side: u32,
    cells: u32,
    out_offset: u32,
    out_stride: u32,
    x_offset: u32,
    x_stride: u32,
    token_offset: u32,
    mask_offset: u32,
    per_part: u32,
    accumulate: bool,
});

/// Square maps of one size.
#[derive(Clone)]
pub struct MaskedMaps {
    /// Number of maps n.
    pub count: usize,
    /// Rows along a side of a map.
    pub side: usize,
    /// Cells of the mask along a side.
    pub cells: usize,
    /// `u32 [n·cells²]`, nonzero where the token replaces the rows under a cell.
    pub mask: Option<Tensor>,
}

impl MaskedMaps {
    fn rows(&self) -> usize {
        self.count * self.side * self.side
    }

    /// The mask, on the CPU device.
    fn cpu_mask(&self) -> Result<Option<CpuRead<'_, u32>>> {
        self.mask.as_ref().map(|m| m.cpu_read::<u32>("mask_rows")).transpose()
    }

    /// Whether a row is masked.
    fn masked<'a>(&self, mask: Option<&'a [u32]>) -> impl Fn(usize) -> bool + Sync + use<'a> {
        let (cells, side) = (self.cells, self.side);
        move |row| {
            let (y, x) = (row % (side * side) / side * cells / side, row % side * cells / side);
            mask.is_some_and(|m| m[(row / (side * side) * cells + y) * cells + x] != 0)
        }
    }
}

#[derive(Clone, Copy)]
enum Pass {
    Forward,
    BackwardRows,
    BackwardToken,
}

fn kernel(pass: Pass, masked: bool, dtype: DType) -> Kernel {
    let (entry, flag, wg) = match pass {
        Pass::Forward => ("forward", "FORWARD", 256),
        Pass::BackwardRows => ("backward_rows", "BACKWARD_ROWS", 256),
        Pass::BackwardToken => ("backward_token", "BACKWARD_TOKEN", 64),
    };
    let mut defines = vec![("WG", wg), (flag, 1)];
    defines.extend(masked.then_some(("MASKED", 1)));
    defines.extend(half_define(dtype));
    Kernel::new::<MaskParams>(SHADER, entry, defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    let mut all = Vec::new();
    for dtype in activation_types(caps) {
        for pass in [Pass::Forward, Pass::BackwardRows] {
            all.extend([false, true].map(|masked| kernel(pass, masked, dtype)));
        }
        all.push(kernel(Pass::BackwardToken, true, dtype));
    }
    all
}

/// The first columns of x `[Σ n·side², width]`, as many as the token `[cols]` has, with the token in masked
/// rows.
pub fn mask_rows(tape: &Tape, x: &Var, token: &Var, maps: &[MaskedMaps]) -> Result<Var> {
    let _span = profile::operation("mask_rows");
    let (rx, cols) = (x.value().rows("mask_rows")?, token.value().elements());
    let rows: usize = maps.iter().map(MaskedMaps::rows).sum();
    let masks = maps.iter().all(|m| {
        let fits = |t: &Tensor| t.dtype() == DType::U32 && t.elements() == m.count * m.cells * m.cells;
        m.mask.as_ref().is_none_or(fits)
    });
    if rx.rows != rows || cols > rx.cols || !masks || !token.value().layout().is_contiguous() {
        let problem = format!("x {:?}, token {:?}, {rows} rows of maps and masks", x.value(), token.value());
        return Err(Error::shape("mask_rows", problem));
    }
    let y = Tensor::empty(x.value().device(), &[rows, cols], x.value().dtype())?;
    for (map, range) in ranges(maps) {
        forward(map, &x.value().slice(0, range.clone())?, token.value(), &y.slice(0, range)?)?;
    }
    let maps = maps.to_vec();
    Ok(tape.record("mask_rows", [x, token], y, move |[dx, dtoken], dy| {
        dx.write(|dx, accumulate| {
            ranges(&maps).try_for_each(|(map, range)| {
                backward_rows(map, &dy.slice(0, range.clone())?, &dx.slice(0, range)?, accumulate)
            })
        })?;
        dtoken.add_to(|dtoken| {
            let mut masked = ranges(&maps).filter(|(map, _)| map.mask.is_some());
            masked.try_for_each(|(map, range)| backward_token(map, &dy.slice(0, range)?, dtoken))
        })
    }))
}

/// The groups that hold rows, with the rows.
fn ranges(maps: &[MaskedMaps]) -> impl Iterator<Item = (&MaskedMaps, std::ops::Range<usize>)> {
    let mut first = 0;
    maps.iter()
        .map(move |map| {
            first += map.rows();
            (map, first - map.rows()..first)
        })
        .filter(|(map, _)| map.rows() > 0)
}

fn gpu_params(map: &MaskedMaps, out: &Tensor, x: &Tensor) -> Result<MaskParams> {
    let (ro, rx) = (out.rows("mask_rows")?, x.rows("mask_rows")?);
    Ok(MaskParams {
        rows: map.rows(),
        cols: ro.cols.min(rx.cols),
        width: ro.cols,
        side: map.side,
        cells: map.cells,
        out_offset: ro.offset,
        out_stride: ro.stride,
        x_offset: rx.offset,
        x_stride: rx.stride,
        mask_offset: map.mask.as_ref().map_or(0, |m| m.layout().offset),
        ..Default::default()
    })
}

fn forward(map: &MaskedMaps, x: &Tensor, token: &Tensor, y: &Tensor) -> Result<()> {
    let (rx, ry) = (x.rows("mask_rows")?, y.rows("mask_rows")?);
    match x.device() {
        Device::Cpu(_) => {
            let (x, token, masked) =
                (&*x.cpu_read::<f32>("mask_rows")?, &*token.cpu_read::<f32>("mask_rows")?, map.cpu_mask()?);
            let masked = map.masked(masked.as_deref());
            for_rows(
                y.cpu_rows_mut::<f32>("mask_rows")?.rows_mut(),
                #[inline(always)]
                |_, r, y| {
                    y.copy_from_slice(if masked(r) { token } else { &x[r * rx.stride..][..ry.cols] });
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params = MaskParams { token_offset: token.layout().offset, ..gpu_params(map, y, x)? };
            let mut tensors = vec![y, x];
            if let Some(mask) = &map.mask {
                tensors.extend([mask, token]);
            }
            let grid = gpu.caps().grid((ry.rows * ry.cols).div_ceil(256));
            gpu.dispatch(&kernel(Pass::Forward, map.mask.is_some(), y.dtype()), &tensors, &params, grid)
        }
    }
}

/// dx (= or +=) dy of unmasked rows, zero elsewhere.
fn backward_rows(map: &MaskedMaps, dy: &Tensor, dx: &Tensor, accumulate: bool) -> Result<()> {
    let (rd, rx) = (dy.rows("mask_rows")?, dx.rows("mask_rows")?);
    match dy.device() {
        Device::Cpu(_) => {
            let (dy, masked) = (&*dy.cpu_read::<f32>("mask_rows")?, map.cpu_mask()?);
            let masked = map.masked(masked.as_deref());
            for_rows(
                dx.cpu_rows_mut::<f32>("mask_rows")?.rows_mut(),
                #[inline(always)]
                |_, r, dx| {
                    let kept = if masked(r) { 0 } else { rd.cols };
                    if !accumulate {
                        dx.fill(0.0);
                    }
                    dx[..kept].iter_mut().zip(&dy[r * rd.stride..]).for_each(|(o, d)| *o += d);
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params = MaskParams { accumulate, ..gpu_params(map, dx, dy)? };
            let mut tensors = vec![dx, dy];
            tensors.extend(&map.mask);
            let grid = gpu.caps().grid((rx.rows * rx.cols).div_ceil(256));
            gpu.dispatch(&kernel(Pass::BackwardRows, map.mask.is_some(), dy.dtype()), &tensors, &params, grid)
        }
    }
}

/// token += Σ dy of masked rows.
fn backward_token(map: &MaskedMaps, dy: &Tensor, token: &Tensor) -> Result<()> {
    let rd = dy.rows("mask_rows")?;
    match dy.device() {
        Device::Cpu(_) => {
            let (dy, masked) = (&*dy.cpu_read::<f32>("mask_rows")?, map.cpu_mask()?);
            let masked = map.masked(masked.as_deref());
            let sums = reduce_columns(
                rd.rows,
                rd.cols,
                #[inline(always)]
                |r, sums| {
                    if masked(r) {
                        sums.iter_mut().zip(&dy[r * rd.stride..]).for_each(|(s, d)| *s += d);
                    }
                },
            );
            token.cpu_write::<f32>("mask_rows")?.iter_mut().zip(sums).for_each(|(o, s)| *o += s);
            Ok(())
        }
        Device::Gpu(gpu) => {
            let Some(mask) = &map.mask else { return Ok(()) };
            let per_part = ROWS.max(rd.rows.div_ceil(gpu.caps().grid_dimension as usize));
            let parts = Tensor::empty(dy.device(), &[rd.rows.div_ceil(per_part), rd.cols], DType::F32)?;
            let params = MaskParams { per_part, ..gpu_params(map, &parts, dy)? };
            let grid = [rd.cols.div_ceil(64), parts.dim(0), 1];
            let kernel = kernel(Pass::BackwardToken, true, dy.dtype());
            gpu.dispatch(&kernel, &[&parts, dy, mask], &params, grid)?;
            column_sum(&parts, token, 1.0, true)
        }
    }
}
