// Softmax cross-entropy of rows of logits x [rows, cols] against one class each.
//   losses[i] (=) LSE(x[i]) − x[i, label];  x[i] (=) scale·(softmax(x[i]) − onehot(label))
// labels: one for `per_label` consecutive rows; 2³² − 1 stands for a row without any, whose loss and gradient are zero.
// losses: dense.
// Grid: one workgroup a row, folded. The row is read twice and written once.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "reduce.wgsl"

struct Params {
    rows: u32, cols: u32,
    x_offset: u32, x_stride: u32,
    label_offset: u32, per_label: u32, loss_offset: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> losses: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;

@compute @workgroup_size(WG)
fn label_cross_entropy(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                       @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg);
    if i >= p.rows { return; }
    let at = p.x_offset + i * p.x_stride;
    let label = labels[p.label_offset + i / p.per_label];
    // the same for all invocations of the row
    if label == 0xffffffffu {
        for (var c = lane; c < p.cols; c += WG) { x[at + c] = 0.0; }
        if lane == 0u { losses[p.loss_offset + i] = 0.0; }
        return;
    }
    // read before the barriers below, after which it is overwritten
    let own = x[at + label];
    var most = NEG_INF;
    for (var c = lane; c < p.cols; c += WG) { most = max(most, x[at + c]); }
    most = workgroup_max(most, lane);
    var total = 0.0;
    for (var c = lane; c < p.cols; c += WG) { total += exp_accurate(x[at + c] - most); }
    total = workgroup_sum(total, lane);
    let share = p.scale / total;
    for (var c = lane; c < p.cols; c += WG) {
        x[at + c] = exp_accurate(x[at + c] - most) * share - select(0.0, p.scale, c == label);
    }
    if lane == 0u { losses[p.loss_offset + i] = log_accurate(total) + (most - own); }
}
