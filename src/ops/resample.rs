//! Maps at another size: every pixel of the new map is a weighted sum of a few rows and a few columns of the old one,
//! `y[i, j] = Σ_a Σ_b v[i, a]·w[j, b]·x[row(i) + a, column(j) + b]`. Bilinear enlargement, means over bins and their gradients
//! are all of this kind: the gradient is the same sum with the axes turned round. Single precision.

use crate::autograd::{Tape, Var};
use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::conv::MapShape;
use crate::profile;
use crate::tensor::{DType, Device, Tensor, WG};

const SHADER: Shader = shader!("resample.wgsl", kernels);

params!(ResampleParams {
    count: u32,
    cols: u32,
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    down: u32,
    across: u32,
    x_offset: u32,
    x_stride: u32,
    y_offset: u32,
    y_stride: u32,
    rows_offset: u32,
    row_weights_offset: u32,
    columns_offset: u32,
    column_weights_offset: u32,
    accumulate: bool,
});

fn kernel() -> Kernel {
    Kernel::new::<ResampleParams>(SHADER, "resample", vec![("WG", WG)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel()]
}

/// What the pixels along one axis are made of: each of a run of pixels of the old axis, with weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Pixels of the old axis.
    inputs: usize,
    /// The first pixel of each run.
    first: Vec<u32>,
    /// `[outputs, taps]`: the weights, zeros where a run is shorter than the longest.
    weights: Vec<f32>,
}

impl Axis {
    /// An axis of runs (first pixel, weights), which must lie within `inputs` pixels.
    fn of_runs(inputs: usize, runs: &[(usize, Vec<f32>)]) -> Self {
        let taps = runs.iter().map(|(_, weights)| weights.len()).max().unwrap_or(1).max(1);
        let (mut first, mut all) = (Vec::with_capacity(runs.len()), Vec::with_capacity(runs.len() * taps));
        for (start, weights) in runs {
            // no tap may lie beyond the axis, not even one without weight
            let begin = (*start).min(inputs.saturating_sub(taps));
            first.push(begin as u32);
            let before = start - begin;
            all.extend(std::iter::repeat_n(0.0, before));
            all.extend(weights);
            all.extend(std::iter::repeat_n(0.0, taps - before - weights.len()));
        }
        Self { inputs, first, weights: all }
    }

    /// Linear interpolation from `inputs` pixels to `outputs`, corners not aligned, without antialiasing: PyTorch's
    /// `interpolate(mode="bilinear", align_corners=False)` along one axis.
    pub fn linear(inputs: usize, outputs: usize) -> Self {
        let scale = inputs as f64 / outputs.max(1) as f64;
        let run = |i: usize| {
            let at = ((i as f64 + 0.5) * scale - 0.5).max(0.0);
            let low = (at as usize).min(inputs.saturating_sub(1));
            let share = if low + 1 < inputs { (at - low as f64) as f32 } else { 0.0 };
            match share > 0.0 {
                true => (low, vec![1.0 - share, share]),
                false => (low, vec![1.0]),
            }
        };
        Self::of_runs(inputs, &(0..outputs).map(run).collect::<Vec<_>>())
    }

    /// Means over `outputs` bins that cover `inputs` pixels and may overlap by one: PyTorch's `adaptive_avg_pool` along one
    /// axis.
    pub fn bins(inputs: usize, outputs: usize) -> Self {
        let run = |i: usize| {
            let (start, end) = (i * inputs / outputs, ((i + 1) * inputs).div_ceil(outputs));
            (start, vec![1.0 / (end - start) as f32; end - start])
        };
        Self::of_runs(inputs, &(0..outputs).map(run).collect::<Vec<_>>())
    }

    /// The same axis of old pixels that count `factors` as much, one for each.
    pub fn weighted(mut self, factors: &[f32]) -> Self {
        let taps = self.taps();
        for (i, weight) in self.weights.iter_mut().enumerate() {
            *weight *= factors[self.first[i / taps] as usize + i % taps];
        }
        self
    }

    /// Pixels of the new axis.
    pub fn outputs(&self) -> usize {
        self.first.len()
    }

    /// Pixels of the old axis.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    fn taps(&self) -> usize {
        self.weights.len() / self.first.len().max(1)
    }

    /// Pixels `range` of the new axis alone.
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        let taps = self.taps();
        Self {
            inputs: self.inputs,
            first: self.first[range.clone()].to_vec(),
            weights: self.weights[range.start * taps..range.end * taps].to_vec(),
        }
    }

    /// The other way: what every old pixel gives to the new ones.
    fn reversed(&self) -> Self {
        let (taps, outputs) = (self.taps(), self.outputs());
        let mut runs: Vec<Option<(usize, Vec<f32>)>> = vec![None; self.inputs];
        for (i, first) in self.first.iter().enumerate() {
            for tap in 0..taps {
                let weight = self.weights[i * taps + tap];
                if weight == 0.0 {
                    continue;
                }
                let (start, weights) = runs[*first as usize + tap].get_or_insert((i, Vec::new()));
                weights.resize(i - *start, 0.0);
                weights.push(weight);
            }
        }
        let runs: Vec<_> = runs.into_iter().map(|run| run.unwrap_or((0, vec![0.0]))).collect();
        Self::of_runs(outputs, &runs)
    }
}

/// An axis on a device.
#[derive(Clone)]
struct OnDevice {
    outputs: usize,
    taps: usize,
    first: Tensor,
    weights: Tensor,
}

impl OnDevice {
    fn new(device: &Device, axis: &Axis) -> Result<Self> {
        Ok(Self {
            outputs: axis.outputs(),
            taps: axis.taps(),
            first: Tensor::from_slice(device, &[axis.first.len()], &axis.first)?,
            weights: Tensor::from_slice(device, &[axis.weights.len()], &axis.weights)?,
        })
    }
}

/// A change of size, on a device, ready for maps of one size.
#[derive(Clone)]
pub struct Resampling {
    inputs: [usize; 2],
    forward: [OnDevice; 2],
    backward: [OnDevice; 2],
}

impl Resampling {
    /// The change along rows (down) and columns (across).
    pub fn new(device: &Device, rows: &Axis, columns: &Axis) -> Result<Self> {
        if rows.outputs() * columns.outputs() * rows.inputs * columns.inputs == 0 {
            return Err(Error::shape("resample", format!("{rows:?} and {columns:?}")));
        }
        Ok(Self {
            inputs: [rows.inputs, columns.inputs],
            forward: [OnDevice::new(device, rows)?, OnDevice::new(device, columns)?],
            backward: [OnDevice::new(device, &rows.reversed())?, OnDevice::new(device, &columns.reversed())?],
        })
    }

    /// Bilinear, from and to (down, across).
    pub fn bilinear(device: &Device, from: [usize; 2], to: [usize; 2]) -> Result<Self> {
        Self::new(device, &Axis::linear(from[0], to[0]), &Axis::linear(from[1], to[1]))
    }

    /// Means over `bins`² bins.
    pub fn pooling(device: &Device, from: [usize; 2], bins: usize) -> Result<Self> {
        Self::new(device, &Axis::bins(from[0], bins), &Axis::bins(from[1], bins))
    }

    /// Pixels of the new maps, down and across.
    pub fn outputs(&self) -> [usize; 2] {
        [self.forward[0].outputs, self.forward[1].outputs]
    }
}

impl Resampling {
    /// `y (=)` maps `x` `[images·height·width, channels]` at the new size, without a gradient.
    pub fn apply(&self, y: &Tensor, x: &Tensor, images: usize) -> Result<()> {
        resample_into(y, x, images, self.inputs, &self.forward, false)
    }

    /// `dx (=)` the gradient of [`Resampling::apply`] for a cotangent `dy`.
    pub fn apply_back(&self, dx: &Tensor, dy: &Tensor, images: usize) -> Result<()> {
        resample_into(dx, dy, images, self.outputs(), &self.backward, false)
    }
}

/// `y (+)=` the maps `x` `[images·height·width, channels]` at another size.
fn resample_into(
    y: &Tensor,
    x: &Tensor,
    images: usize,
    [height, width]: [usize; 2],
    [down, across]: &[OnDevice; 2],
    accumulate: bool,
) -> Result<()> {
    const NAME: &str = "resample";
    let _span = profile::operation(NAME);
    let (rx, ry) = (x.rows(NAME)?, y.rows(NAME)?);
    let fits = rx.rows == images * height * width && ry.rows == images * down.outputs * across.outputs;
    if !fits || rx.cols != ry.cols || ry.rows * ry.cols == 0 {
        return Err(Error::shape(
            NAME,
            format!(
                "{images} maps of {height}x{width} in {x:?}, of {}x{} in {y:?}",
                down.outputs, across.outputs
            ),
        ));
    }
    match y.device() {
        Device::Cpu(_) => {
            let x = x.cpu_rows::<f32>(NAME)?;
            let (rows, v) = (&*down.first.cpu_read::<u32>(NAME)?, &*down.weights.cpu_read::<f32>(NAME)?);
            let (columns, w) =
                (&*across.first.cpu_read::<u32>(NAME)?, &*across.weights.cpu_read::<f32>(NAME)?);
            let ([high, wide], [tall, long]) = ([down.outputs, across.outputs], [down.taps, across.taps]);
            for_rows(
                y.cpu_rows_mut::<f32>(NAME)?.rows_mut(),
                #[inline(always)]
                |_, at, y| {
                    let (line, j) = (at / wide, at % wide);
                    let (image, i) = (line / high, line % high);
                    if !accumulate {
                        y.fill(0.0);
                    }
                    for a in 0..tall {
                        let v = v[i * tall + a];
                        if v == 0.0 {
                            continue;
                        }
                        let line = (image * height + rows[i] as usize + a) * width + columns[j] as usize;
                        for b in 0..long {
                            let weight = v * w[j * long + b];
                            if weight != 0.0 {
                                y.iter_mut().zip(x.row(line + b)).for_each(|(y, x)| *y += weight * x);
                            }
                        }
                    }
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params = ResampleParams {
                count: ry.rows * ry.cols,
                cols: ry.cols,
                height,
                width,
                out_height: down.outputs,
                out_width: across.outputs,
                down: down.taps,
                across: across.taps,
                x_offset: rx.offset,
                x_stride: rx.stride,
                y_offset: ry.offset,
                y_stride: ry.stride,
                rows_offset: down.first.layout().offset,
                row_weights_offset: down.weights.layout().offset,
                columns_offset: across.first.layout().offset,
                column_weights_offset: across.weights.layout().offset,
                accumulate,
            };
            let tensors = [y, x, &down.first, &down.weights, &across.first, &across.weights];
            gpu.dispatch(
                &kernel(),
                &tensors,
                &params,
                gpu.caps().grid((ry.rows * ry.cols).div_ceil(WG as usize)),
            )
        }
    }
}

/// The maps `x` `[rows, channels]` of this shape at another size, and the shape they have then.
pub fn resample(tape: &Tape, x: &Var, shape: MapShape, by: &Resampling) -> Result<(Var, MapShape)> {
    let [height, width] = by.outputs();
    let after = MapShape { height, width, ..shape };
    if by.inputs != [shape.height, shape.width] {
        return Err(Error::shape(
            "resample",
            format!("{shape:?} by what is made for maps of {:?}", by.inputs),
        ));
    }
    let y = Tensor::empty(x.value().device(), &[after.rows(), x.value().dim(1)], DType::F32)?;
    resample_into(&y, x.value(), shape.images, by.inputs, &by.forward, false)?;
    let by = by.clone();
    let y = tape.record("resample", [x], y, move |[dx], dy| {
        dx.write(|dx, accumulate| {
            resample_into(dx, &dy, shape.images, by.outputs(), &by.backward, accumulate)
        })
    });
    Ok((y, after))
}
