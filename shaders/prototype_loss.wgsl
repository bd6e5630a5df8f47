// The ends of a head's loss.
//   total     out (=, or += where `accumulate`) Σ_i w[i]·losses[i, 0] + v[i]·losses[i, 1]; table: [rows, 4],
//             w and v the bits of its last two columns. Grid: one workgroup, in a fixed order.
//   scale_by  out (=, or += where `accumulate`) factor·a, factor one element. Grid: one invocation an
//             element, folded.
#include "params.wgsl"
#include "grid.wgsl"

#ifdef TOTAL
#include "reduce.wgsl"

struct Params { rows: u32, loss_offset: u32, table_offset: u32, out_offset: u32, accumulate: u32 }

@group(0) @binding(0) var<storage, read_write> dst: array<f32>;
@group(0) @binding(1) var<storage, read> losses: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<u32>;

@compute @workgroup_size(WG)
fn total(@builtin(local_invocation_index) lane: u32) {
    var own = 0.0;
    for (var i = lane; i < p.rows; i += WG) {
        let weights = p.table_offset + 4u * i + 2u;
        let at = p.loss_offset + 2u * i;
        own += bitcast<f32>(table[weights]) * losses[at] + bitcast<f32>(table[weights + 1u]) * losses[at + 1u];
    }
    let sum = workgroup_sum(own, lane);
    if lane == 0u {
        if p.accumulate != 0u { dst[p.out_offset] += sum; } else { dst[p.out_offset] = sum; }
    }
}
#endif

#ifdef SCALE_BY
struct Params {
    count: u32, cols: u32, out_offset: u32, out_stride: u32, a_offset: u32, a_stride: u32, factor_offset: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read_write> dst: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> factor: array<f32>;

@compute @workgroup_size(WG)
fn scale_by(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg) * WG + lane;
    if i >= p.count { return; }
    let to = p.out_offset + (i / p.cols) * p.out_stride + i % p.cols;
    let v = factor[p.factor_offset] * a[p.a_offset + (i / p.cols) * p.a_stride + i % p.cols];
    if p.accumulate != 0u { dst[to] += v; } else { dst[to] = v; }
}
#endif
