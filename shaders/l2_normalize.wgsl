// Rows of `cols` elements divided by their Euclidean norm, d = max(‖x‖, eps).
//   forward   y[i] = x[i] / d (=), norms[i] = ‖x[i]‖
//   backward  dx[i] (=, or += where `accumulate`) (dy − x·(x·dy)/d²) / d, without the second term where ‖x‖ ≤ eps
// Grid: one workgroup a row, folded. In `backward` y_offset and y_stride are those of dy.
#include "params.wgsl"
#include "grid.wgsl"
#include "reduce.wgsl"

struct Params {
    rows: u32, cols: u32,
    x_offset: u32, x_stride: u32,
    y_offset: u32, y_stride: u32,
    dx_offset: u32, dx_stride: u32,
    norm_offset: u32, accumulate: u32,
    eps: f32,
}

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read_write> norms: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg);
    if i >= p.rows { return; }
    let at = p.x_offset + i * p.x_stride;
    var squares = 0.0;
    for (var c = lane; c < p.cols; c += WG) { squares = fma(x[at + c], x[at + c], squares); }
    let norm = sqrt(workgroup_sum(squares, lane));
    let d = max(norm, p.eps);
    let to = p.y_offset + i * p.y_stride;
    for (var c = lane; c < p.cols; c += WG) { y[to + c] = x[at + c] / d; }
    if lane == 0u { norms[p.norm_offset + i] = norm; }
}
#endif

#ifdef BACKWARD
@group(0) @binding(0) var<storage, read_write> dx: array<f32>;
@group(0) @binding(1) var<storage, read> norms: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;

@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg);
    if i >= p.rows { return; }
    let at = p.x_offset + i * p.x_stride;
    let from_ = p.y_offset + i * p.y_stride;
    let norm = norms[p.norm_offset + i];
    let inverse = 1.0 / max(norm, p.eps);
    var dot_ = 0.0;
    for (var c = lane; c < p.cols; c += WG) { dot_ = fma(x[at + c], dy[from_ + c], dot_); }
    let along = select(workgroup_sum(dot_, lane) * inverse * inverse, 0.0, norm <= p.eps);
    let to = p.dx_offset + i * p.dx_stride;
    for (var c = lane; c < p.cols; c += WG) {
        let g = (dy[from_ + c] - x[at + c] * along) * inverse;
        if p.accumulate != 0u { dx[to + c] += g; } else { dx[to + c] = g; }
    }
}
#endif
