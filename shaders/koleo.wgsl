// KoLeo on normalised rows x [rows, cols] in groups of `group` rows.
//   forward   nearest[i] = the other row of the group with the largest dot product, the first of equals (=)
//             with D = ‖x_i − x_nn + eps‖: losses[i] = −log(D + eps), slope[i] = −1/(group·(D + eps)·D) (=)
//   backward  dx[i] (=, or += where `accumulate`) factor·(slope_i·(x_i − x_nn + eps)
//             − Σ over rows k with nearest[k] = i of slope_k·(x_k − x_i + eps)), factor one element
// dots: [groups, group, group]. Grid: one workgroup a row, folded.
#include "params.wgsl"
#include "grid.wgsl"

struct Params {
    rows: u32, cols: u32, group: u32,
    x_offset: u32, dots_offset: u32, nearest_offset: u32, slope_offset: u32, loss_offset: u32,
    factor_offset: u32, dx_offset: u32, dx_stride: u32,
    accumulate: u32,
    eps: f32,
}

#ifdef FORWARD
#include "math.wgsl"
#include "reduce.wgsl"

@group(0) @binding(0) var<storage, read_write> nearest: array<u32>;
@group(0) @binding(1) var<storage, read_write> slope: array<f32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read> dots: array<f32>;

var<workgroup> candidates: array<u32, WG>;

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg);
    if i >= p.rows { return; }
    let own = i % p.group;
    let at = p.dots_offset + i * p.group;
    var best = NEG_INF;
    var chosen = own;
    for (var j = lane; j < p.group; j += WG) {
        if j != own && dots[at + j] > best {
            best = dots[at + j];
            chosen = j;
        }
    }
    let top = workgroup_max(best, lane);
    // the first of equals; a row that is alone in its group keeps itself
    candidates[lane] = select(0xffffffffu, chosen, chosen != own && best == top);
    for (var width = WG / 2u; width > 0u; width = width / 2u) {
        workgroupBarrier();
        if lane < width {
            candidates[lane] = min(candidates[lane], candidates[lane + width]);
        }
    }
    workgroupBarrier();
    let found = select(candidates[0], own, candidates[0] == 0xffffffffu);
    let other = i - own + found;
    let a = p.x_offset + i * p.cols;
    let b = p.x_offset + other * p.cols;
    var squares = 0.0;
    for (var c = lane; c < p.cols; c += WG) {
        let v = (x[a + c] - x[b + c]) + p.eps;
        squares = fma(v, v, squares);
    }
    let distance_ = sqrt(workgroup_sum(squares, lane));
    if lane == 0u {
        nearest[p.nearest_offset + i] = other;
        slope[p.slope_offset + i] = -1.0 / (f32(p.group) * (distance_ + p.eps) * distance_);
        losses[p.loss_offset + i] = -log_accurate(distance_ + p.eps);
    }
}
#endif

#ifdef BACKWARD
@group(0) @binding(0) var<storage, read_write> dx: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> nearest: array<u32>;
@group(0) @binding(3) var<storage, read> slope: array<f32>;
@group(0) @binding(4) var<storage, read> factor: array<f32>;

@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg);
    if i >= p.rows { return; }
    let first = i - i % p.group;
    let f = factor[p.factor_offset];
    let own = slope[p.slope_offset + i];
    let other = nearest[p.nearest_offset + i];
    for (var c = lane; c < p.cols; c += WG) {
        let mine = x[p.x_offset + i * p.cols + c];
        var g = own * ((mine - x[p.x_offset + other * p.cols + c]) + p.eps);
        for (var k = first; k < first + p.group; k++) {
            if nearest[p.nearest_offset + k] == i {
                g -= slope[p.slope_offset + k] * ((x[p.x_offset + k * p.cols + c] - mine) + p.eps);
            }
        }
        let to = p.dx_offset + i * p.dx_stride + c;
        if p.accumulate != 0u { dx[to] += f * g; } else { dx[to] = f * g; }
    }
}
#endif
