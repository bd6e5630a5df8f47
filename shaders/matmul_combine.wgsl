// The second stage of a product whose K was cut into parts: C[b] = epilogue(alpha · Σ_part partial[b·parts +
// part]), summed in order, so that the result is the same bits in every run. partial is dense,
// [batches·parts, m, n], from a_offset.
// C's strides, bindings and epilogues: include/matmul.wgsl. Grid: one invocation an element, folded.
// Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "matmul.wgsl"

@compute @workgroup_size(WG)
fn combine(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg) * WG + lane;
    let size = p.m * p.n;
    if i >= size * p.batches { return; }
    let batch = i / size;
    let row = (i % size) / p.n;
    let col = (i % size) % p.n;
    var from_ = p.a_offset + batch * p.parts * size + i % size;
    var total = 0.0;
    for (var part = 0u; part < p.parts; part++) {
        total += partial[from_];
        from_ += size;
    }
    let to = p.c_offset + batch * p.c_batch + c_row(row) + c_col(col);
    finish(to, row, col, total);
}
