// dst[r, c] = factor · src[r, c], where the two are of different precision: TO_HALF from single to half, else
// from half to single. ACCUMULATE adds to what is there. With FACTOR the factor is one element on the device,
// else it is 1.
// `count` elements in rows of `cols`. Grid: one invocation an element, folded. Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"
enable f16;

struct Params {
    count: u32, cols: u32, out_offset: u32, out_stride: u32, a_offset: u32, a_stride: u32, factor_offset: u32,
}

#ifdef TO_HALF
alias From = f32;
alias To = f16;
#else
alias From = f16;
alias To = f32;
#endif

@group(0) @binding(0) var<storage, read_write> dst: array<To>;
@group(0) @binding(1) var<storage, read> src: array<From>;
#ifdef FACTOR
@group(0) @binding(2) var<storage, read> factor: array<f32>;
#endif

@compute @workgroup_size(WG)
fn convert(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg) * WG + lane;
    if i >= p.count { return; }
    let r = i / p.cols;
    let c = i % p.cols;
    var value = f32(src[p.a_offset + r * p.a_stride + c]);
#ifdef FACTOR
    value *= factor[p.factor_offset];
#endif
    let to = p.out_offset + r * p.out_stride + c;
#ifdef ACCUMULATE
    value += f32(dst[to]);
#endif
    dst[to] = To(value);
}
