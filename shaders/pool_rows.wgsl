// Means of runs of rows, where runs may overlap and rows may be in none.
//   forward    out[i] (=) the mean of x[first .. first + length] with (first, length) = spans[2i], spans[2i + 1]
//   backward   out[r] (=, or += where `accumulate`) Σ x[i] / length over the runs i that row r is in: those in
//              users[offsets[r] .. offsets[r + 1]]. Here x is dy and out is dx.
// Grid: one invocation an element of `out`, folded.
#include "params.wgsl"
#include "grid.wgsl"

struct Params {
    rows: u32, cols: u32, out_offset: u32, out_stride: u32, x_offset: u32, x_stride: u32,
    spans_offset: u32, offsets_offset: u32, users_offset: u32, accumulate: u32,
}

@group(0) @binding(0) var<storage, read_write> dst: array<f32>;
@group(0) @binding(1) var<storage, read> src: array<f32>;
@group(0) @binding(2) var<storage, read> spans: array<u32>;
#ifdef BACKWARD
@group(0) @binding(3) var<storage, read> offsets: array<u32>;
@group(0) @binding(4) var<storage, read> users: array<u32>;
#endif

#ifdef FORWARD
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let i = at / p.cols;
    let c = at % p.cols;
    let first = spans[p.spans_offset + 2u * i];
    let length = spans[p.spans_offset + 2u * i + 1u];
    var total = 0.0;
    for (var r = first; r < first + length; r++) { total += src[p.x_offset + r * p.x_stride + c]; }
    dst[p.out_offset + i * p.out_stride + c] = total / f32(length);
}
#endif

#ifdef BACKWARD
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let r = at / p.cols;
    let c = at % p.cols;
    var total = 0.0;
    for (var u = offsets[p.offsets_offset + r]; u < offsets[p.offsets_offset + r + 1u]; u++) {
        let i = users[p.users_offset + u];
        total += src[p.x_offset + i * p.x_stride + c] / f32(spans[p.spans_offset + 2u * i + 1u]);
    }
    let to = p.out_offset + r * p.out_stride + c;
    if p.accumulate != 0u { dst[to] += total; } else { dst[to] = total; }
}
#endif
