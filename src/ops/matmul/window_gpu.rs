//! Windows on the GPU: the problem, its plan, parameters and one or two dispatches.

use super::geometry::Geometry;
use super::gpu::first_stage;
use super::params::{MatmulParams, WindowParams};
use super::plan::COMBINE_WG;
use super::{EpilogueKind, Force, Plan, Precision, Problem, plan};
use crate::error::Result;
use crate::gpu::GpuDevice;
use crate::tensor::{DType, Tensor};

/// Whether all of these offsets, strides and lengths are multiples of `width`.
fn aligned(width: usize, numbers: &[usize]) -> bool {
    numbers.iter().all(|n| n.is_multiple_of(width))
}

/// What both products have in common.
fn shared(g: &Geometry, x: &Tensor) -> WindowParams {
    let [image, row, pixel] = g.map_strides;
    WindowParams {
        a_offset: x.layout().offset,
        grid_h: g.grid[0],
        grid_w: g.grid[1],
        step: g.window.step,
        top: g.window.start[0],
        left: g.window.start[1],
        height: g.map[0],
        width: g.map[1],
        taps_x: g.taps[1],
        a_image: image,
        a_row: row,
        a_pixel: pixel,
        ..Default::default()
    }
}

fn decide(gpu: &GpuDevice, problem: &Problem, force: Force) -> Plan {
    let plan = plan(problem, gpu.caps());
    Plan {
        variant: force.variant.unwrap_or(plan.variant),
        parts: force.parts.filter(|_| problem.k_groups == 1).unwrap_or(plan.parts),
        ..plan
    }
}

pub(super) fn product(
    gpu: &GpuDevice,
    g: &Geometry,
    [x, w, y]: [&Tensor; 3],
    alpha: f32,
    accumulate: bool,
    force: Force,
) -> Result<()> {
    let [tap_y, tap_x, b_k, b_n] = g.weight;
    let b_along_k = b_k < b_n;
    let (x_at, w_at) = (x.layout().offset, w.layout().offset);
    let [image, row, pixel] = g.map_strides;
    let map = [x_at, image, row, pixel];
    let weights = |width| match b_along_k {
        true => b_k == 1 && aligned(width, &[w_at, tap_y, tap_x, b_n]),
        false => b_n == 1 && aligned(width, &[w_at, tap_y, tap_x, b_k, g.outputs]),
    };
    let out = |width| {
        let [image, row, place] = g.grid_strides;
        aligned(width, &[y.layout().offset, image, row, place, g.outputs])
    };
    let problem = Problem {
        batch: 1,
        m: g.places(),
        n: g.outputs,
        k: g.channels,
        k_groups: g.taps[0] * g.taps[1],
        a_along_m: false,
        b_along_k,
        a_aligned: aligned(4, &map),
        b_aligned: weights(4),
        c_aligned: out(4),
        grouped: false,
        window: true,
        precision: Precision::of(x.dtype(), y.dtype()),
        wide: aligned(8, &map) && g.channels.is_multiple_of(8) && weights(8) && out(4),
        c_wide: out(8),
        epilogue: if accumulate { EpilogueKind::Accumulate } else { EpilogueKind::Plain },
    };
    let plan = Plan { parts: 1, ..decide(gpu, &problem, force) };
    // taps last first: from the last one's weights backwards
    let (b_offset, turn) = match g.window.reversed {
        true => (w_at + (g.taps[0] - 1) * tap_y + (g.taps[1] - 1) * tap_x, -1),
        false => (w_at, 1),
    };
    let params = WindowParams {
        m: problem.m,
        n: problem.n,
        k: problem.k,
        k_groups: problem.k_groups,
        b_offset,
        c_offset: y.layout().offset,
        b_k,
        b_n,
        b_tap_y: tap_y as isize * turn,
        b_tap_x: tap_x as isize * turn,
        c_image: g.grid_strides[0],
        c_row: g.grid_strides[1],
        c_m: g.grid_strides[2],
        batches: 1,
        parts: 1,
        k_part: problem.k,
        alpha,
        ..shared(g, x)
    };
    first_stage(gpu, &plan, &problem, force, [y, x, w], &[], &params)
}

pub(super) fn gradient(
    gpu: &GpuDevice,
    g: &Geometry,
    [x, dy, dw]: [&Tensor; 3],
    alpha: f32,
    force: Force,
) -> Result<()> {
    let (taps, c, n, places) = (g.taps[0] * g.taps[1], g.channels, g.outputs, g.places());
    let [image, row, pixel] = g.map_strides;
    let (map, places_at) = ([x.layout().offset, image, row, pixel, c], [dy.layout().offset, n]);
    let out = |to: &Tensor, width| aligned(width, &[to.layout().offset, n]);
    let problem = Problem {
        batch: taps,
        m: c,
        n,
        k: places,
        k_groups: 1,
        a_along_m: true,
        b_along_k: false,
        a_aligned: aligned(4, &map),
        b_aligned: aligned(4, &places_at),
        c_aligned: out(dw, 4),
        grouped: false,
        window: true,
        precision: Precision::of(x.dtype(), dw.dtype()),
        wide: aligned(8, &map) && aligned(8, &places_at) && out(dw, 4),
        c_wide: out(dw, 8),
        epilogue: EpilogueKind::Plain,
    };
    let mut plan = decide(gpu, &problem, force);
    // no part may be empty, and all begin at a vector of four
    let k_part = places.div_ceil(plan.parts).next_multiple_of(4).min(places);
    plan.parts = places.div_ceil(k_part);
    let partial = match plan.parts {
        1 => None,
        parts => Some(Tensor::empty(dw.device(), &[taps * parts, c, n], DType::F32)?),
    };
    let to = partial.as_ref().unwrap_or(dw);
    plan.c_aligned = out(to, 4);
    let params = WindowParams {
        m: c,
        n,
        k: places,
        k_groups: 1,
        b_offset: dy.layout().offset,
        c_offset: to.layout().offset,
        b_k: n,
        b_n: 1,
        c_m: n,
        c_batch: c * n,
        batches: taps,
        parts: plan.parts,
        k_part,
        alpha: if partial.is_some() { 1.0 } else { alpha },
        ..shared(g, x)
    };
    first_stage(gpu, &plan, &problem, force, [to, x, dy], &[], &params)?;
    let Some(partial) = partial else { return Ok(()) };
    let params = MatmulParams {
        m: c,
        m_group: c,
        c_m: n,
        n,
        n_group: n,
        c_n: 1,
        a_offset: partial.layout().offset,
        c_offset: dw.layout().offset,
        c_batch: c * n,
        batches: taps,
        parts: plan.parts,
        alpha,
        ..Default::default()
    };
    let grid = gpu.caps().grid((taps * c * n).div_ceil(COMBINE_WG as usize));
    gpu.dispatch(&plan.combine(), &[dw, &partial], &params, grid)
}
