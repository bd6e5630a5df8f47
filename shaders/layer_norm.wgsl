// LayerNorm over rows of `cols` elements.
//   forward             y[i] = (x[r] − mean)·rstd·γ + β, stats[i] = (mean, rstd), r = index[i] or i
//   backward            dx[r] (=, or += where ACCUMULATE) rstd·(γdy − mean(γdy) − x̂·mean(γdy·x̂)); with
//                       PARAMETERS, which needs KEEP, also parts[team] = (Σ dy·x̂ , Σ dy) over the team's
//                       rows (=)
//   backward_parameters the same parts by column, for rows that are not kept; parts[k] of the k-th block of
//     rows
// The parts are summed by reduce.wgsl. Grid: forward and backward a team for `strip` rows, folded
// (rows.wgsl);
// backward_parameters (ceil(cols / WG), parts, 1).
// x, y and their gradients are of half precision where HALF, all else is single.
// The mean is subtracted before squares are summed.
#include "params.wgsl"
#include "grid.wgsl"
#include "rows.wgsl"

struct Params {
    rows: u32, cols: u32,
    x_offset: u32, x_stride: u32,
    y_offset: u32, y_stride: u32,
    gamma_offset: u32, beta_offset: u32, stats_offset: u32, index_offset: u32,
    dx_offset: u32, dx_stride: u32,
    strip: u32, parts_offset: u32,
    eps: f32,
}

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> y: array<Stored>;
@group(0) @binding(1) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> x: array<Stored>;
@group(0) @binding(3) var<storage, read> gamma: array<Unit>;
@group(0) @binding(4) var<storage, read> beta: array<Unit>;
#ifdef GATHER
@group(0) @binding(5) var<storage, read> index: array<u32>;
#endif
#endif
#ifdef BACKWARD
@group(0) @binding(0) var<storage, read_write> dx: array<Stored>;
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> x: array<Stored>;
@group(0) @binding(3) var<storage, read> gamma: array<Unit>;
@group(0) @binding(4) var<storage, read> dy: array<Stored>;
#ifdef PARAMETERS
@group(0) @binding(5) var<storage, read_write> parts: array<Unit>;
#ifdef GATHER
@group(0) @binding(6) var<storage, read> index: array<u32>;
#endif
#else
#ifdef GATHER
@group(0) @binding(5) var<storage, read> index: array<u32>;
#endif
#endif
#endif
#ifdef BACKWARD_PARAMETERS
@group(0) @binding(0) var<storage, read_write> parts: array<Unit>;
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> x: array<Stored>;
@group(0) @binding(3) var<storage, read> dy: array<Stored>;
#ifdef GATHER
@group(0) @binding(4) var<storage, read> index: array<u32>;
#endif
#endif

fn source_row(i: u32) -> u32 {
#ifdef GATHER
    return index[p.index_offset + i];
#else
    return i;
#endif
}

// What a member keeps of its row, and of γ and β for all its rows.
#ifdef KEEP
var<private> row: array<Unit, KEEP>;
var<private> gain: array<Unit, KEEP>;
var<private> shift: array<Unit, KEEP>;
#endif

#ifdef FORWARD
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let units = p.cols / UNIT;
    let own = member(lane);
    let first = team_index(workgroup_index(wid, nwg), lane) * p.strip;
    let last = min(first + p.strip, p.rows);
    let from_gamma = p.gamma_offset / UNIT;
    let from_beta = p.beta_offset / UNIT;
#ifdef KEEP
    for (var k = 0u; k < steps(units); k++) {
        let c = k * TEAM + own;
        if inside(c, units) {
            gain[k] = gamma[from_gamma + c];
            shift[k] = beta[from_beta + c];
        }
    }
#endif
    for (var i = first; i < last; i++) {
        let at = (p.x_offset + source_row(i) * p.x_stride) / UNIT;
        let to = (p.y_offset + i * p.y_stride) / UNIT;
        var total = Unit();
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
                let v = Unit(x[at + c]);
#ifdef KEEP
                row[k] = v;
#endif
                total += v;
            }
        }
        let mean = team_sum(unit_sum(total), lane) / f32(p.cols);
        var squares = Unit();
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
#ifdef KEEP
                let d = row[k] - mean;
                row[k] = d;
#else
                let d = Unit(x[at + c]) - mean;
#endif
                squares = fma(d, d, squares);
            }
        }
        let rstd = 1.0 / sqrt(team_sum(unit_sum(squares), lane) / f32(p.cols) + p.eps);
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
#ifdef KEEP
                y[to + c] = Stored(row[k] * rstd * gain[k] + shift[k]);
#else
                let n = (Unit(x[at + c]) - mean) * rstd;
                y[to + c] = Stored(n * gamma[from_gamma + c] + beta[from_beta + c]);
#endif
            }
        }
        if own == 0u { stats[p.stats_offset / 2u + i] = vec2<f32>(mean, rstd); }
    }
}
#endif

#ifdef BACKWARD
#ifdef KEEP
// γ·dy
var<private> pull: array<Unit, KEEP>;
#endif
#ifdef PARAMETERS
// Sums over the rows: dy·x̂, dy.
var<private> along: array<Unit, KEEP>;
var<private> whole: array<Unit, KEEP>;
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
#ifdef PARAMETERS
        along[k] = Unit();
        whole[k] = Unit();
#endif
    }
#endif
    for (var i = first; i < last; i++) {
        let r = source_row(i);
        let at = (p.x_offset + r * p.x_stride) / UNIT;
        let from_ = (p.y_offset + i * p.y_stride) / UNIT;
        let s = stats[p.stats_offset / 2u + i];
        var a = Unit();
        var b = Unit();
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
                let d = Unit(dy[from_ + c]);
                let n = (Unit(x[at + c]) - s.x) * s.y;
#ifdef PARAMETERS
                along[k] = fma(d, n, along[k]);
                whole[k] += d;
#endif
#ifdef KEEP
                let g = gain[k] * d;
                row[k] = n;
                pull[k] = g;
#else
                let g = gamma[p.gamma_offset / UNIT + c] * d;
#endif
                a += g;
                b = fma(g, n, b);
            }
        }
        let mean = team_sum(unit_sum(a), lane) / f32(p.cols);
        let slope = team_sum(unit_sum(b), lane) / f32(p.cols);
        let to = (p.dx_offset + r * p.dx_stride) / UNIT;
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
#ifdef KEEP
                var d = s.y * (pull[k] - mean - row[k] * slope);
#else
                let g = gamma[p.gamma_offset / UNIT + c] * Unit(dy[from_ + c]);
                var d = s.y * (g - mean - (Unit(x[at + c]) - s.x) * s.y * slope);
#endif
#ifdef ACCUMULATE
                d += Unit(dx[to + c]);
#endif
                dx[to + c] = Stored(d);
            }
        }
    }
#ifdef PARAMETERS
    if first < p.rows {
        let to = (p.parts_offset + team * 2u * p.cols) / UNIT;
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
                parts[to + c] = along[k];
                parts[to + units + c] = whole[k];
            }
        }
    }
#endif
}
#endif

#ifdef BACKWARD_PARAMETERS
@compute @workgroup_size(WG)
fn backward_parameters(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let units = p.cols / UNIT;
    let c = wid.x * WG + lane;
    if c >= units { return; }
    let last = min((wid.y + 1u) * p.strip, p.rows);
    var along = Unit();
    var whole = Unit();
    for (var i = wid.y * p.strip; i < last; i++) {
        let d = Unit(dy[(p.y_offset + i * p.y_stride) / UNIT + c]);
        let s = stats[p.stats_offset / 2u + i];
        along += d * ((Unit(x[(p.x_offset + source_row(i) * p.x_stride) / UNIT + c]) - s.x) * s.y);
        whole += d;
    }
    let to = (p.parts_offset + wid.y * 2u * p.cols) / UNIT;
    parts[to + c] = along;
    parts[to + units + c] = whole;
}
#endif
