// Rows of square maps cut to their first `cols` columns, masked ones replaced by a token. The mask has cells²
// entries a map of side² rows and is nearest-upsampled.
//   forward          out [rows, cols] (=) x's columns, or the token
//   backward_rows    dx [rows, width] (=, or += where `accumulate`) dy of an unmasked row; 0 elsewhere
//   backward_token   parts[part, c] = Σ dy[r, c] over the masked rows of the part
// x, out and their gradients are of half precision where HALF, all else is single.
// Grid: forward and backward_rows one invocation an element of the output, folded; backward_token (ceil(cols
// / WG), parts).
#include "params.wgsl"
#include "grid.wgsl"
#include "act.wgsl"

struct Params {
    rows: u32, cols: u32, width: u32, side: u32, cells: u32,
    out_offset: u32, out_stride: u32, x_offset: u32, x_stride: u32,
    token_offset: u32, mask_offset: u32, per_part: u32, accumulate: u32,
}

#ifdef BACKWARD_TOKEN
@group(0) @binding(0) var<storage, read_write> dst: array<f32>;
#else
@group(0) @binding(0) var<storage, read_write> dst: array<Act>;
#endif
@group(0) @binding(1) var<storage, read> src: array<Act>;
#ifdef MASKED
@group(0) @binding(2) var<storage, read> mask: array<u32>;
#ifdef FORWARD
@group(0) @binding(3) var<storage, read> token: array<f32>;
#endif
#endif

fn masked(r: u32) -> bool {
#ifdef MASKED
    let area = p.side * p.side;
    let y = r % area / p.side * p.cells / p.side;
    let x = r % p.side * p.cells / p.side;
    return mask[p.mask_offset + (r / area * p.cells + y) * p.cells + x] != 0u;
#else
    return false;
#endif
}

#ifdef FORWARD
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let r = at / p.cols;
    let c = at % p.cols;
    var value = f32(src[p.x_offset + r * p.x_stride + c]);
#ifdef MASKED
    if masked(r) { value = token[p.token_offset + c]; }
#endif
    dst[p.out_offset + r * p.out_stride + c] = Act(value);
}
#endif

#ifdef BACKWARD_ROWS
@compute @workgroup_size(WG)
fn backward_rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.width { return; }
    let r = at / p.width;
    let c = at % p.width;
    var d = 0.0;
    if c < p.cols && !masked(r) { d = f32(src[p.x_offset + r * p.x_stride + c]); }
    let to = p.out_offset + r * p.out_stride + c;
    if p.accumulate != 0u { d += f32(dst[to]); }
    dst[to] = Act(d);
}
#endif

#ifdef BACKWARD_TOKEN
@compute @workgroup_size(WG)
fn backward_token(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = wid.x * WG + lane;
    if c >= p.cols { return; }
    let last = min((wid.y + 1u) * p.per_part, p.rows);
    var total = 0.0;
    for (var r = wid.y * p.per_part; r < last; r++) {
        if masked(r) { total += f32(src[p.x_offset + r * p.x_stride + c]); }
    }
    dst[p.out_offset + wid.y * p.out_stride + c] = total;
}
#endif
