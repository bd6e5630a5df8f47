// Sinkhorn-Knopp and centring in the logarithmic domain: p[i, j] = exp(l[i, j]/τ + a[i] + b[j]) is never stored.
//   columns  parts[s, 0, j], parts[s, 1, j] = m, Σ exp(l/τ + a − m) over a strip of rows, m their maximum (=)
//   merge    b[j] = LSE over the strips of column 0 − that of column j (=); the common factor is the row pass'
//   rows     a[i] = −LSE_j(l/τ + b) as two f32: −maximum and −log of the sum relative to it (=)
//   entropy  parts[i] = −Σ_j p log p (=), for reports
// l: rows of `cols` elements, x_stride apart; a: [R, 2]; parts: [strips, 2, cols]. 1/τ = inverse + inverse_low.
// Sums run with a maximum that grows as elements are read, so the logits may have any size and are read once.
// Grid: columns (ceil(cols / WG), strips of this chunk, 1), one invocation a column; merge (ceil(cols / WG), 1, 1);
// rows and entropy one workgroup a row, folded.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "targets.wgsl"
#ifdef ROW_PASS
#include "reduce.wgsl"
#endif
#ifdef ENTROPY_PASS
#include "reduce.wgsl"
#endif

struct Params {
    rows: u32, cols: u32,
    x_offset: u32, x_stride: u32,
    a_offset: u32, b_offset: u32, parts_offset: u32,
    strip: u32, strips: u32, first_strip: u32,
    inverse: f32, inverse_low: f32,
}

#ifdef COLUMN_PASS
@group(0) @binding(0) var<storage, read_write> parts: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> a: array<f32>;

@compute @workgroup_size(WG)
fn columns(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = wid.x * WG + lane;
    if c >= p.cols { return; }
    let first = wid.y * p.strip;
    let last = min(first + p.strip, p.rows);
    var m = NEG_INF;
    var total = 0.0;
    // four rows at a time: their loads overlap, and the running maximum moves once
    for (var r = first; r < last; r += 4u) {
        var high = vec4<f32>(NEG_INF);
        var low = vec4<f32>(0.0);
        for (var k = 0u; k < 4u; k++) {
            if r + k < last {
                let l = x[p.x_offset + (r + k) * p.x_stride + c];
                let at = p.a_offset + 2u * (r + k);
                let y = over_temperature(l, p.inverse, p.inverse_low, a[at], a[at + 1u]);
                high[k] = y.x;
                low[k] = y.y;
            }
        }
        let top = max(max(max(high.x, high.y), max(high.z, high.w)), m);
        let e = vec4<f32>(exp_accurate((high.x - top) + low.x), exp_accurate((high.y - top) + low.y),
                          exp_accurate((high.z - top) + low.z), exp_accurate((high.w - top) + low.w));
        total = total * exp_accurate(m - top) + ((e.x + e.y) + (e.z + e.w));
        m = top;
    }
    let to = p.parts_offset + (p.first_strip + wid.y) * 2u * p.cols + c;
    parts[to] = m;
    parts[to + p.cols] = total;
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
    let difference = merged(0u) - merged(c);
    b[p.b_offset + c] = difference.x + difference.y;
}
#endif

#ifdef ROW_PASS
@group(0) @binding(0) var<storage, read_write> a: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;

// l/τ + b − top
fn relative(l: f32, top: f32, scale: f32) -> f32 {
    let y = over_temperature(l, p.inverse, p.inverse_low, -top, scale);
    return y.x + y.y;
}

@compute @workgroup_size(WG)
fn rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg);
    if i >= p.rows { return; }
    let at = p.x_offset + i * p.x_stride;
    var m = NEG_INF;
    var total = 0.0;
    for (var c = lane; c < p.cols; c += 4u * WG) {
        var l = vec4<f32>(0.0);
        var scale = vec4<f32>(NEG_INF);
        for (var k = 0u; k < 4u; k++) {
            let j = c + k * WG;
            if j < p.cols {
                l[k] = x[at + j];
                scale[k] = b[p.b_offset + j];
            }
        }
        let high = fma(l, vec4<f32>(p.inverse), scale);
        let top = max(max(max(high.x, high.y), max(high.z, high.w)), m);
        // l/τ − top first: near the maximum it is small, so adding b rounds little
        let y = vec4<f32>(relative(l.x, top, scale.x), relative(l.y, top, scale.y),
                          relative(l.z, top, scale.z), relative(l.w, top, scale.w));
        let e = vec4<f32>(exp_accurate(y.x), exp_accurate(y.y), exp_accurate(y.z), exp_accurate(y.w));
        total = total * exp_accurate(m - top) + ((e.x + e.y) + (e.z + e.w));
        m = top;
    }
    let top = workgroup_max(m, lane);
    let sum = workgroup_sum(total * exp_accurate(m - top), lane);
    if lane == 0u {
        // not added up: −top is exact, and compilers may undo the usual tricks that recover what a sum loses
        a[p.a_offset + 2u * i] = -top;
        a[p.a_offset + 2u * i + 1u] = -log_accurate(sum);
    }
}
#endif

#ifdef ENTROPY_PASS
@group(0) @binding(0) var<storage, read_write> parts: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> a: array<f32>;

@compute @workgroup_size(WG)
fn entropy(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg);
    if i >= p.rows { return; }
    let at = p.x_offset + i * p.x_stride;
    let head = a[p.a_offset + 2u * i];
    let low = a[p.a_offset + 2u * i + 1u];
    var total = 0.0;
    for (var c = lane; c < p.cols; c += WG) {
        let y = over_temperature(x[at + c], p.inverse, p.inverse_low, head, low + b[p.b_offset + c]);
        let logarithm = y.x + y.y;
        total = fma(logarithm, exp_accurate(logarithm), total);
    }
    let sum = workgroup_sum(total, lane);
    if lane == 0u { parts[p.parts_offset + i] = -sum; }
}
#endif
