// out[part, c] = scale · Σ x[r, c] over the part's rows, plus what was there where `accumulate`.
// x is of half precision where HALF. Grid: (ceil(units of a row / WG), parts, 1); one invocation a unit
// (units.wgsl) and part. Neighbours read neighbours.
#include "params.wgsl"
#include "units.wgsl"

const RUN: u32 = 16u;

struct Params {
    rows: u32, cols: u32, offset: u32, stride: u32, out_offset: u32, rows_per_part: u32, accumulate: u32, scale: f32,
}

@group(0) @binding(0) var<storage, read_write> dst: array<Unit>;
@group(0) @binding(1) var<storage, read> x: array<Stored>;

@compute @workgroup_size(WG)
fn column_sum(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let units = p.cols / UNIT;
    let c = wid.x * WG + lane;
    if c >= units { return; }
    let first = wid.y * p.rows_per_part;
    let last = min(first + p.rows_per_part, p.rows);
    var total = Unit();
    // sums of short runs lose less to rounding than one long sum
    for (var start = first; start < last; start += RUN) {
        var run = Unit();
        for (var r = start; r < min(start + RUN, last); r++) {
            run += Unit(x[(p.offset + r * p.stride) / UNIT + c]);
        }
        total += run;
    }
    let at = p.out_offset / UNIT + wid.y * units + c;
    var before = Unit();
    if p.accumulate != 0u { before = dst[at]; }
    dst[at] = before + p.scale * total;
}
