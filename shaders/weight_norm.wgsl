// Weight normalisation of rows of `cols` elements.
//   forward   w[i] = g·v/‖v‖ (=), norms[i] = ‖v‖
//   backward  from dw, times the scalar `factor`:
//             dv[i] (=, or += where `accumulate`) factor·g/‖v‖·(dw − v·(dw·v)/‖v‖²)
//             dg[i] (=) factor·(dw·v)/‖v‖
// Grid: a team for `strip` rows, folded (rows.wgsl). In `backward` w_offset and w_stride are those of dw.
#include "params.wgsl"
#include "grid.wgsl"
#include "rows.wgsl"

struct Params {
    rows: u32, cols: u32,
    v_offset: u32, v_stride: u32,
    w_offset: u32, w_stride: u32,
    dv_offset: u32, dv_stride: u32,
    g_offset: u32, dg_offset: u32, norm_offset: u32, factor_offset: u32,
    accumulate: u32, strip: u32,
}

#ifdef KEEP
// What a member keeps of its row: v, and dw.
var<private> row: array<Unit, KEEP>;
#ifdef BACKWARD
var<private> upper: array<Unit, KEEP>;
#endif
#endif

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> w: array<Unit>;
@group(0) @binding(1) var<storage, read_write> norms: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<Unit>;
@group(0) @binding(3) var<storage, read> g: array<f32>;

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let units = p.cols / UNIT;
    let own = member(lane);
    let first = team_index(workgroup_index(wid, nwg), lane) * p.strip;
    let last = min(first + p.strip, p.rows);
    for (var i = first; i < last; i++) {
        let at = (p.v_offset + i * p.v_stride) / UNIT;
        var squares = Unit();
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
                let x = v[at + c];
#ifdef KEEP
                row[k] = x;
#endif
                squares = fma(x, x, squares);
            }
        }
        let norm = sqrt(team_sum(unit_sum(squares), lane));
        let scale = g[p.g_offset + i] / norm;
        let to = (p.w_offset + i * p.w_stride) / UNIT;
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
#ifdef KEEP
                w[to + c] = row[k] * scale;
#else
                w[to + c] = v[at + c] * scale;
#endif
            }
        }
        if own == 0u { norms[p.norm_offset + i] = norm; }
    }
}
#endif

#ifdef BACKWARD
@group(0) @binding(0) var<storage, read_write> dv: array<Unit>;
@group(0) @binding(1) var<storage, read_write> dg: array<f32>;
@group(0) @binding(2) var<storage, read> dw: array<Unit>;
@group(0) @binding(3) var<storage, read> v: array<Unit>;
@group(0) @binding(4) var<storage, read> g: array<f32>;
@group(0) @binding(5) var<storage, read> norms: array<f32>;
@group(0) @binding(6) var<storage, read> factor: array<f32>;

@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let units = p.cols / UNIT;
    let own = member(lane);
    let first = team_index(workgroup_index(wid, nwg), lane) * p.strip;
    let last = min(first + p.strip, p.rows);
    let f = factor[p.factor_offset];
    for (var i = first; i < last; i++) {
        let at = (p.v_offset + i * p.v_stride) / UNIT;
        let from_ = (p.w_offset + i * p.w_stride) / UNIT;
        let inverse = 1.0 / norms[p.norm_offset + i];
        var products = Unit();
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
                let x = v[at + c];
                let d = dw[from_ + c];
#ifdef KEEP
                row[k] = x;
                upper[k] = d;
#endif
                products += x * d;
            }
        }
        let along = team_sum(unit_sum(products), lane) * inverse;
        let scale = f * g[p.g_offset + i] * inverse;
        let to = (p.dv_offset + i * p.dv_stride) / UNIT;
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
#ifdef KEEP
                let d = scale * (upper[k] - row[k] * (along * inverse));
#else
                let d = scale * (dw[from_ + c] - v[at + c] * (along * inverse));
#endif
                if p.accumulate != 0u { dv[to + c] += d; } else { dv[to + c] = d; }
            }
        }
        if own == 0u { dg[p.dg_offset + i] = f * along; }
    }
}
#endif
