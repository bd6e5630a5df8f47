// Images [n, channels, height, width] cut into patches: row (image, y, x) of the output holds channels·patch²
// values, channels outermost. A permutation, into halves where HALF. Grid: one invocation an element of the
// output, folded. Writes (=).
#include "params.wgsl"
#include "act.wgsl"
#include "grid.wgsl"

struct Params {
    count: u32, channels: u32, height: u32, width: u32, patch_size: u32, x_offset: u32, out_offset: u32,
}

@group(0) @binding(0) var<storage, read_write> dst: array<Act>;
@group(0) @binding(1) var<storage, read> x: array<f32>;

@compute @workgroup_size(WG)
fn unfold(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.count { return; }
    let cols = p.channels * p.patch_size * p.patch_size;
    let down = p.height / p.patch_size;
    let across = p.width / p.patch_size;
    let r = at / cols;
    let k = at % cols;
    let image = r / (down * across);
    let place = r % (down * across);
    let c = k / (p.patch_size * p.patch_size);
    let y = (place / across) * p.patch_size + (k / p.patch_size) % p.patch_size;
    let xx = (place % across) * p.patch_size + k % p.patch_size;
    dst[p.out_offset + at] = Act(x[p.x_offset + ((image * p.channels + c) * p.height + y) * p.width + xx]);
}
