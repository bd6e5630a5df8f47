// Rows picked as often as wanted, and their gradients.
//   collect    dst[place[i]] = x[index[i]] for `rows` picks (=)
//   give_back  dst[r] (=, or += where `accumulate`) the sum of x[place[j]] over j in index[r]..index[r + 1]
// Grid: one invocation an element of the picks, or of dst, folded. Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"

struct Params {
    rows: u32, cols: u32, out_offset: u32, out_stride: u32, x_offset: u32, x_stride: u32,
    place_offset: u32, index_offset: u32, accumulate: u32,
}

@group(0) @binding(0) var<storage, read_write> dst: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> place: array<u32>;
@group(0) @binding(3) var<storage, read> index: array<u32>;

@compute @workgroup_size(WG)
fn collect(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let i = at / p.cols;
    let c = at % p.cols;
    dst[p.out_offset + place[p.place_offset + i] * p.out_stride + c] =
        x[p.x_offset + index[p.index_offset + i] * p.x_stride + c];
}

@compute @workgroup_size(WG)
fn give_back(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let r = at / p.cols;
    let c = at % p.cols;
    let to = p.out_offset + r * p.out_stride + c;
    var total = 0.0;
    if p.accumulate != 0u { total = dst[to]; }
    let last = index[p.index_offset + r + 1u];
    for (var j = index[p.index_offset + r]; j < last; j++) {
        total += x[p.x_offset + place[p.place_offset + j] * p.x_stride + c];
    }
    dst[to] = total;
}
