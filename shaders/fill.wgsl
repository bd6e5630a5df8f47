// x[r, c] = bits for a matrix of `count` elements in rows of `cols`, `stride` apart. Where HALF they are
// those of a float, which is rounded.
// Grid: one invocation an element, folded. Workgroup: WG. Writes (=).
#include "params.wgsl"
#include "grid.wgsl"

struct Params { count: u32, cols: u32, offset: u32, stride: u32, bits: u32 }

#ifdef HALF
enable f16;
@group(0) @binding(0) var<storage, read_write> x: array<f16>;

fn element() -> f16 { return f16(bitcast<f32>(p.bits)); }
#else
@group(0) @binding(0) var<storage, read_write> x: array<u32>;

fn element() -> u32 { return p.bits; }
#endif

@compute @workgroup_size(WG)
fn fill(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg) * WG + lane;
    if i < p.count {
        x[p.offset + (i / p.cols) * p.stride + i % p.cols] = element();
    }
}
