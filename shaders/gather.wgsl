// Rows picked by index, each row at most once.
//   gather       dst[i] = src[index[i]]   (=)
//   scatter_add  dst[index[i]] += src[i]  (+=)
// Grid: one invocation an element of the picked rows, folded. Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"
#include "act.wgsl"

struct Params {
    rows: u32, cols: u32, out_offset: u32, out_stride: u32, x_offset: u32, x_stride: u32, index_offset: u32,
}

@group(0) @binding(0) var<storage, read_write> dst: array<Act>;
@group(0) @binding(1) var<storage, read> src: array<Act>;
@group(0) @binding(2) var<storage, read> index: array<u32>;

@compute @workgroup_size(WG)
fn gather(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let i = at / p.cols;
    let c = at % p.cols;
    dst[p.out_offset + i * p.out_stride + c] = src[p.x_offset + index[p.index_offset + i] * p.x_stride + c];
}

@compute @workgroup_size(WG)
fn scatter_add(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let i = at / p.cols;
    let c = at % p.cols;
    dst[p.out_offset + index[p.index_offset + i] * p.out_stride + c] += src[p.x_offset + i * p.x_stride + c];
}
