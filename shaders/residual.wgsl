// The end of a residual branch: z[r] = x[r] + s[i]·γ⊙b[i], i the branch's row of trunk row r.
//   forward        z (=); trunk rows without a branch row are copied
//   backward       db[i] (=, or += where `accumulate`) s[i]·γ⊙dz[rows[i]]; with GAMMA, which needs KEEP, also
//                  parts[team] = Σ s[i]·b[i]⊙dz[rows[i]] over the team's rows (=)
//   backward_gamma the same parts by column, for rows that are not kept; parts[k] of the k-th block of rows
// The parts are summed by reduce.wgsl. `rows` counts trunk rows in forward and branch rows elsewhere. With
// SUBSET the maps and factors are bound. Grid: forward and backward a team for `strip` rows, folded
// (rows.wgsl); backward_gamma (ceil(cols / WG), parts, 1). x, b, z and their gradients are of half precision
// where HALF, all else is single.
#include "params.wgsl"
#include "grid.wgsl"
#include "rows.wgsl"

struct Params {
    rows: u32, cols: u32,
    z_offset: u32, x_offset: u32, x_stride: u32,
    b_offset: u32, b_stride: u32, db_offset: u32, db_stride: u32,
    gamma_offset: u32, map_offset: u32, scale_offset: u32, parts_offset: u32, strip: u32, accumulate: u32,
}

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> z: array<Stored>;
@group(0) @binding(1) var<storage, read> x: array<Stored>;
@group(0) @binding(2) var<storage, read> b: array<Stored>;
@group(0) @binding(3) var<storage, read> gamma: array<Unit>;
#ifdef SUBSET
@group(0) @binding(4) var<storage, read> inverse_rows: array<u32>;
@group(0) @binding(5) var<storage, read> factor: array<f32>;
#endif
#endif
#ifdef BACKWARD
@group(0) @binding(0) var<storage, read_write> db: array<Stored>;
@group(0) @binding(1) var<storage, read> dz: array<Stored>;
@group(0) @binding(2) var<storage, read> gamma: array<Unit>;
#ifdef GAMMA
@group(0) @binding(3) var<storage, read_write> parts: array<Unit>;
@group(0) @binding(4) var<storage, read> b: array<Stored>;
#ifdef SUBSET
@group(0) @binding(5) var<storage, read> trunk_rows: array<u32>;
@group(0) @binding(6) var<storage, read> factor: array<f32>;
#endif
#else
#ifdef SUBSET
@group(0) @binding(3) var<storage, read> trunk_rows: array<u32>;
@group(0) @binding(4) var<storage, read> factor: array<f32>;
#endif
#endif
#endif
#ifdef BACKWARD_GAMMA
@group(0) @binding(0) var<storage, read_write> parts: array<Unit>;
@group(0) @binding(1) var<storage, read> dz: array<Stored>;
@group(0) @binding(2) var<storage, read> b: array<Stored>;
#ifdef SUBSET
@group(0) @binding(3) var<storage, read> trunk_rows: array<u32>;
@group(0) @binding(4) var<storage, read> factor: array<f32>;
#endif
#endif

#ifndef FORWARD
// The trunk's row of a branch row, and its factor.
struct Pair { row: u32, scale: f32 }
fn pair(i: u32) -> Pair {
#ifdef SUBSET
    return Pair(trunk_rows[p.map_offset + i], factor[p.scale_offset + i]);
#else
    return Pair(i, 1.0);
#endif
}
#endif

// γ, which a member keeps for all its rows.
#ifdef KEEP
var<private> gain: array<Unit, KEEP>;
#endif

#ifdef FORWARD
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let units = p.cols / UNIT;
    let own = member(lane);
    let first = team_index(workgroup_index(wid, nwg), lane) * p.strip;
    let last = min(first + p.strip, p.rows);
#ifdef KEEP
    for (var k = 0u; k < steps(units); k++) {
        let c = k * TEAM + own;
        if inside(c, units) { gain[k] = gamma[p.gamma_offset / UNIT + c]; }
    }
#endif
    for (var r = first; r < last; r++) {
        var i = r;
        var s = 1.0;
#ifdef SUBSET
        i = inverse_rows[p.map_offset + r];
        if i == 0xffffffffu { s = 0.0; } else { s = factor[p.scale_offset + i]; }
#endif
        let at = (p.x_offset + r * p.x_stride) / UNIT;
        let from_ = (p.b_offset + i * p.b_stride) / UNIT;
        let to = (p.z_offset + r * p.cols) / UNIT;
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
                var v = Unit(x[at + c]);
#ifdef KEEP
                if s != 0.0 { v += s * gain[k] * Unit(b[from_ + c]); }
#else
                if s != 0.0 { v += s * gamma[p.gamma_offset / UNIT + c] * Unit(b[from_ + c]); }
#endif
                z[to + c] = Stored(v);
            }
        }
    }
}
#endif

#ifdef BACKWARD
#ifdef GAMMA
// Sums over the rows.
var<private> total: array<Unit, KEEP>;
#endif

@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let units = p.cols / UNIT;
    let own = member(lane);
    let team = team_index(workgroup_index(wid, nwg), lane);
    let first = team * p.strip;
    let last = min(first + p.strip, p.rows);
#ifdef KEEP
    for (var k = 0u; k < steps(units); k++) {
        let c = k * TEAM + own;
        if inside(c, units) { gain[k] = gamma[p.gamma_offset / UNIT + c]; }
#ifdef GAMMA
        total[k] = Unit();
#endif
    }
#endif
    for (var i = first; i < last; i++) {
        let place = pair(i);
        let at = (p.x_offset + place.row * p.x_stride) / UNIT;
        let to = (p.db_offset + i * p.db_stride) / UNIT;
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
                let upper = place.scale * Unit(dz[at + c]);
#ifdef KEEP
                var d = gain[k] * upper;
#else
                var d = gamma[p.gamma_offset / UNIT + c] * upper;
#endif
#ifdef GAMMA
                total[k] += Unit(b[(p.b_offset + i * p.b_stride) / UNIT + c]) * upper;
#endif
                if p.accumulate != 0u { d += Unit(db[to + c]); }
                db[to + c] = Stored(d);
            }
        }
    }
#ifdef GAMMA
    if first < p.rows {
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) { parts[(p.parts_offset + team * p.cols) / UNIT + c] = total[k]; }
        }
    }
#endif
}
#endif

#ifdef BACKWARD_GAMMA
@compute @workgroup_size(WG)
fn backward_gamma(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = wid.x * WG + lane;
    if c >= p.cols / UNIT { return; }
    let last = min((wid.y + 1u) * p.strip, p.rows);
    var total = Unit();
    for (var i = wid.y * p.strip; i < last; i++) {
        let place = pair(i);
        let upper = place.scale * Unit(dz[(p.x_offset + place.row * p.x_stride) / UNIT + c]);
        total += Unit(b[(p.b_offset + i * p.b_stride) / UNIT + c]) * upper;
    }
    parts[(p.parts_offset + wid.y * p.cols) / UNIT + c] = total;
}
#endif
