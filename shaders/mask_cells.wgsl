// A token in place of masked pixels; a mask has cells×cells values an image.
//   forward   dst = token where masked, else x (=)
//   backward  dst (=, or += where `accumulate`) x where not masked; hidden = x where masked, else 0 (=);
//             here dst is dx and x is dy; hidden is dense, from token_offset
// Grid: one invocation an element, folded. Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"

struct Params {
    count: u32, cols: u32, height: u32, width: u32, cells: u32,
    out_offset: u32, out_stride: u32, x_offset: u32, x_stride: u32, token_offset: u32, mask_offset: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read_write> dst: array<f32>;
#ifdef FORWARD
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> token: array<f32>;
#else
@group(0) @binding(1) var<storage, read_write> hidden: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
#endif
@group(0) @binding(3) var<storage, read> mask: array<u32>;

fn masked(pixel: u32) -> bool {
    let column = pixel % p.width;
    let line = (pixel / p.width) % p.height;
    let image = pixel / (p.width * p.height);
    let down = image * p.cells + line / (p.height / p.cells);
    return mask[p.mask_offset + down * p.cells + column / (p.width / p.cells)] != 0u;
}

#ifdef FORWARD
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.count { return; }
    let pixel = at / p.cols;
    let c = at % p.cols;
    var value = x[p.x_offset + pixel * p.x_stride + c];
    if masked(pixel) { value = token[p.token_offset + c]; }
    dst[p.out_offset + pixel * p.out_stride + c] = value;
}
#endif

#ifdef BACKWARD
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.count { return; }
    let pixel = at / p.cols;
    let c = at % p.cols;
    let value = x[p.x_offset + pixel * p.x_stride + c];
    let hide = masked(pixel);
    hidden[p.token_offset + at] = select(0.0, value, hide);
    let to = p.out_offset + pixel * p.out_stride + c;
    var shown = select(value, 0.0, hide);
    if p.accumulate != 0u { shown += dst[to]; }
    dst[to] = shown;
}
#endif
