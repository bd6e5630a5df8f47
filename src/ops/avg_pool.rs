//! Average pooling over runs of rows, which may overlap, of one or several matrices: the mean of a map, and
//! the pixel of a map on which several patches stand. The gradient of a row adds up what all runs with it
//! get, in a fixed order. On a GPU the matrices may be of half precision; then the means are as well.

use crate::autograd::{Tape, Var};
use crate::cpu::{Places, for_rows};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::tensor::{DType, Device, Tensor, WG, activation_types, half_define};

const SHADER: Shader = shader!("avg_pool.wgsl", kernels);

params!(AvgPoolParams {
    rows: u32,
    cols: u32,
    x_offset: u32,
    x_stride: u32,
    y_offset: u32,
    y_stride: u32,
    runs_offset: u32,
    starts_offset: u32,
    users_offset: u32,
    accumulate: bool,
});

fn kernel(entry: &'static str, dtype: DType) -> Kernel {
    let flag = if entry == "forward" { "FORWARD" } else { "BACKWARD" };
    let mut defines = vec![("WG", WG), (flag, 1)];
    defines.extend(half_define(dtype));
    Kernel::new::<AvgPoolParams>(SHADER, entry, defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    activation_types(caps)
        .flat_map(|dtype| ["forward", "backward"].map(|entry| kernel(entry, dtype)))
        .collect()
}

/// Rows `first..first + length` of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which of the matrices.
    pub source: usize,
    /// Its first row.
    pub first: usize,
    /// Number of rows, at least one.
    pub length: usize,
}

/// The runs of one matrix, on the device.
struct Runs {
    /// `u32 [runs, 3]`: first row, length, row of the output.
    runs: Tensor,
    /// `u32 [rows + 1]`: where each row's list of runs starts.
    starts: Tensor,
    /// `u32`: the lists, one after the other.
    users: Tensor,
}

impl Runs {
    /// Runs (first row, length, row of the output) of a matrix of `rows` rows that has them all.
    fn new(device: &Device, rows: usize, runs: &[[usize; 3]]) -> Result<Self> {
        let mut starts = vec![0u32; rows + 1];
        for &[first, length, _] in runs {
            starts[first + 1..=first + length].iter_mut().for_each(|n| *n += 1);
        }
        for r in 0..rows {
            starts[r + 1] += starts[r];
        }
        let mut users = vec![0u32; starts[rows] as usize];
        let mut next = starts.clone();
        for (i, &[first, length, _]) in runs.iter().enumerate() {
            for place in &mut next[first..first + length] {
                users[*place as usize] = i as u32;
                *place += 1;
            }
        }
        let flat: Vec<u32> = runs.iter().flatten().map(|v| *v as u32).collect();
        Ok(Self {
            runs: Tensor::from_slice(device, &[runs.len(), 3], &flat)?,
            starts: Tensor::from_slice(device, &[starts.len()], &starts)?,
            users: Tensor::from_slice(device, &[users.len()], &users)?,
        })
    }

    fn params(&self, x: &Tensor, y: &Tensor, rows: usize) -> Result<AvgPoolParams> {
        let (rx, ry) = (x.rows("avg_pool")?, y.rows("avg_pool")?);
        Ok(AvgPoolParams {
            rows,
            cols: rx.cols,
            x_offset: rx.offset,
            x_stride: rx.stride,
            y_offset: ry.offset,
            y_stride: ry.stride,
            runs_offset: self.runs.layout().offset,
            starts_offset: self.starts.layout().offset,
            users_offset: self.users.layout().offset,
            accumulate: false,
        })
    }

    fn forward(&self, x: &Tensor, y: &Tensor) -> Result<()> {
        let (rx, ry, count) = (x.rows("avg_pool")?, y.rows("avg_pool")?, self.runs.dim(0));
        match x.device() {
            Device::Cpu(_) => {
                let (x, runs) = (&*x.cpu_read::<f32>("avg_pool")?, &*self.runs.cpu_read::<u32>("avg_pool")?);
                let rows: Vec<u32> = runs.chunks_exact(3).map(|run| run[2]).collect();
                let places = Places::new("avg_pool", rows, ry.rows)?;
                for_rows(
                    y.cpu_rows_mut::<f32>("avg_pool")?.rows_mut().scattered(&places),
                    #[inline(always)]
                    |_, i, y| {
                        let Some(y) = y else { return };
                        let (first, length) = (runs[3 * i] as usize, runs[3 * i + 1] as usize);
                        y.copy_from_slice(&x[first * rx.stride..][..ry.cols]);
                        for r in first + 1..first + length {
                            y.iter_mut().zip(&x[r * rx.stride..]).for_each(|(o, x)| *o += x);
                        }
                        y.iter_mut().for_each(|o| *o /= length as f32);
                    },
                );
                Ok(())
            }
            Device::Gpu(gpu) => {
                let grid = gpu.caps().grid((count * ry.cols).div_ceil(WG as usize));
                let kernel = kernel("forward", y.dtype());
                gpu.dispatch(&kernel, &[y, x, &self.runs], &self.params(x, y, count)?, grid)
            }
        }
    }

    fn backward(&self, dy: &Tensor, dx: &Tensor, accumulate: bool) -> Result<()> {
        let (rd, rx) = (dy.rows("avg_pool")?, dx.rows("avg_pool")?);
        match dy.device() {
            Device::Cpu(_) => {
                let (dy, runs) =
                    (&*dy.cpu_read::<f32>("avg_pool")?, &*self.runs.cpu_read::<u32>("avg_pool")?);
                let (starts, users) =
                    (&*self.starts.cpu_read::<u32>("avg_pool")?, &*self.users.cpu_read::<u32>("avg_pool")?);
                for_rows(
                    dx.cpu_rows_mut::<f32>("avg_pool")?.rows_mut(),
                    #[inline(always)]
                    |_, r, dx| {
                        if !accumulate {
                            dx.fill(0.0);
                        }
                        for &i in &users[starts[r] as usize..starts[r + 1] as usize] {
                            let run = &runs[3 * i as usize..][..3];
                            let (share, dy) = (1.0 / run[1] as f32, &dy[run[2] as usize * rd.stride..]);
                            dx.iter_mut().zip(dy).for_each(|(o, d)| *o += share * d);
                        }
                    },
                );
                Ok(())
            }
            Device::Gpu(gpu) => {
                let params = AvgPoolParams { accumulate, ..self.params(dx, dy, rx.rows)? };
                let tensors = [dx, dy, &self.runs, &self.starts, &self.users];
                let grid = gpu.caps().grid((rx.rows * rx.cols).div_ceil(WG as usize));
                gpu.dispatch(&kernel("backward", dy.dtype()), &tensors, &params, grid)
            }
        }
    }
}

/// The mean of every run of rows of `sources` `[rows, width]`, all of one width: `[runs, width]`. A source
/// without a run gets no gradient.
pub fn avg_pool(tape: &Tape, sources: &[&Var], runs: &[Run]) -> Result<Var> {
    let wrong = |problem: String| {
        let shapes: Vec<_> = sources.iter().map(|s| s.value().shape().to_vec()).collect();
        Error::shape("avg_pool", format!("{problem} of matrices {shapes:?}"))
    };
    let Some(first) = sources.first() else { return Err(wrong("no rows".into())) };
    let (device, cols) = (first.value().device(), first.value().rows("avg_pool")?.cols);
    let dtype = first.value().dtype();
    let fits = |s: &Tensor| s.shape().len() == 2 && s.dim(1) == cols && s.dtype() == dtype;
    if sources.iter().any(|s| !fits(s.value())) {
        return Err(wrong("rows".into()));
    }
    let mut lists = vec![Vec::new(); sources.len()];
    for (place, run) in runs.iter().enumerate() {
        let rows = sources.get(run.source).map_or(0, |s| s.value().dim(0));
        if run.length == 0 || run.first + run.length > rows {
            return Err(wrong(format!("{run:?}")));
        }
        lists[run.source].push([run.first, run.length, place]);
    }
    if let Device::Gpu(gpu) = device {
        let longest = runs.iter().map(|run| run.length).max().unwrap_or(0);
        gpu.caps().check_rounds("avg_pool", longest, "a run")?;
    }
    let y = Tensor::empty(device, &[runs.len(), cols], dtype)?;
    let mut all = Vec::with_capacity(sources.len());
    for (source, list) in sources.iter().zip(lists) {
        if list.is_empty() {
            all.push(None);
            continue;
        }
        let runs = Runs::new(device, source.value().dim(0), &list)?;
        runs.forward(source.value(), &y)?;
        all.push(Some(runs));
    }
    Ok(tape.record_list("avg_pool", sources, y, move |gradients, dy| {
        all.iter().zip(&gradients).try_for_each(|(runs, dx)| match runs {
            Some(runs) => dx.write(|dx, accumulate| runs.backward(&dy, dx, accumulate)),
            None => dx.dismiss("no run is in it"),
        })
    }))
}
