// The optimiser over flat buffers.
//   square_sums   sums[block] (=) Σ g² over NORM_BLOCK elements. Grid: a team a block, folded (rows.wgsl).
//   finish_norms  control (=): 1 where everything is finite, then (norm, clip factor) of each module, whose
//                 blocks are ranges[2m]..ranges[2m + 1]. Grid: one workgroup.
//   update        AdamW with decoupled weight decay on clipped gradients, then with TEACHER its moving
//                 average; g is zeroed. Skipped but for the latter where control says non-finite. Grid: one
//                 invocation four elements, folded.
//   follow        what of update is left where AdamW is split over ranks: the moving average with TEACHER, and
//                 g is zeroed. Grid: as update.
// With OWN, square_sums and update go over the norm blocks that place[0..] names, which have their sums and
// moments one after the other; update leaves g, teacher and halves to follow, which runs over all elements.
// In mixed precision (MIXED) gradients come multiplied by scale[0]; finish_norms takes it out of norms and
// factors, reports it after them and moves it: halved where something is not finite, doubled after INTERVAL
// good steps, which scale[1] counts. update or follow then also writes the values in half precision.
// A block of BLOCK elements belongs to one parameter, whose row of `table` is (lr, 1 − lr·wd, touched,
// module).
#include "params.wgsl"
#include "grid.wgsl"

struct Params {
    count: u32, partial_offset: u32, modules: u32,
    beta1: f32, rest1: f32, beta2: f32, rest2: f32, eps: f32, correction1: f32, correction2: f32, ema: f32, clip: f32,
}

#ifdef SQUARE_SUMS
#include "rows.wgsl"
@group(0) @binding(0) var<storage, read_write> sums: array<f32>;
@group(0) @binding(1) var<storage, read> g: array<Unit>;
#ifdef OWN
@group(0) @binding(2) var<storage, read> place: array<u32>;
#endif

@compute @workgroup_size(WG)
fn square_sums(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let block = team_index(workgroup_index(wid, nwg), lane);
    if block >= p.count { return; }
    const UNITS: u32 = NORM_BLOCK / UNIT;
    var at = block;
#ifdef OWN
    at = place[block];
#endif
    var total = Unit();
    for (var c = member(lane); c < UNITS; c += TEAM) {
        let d = g[at * UNITS + c];
        total += d * d;
    }
    let sum = team_sum(unit_sum(total), lane);
    if member(lane) == 0u { sums[p.partial_offset + block] = sum; }
}
#endif

#ifdef FINISH_NORMS
#include "reduce.wgsl"
@group(0) @binding(0) var<storage, read_write> control: array<f32>;
@group(0) @binding(1) var<storage, read> sums: array<f32>;
@group(0) @binding(2) var<storage, read> ranges: array<u32>;
@group(0) @binding(3) var<storage, read> loss: array<f32>;
#ifdef MIXED
@group(0) @binding(4) var<storage, read_write> scale: array<f32>;
#endif

// Not by comparing with itself: compilers may assume that there are no NaNs.
fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

@compute @workgroup_size(WG)
fn finish_norms(@builtin(local_invocation_index) lane: u32) {
    // `count` is where the loss is
    var finite = is_finite(loss[p.count]);
    var unscale = 1.0;
#ifdef MIXED
    unscale = 1.0 / scale[0];
#endif
    for (var m = 0u; m < p.modules; m++) {
        var total = 0.0;
        for (var i = ranges[2u * m] + lane; i < ranges[2u * m + 1u]; i += WG) {
            total += sums[p.partial_offset + i];
        }
        let square = workgroup_sum(total, lane);
        let norm = sqrt(square) * unscale;
        finite = finite && is_finite(square);
        if lane == 0u {
            control[1u + 2u * m] = norm;
            var factor = 1.0;
            if p.clip > 0.0 { factor = min(1.0, p.clip / (norm + 1e-6)); }
            control[2u + 2u * m] = factor * unscale;
        }
    }
    if lane == 0u {
        control[0] = select(0.0, 1.0, finite);
#ifdef MIXED
        control[1u + 2u * p.modules] = scale[0];
        scale[1] += 1.0;
        if !finite {
            scale[0] *= 0.5;
            scale[1] = 0.0;
        } else if scale[1] >= f32(INTERVAL) {
            scale[0] *= 2.0;
            scale[1] = 0.0;
        }
#endif
    }
}
#endif

#ifdef UPDATE
@group(0) @binding(0) var<storage, read_write> w: array<vec4<f32>>;
#ifdef OWN
@group(0) @binding(1) var<storage, read> g: array<vec4<f32>>;
#else
@group(0) @binding(1) var<storage, read_write> g: array<vec4<f32>>;
#endif
@group(0) @binding(2) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> block_parameter: array<u32>;
@group(0) @binding(5) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> control: array<f32>;
#ifdef OWN
@group(0) @binding(7) var<storage, read> place: array<u32>;
#endif
#ifdef MIXED
enable f16;
#endif
#ifdef TEACHER
@group(0) @binding(7) var<storage, read_write> teacher: array<vec4<f32>>;
#ifdef MIXED
@group(0) @binding(8) var<storage, read_write> w_half: array<vec4<f16>>;
@group(0) @binding(9) var<storage, read_write> teacher_half: array<vec4<f16>>;
#endif
#else
#ifdef MIXED
@group(0) @binding(7) var<storage, read_write> w_half: array<vec4<f16>>;
#endif
#endif

@compute @workgroup_size(WG)
fn update(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg) * WG + lane;
    if i >= p.count / 4u { return; }
    // where value and gradient are; the moments are at i
    var at = i;
#ifdef OWN
    const UNITS: u32 = NORM_BLOCK / 4u;
    at = place[i / UNITS] * UNITS + i % UNITS;
#endif
    let gradient = g[at];
#ifndef OWN
    g[at] = vec4<f32>();
#endif
    let parameter = block_parameter[at / (BLOCK / 4u)];
    if control[0] == 0.0 || parameter == 0xffffffffu { return; }
    var value = w[at];
    // (lr, 1 − lr·wd, touched, module)
    let row = table[parameter];
    if row.z != 0.0 {
        let d = gradient * control[2u + 2u * u32(row.w)];
        let m1 = p.beta1 * m[i] + p.rest1 * d;
        let v1 = p.beta2 * v[i] + p.rest2 * d * d;
        m[i] = m1;
        v[i] = v1;
        let step = (m1 / p.correction1) / (sqrt(v1 / p.correction2) + p.eps);
        value = value * row.y - row.x * step;
        w[at] = value;
#ifdef MIXED
        w_half[at] = vec4<f16>(value);
#endif
    }
#ifdef TEACHER
    let old = teacher[at];
    let average = old + p.ema * (value - old);
    teacher[at] = average;
#ifdef MIXED
    teacher_half[at] = vec4<f16>(average);
#endif
#endif
}
#endif

#ifdef FOLLOW
#ifdef MIXED
enable f16;
#endif
@group(0) @binding(0) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> g: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> control: array<f32>;
#ifdef TEACHER
@group(0) @binding(3) var<storage, read_write> teacher: array<vec4<f32>>;
#ifdef MIXED
@group(0) @binding(4) var<storage, read_write> w_half: array<vec4<f16>>;
@group(0) @binding(5) var<storage, read_write> teacher_half: array<vec4<f16>>;
#endif
#else
#ifdef MIXED
@group(0) @binding(3) var<storage, read_write> w_half: array<vec4<f16>>;
#endif
#endif

@compute @workgroup_size(WG)
fn follow(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg) * WG + lane;
    if i >= p.count / 4u { return; }
    g[i] = vec4<f32>();
    if control[0] == 0.0 { return; }
    let value = w[i];
#ifdef MIXED
    w_half[i] = vec4<f16>(value);
#endif
#ifdef TEACHER
    let old = teacher[i];
    let average = old + p.ema * (value - old);
    teacher[i] = average;
#ifdef MIXED
    teacher_half[i] = vec4<f16>(average);
#endif
#endif
}
#endif
