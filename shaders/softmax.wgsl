// Softmax over rows of `cols` elements, y = softmax(scale·x).
//   forward    one pass for maximum and sum together (Milakov & Gimelshein 2018), one to write y (=)
//   backward   dx (=, or += where `accumulate`) scale·y∘(dy − Σ dy·y)
// Bindings: forward y, x; backward dx, y, dy. Rows may lie apart.
// Grid: one workgroup of WG invocations a row, which is one subgroup where SUBGROUP; where SHORT, one invocation a
// row. Folded. Saved: y.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#ifdef WORKGROUP
#include "reduce.wgsl"
#endif

struct Params {
    rows: u32, cols: u32,
    out_offset: u32, out_stride: u32,
    a_offset: u32, a_stride: u32,
    b_offset: u32, b_stride: u32,
    accumulate: u32,
    scale: f32,
}

// y, or dx
@group(0) @binding(0) var<storage, read_write> out: array<f32>;
// x, or y
@group(0) @binding(1) var<storage, read> a: array<f32>;
#ifdef BACKWARD
// dy
@group(0) @binding(2) var<storage, read> b: array<f32>;
#endif

#ifdef WORKGROUP
const STEP: u32 = WG;
fn row_sum(value: f32, lane: u32) -> f32 { return workgroup_sum(value, lane); }
fn row_max(value: f32, lane: u32) -> f32 { return workgroup_max(value, lane); }
#endif
#ifdef SUBGROUP
const STEP: u32 = WG;
fn row_sum(value: f32, lane: u32) -> f32 { return subgroupAdd(value); }
fn row_max(value: f32, lane: u32) -> f32 { return subgroupMax(value); }
#endif
#ifdef SHORT
const STEP: u32 = 1u;
fn row_sum(value: f32, lane: u32) -> f32 { return value; }
fn row_max(value: f32, lane: u32) -> f32 { return value; }
#endif

@compute @workgroup_size(WG)
fn softmax(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
#ifdef SHORT
    let r = workgroup_index(wid, nwg) * WG + lane;
    let start = 0u;
#else
    let r = workgroup_index(wid, nwg);
    let start = lane;
#endif
    if r >= p.rows { return; }
    let to = p.out_offset + r * p.out_stride;
    let first = p.a_offset + r * p.a_stride;
#ifdef BACKWARD
    let second = p.b_offset + r * p.b_stride;
    var dot = 0.0;
    for (var c = start; c < p.cols; c += STEP) { dot += a[first + c] * b[second + c]; }
    dot = row_sum(dot, lane);
    for (var c = start; c < p.cols; c += STEP) {
        let d = p.scale * a[first + c] * (b[second + c] - dot);
        if p.accumulate != 0u { out[to + c] += d; } else { out[to + c] = d; }
    }
#else
    var most = NEG_INF;
    var total = 0.0;
    for (var c = start; c < p.cols; c += STEP) {
        let x = p.scale * a[first + c];
        let e = exp_accurate(-abs(x - most));
        total = select(total + e, total * e + 1.0, x > most);
        most = max(most, x);
    }
    let peak = row_max(most, lane);
    let share = 1.0 / row_sum(total * exp_accurate(most - peak), lane);
    for (var c = start; c < p.cols; c += STEP) {
        out[to + c] = exp_accurate(p.scale * a[first + c] - peak) * share;
    }
#endif
}
