// out[i, j, k, l] (=, or += where `accumulate`) x[i, j, k, l] for views of any strides. Both are
// of half precision where HALF, but x is single where FROM_SINGLE.
// Grid: one invocation an element, folded. Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"
#include "act.wgsl"

#ifdef FROM_SINGLE
alias From = f32;
#else
alias From = Act;
#endif

struct Params {
    count: u32, n1: u32, n2: u32, n3: u32,
    out_offset: u32, out_0: u32, out_1: u32, out_2: u32, out_3: u32,
    x_offset: u32, x_0: u32, x_1: u32, x_2: u32, x_3: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read_write> dst: array<Act>;
@group(0) @binding(1) var<storage, read> x: array<From>;

@compute @workgroup_size(WG)
fn strided_copy(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.count { return; }
    let l = at % p.n3;
    let k = (at / p.n3) % p.n2;
    let line = at / (p.n3 * p.n2);
    let j = line % p.n1;
    let i = line / p.n1;
    let to = p.out_offset + i * p.out_0 + j * p.out_1 + k * p.out_2 + l * p.out_3;
    var value = f32(x[p.x_offset + i * p.x_0 + j * p.x_1 + k * p.x_2 + l * p.x_3]);
    if p.accumulate != 0u { value += f32(dst[to]); }
    dst[to] = Act(value);
}
