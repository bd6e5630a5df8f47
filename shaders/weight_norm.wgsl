// Weight normalisation of rows of `cols` elements.
//   forward   w[i] = g·v/‖v‖ (=), norms[i] = ‖v‖
//   backward  from dw, times the scalar `factor`:
//             dv[i] (=, or += where `accumulate`) factor·g/‖v‖·(dw − v·(dw·v)/‖v‖²)
//             dg[i] (=) factor·(dw·v)/‖v‖
// Grid: one workgroup a row, folded. In `backward` w_offset and w_stride are those of dw.
#include "params.wgsl"
#include "grid.wgsl"
#include "reduce.wgsl"

struct Params {
    rows: u32, cols: u32,
    v_offset: u32, v_stride: u32,
    w_offset: u32, w_stride: u32,
    dv_offset: u32, dv_stride: u32,
    g_offset: u32, dg_offset: u32, norm_offset: u32, factor_offset: u32,
    accumulate: u32,
}

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> norms: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg);
    if i >= p.rows { return; }
    let at = p.v_offset + i * p.v_stride;
    var squares = 0.0;
    for (var c = lane; c < p.cols; c += WG) { squares = fma(v[at + c], v[at + c], squares); }
    let norm = sqrt(workgroup_sum(squares, lane));
    let scale = g[p.g_offset + i] / norm;
    let to = p.w_offset + i * p.w_stride;
    for (var c = lane; c < p.cols; c += WG) { w[to + c] = v[at + c] * scale; }
    if lane == 0u { norms[p.norm_offset + i] = norm; }
}
#endif

#ifdef BACKWARD
@group(0) @binding(0) var<storage, read_write> dv: array<f32>;
@group(0) @binding(1) var<storage, read_write> dg: array<f32>;
@group(0) @binding(2) var<storage, read> dw: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> g: array<f32>;
@group(0) @binding(5) var<storage, read> norms: array<f32>;
@group(0) @binding(6) var<storage, read> factor: array<f32>;

@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg);
    if i >= p.rows { return; }
    let at = p.v_offset + i * p.v_stride;
    let from_ = p.w_offset + i * p.w_stride;
    let inverse = 1.0 / norms[p.norm_offset + i];
    let f = factor[p.factor_offset];
    var dot_ = 0.0;
    for (var c = lane; c < p.cols; c += WG) { dot_ = fma(v[at + c], dw[from_ + c], dot_); }
    let along = workgroup_sum(dot_, lane) * inverse;
    let scale = f * g[p.g_offset + i] * inverse;
    let to = p.dv_offset + i * p.dv_stride;
    for (var c = lane; c < p.cols; c += WG) {
        let d = scale * (dw[from_ + c] - v[at + c] * (along * inverse));
        if p.accumulate != 0u { dv[to + c] += d; } else { dv[to + c] = d; }
    }
    if lane == 0u { dg[p.dg_offset + i] = f * along; }
}
#endif
