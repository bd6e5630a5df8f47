// Sums of rows by group: out[g] += x[order[i]] for i in first[g]..first[g + 1], one after the other.
//   order  rows of x [rows, cols], those of a group together
//   first  where each group begins in `order`, and its end
// Grid: one invocation an element of `out` [groups, cols], folded. Neighbouring invocations read neighbours.
#include "params.wgsl"
#include "grid.wgsl"

struct Params {
    groups: u32, cols: u32,
    out_offset: u32, out_stride: u32, x_offset: u32, x_stride: u32,
    order_offset: u32, first_offset: u32,
}

@group(0) @binding(0) var<storage, read_write> dst: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> first: array<u32>;

@compute @workgroup_size(WG)
fn group_sum(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.groups * p.cols { return; }
    let g = at / p.cols;
    let c = at % p.cols;
    let end = first[p.first_offset + g + 1u];
    var total = 0.0;
    for (var i = first[p.first_offset + g]; i < end; i++) {
        total += x[p.x_offset + order[p.order_offset + i] * p.x_stride + c];
    }
    dst[p.out_offset + g * p.out_stride + c] += total;
}
