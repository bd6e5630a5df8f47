// The end of a residual branch: z[r] = x[r] + s[i]·γ⊙b[i], i the branch's row of trunk row r.
//   forward          z (=); trunk rows without a branch row are copied
//   backward_branch  db[i] (=, or += where `accumulate`) s[i]·γ⊙dz[rows[i]]
//   backward_gamma   parts[k] = Σ s[i]·b[i]⊙dz[rows[i]] over the k-th block of rows; summed by reduce.wgsl
// `rows` counts trunk rows in forward and branch rows elsewhere. With SUBSET the maps and factors are bound.
// Grid: forward and backward_branch one invocation an element, folded; backward_gamma (ceil(cols / WG), parts, 1).
#include "params.wgsl"
#include "grid.wgsl"

struct Params {
    rows: u32, cols: u32,
    z_offset: u32, x_offset: u32, x_stride: u32,
    b_offset: u32, b_stride: u32,
    gamma_offset: u32, map_offset: u32, scale_offset: u32, parts: u32, accumulate: u32,
}

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> z: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> gamma: array<f32>;
#ifdef SUBSET
@group(0) @binding(4) var<storage, read> inverse_rows: array<u32>;
@group(0) @binding(5) var<storage, read> factor: array<f32>;
#endif

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let r = at / p.cols;
    let c = at % p.cols;
    var i = r;
    var s = 1.0;
#ifdef SUBSET
    i = inverse_rows[p.map_offset + r];
    if i == 0xffffffffu { s = 0.0; i = 0u; } else { s = factor[p.scale_offset + i]; }
#endif
    var v = x[p.x_offset + r * p.x_stride + c];
    if s != 0.0 { v += s * gamma[p.gamma_offset + c] * b[p.b_offset + i * p.b_stride + c]; }
    z[p.z_offset + at] = v;
}
#endif

#ifdef BACKWARD_BRANCH
@group(0) @binding(0) var<storage, read_write> db: array<f32>;
@group(0) @binding(1) var<storage, read> dz: array<f32>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
#ifdef SUBSET
@group(0) @binding(3) var<storage, read> trunk_rows: array<u32>;
@group(0) @binding(4) var<storage, read> factor: array<f32>;
#endif

@compute @workgroup_size(WG)
fn backward_branch(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let i = at / p.cols;
    let c = at % p.cols;
    var r = i;
    var s = 1.0;
#ifdef SUBSET
    r = trunk_rows[p.map_offset + i];
    s = factor[p.scale_offset + i];
#endif
    let d = s * gamma[p.gamma_offset + c] * dz[p.x_offset + r * p.x_stride + c];
    let to = p.b_offset + i * p.b_stride + c;
    if p.accumulate != 0u { db[to] += d; } else { db[to] = d; }
}
#endif

#ifdef BACKWARD_GAMMA
@group(0) @binding(0) var<storage, read_write> sums: array<f32>;
@group(0) @binding(1) var<storage, read> dz: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
#ifdef SUBSET
@group(0) @binding(3) var<storage, read> trunk_rows: array<u32>;
@group(0) @binding(4) var<storage, read> factor: array<f32>;
#endif

@compute @workgroup_size(WG)
fn backward_gamma(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = wid.x * WG + lane;
    if c >= p.cols { return; }
    let size = (p.rows + p.parts - 1u) / p.parts;
    let last = min((wid.y + 1u) * size, p.rows);
    var total = 0.0;
    for (var i = wid.y * size; i < last; i++) {
        var r = i;
        var s = 1.0;
#ifdef SUBSET
        r = trunk_rows[p.map_offset + i];
        s = factor[p.scale_offset + i];
#endif
        total += s * b[p.b_offset + i * p.b_stride + c] * dz[p.x_offset + r * p.x_stride + c];
    }
    sums[p.z_offset + wid.y * p.cols + c] = total;
}
#endif
