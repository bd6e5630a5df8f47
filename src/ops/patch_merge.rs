//! Patch merging: 2×2 neighbouring rows of a map side by side, normed together, and reduced by a product (Liu
//! et al. 2021). Gathering is part of the LayerNorm. Sliced parameters are four slices each, one a neighbour.
//!
//! On a GPU x, and the weight of the reduction with it, may be of half precision; then the output is as well.

use crate::autograd::{Tape, Var};
use crate::cpu::{NOWHERE, Places, for_rows, math, reduce_columns};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::matmul::{Matrix, Options, matmul};
use crate::ops::reduce::column_sum;
use crate::ops::window_attention::MapGroup;
use crate::profile;
use crate::tensor::{DType, Device, Rows, Tensor, activation_types, add_assign, copy, half_define};

const SHADER: Shader = shader!("patch_merge.wgsl", kernels);
/// Marks a neighbour beyond the map.
const ABSENT: u32 = NOWHERE;
/// Row blocks of the first stage of the parameter gradients.
const PARTS: usize = 64;

params!(MergeParams {
    rows: u32,
    cols: u32,
    x_offset: u32,
    x_stride: u32,
    y_offset: u32,
    y_stride: u32,
    gamma_offset: u32,
    gamma_stride: u32,
    beta_offset: u32,
    beta_stride: u32,
    stats_offset: u32,
    index_offset: u32,
    dx_offset: u32,
    dx_stride: u32,
    per_part: u32,
    accumulate: bool,
    eps: f32,
});

fn kernel(entry: &'static str, flag: &'static str, cols: usize, dtype: DType) -> Kernel {
    let wg = if flag == "BACKWARD_PARAMETERS" || cols <= 64 { 64 } else { 256 };
    let mut defines = vec![("WG", wg), (flag, 1)];
    defines.extend(half_define(dtype));
    Kernel::new::<MergeParams>(SHADER, entry, defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    let of_type = |dtype| {
        [
            kernel("forward", "FORWARD", 64, dtype),
            kernel("forward", "FORWARD", 256, dtype),
            kernel("backward_input", "BACKWARD_INPUT", 64, dtype),
            kernel("backward_input", "BACKWARD_INPUT", 256, dtype),
            kernel("backward_parameters", "BACKWARD_PARAMETERS", 64, dtype),
        ]
    };
    activation_types(caps).flat_map(of_type).collect()
}

/// Which rows become one.
#[derive(Clone)]
pub struct Neighbours {
    /// `u32 [merged rows, 4]`: the rows of a 2×2 block, row by row; [`ABSENT`] beyond the map.
    index: Tensor,
    rows: usize,
}

impl Neighbours {
    /// The 2×2 blocks of maps; those of odd maps reach over the bottom and the right.
    pub fn new(device: &Device, maps: &[MapGroup]) -> Result<Self> {
        let (mut index, mut first) = (Vec::new(), 0);
        for map in maps {
            for _ in 0..map.count {
                for y in (0..map.height).step_by(2) {
                    for x in (0..map.width).step_by(2) {
                        for (y, x) in [(y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)] {
                            let inside = y < map.height && x < map.width;
                            index.push(if inside { (first + y * map.width + x) as u32 } else { ABSENT });
                        }
                    }
                }
                first += map.height * map.width;
            }
        }
        Ok(Self { index: Tensor::from_slice(device, &[index.len() / 4, 4], &index)?, rows: first })
    }
}

/// What the passes share.
struct Call {
    x: Tensor,
    /// `[4, width]`
    gamma: Tensor,
    neighbours: Neighbours,
    /// `[merged rows, 2]`: mean and reciprocal standard deviation.
    stats: Tensor,
    eps: f32,
}

/// The four neighbours of a merged row; empty beyond the map.
fn sources<'a>(x: &'a [f32], rx: Rows, index: &[u32], i: usize) -> [&'a [f32]; 4] {
    std::array::from_fn(|k| match index[4 * i + k] {
        ABSENT => &[][..],
        r => &x[r as usize * rx.stride..][..rx.cols],
    })
}

/// Element c of a neighbour.
fn at(source: &[f32], c: usize) -> f32 {
    if source.is_empty() { 0.0 } else { source[c] }
}

impl Call {
    fn params(&self) -> Result<MergeParams> {
        let (rx, rg) = (self.x.rows("patch_merge")?, self.gamma.rows("patch_merge")?);
        Ok(MergeParams {
            rows: self.neighbours.index.dim(0),
            cols: rx.cols,
            x_offset: rx.offset,
            x_stride: rx.stride,
            gamma_offset: rg.offset,
            gamma_stride: rg.stride,
            stats_offset: self.stats.layout().offset,
            index_offset: self.neighbours.index.layout().offset,
            eps: self.eps,
            ..Default::default()
        })
    }

    fn forward(&self, beta: &Tensor, y: &Tensor) -> Result<()> {
        let (rx, ry) = (self.x.rows("patch_merge")?, y.rows("patch_merge")?);
        let (rg, rb) = (self.gamma.rows("patch_merge")?, beta.rows("patch_merge")?);
        let index = &self.neighbours.index;
        match self.x.device() {
            Device::Cpu(_) => {
                let (x, gamma, beta) = (
                    &*self.x.cpu_read::<f32>("patch_merge")?,
                    &*self.gamma.cpu_read::<f32>("patch_merge")?,
                    &*beta.cpu_read::<f32>("patch_merge")?,
                );
                let index = &*index.cpu_read::<u32>("patch_merge")?;
                let (n, eps, total) = (rx.cols, self.eps, ry.cols as f32);
                for_rows(
                    (
                        y.cpu_rows_mut::<f32>("patch_merge")?.rows_mut(),
                        self.stats.cpu_rows_mut::<f32>("patch_merge")?.rows_mut(),
                    ),
                    #[inline(always)]
                    |_, i, (y, s)| {
                        let z = sources(x, rx, index, i);
                        let mean = z.iter().map(|z| math::sum(z.len(), |c| z[c])).sum::<f32>() / total;
                        // neighbours beyond the map are zeros
                        let off = |z: &&[f32]| match z.is_empty() {
                            true => n as f32 * mean * mean,
                            false => math::sum(n, |c| (z[c] - mean) * (z[c] - mean)),
                        };
                        let rstd = 1.0 / (z.iter().map(off).sum::<f32>() / total + eps).sqrt();
                        (s[0], s[1]) = (mean, rstd);
                        for (k, y) in y.chunks_exact_mut(n).enumerate() {
                            let (gamma, beta) = (&gamma[k * rg.stride..][..n], &beta[k * rb.stride..][..n]);
                            for c in 0..n {
                                y[c] = (at(z[k], c) - mean) * rstd * gamma[c] + beta[c];
                            }
                        }
                    },
                );
                Ok(())
            }
            Device::Gpu(gpu) => {
                let params = MergeParams {
                    y_offset: ry.offset,
                    y_stride: ry.stride,
                    beta_offset: rb.offset,
                    beta_stride: rb.stride,
                    ..self.params()?
                };
                let tensors = [y, &self.stats, &self.x, index, &self.gamma, beta];
                let kernel = kernel("forward", "FORWARD", rx.cols, y.dtype());
                gpu.dispatch(&kernel, &tensors, &params, gpu.caps().grid(ry.rows))
            }
        }
    }

    /// dx of every row (= or +=)
    fn backward_input(&self, dy: &Tensor, dx: &Tensor, accumulate: bool) -> Result<()> {
        let (rx, rg) = (self.x.rows("patch_merge")?, self.gamma.rows("patch_merge")?);
        let (rd, ro) = (dy.rows("patch_merge")?, dx.rows("patch_merge")?);
        let index = &self.neighbours.index;
        match self.x.device() {
            Device::Cpu(_) => {
                let (x, gamma, dy) = (
                    &*self.x.cpu_read::<f32>("patch_merge")?,
                    &*self.gamma.cpu_read::<f32>("patch_merge")?,
                    &*dy.cpu_read::<f32>("patch_merge")?,
                );
                let (stats, index) =
                    (&*self.stats.cpu_read::<f32>("patch_merge")?, &*index.cpu_read::<u32>("patch_merge")?);
                let n = rx.cols;
                let places = Places::new("patch_merge", index, ro.rows)?;
                for_rows(
                    dx.cpu_rows_mut::<f32>("patch_merge")?.rows_mut().scattered(&places).tiles(4, n),
                    #[inline(always)]
                    |_, i, mut out| {
                        let (z, dy) = (sources(x, rx, index, i), &dy[i * rd.stride..]);
                        let (mean, rstd) = (stats[2 * i], stats[2 * i + 1]);
                        let g = |k: usize, c: usize| gamma[k * rg.stride + c] * dy[k * n + c];
                        let (mut a, mut b) = (0.0, 0.0);
                        for (k, z) in z.iter().enumerate() {
                            a += math::sum(n, |c| g(k, c));
                            b += math::sum(n, |c| g(k, c) * ((at(z, c) - mean) * rstd));
                        }
                        let (a, b) = (a / (4 * n) as f32, b / (4 * n) as f32);
                        for (k, z) in z.iter().enumerate() {
                            let Some(o) = out.row(k) else { continue };
                            for c in 0..n {
                                let d = rstd * (g(k, c) - a - (z[c] - mean) * rstd * b);
                                o[c] = if accumulate { o[c] + d } else { d };
                            }
                        }
                    },
                );
                Ok(())
            }
            Device::Gpu(gpu) => {
                let params = MergeParams {
                    y_offset: rd.offset,
                    y_stride: rd.stride,
                    dx_offset: ro.offset,
                    dx_stride: ro.stride,
                    accumulate,
                    ..self.params()?
                };
                let tensors = [dx, &self.stats, &self.x, index, &self.gamma, dy];
                let kernel = kernel("backward_input", "BACKWARD_INPUT", rx.cols, dy.dtype());
                gpu.dispatch(&kernel, &tensors, &params, gpu.caps().grid(rd.rows))
            }
        }
    }

    /// Σ dy·ẑ and Σ dy, `[2, 4, width]`.
    fn parameter_sums(&self, dy: &Tensor) -> Result<Tensor> {
        let (rx, rd) = (self.x.rows("patch_merge")?, dy.rows("patch_merge")?);
        let (n, index) = (rx.cols, &self.neighbours.index);
        let sums = Tensor::empty(dy.device(), &[2, 4, n], DType::F32)?;
        match self.x.device() {
            Device::Cpu(_) => {
                let (x, dy, stats) = (
                    &*self.x.cpu_read::<f32>("patch_merge")?,
                    &*dy.cpu_read::<f32>("patch_merge")?,
                    &*self.stats.cpu_read::<f32>("patch_merge")?,
                );
                let index = &*index.cpu_read::<u32>("patch_merge")?;
                let total = reduce_columns(
                    rd.rows,
                    8 * n,
                    #[inline(always)]
                    |i, sums| {
                        let (z, dy) = (sources(x, rx, index, i), &dy[i * rd.stride..]);
                        let (mean, rstd) = (stats[2 * i], stats[2 * i + 1]);
                        let (g, b) = sums.split_at_mut(4 * n);
                        for k in 0..4 {
                            for c in 0..n {
                                g[k * n + c] += dy[k * n + c] * ((at(z[k], c) - mean) * rstd);
                                b[k * n + c] += dy[k * n + c];
                            }
                        }
                    },
                );
                sums.upload(&total)?;
            }
            Device::Gpu(gpu) => {
                let per_part = rd.rows.div_ceil(PARTS).max(1);
                let count = rd.rows.div_ceil(per_part).max(1);
                let parts = Tensor::empty(dy.device(), &[count, 8 * n], DType::F32)?;
                let params = MergeParams {
                    y_offset: rd.offset,
                    y_stride: rd.stride,
                    dx_offset: parts.layout().offset,
                    dx_stride: 8 * n,
                    per_part,
                    ..self.params()?
                };
                let tensors = [&parts, &self.stats, &self.x, index, dy];
                let kernel = kernel("backward_parameters", "BACKWARD_PARAMETERS", n, dy.dtype());
                let grid = [(4 * n).div_ceil(64), count, 1];
                gpu.dispatch(&kernel, &tensors, &params, grid)?;
                column_sum(&parts, &sums.reshape(&[8 * n])?, 1.0, false)?;
            }
        }
        Ok(sums)
    }
}

fn put(to: &Tensor, value: &Tensor, accumulate: bool) -> Result<()> {
    if accumulate { add_assign(to, value) } else { copy(to, value) }
}

/// LayerNorm of 2×2 neighbours of x `[rows, width]` side by side, `[merged rows, 4·width]`; γ and β are `[4,
/// width]`, with any distance between slices.
pub fn merge_norm(
    tape: &Tape,
    x: &Var,
    gamma: &Var,
    beta: &Var,
    eps: f32,
    neighbours: &Neighbours,
) -> Result<Var> {
    let _span = profile::operation("merge_norm");
    let rx = x.value().rows("patch_merge")?;
    let slices = |v: &Var| v.value().shape() == [4, rx.cols];
    if rx.rows != neighbours.rows || !slices(gamma) || !slices(beta) {
        let problem = format!(
            "x {:?} of maps of {} rows, gamma {:?}, beta {:?}",
            x.value(),
            neighbours.rows,
            gamma.value(),
            beta.value()
        );
        return Err(Error::shape("patch_merge", problem));
    }
    let (device, rows) = (x.value().device(), neighbours.index.dim(0));
    let y = Tensor::empty(device, &[rows, 4 * rx.cols], x.value().dtype())?;
    let stats = Tensor::empty(device, &[rows, 2], DType::F32)?;
    let call = Call {
        x: x.value().clone(),
        gamma: gamma.value().clone(),
        neighbours: neighbours.clone(),
        stats,
        eps,
    };
    call.forward(beta.value(), &y)?;
    Ok(tape.record("merge_norm", [x, gamma, beta], y, move |[dx, dgamma, dbeta], dy| {
        if dgamma.is_wanted() || dbeta.is_wanted() {
            let sums = call.parameter_sums(&dy)?;
            for (i, gradient) in [dgamma, dbeta].into_iter().enumerate() {
                let sum = sums.slice(0, i..i + 1)?.reshape(&[4, rx.cols])?;
                gradient.write(|to, accumulate| put(to, &sum, accumulate))?;
            }
        }
        dx.write(|dx, accumulate| call.backward_input(&dy, dx, accumulate))
    }))
}

/// `α·x·Wᵀ` for x `[rows, 4·width]` and a weight `[out, 4, width]`: an elastic layer whose inputs are four
/// slices.
pub fn reduction(tape: &Tape, x: &Var, weight: &Var, alpha: f32) -> Result<Var> {
    let &[out, 4, width] = weight.value().shape() else {
        return Err(Error::shape(
            "patch_merge",
            format!("a weight [out, 4, width], got {:?}", weight.value()),
        ));
    };
    if x.value().shape().len() != 2 || x.value().dim(1) != 4 * width {
        let problem = format!("{:?} through a weight {:?}", x.value(), weight.value());
        return Err(Error::shape("patch_merge", problem));
    }
    let options = Options { alpha, ..Default::default() };
    let y = Tensor::empty(x.value().device(), &[x.value().dim(0), out], x.value().dtype())?;
    matmul(&Matrix::new(x.value())?, &transposed(weight.value())?, &Matrix::new(&y)?, &options)?;
    let (input, w) = (x.value().clone(), weight.value().clone());
    Ok(tape.record("reduction", [x, weight], y, move |[dx, dw], dy| {
        dw.write(|dw, accumulate| {
            let options = Options { accumulate, ..options.clone() };
            matmul(&Matrix::new(&dy)?.t(), &Matrix::new(&input)?, &transposed(dw)?.t(), &options)
        })?;
        dx.write(|dx, accumulate| {
            let options = Options { accumulate, ..options };
            matmul(&Matrix::new(&dy)?, &transposed(&w)?.t(), &Matrix::new(dx)?, &options)
        })
    }))
}

/// A weight `[out, 4, width]` as the matrix `[4·width, out]`.
fn transposed(weight: &Tensor) -> Result<Matrix> {
    Matrix::grouped_rows(&weight.transpose(0, 1).transpose(1, 2))
}
