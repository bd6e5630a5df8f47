// x[r, c] = bits for a matrix of `count` elements in rows of `cols`, `stride` apart.
// Grid: one invocation an element, folded. Workgroup: WG. Writes (=).
#include "params.wgsl"
#include "grid.wgsl"

struct Params { count: u32, cols: u32, offset: u32, stride: u32, bits: u32 }

@group(0) @binding(0) var<storage, read_write> x: array<u32>;

@compute @workgroup_size(WG)
fn fill(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg) * WG + lane;
    if i < p.count {
        x[p.offset + (i / p.cols) * p.stride + i % p.cols] = p.bits;
    }
}
