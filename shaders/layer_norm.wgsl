// LayerNorm over rows of `cols` elements.
//   forward             y[i] = (x[r] − mean)·rstd·γ + β, stats[i] = (mean, rstd), r = index[i] or i
//   backward_input      dx[r] (=, or += where `accumulate`) rstd·(γdy − mean(γdy) − x̂·mean(γdy·x̂))
//   backward_parameters parts[k] = (Σ dy·x̂ , Σ dy) over the k-th block of rows; summed by reduce.wgsl
// Grid: forward and backward_input one workgroup a row, folded; backward_parameters (ceil(cols / WG), parts, 1).
// The mean is subtracted before squares are summed (two passes over a row that is in cache).
#include "params.wgsl"
#include "grid.wgsl"
#ifndef BACKWARD_PARAMETERS
#include "reduce.wgsl"
#endif

struct Params {
    rows: u32, cols: u32,
    x_offset: u32, x_stride: u32,
    y_offset: u32, y_stride: u32,
    gamma_offset: u32, beta_offset: u32, stats_offset: u32, index_offset: u32,
    dx_offset: u32, dx_stride: u32,
    accumulate: u32, parts: u32,
    eps: f32,
}

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read_write> stats: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> gamma: array<f32>;
@group(0) @binding(4) var<storage, read> beta: array<f32>;
#ifdef GATHER
@group(0) @binding(5) var<storage, read> index: array<u32>;
#endif
#endif
#ifdef BACKWARD_INPUT
@group(0) @binding(0) var<storage, read_write> dx: array<f32>;
@group(0) @binding(1) var<storage, read> stats: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> gamma: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
#ifdef GATHER
@group(0) @binding(5) var<storage, read> index: array<u32>;
#endif
#endif
#ifdef BACKWARD_PARAMETERS
@group(0) @binding(0) var<storage, read_write> parts: array<f32>;
@group(0) @binding(1) var<storage, read> stats: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
#ifdef GATHER
@group(0) @binding(4) var<storage, read> index: array<u32>;
#endif
#endif

fn source_row(i: u32) -> u32 {
#ifdef GATHER
    return index[p.index_offset + i];
#else
    return i;
#endif
}

#ifdef FORWARD
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg);
    if i >= p.rows { return; }
    let at = p.x_offset + source_row(i) * p.x_stride;
    var total = 0.0;
    for (var c = lane; c < p.cols; c += WG) { total += x[at + c]; }
    let mean = workgroup_sum(total, lane) / f32(p.cols);
    var squares = 0.0;
    for (var c = lane; c < p.cols; c += WG) { let d = x[at + c] - mean; squares += d * d; }
    let rstd = 1.0 / sqrt(workgroup_sum(squares, lane) / f32(p.cols) + p.eps);
    let to = p.y_offset + i * p.y_stride;
    for (var c = lane; c < p.cols; c += WG) {
        y[to + c] = (x[at + c] - mean) * rstd * gamma[p.gamma_offset + c] + beta[p.beta_offset + c];
    }
    if lane == 0u {
        stats[p.stats_offset + 2u * i] = mean;
        stats[p.stats_offset + 2u * i + 1u] = rstd;
    }
}
#endif

#ifdef BACKWARD_INPUT
@compute @workgroup_size(WG)
fn backward_input(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg);
    if i >= p.rows { return; }
    let r = source_row(i);
    let at = p.x_offset + r * p.x_stride;
    let from_ = p.y_offset + i * p.y_stride;
    let mean = stats[p.stats_offset + 2u * i];
    let rstd = stats[p.stats_offset + 2u * i + 1u];
    var a = 0.0;
    var b = 0.0;
    for (var c = lane; c < p.cols; c += WG) {
        let g = gamma[p.gamma_offset + c] * dy[from_ + c];
        a += g;
        b += g * ((x[at + c] - mean) * rstd);
    }
    a = workgroup_sum(a, lane) / f32(p.cols);
    b = workgroup_sum(b, lane) / f32(p.cols);
    let to = p.dx_offset + r * p.dx_stride;
    for (var c = lane; c < p.cols; c += WG) {
        let g = gamma[p.gamma_offset + c] * dy[from_ + c];
        let d = rstd * (g - a - (x[at + c] - mean) * rstd * b);
        if p.accumulate != 0u { dx[to + c] += d; } else { dx[to + c] = d; }
    }
}
#endif

#ifdef BACKWARD_PARAMETERS
@compute @workgroup_size(WG)
fn backward_parameters(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = wid.x * WG + lane;
    if c >= p.cols { return; }
    let size = (p.rows + p.parts - 1u) / p.parts;
    let last = min((wid.y + 1u) * size, p.rows);
    var g = 0.0;
    var b = 0.0;
    for (var i = wid.y * size; i < last; i++) {
        let d = dy[p.y_offset + i * p.y_stride + c];
        let s = p.stats_offset + 2u * i;
        g += d * ((x[p.x_offset + source_row(i) * p.x_stride + c] - stats[s]) * stats[s + 1u]);
        b += d;
    }
    let to = p.dx_offset + wid.y * p.dx_stride + c;
    parts[to] = g;
    parts[to + p.cols] = b;
}
#endif
