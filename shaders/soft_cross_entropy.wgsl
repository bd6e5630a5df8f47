// Softmax cross-entropy of rows of logits x [rows, cols] against two classes each, mixed and smoothed:
//   target[i] = of_all + of_a·onehot(a[i]) + of_b·onehot(b[i]), which sums to one
//   losses[i] (=) LSE(x[i]) − Σ target[i]·x[i];  x[i] (=) scale·(softmax(x[i]) − target[i])
// a, b, losses: dense. Both labels may be the same.
// Grid: one workgroup a row, folded. The row is read twice and written once.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "reduce.wgsl"

struct Params {
    rows: u32, cols: u32,
    x_offset: u32, x_stride: u32,
    a_offset: u32, b_offset: u32, loss_offset: u32,
    of_a: f32, of_b: f32, of_all: f32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> losses: array<f32>;
@group(0) @binding(2) var<storage, read> labels_a: array<u32>;
@group(0) @binding(3) var<storage, read> labels_b: array<u32>;

@compute @workgroup_size(WG)
fn soft_cross_entropy(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                      @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg);
    if i >= p.rows { return; }
    let at = p.x_offset + i * p.x_stride;
    let a = labels_a[p.a_offset + i];
    let b = labels_b[p.b_offset + i];
    // read before the barriers below, after which it is overwritten
    let own_a = x[at + a];
    let own_b = x[at + b];
    var most = NEG_INF;
    for (var c = lane; c < p.cols; c += WG) { most = max(most, x[at + c]); }
    most = workgroup_max(most, lane);
    var total = 0.0;
    var below = 0.0;
    for (var c = lane; c < p.cols; c += WG) {
        let v = x[at + c] - most;
        total += exp_accurate(v);
        below += v;
    }
    total = workgroup_sum(total, lane);
    // one logit of −∞ may be without a share in the target, so it is not multiplied with none
    let all = select(0.0, p.of_all * workgroup_sum(below, lane), p.of_all > 0.0);
    let share = p.scale / total;
    for (var c = lane; c < p.cols; c += WG) {
        let goal = p.of_all + select(0.0, p.of_a, c == a) + select(0.0, p.of_b, c == b);
        x[at + c] = exp_accurate(x[at + c] - most) * share - p.scale * goal;
    }
    if lane == 0u {
        losses[p.loss_offset + i] = log_accurate(total) - (p.of_a * (own_a - most) + p.of_b * (own_b - most) + all);
    }
}
