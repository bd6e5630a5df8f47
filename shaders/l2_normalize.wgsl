// Rows of `cols` elements divided by their Euclidean norm, d = max(‖x‖, eps).
//   forward   y[i] = x[i] / d (=), norms[i] = ‖x[i]‖
//   backward  dx[i] (=, or += where `accumulate`) (dy − x·(x·dy)/d²) / d, without the second term where ‖x‖ ≤
//             eps
// Grid: a team for `strip` rows, folded (rows.wgsl). In `backward` y_offset and y_stride are those of dy.
#include "params.wgsl"
#include "grid.wgsl"
#include "rows.wgsl"

struct Params {
    rows: u32, cols: u32,
    x_offset: u32, x_stride: u32,
    y_offset: u32, y_stride: u32,
    dx_offset: u32, dx_stride: u32,
    norm_offset: u32, accumulate: u32, strip: u32,
    eps: f32,
}

#ifdef KEEP
// What a member keeps of its row: x, and dy.
var<private> row: array<Unit, KEEP>;
#ifdef BACKWARD
var<private> upper: array<Unit, KEEP>;
#endif
#endif

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> y: array<Unit>;
@group(0) @binding(1) var<storage, read_write> norms: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<Unit>;

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let units = p.cols / UNIT;
    let own = member(lane);
    let first = team_index(workgroup_index(wid, nwg), lane) * p.strip;
    let last = min(first + p.strip, p.rows);
    for (var i = first; i < last; i++) {
        let at = (p.x_offset + i * p.x_stride) / UNIT;
        var squares = Unit();
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
                let v = x[at + c];
#ifdef KEEP
                row[k] = v;
#endif
                squares = fma(v, v, squares);
            }
        }
        let norm = sqrt(team_sum(unit_sum(squares), lane));
        let d = max(norm, p.eps);
        let to = (p.y_offset + i * p.y_stride) / UNIT;
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
#ifdef KEEP
                y[to + c] = row[k] / d;
#else
                y[to + c] = x[at + c] / d;
#endif
            }
        }
        if own == 0u { norms[p.norm_offset + i] = norm; }
    }
}
#endif

#ifdef BACKWARD
@group(0) @binding(0) var<storage, read_write> dx: array<Unit>;
@group(0) @binding(1) var<storage, read> norms: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<Unit>;
@group(0) @binding(3) var<storage, read> dy: array<Unit>;

@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let units = p.cols / UNIT;
    let own = member(lane);
    let first = team_index(workgroup_index(wid, nwg), lane) * p.strip;
    let last = min(first + p.strip, p.rows);
    for (var i = first; i < last; i++) {
        let at = (p.x_offset + i * p.x_stride) / UNIT;
        let from_ = (p.y_offset + i * p.y_stride) / UNIT;
        let norm = norms[p.norm_offset + i];
        let inverse = 1.0 / max(norm, p.eps);
        var products = Unit();
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
                let v = x[at + c];
                let d = dy[from_ + c];
#ifdef KEEP
                row[k] = v;
                upper[k] = d;
#endif
                products = fma(v, d, products);
            }
        }
        let along = select(team_sum(unit_sum(products), lane) * inverse * inverse, 0.0, norm <= p.eps);
        let to = (p.dx_offset + i * p.dx_stride) / UNIT;
        for (var k = 0u; k < steps(units); k++) {
            let c = k * TEAM + own;
            if inside(c, units) {
#ifdef KEEP
                let g = (upper[k] - row[k] * along) * inverse;
#else
                let g = (dy[from_ + c] - x[at + c] * along) * inverse;
#endif
                if p.accumulate != 0u { dx[to + c] += g; } else { dx[to + c] = g; }
            }
        }
    }
}
#endif
