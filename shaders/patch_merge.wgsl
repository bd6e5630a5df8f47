// LayerNorm of four neighbouring rows side by side: y[i] = (z − mean)·rstd·γ + β where z is the rows index[4i
// .. 4i + 4] of x one after the other, zeros for ABSENT ones. γ and β are four slices, `gamma_stride` and
// `beta_stride` apart.
//   forward               y (=), stats [rows, 2] (=): mean, rstd
//   backward_input        dx[index[4i + k]] (=, or += where `accumulate`); every row of x is named once
//   backward_parameters   parts[part]: 4·cols sums of dy·ẑ, then 4·cols sums of dy, over the part's rows
// x, y and their gradients are of half precision where HALF, all else is single.
// Grid: forward and backward_input one workgroup a row, folded; backward_parameters (ceil(4·cols / WG),
// parts).
#include "params.wgsl"
#include "grid.wgsl"
#include "reduce.wgsl"
#include "act.wgsl"

const ABSENT: u32 = 0xffffffffu;

struct Params {
    rows: u32, cols: u32,
    x_offset: u32, x_stride: u32, y_offset: u32, y_stride: u32,
    gamma_offset: u32, gamma_stride: u32, beta_offset: u32, beta_stride: u32,
    stats_offset: u32, index_offset: u32, dx_offset: u32, dx_stride: u32,
    per_part: u32, accumulate: u32,
    eps: f32,
}

#ifdef BACKWARD_PARAMETERS
@group(0) @binding(0) var<storage, read_write> dst: array<f32>;
#else
@group(0) @binding(0) var<storage, read_write> dst: array<Act>;
#endif
#ifdef FORWARD
@group(0) @binding(1) var<storage, read_write> stats: array<f32>;
#else
@group(0) @binding(1) var<storage, read> stats: array<f32>;
#endif
@group(0) @binding(2) var<storage, read> x: array<Act>;
@group(0) @binding(3) var<storage, read> index: array<u32>;
#ifdef FORWARD
@group(0) @binding(4) var<storage, read> gamma: array<f32>;
@group(0) @binding(5) var<storage, read> beta: array<f32>;
#endif
#ifdef BACKWARD_INPUT
@group(0) @binding(4) var<storage, read> gamma: array<f32>;
@group(0) @binding(5) var<storage, read> dy: array<Act>;
#endif
#ifdef BACKWARD_PARAMETERS
@group(0) @binding(4) var<storage, read> dy: array<Act>;
#endif

// Element c of slice k of z[i].
fn source(i: u32, k: u32, c: u32) -> f32 {
    let r = index[p.index_offset + 4u * i + k];
    if r == ABSENT { return 0.0; }
    return f32(x[p.x_offset + r * p.x_stride + c]);
}

#ifdef FORWARD
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg);
    if i >= p.rows { return; }
    let n = f32(4u * p.cols);
    var total = 0.0;
    for (var k = 0u; k < 4u; k++) {
        for (var c = lane; c < p.cols; c += WG) { total += source(i, k, c); }
    }
    let mean = workgroup_sum(total, lane) / n;
    var squares = 0.0;
    for (var k = 0u; k < 4u; k++) {
        for (var c = lane; c < p.cols; c += WG) { let d = source(i, k, c) - mean; squares += d * d; }
    }
    let rstd = 1.0 / sqrt(workgroup_sum(squares, lane) / n + p.eps);
    for (var k = 0u; k < 4u; k++) {
        for (var c = lane; c < p.cols; c += WG) {
            let g = gamma[p.gamma_offset + k * p.gamma_stride + c];
            let b = beta[p.beta_offset + k * p.beta_stride + c];
            dst[p.y_offset + i * p.y_stride + k * p.cols + c] = Act((source(i, k, c) - mean) * rstd * g + b);
        }
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
    let n = f32(4u * p.cols);
    let mean = stats[p.stats_offset + 2u * i];
    let rstd = stats[p.stats_offset + 2u * i + 1u];
    var a = 0.0;
    var b = 0.0;
    for (var k = 0u; k < 4u; k++) {
        for (var c = lane; c < p.cols; c += WG) {
            let upper = f32(dy[p.y_offset + i * p.y_stride + k * p.cols + c]);
            let g = gamma[p.gamma_offset + k * p.gamma_stride + c] * upper;
            a += g;
            b += g * ((source(i, k, c) - mean) * rstd);
        }
    }
    a = workgroup_sum(a, lane) / n;
    b = workgroup_sum(b, lane) / n;
    for (var k = 0u; k < 4u; k++) {
        let r = index[p.index_offset + 4u * i + k];
        if r != ABSENT {
            for (var c = lane; c < p.cols; c += WG) {
                let upper = f32(dy[p.y_offset + i * p.y_stride + k * p.cols + c]);
                let g = gamma[p.gamma_offset + k * p.gamma_stride + c] * upper;
                var d = rstd * (g - a - (source(i, k, c) - mean) * rstd * b);
                let to = p.dx_offset + r * p.dx_stride + c;
                if p.accumulate != 0u { d += f32(dst[to]); }
                dst[to] = Act(d);
            }
        }
    }
}
#endif

#ifdef BACKWARD_PARAMETERS
@compute @workgroup_size(WG)
fn backward_parameters(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = wid.x * WG + lane;
    if at >= 4u * p.cols { return; }
    let k = at / p.cols;
    let c = at % p.cols;
    let last = min((wid.y + 1u) * p.per_part, p.rows);
    var g = 0.0;
    var b = 0.0;
    for (var i = wid.y * p.per_part; i < last; i++) {
        let d = f32(dy[p.y_offset + i * p.y_stride + at]);
        g += d * ((source(i, k, c) - stats[p.stats_offset + 2u * i]) * stats[p.stats_offset + 2u * i + 1u]);
        b += d;
    }
    let to = p.dx_offset + wid.y * p.dx_stride + at;
    dst[to] = g;
    dst[to + 4u * p.cols] = b;
}
#endif
