// GroupNorm of images of `rows` rows: channel c is in group c / (cols / groups).
//   forward        y = (x − mean)·rstd·γ + β (+ residual where RESIDUAL), then ReLU where RELU (=);
//                  stats[image, group] = (mean, rstd)
//   sums           parts[image, slice] = (Σ dy·x̂ , Σ dy) by channel over a slice of 256 rows (=)
//   backward       dst (=, or += where `accumulate`) rstd·(γdy − mean(γdy) − x̂·mean(γdy·x̂)); the means come
//                  from parts
//   relu_gradient  dst = 0 where y is not above 0, in place
// x, y, residual and their gradients are of half precision where HALF, all else is single.
// Grid: forward and backward one workgroup an image and group, folded; sums one an image, slice and WG
// channels, folded;
// relu_gradient one invocation an element, folded. In an image a workgroup's invocations lie over the group's
// channels first, so that neighbours read neighbours. The mean is subtracted before squares are summed.
#include "params.wgsl"
#include "grid.wgsl"
#include "act.wgsl"

struct Params {
    images: u32, rows: u32, cols: u32, groups: u32, slices: u32,
    x_offset: u32, x_stride: u32, y_offset: u32, y_stride: u32, residual_offset: u32, residual_stride: u32,
    gamma_offset: u32, beta_offset: u32, stats_offset: u32, parts_offset: u32, out_offset: u32, out_stride: u32,
    accumulate: u32,
    eps: f32,
}

const SLICE: u32 = 256u;

#ifdef FORWARD
#include "reduce.wgsl"
@group(0) @binding(0) var<storage, read_write> y: array<Act>;
@group(0) @binding(1) var<storage, read_write> stats: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<Act>;
@group(0) @binding(3) var<storage, read> gamma: array<f32>;
@group(0) @binding(4) var<storage, read> beta: array<f32>;
#ifdef RESIDUAL
@group(0) @binding(5) var<storage, read> residual: array<Act>;
#endif

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let job = workgroup_index(wid, nwg);
    if job >= p.images * p.groups { return; }
    let width = p.cols / p.groups;
    let first = (job % p.groups) * width;
    let top = (job / p.groups) * p.rows;
    let across = min(width, WG);
    let down = WG / across;
    // what does not fill a row of invocations is idle
    let start = select(p.rows, lane / across, lane / across < down);
    let count = f32(p.rows * width);
    var total = 0.0;
    for (var c = first + lane % across; c < first + width; c += across) {
        for (var r = start; r < p.rows; r += down) {
            total += f32(x[p.x_offset + (top + r) * p.x_stride + c]);
        }
    }
    let mean = workgroup_sum(total, lane) / count;
    var squares = 0.0;
    for (var c = first + lane % across; c < first + width; c += across) {
        for (var r = start; r < p.rows; r += down) {
            let d = f32(x[p.x_offset + (top + r) * p.x_stride + c]) - mean;
            squares += d * d;
        }
    }
    let rstd = 1.0 / sqrt(workgroup_sum(squares, lane) / count + p.eps);
    for (var c = first + lane % across; c < first + width; c += across) {
        let factor = rstd * gamma[p.gamma_offset + c];
        let shift = beta[p.beta_offset + c];
        for (var r = start; r < p.rows; r += down) {
            var value = (f32(x[p.x_offset + (top + r) * p.x_stride + c]) - mean) * factor + shift;
#ifdef RESIDUAL
            value += f32(residual[p.residual_offset + (top + r) * p.residual_stride + c]);
#endif
#ifdef RELU
            // NaN stays, so that the check for it finds it
            value = select(value, 0.0, value < 0.0);
#endif
            y[p.y_offset + (top + r) * p.y_stride + c] = Act(value);
        }
    }
    if lane == 0u {
        stats[p.stats_offset + 2u * job] = mean;
        stats[p.stats_offset + 2u * job + 1u] = rstd;
    }
}
#endif

#ifdef SUMS
@group(0) @binding(0) var<storage, read_write> parts: array<f32>;
@group(0) @binding(1) var<storage, read> stats: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<Act>;
@group(0) @binding(3) var<storage, read> dy: array<Act>;

@compute @workgroup_size(WG)
fn sums(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let blocks = (p.cols + WG - 1u) / WG;
    let job = workgroup_index(wid, nwg);
    let part = job / blocks;
    let c = (job % blocks) * WG + lane;
    if part >= p.images * p.slices || c >= p.cols { return; }
    let image = part / p.slices;
    let first = (part % p.slices) * SLICE;
    let last = min(first + SLICE, p.rows);
    let s = p.stats_offset + 2u * (image * p.groups + c / (p.cols / p.groups));
    let mean = stats[s];
    var g = 0.0;
    var b = 0.0;
    for (var r = first; r < last; r++) {
        let row = image * p.rows + r;
        let d = f32(dy[p.y_offset + row * p.y_stride + c]);
        g += d * (f32(x[p.x_offset + row * p.x_stride + c]) - mean);
        b += d;
    }
    let to = p.parts_offset + part * 2u * p.cols + c;
    parts[to] = g * stats[s + 1u];
    parts[to + p.cols] = b;
}
#endif

#ifdef BACKWARD
#include "reduce.wgsl"
@group(0) @binding(0) var<storage, read_write> dst: array<Act>;
@group(0) @binding(1) var<storage, read> parts: array<f32>;
@group(0) @binding(2) var<storage, read> stats: array<f32>;
@group(0) @binding(3) var<storage, read> x: array<Act>;
@group(0) @binding(4) var<storage, read> gamma: array<f32>;
@group(0) @binding(5) var<storage, read> dy: array<Act>;

@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let job = workgroup_index(wid, nwg);
    if job >= p.images * p.groups { return; }
    let width = p.cols / p.groups;
    let first = (job % p.groups) * width;
    let image = job / p.groups;
    let top = image * p.rows;
    let across = min(width, WG);
    let down = WG / across;
    let count = f32(p.rows * width);
    var a = 0.0;
    var b = 0.0;
    for (var i = lane; i < p.slices * width; i += WG) {
        let c = first + i % width;
        let g = gamma[p.gamma_offset + c];
        let from_ = p.parts_offset + (image * p.slices + i / width) * 2u * p.cols + c;
        b += g * parts[from_];
        a += g * parts[from_ + p.cols];
    }
    let mean = stats[p.stats_offset + 2u * job];
    let rstd = stats[p.stats_offset + 2u * job + 1u];
    a = rstd * workgroup_sum(a, lane) / count;
    b = rstd * rstd * workgroup_sum(b, lane) / count;
    let start = select(p.rows, lane / across, lane / across < down);
    for (var c = first + lane % across; c < first + width; c += across) {
        let factor = rstd * gamma[p.gamma_offset + c];
        for (var r = start; r < p.rows; r += down) {
            let d = f32(dy[p.y_offset + (top + r) * p.y_stride + c]);
            var value = d * factor - (f32(x[p.x_offset + (top + r) * p.x_stride + c]) - mean) * b - a;
            let to = p.out_offset + (top + r) * p.out_stride + c;
            if p.accumulate != 0u { value += f32(dst[to]); }
            dst[to] = Act(value);
        }
    }
}
#endif

#ifdef RELU_GRADIENT
@group(0) @binding(0) var<storage, read_write> dst: array<Act>;
@group(0) @binding(1) var<storage, read> y: array<Act>;

@compute @workgroup_size(WG)
fn relu_gradient(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let r = at / p.cols;
    let c = at % p.cols;
    let positive = f32(y[p.y_offset + r * p.y_stride + c]) > 0.0;
    if !positive { dst[p.out_offset + r * p.out_stride + c] = Act(0.0); }
}
#endif
