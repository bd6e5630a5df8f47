// BatchNorm by running statistics, of every channel its mean and variance, and how they follow those of a batch.
//   apply   y = (x − mean)/√(variance + eps)·γ + β, then ReLU where `relu` (=); rows of `cols` channels
//   follow  running[c] (+=) momentum·(what the batch has − running[c]), of statistics[c] = (mean, rstd); its variance is
//           (1/rstd² − eps)·unbiased
// Grid: one invocation an element of y, or a channel, folded. Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"

struct Params {
    count: u32, cols: u32, x_offset: u32, x_stride: u32, y_offset: u32, y_stride: u32,
    gamma_offset: u32, beta_offset: u32, running_offset: u32, statistics_offset: u32, relu: u32,
    momentum: f32, unbiased: f32, eps: f32,
}

#ifdef APPLY
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read> running: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> gamma: array<f32>;
@group(0) @binding(4) var<storage, read> beta: array<f32>;

@compute @workgroup_size(WG)
fn apply(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.count { return; }
    let r = at / p.cols;
    let c = at % p.cols;
    let s = p.running_offset + 2u * c;
    let factor = gamma[p.gamma_offset + c] / sqrt(running[s + 1u] + p.eps);
    var value = x[p.x_offset + r * p.x_stride + c] * factor + (beta[p.beta_offset + c] - running[s] * factor);
    // NaN stays, so that the check for it finds it
    if p.relu != 0u { value = select(value, 0.0, value < 0.0); }
    y[p.y_offset + r * p.y_stride + c] = value;
}
#endif

#ifdef FOLLOW
@group(0) @binding(0) var<storage, read_write> running: array<f32>;
@group(0) @binding(1) var<storage, read> statistics: array<f32>;

@compute @workgroup_size(WG)
fn follow(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let c = workgroup_index(wid, nwg) * WG + lane;
    if c >= p.count { return; }
    let from_batch = p.statistics_offset + 2u * c;
    let to = p.running_offset + 2u * c;
    let rstd = statistics[from_batch + 1u];
    let variance = max(1.0 / (rstd * rstd) - p.eps, 0.0) * p.unbiased;
    running[to] += p.momentum * (statistics[from_batch] - running[to]);
    running[to + 1u] += p.momentum * (variance - running[to + 1u]);
}
#endif
