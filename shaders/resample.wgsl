// Maps at another size, pixels being rows of `cols` channels:
//   y[i, j] (=, or += where `accumulate`) Σ_a Σ_b v[i, a]·w[j, b]·x[rows[i] + a, columns[j] + b]
// with `down` taps a and `across` taps b; a tap without weight is not read. v, w, rows and columns are dense.
// Grid: one invocation an element of y, folded. Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"

struct Params {
    count: u32, cols: u32, height: u32, width: u32, out_height: u32, out_width: u32, down: u32, across: u32,
    x_offset: u32, x_stride: u32, y_offset: u32, y_stride: u32,
    rows_offset: u32, row_weights_offset: u32, columns_offset: u32, column_weights_offset: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<u32>;
@group(0) @binding(3) var<storage, read> row_weights: array<f32>;
@group(0) @binding(4) var<storage, read> columns: array<u32>;
@group(0) @binding(5) var<storage, read> column_weights: array<f32>;

@compute @workgroup_size(WG)
fn resample(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.count { return; }
    let place = at / p.cols;
    let c = at % p.cols;
    let j = place % p.out_width;
    let i = (place / p.out_width) % p.out_height;
    let image = place / (p.out_width * p.out_height);
    let top = image * p.height + rows[p.rows_offset + i];
    let left = columns[p.columns_offset + j];
    var total = 0.0;
    for (var a = 0u; a < p.down; a++) {
        let v = row_weights[p.row_weights_offset + i * p.down + a];
        if v == 0.0 { continue; }
        let line = p.x_offset + ((top + a) * p.width + left) * p.x_stride + c;
        for (var b = 0u; b < p.across; b++) {
            let weight = v * column_weights[p.column_weights_offset + j * p.across + b];
            if weight != 0.0 { total += weight * x[line + b * p.x_stride]; }
        }
    }
    let to = p.y_offset + place * p.y_stride + c;
    if p.accumulate != 0u { total += y[to]; }
    y[to] = total;
}
