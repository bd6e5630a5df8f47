//! Sums of rows by group: what the centres of clusters are made of. Not differentiable.

use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::profile;
use crate::tensor::{Device, Tensor, WG};

const SHADER: Shader = shader!("group_sum.wgsl", kernels);

params!(GroupSumParams {
    groups: u32,
    cols: u32,
    out_offset: u32,
    out_stride: u32,
    x_offset: u32,
    x_stride: u32,
    order_offset: u32,
    first_offset: u32,
});

fn kernel() -> Kernel {
    Kernel::new::<GroupSumParams>(SHADER, "group_sum", vec![("WG", WG)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel()]
}

/// `out[g] += Σ x[r]` over the rows r of x `[rows, width]` with `group[r] == g`, in their order; out `[groups,
/// width]`. The sum of the rows is made first, then added.
pub fn group_sum(out: &Tensor, x: &Tensor, group: &[u32]) -> Result<()> {
    let _span = profile::operation("group_sum");
    let (ro, rx) = (out.rows("group_sum")?, x.rows("group_sum")?);
    if ro.cols != rx.cols || group.len() != rx.rows || group.iter().any(|g| *g as usize >= ro.rows) {
        let problem = format!("{x:?} in {} groups, numbered below {}, into {out:?}", group.len(), ro.rows);
        return Err(Error::shape("group_sum", problem));
    }
    let Device::Gpu(gpu) = out.device() else { return on_the_host(out, x, group) };
    if ro.rows * ro.cols == 0 {
        return Ok(());
    }
    let most = gpu.caps().loop_rounds().unwrap_or(group.len()).max(1);
    for (part, group) in group.chunks(most).enumerate() {
        let (order, first) = sorted(group, ro.rows);
        let order = Tensor::from_slice(x.device(), &[order.len()], &order)?;
        let first = Tensor::from_slice(x.device(), &[first.len()], &first)?;
        let params = GroupSumParams {
            groups: ro.rows,
            cols: ro.cols,
            out_offset: ro.offset,
            out_stride: ro.stride,
            x_offset: rx.offset + part * most * rx.stride,
            x_stride: rx.stride,
            order_offset: order.layout().offset,
            first_offset: first.layout().offset,
        };
        let grid = gpu.caps().grid((ro.rows * ro.cols).div_ceil(WG as usize));
        gpu.dispatch(&kernel(), &[out, x, &order, &first], &params, grid)?;
    }
    Ok(())
}

fn on_the_host(out: &Tensor, x: &Tensor, group: &[u32]) -> Result<()> {
    let (rx, (order, first)) = (x.rows("group_sum")?, sorted(group, out.rows("group_sum")?.rows));
    let x = &*x.cpu_read::<f32>("group_sum")?;
    for_rows(
        out.cpu_rows_mut::<f32>("group_sum")?.rows_mut(),
        #[inline(always)]
        |_, g, out| {
            let mut total = vec![0.0; out.len()];
            for r in &order[first[g] as usize..first[g + 1] as usize] {
                total.iter_mut().zip(&x[*r as usize * rx.stride..]).for_each(|(t, x)| *t += x);
            }
            out.iter_mut().zip(total).for_each(|(o, t)| *o += t);
        },
    );
    Ok(())
}

/// The rows by group, of one group in their order, and where each group begins among them, with the end of the last.
fn sorted(group: &[u32], groups: usize) -> (Vec<u32>, Vec<u32>) {
    let mut first = vec![0; groups + 1];
    group.iter().for_each(|g| first[*g as usize + 1] += 1);
    for g in 0..groups {
        first[g + 1] += first[g];
    }
    let (mut next, mut order) = (first.clone(), vec![0; group.len()]);
    for (r, g) in group.iter().enumerate() {
        let next = &mut next[*g as usize];
        order[*next as usize] = r as u32;
        *next += 1;
    }
    (order, first)
}
