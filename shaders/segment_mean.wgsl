// Means over runs of `length` rows of x [segments·length, cols].
//   forward   out[s] = mean of x[s·length ..] (=)
//   backward  out[s·length + i] (=, or += where `accumulate`) x[s] / length, where x is dy and out is dx
// Grid: one invocation an element of `out`, folded. Neighbouring invocations read neighbours.
#include "params.wgsl"
#include "grid.wgsl"

struct Params {
    rows: u32, cols: u32, length: u32,
    out_offset: u32, out_stride: u32, x_offset: u32, x_stride: u32,
    accumulate: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> dst: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let s = at / p.cols;
    let c = at % p.cols;
    let first = p.x_offset + s * p.length * p.x_stride + c;
    var total = 0.0;
    for (var i = 0u; i < p.length; i++) { total += x[first + i * p.x_stride]; }
    dst[p.out_offset + s * p.out_stride + c] = p.scale * total;
}

@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let r = at / p.cols;
    let c = at % p.cols;
    let to = p.out_offset + r * p.out_stride + c;
    let d = p.scale * x[p.x_offset + (r / p.length) * p.x_stride + c];
    if p.accumulate != 0u { dst[to] += d; } else { dst[to] = d; }
}
