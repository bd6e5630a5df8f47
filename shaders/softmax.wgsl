// Softmax over rows of `cols` elements, y = softmax(scale·x).
//   forward    y (=); rows that are not kept are read once for maximum and sum together (Milakov & Gimelshein
//              2018), once to write y
//   backward   dx (=, or += where `accumulate`) scale·y∘(dy − Σ dy·y)
// Bindings: forward y, x; backward dx, y, dy. Rows may lie apart. Grid: a team for `strip` rows, folded
// (rows.wgsl).
// Saved: y.
#include "params.wgsl"
#include "grid.wgsl"
#include "unit_math.wgsl"
#include "rows.wgsl"

struct Params {
    rows: u32, cols: u32,
    out_offset: u32, out_stride: u32,
    a_offset: u32, a_stride: u32,
    b_offset: u32, b_stride: u32,
    accumulate: u32, strip: u32,
    scale: f32,
}

// y, or dx
@group(0) @binding(0) var<storage, read_write> out: array<Unit>;
// x, or y
@group(0) @binding(1) var<storage, read> a: array<Unit>;
#ifdef BACKWARD
// dy
@group(0) @binding(2) var<storage, read> b: array<Unit>;
#endif

#ifdef KEEP
// What a member keeps of its row: x, then e^x; or y, and dy.
var<private> row: array<Unit, KEEP>;
#ifdef BACKWARD
var<private> upper: array<Unit, KEEP>;
#endif
#endif

@compute @workgroup_size(WG)
fn softmax(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let units = p.cols / UNIT;
    let own = member(lane);
    let start = team_index(workgroup_index(wid, nwg), lane) * p.strip;
    let last = min(start + p.strip, p.rows);
    for (var r = start; r < last; r++) {
        let to = (p.out_offset + r * p.out_stride) / UNIT;
        let first = (p.a_offset + r * p.a_stride) / UNIT;
#ifdef BACKWARD
        let second = (p.b_offset + r * p.b_stride) / UNIT;
        var products = Unit();
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
                let y = a[first + c];
                let d = b[second + c];
#ifdef KEEP
                row[k] = y;
                upper[k] = d;
#endif
                products += y * d;
            }
        }
        let along = team_sum(unit_sum(products), lane);
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
#ifdef KEEP
                let d = p.scale * row[k] * (upper[k] - along);
#else
                let d = p.scale * a[first + c] * (b[second + c] - along);
#endif
                if p.accumulate != 0u { out[to + c] += d; } else { out[to + c] = d; }
            }
        }
#else
        var most = Unit(NEG_INF);
        var total = Unit();
#ifdef KEEP
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
                let x = p.scale * a[first + c];
                row[k] = x;
                most = max(most, x);
            }
        }
        let peak = team_max(unit_max(most), lane);
        for (var k = 0u; k < steps(units); k++) {
            if inside(k * TEAM + own, units) {
                let e = unit_exp(row[k] - peak);
                row[k] = e;
                total += e;
            }
        }
        let share = 1.0 / team_sum(unit_sum(total), lane);
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) { out[to + c] = row[k] * share; }
        }
#else
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
                let x = p.scale * a[first + c];
                let e = unit_exp(-abs(x - most));
                total = select(total + e, total * e + 1.0, x > most);
                most = max(most, x);
            }
        }
        let peak = team_max(unit_max(most), lane);
        let share = 1.0 / team_sum(unit_sum(total * unit_exp(most - peak)), lane);
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) { out[to + c] = unit_exp(p.scale * a[first + c] - peak) * share; }
        }
#endif
#endif
    }
}
