//! Softmax over the last dimension: y = softmax(scale·x), dx = scale·y∘(dy − Σ dy·y). Saved: y.

use crate::autograd::{Tape, Var};
use crate::cpu::{for_rows, math};
use crate::error::Result;
use crate::gpu::{Caps, GpuDevice, Kernel, Shader, params, shader};
use crate::ops::rows::{RowPlan, Team, plan, strip};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, vec4_aligned};

const SHADER: Shader = shader!("softmax.wgsl", kernels);

params!(SoftmaxParams {
    rows: u32,
    cols: u32,
    out_offset: u32,
    out_stride: u32,
    a_offset: u32,
    a_stride: u32,
    b_offset: u32,
    b_stride: u32,
    accumulate: bool,
    strip: u32,
    scale: f32,
});

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    Backward,
}

fn kernel(pass: Pass, plan: RowPlan) -> Kernel {
    let mut defines = plan.defines();
    defines.extend((pass == Pass::Backward).then_some(("BACKWARD", 1)));
    Kernel::new::<SoftmaxParams>(SHADER, "softmax", defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    RowPlan::all(caps)
        .into_iter()
        .flat_map(|plan| [Pass::Forward, Pass::Backward].map(|pass| kernel(pass, plan)))
        .collect()
}

/// What forward and backward share.
#[derive(Clone, Copy)]
struct Call {
    scale: f32,
    /// Overrides the team that would be chosen.
    team: Option<Team>,
}

impl Call {
    fn launch(&self, pass: Pass, gpu: &GpuDevice, tensors: &[&Tensor], accumulate: bool) -> Result<()> {
        let rows = tensors.iter().map(|t| t.rows("softmax")).collect::<Result<Vec<_>>>()?;
        let (out, a, b) = (rows[0], rows[1], rows.get(2).unwrap_or(&rows[1]));
        let vec4 = vec4_aligned(&rows, &[]);
        let plan = match self.team {
            Some(team) => RowPlan::new(out.cols, vec4, team, gpu.caps()),
            None => plan(out.cols, vec4, gpu.caps()),
        };
        let strip = strip(out.rows, out.rows, gpu.caps());
        let params = SoftmaxParams {
            rows: out.rows,
            cols: out.cols,
            out_offset: out.offset,
            out_stride: out.stride,
            a_offset: a.offset,
            a_stride: a.stride,
            b_offset: b.offset,
            b_stride: b.stride,
            accumulate,
            strip,
            scale: self.scale,
        };
        let grid = gpu.caps().grid(plan.team.workgroups(out.rows.div_ceil(strip)));
        gpu.dispatch(&kernel(pass, plan), tensors, &params, grid)
    }

    fn forward(&self, x: &Tensor, y: &Tensor) -> Result<()> {
        if let Device::Gpu(gpu) = x.device() {
            return self.launch(Pass::Forward, gpu, &[y, x], false);
        }
        let rx = x.rows("softmax")?;
        let (x, n, scale) = (&*x.cpu_read::<f32>("softmax")?, rx.cols, self.scale);
        for_rows(
            y.cpu_rows_mut::<f32>("softmax")?.rows_mut(),
            #[inline(always)]
            |math, r, y: &mut [f32]| {
                let x = &x[r * rx.stride..][..n];
                let peak = math::max_of([x], |[x]| scale * x);
                for (y, x) in y.iter_mut().zip(x) {
                    *y = math.exp(scale * x - peak);
                }
                let share = 1.0 / math::sum_of([y], |[y]| y);
                y.iter_mut().for_each(|y| *y *= share);
            },
        );
        Ok(())
    }

    /// dx (= or +=)
    fn backward(&self, y: &Tensor, dy: &Tensor, dx: &Tensor, accumulate: bool) -> Result<()> {
        if let Device::Gpu(gpu) = y.device() {
            return self.launch(Pass::Backward, gpu, &[dx, y, dy], accumulate);
        }
        let (ry, rd) = (y.rows("softmax")?, dy.rows("softmax")?);
        let (y, dy, n, scale) =
            (&*y.cpu_read::<f32>("softmax")?, &*dy.cpu_read::<f32>("softmax")?, ry.cols, self.scale);
        for_rows(
            dx.cpu_rows_mut::<f32>("softmax")?.rows_mut(),
            #[inline(always)]
            |_, r, out| {
                let (y, dy) = (&y[r * ry.stride..][..n], &dy[r * rd.stride..][..n]);
                let dot = math::sum_of([y, dy], |[y, d]| y * d);
                for ((o, y), dy) in out.iter_mut().zip(y).zip(dy) {
                    let d = scale * y * (dy - dot);
                    *o = if accumulate { *o + d } else { d };
                }
            },
        );
        Ok(())
    }

    fn record(self, tape: &Tape, x: &Var) -> Result<Var> {
        x.value().rows("softmax")?;
        let y = Tensor::empty(x.value().device(), x.value().shape(), DType::F32)?;
        self.forward(x.value(), &y)?;
        let saved = y.clone();
        Ok(tape.record("softmax", [x], y, move |[dx], dy| {
            dx.write(|dx, accumulate| self.backward(&saved, &dy, dx, accumulate))
        }))
    }
}

/// softmax(scale·x) over the last dimension of `x` `[.., cols]`, whose rows may lie apart. The output is
/// dense.
pub fn softmax(tape: &Tape, x: &Var, scale: f32) -> Result<Var> {
    Call { scale, team: None }.record(tape, x)
}

/// As [`softmax`], with this team on a GPU; for tests and benchmarks.
pub fn softmax_planned(tape: &Tape, x: &Var, scale: f32, team: Team) -> Result<Var> {
    let _span = profile::operation("softmax");
    Call { scale, team: Some(team) }.record(tape, x)
}
