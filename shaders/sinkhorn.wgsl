// Sinkhorn-Knopp and centring in the logarithmic domain: p[i, j] = exp(l[i, j]/τ + a[i] + b[j]) is never
// stored.
//   columns  parts[s, 0, j], parts[s, 1, j] = m, Σ exp(l/τ + a − m) over a strip of rows, m their maximum (=)
//   merge    b[j] = LSE over the strips of column 0 − that of column j (=); the common factor is the row
//            pass'; OPEN: b[0, j], b[1, j] = maximum and log of the sum relative to it of column j (=), of which
//            the host makes the LSE over ranks
//   rows     a[i] = −LSE_j(l/τ + b) as two f32: −maximum and −log of the sum relative to it (=)
//   entropy  parts[i] = −Σ_j p log p (=), for reports
// l: rows of `cols` elements, x_stride apart; a: [R, 2]; parts: [strips, 2, cols]. 1/τ = inverse +
// inverse_low.
// Sums run with a maximum that grows as elements are read, so the logits may have any size and are read once.
// Grid: columns (ceil(units of a row / WG), strips of this chunk, 1), one invocation a unit of columns
// (units.wgsl);
// merge (ceil(cols / WG), 1, 1); rows and entropy a team a row, folded (rows.wgsl).
#include "params.wgsl"
#include "grid.wgsl"
#include "unit_math.wgsl"
#include "targets.wgsl"
#include "rows.wgsl"

struct Params {
    rows: u32, cols: u32,
    x_offset: u32, x_stride: u32,
    a_offset: u32, b_offset: u32, parts_offset: u32,
    strip: u32, strips: u32, first_strip: u32,
    inverse: f32, inverse_low: f32,
}

#ifdef COLUMN_PASS
@group(0) @binding(0) var<storage, read_write> parts: array<Unit>;
@group(0) @binding(1) var<storage, read> x: array<Unit>;
@group(0) @binding(2) var<storage, read> a: array<vec2<f32>>;

// l/τ + a of row r, or nothing where there is none.
fn term(r: u32, last: u32, c: u32) -> Parts {
    if r >= last { return Parts(Unit(NEG_INF), Unit()); }
    let own = a[p.a_offset / 2u + r];
    let l = x[(p.x_offset + r * p.x_stride) / UNIT + c];
    return over_temperature(l, p.inverse, p.inverse_low, Unit(own.x), Unit(own.y));
}

fn relative(t: Parts, top: Unit) -> Unit { return unit_exp((t.high - top) + t.low); }

@compute @workgroup_size(WG)
fn columns(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let units = p.cols / UNIT;
    let c = wid.x * WG + lane;
    if c >= units { return; }
    let first = wid.y * p.strip;
    let last = min(first + p.strip, p.rows);
    var m = Unit(NEG_INF);
    var total = Unit();
    // four rows at a time: their loads overlap, and the running maximum moves once
    for (var r = first; r < last; r += 4u) {
        let t0 = term(r, last, c);
        let t1 = term(r + 1u, last, c);
        let t2 = term(r + 2u, last, c);
        let t3 = term(r + 3u, last, c);
        let top = max(max(max(t0.high, t1.high), max(t2.high, t3.high)), m);
        let sum = (relative(t0, top) + relative(t1, top)) + (relative(t2, top) + relative(t3, top));
        total = total * unit_exp(m - top) + sum;
        m = top;
    }
    let to = (p.parts_offset + (p.first_strip + wid.y) * 2u * p.cols) / UNIT + c;
    parts[to] = m;
    parts[to + units] = total;
}
#endif

#ifdef MERGE_PASS
@group(0) @binding(0) var<storage, read_write> b: array<f32>;
@group(0) @binding(1) var<storage, read> parts: array<f32>;

// Maximum, and logarithm of the sum relative to it, of a column.
fn merged(c: u32) -> vec2<f32> {
    let at = p.parts_offset + c;
    var m = NEG_INF;
    for (var s = 0u; s < p.strips; s++) { m = max(m, parts[at + s * 2u * p.cols]); }
    var total = 0.0;
    for (var s = 0u; s < p.strips; s++) {
        let part = at + s * 2u * p.cols;
        total = fma(parts[part + p.cols], exp_accurate(parts[part] - m), total);
    }
    return vec2<f32>(m, log_accurate(total));
}

@compute @workgroup_size(WG)
fn merge(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = wid.x * WG + lane;
    if c >= p.cols { return; }
#ifdef OPEN
    let own = merged(c);
    b[p.b_offset + c] = own.x;
    b[p.b_offset + p.cols + c] = own.y;
#else
    let difference = merged(0u) - merged(c);
    b[p.b_offset + c] = difference.x + difference.y;
#endif
}
#endif

#ifdef ROW_PASS
@group(0) @binding(0) var<storage, read_write> a: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> x: array<Unit>;
@group(0) @binding(2) var<storage, read> b: array<Unit>;

@compute @workgroup_size(WG)
fn rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = team_index(workgroup_index(wid, nwg), lane);
    if i >= p.rows { return; }
    let units = p.cols / UNIT;
    let at = (p.x_offset + i * p.x_stride) / UNIT;
    var m = NEG_INF;
    var total = Unit();
    for (var c = member(lane); c < units; c += TEAM) {
        let l = x[at + c];
        let scale = b[p.b_offset / UNIT + c];
        let top = max(unit_max(fma(l, Unit(p.inverse), scale)), m);
        // l/τ − top first: near the maximum it is small, so adding b rounds little
        let y = over_temperature(l, p.inverse, p.inverse_low, Unit(-top), scale);
        total = total * exp_accurate(m - top) + unit_exp(y.high + y.low);
        m = top;
    }
    let top = team_max(m, lane);
    let sum = team_sum(unit_sum(total) * exp_accurate(m - top), lane);
    if member(lane) == 0u {
        // not added up: −top is exact, and compilers may undo the usual tricks that recover what a sum loses
        a[p.a_offset / 2u + i] = vec2<f32>(-top, -log_accurate(sum));
    }
}
#endif

#ifdef ENTROPY_PASS
@group(0) @binding(0) var<storage, read_write> parts: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<Unit>;
@group(0) @binding(2) var<storage, read> b: array<Unit>;
@group(0) @binding(3) var<storage, read> a: array<vec2<f32>>;

@compute @workgroup_size(WG)
fn entropy(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = team_index(workgroup_index(wid, nwg), lane);
    if i >= p.rows { return; }
    let units = p.cols / UNIT;
    let at = (p.x_offset + i * p.x_stride) / UNIT;
    let own = a[p.a_offset / 2u + i];
    var total = Unit();
    for (var c = member(lane); c < units; c += TEAM) {
        let low = own.y + b[p.b_offset / UNIT + c];
        let y = over_temperature(x[at + c], p.inverse, p.inverse_low, Unit(own.x), low);
        let logarithm = y.high + y.low;
        total = fma(logarithm, unit_exp(logarithm), total);
    }
    let sum = team_sum(unit_sum(total), lane);
    if member(lane) == 0u { parts[p.parts_offset + i] = -sum; }
}
#endif
