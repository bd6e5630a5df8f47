// Cross-entropy of rows of logits against targets computed on the fly; see src/ops/cross_entropy.rs.
//   z = s·inverse with inverse = 1/τs, p_t[j] = exp(l[t, j]/τ + a[t] + b[j]) for up to two teacher rows t, q
//     = softmax(d·inverse)
//   losses[i] = (Σ_t LSE(z) − Σ_j p_t·z, LSE(z) − Σ_j q·z) (=)
//   s[i] = inverse·((n·w + v)·softmax(z) − w·Σ_t p_t − v·q) (=, over the logits) with GRADIENT
// s, d: [rows, cols]; t0, t1: chunks of the teacher's logits that hold the first and second target rows,
// whose first rows are t0_first and t1_first; a: [R, 2]; b: [cols]; table: [rows, 4] (t, t, bits of w, bits
// of v), t = 0xffffffff for none. 1/τ = target_inverse + target_inverse_low.
// Grid: a team a row, folded (rows.wgsl). The row is read twice: sums with running maxima, then the gradient.
#include "params.wgsl"
#include "grid.wgsl"
#include "unit_math.wgsl"
#include "targets.wgsl"
#include "rows.wgsl"

struct Params {
    rows: u32, cols: u32,
    s_offset: u32, s_stride: u32,
    d_offset: u32, d_stride: u32,
    t0_offset: u32, t0_stride: u32, t0_first: u32,
    t1_offset: u32, t1_stride: u32, t1_first: u32,
    a_offset: u32, b_offset: u32, table_offset: u32, loss_offset: u32,
    inverse: f32, target_inverse: f32, target_inverse_low: f32,
}

@group(0) @binding(0) var<storage, read_write> losses: array<f32>;
#ifdef GRADIENT
@group(0) @binding(1) var<storage, read_write> s: array<Unit>;
#else
@group(0) @binding(1) var<storage, read> s: array<Unit>;
#endif
@group(0) @binding(2) var<storage, read> l0: array<Unit>;
@group(0) @binding(3) var<storage, read> l1: array<Unit>;
@group(0) @binding(4) var<storage, read> a: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read> b: array<Unit>;
@group(0) @binding(6) var<storage, read> table: array<u32>;
#ifdef DISTILL
@group(0) @binding(7) var<storage, read> d: array<Unit>;
#endif

const NONE: u32 = 0xffffffffu;

// A row's targets: whether they are there, where they start, and their row scales.
struct Targets { has0: bool, has1: bool, at0: u32, at1: u32, a0: vec2<f32>, a1: vec2<f32> }

fn targets_of(t0: u32, t1: u32) -> Targets {
    var t = Targets(t0 != NONE, t1 != NONE, 0u, 0u, vec2<f32>(0.0), vec2<f32>(0.0));
    if t.has0 {
        t.at0 = (p.t0_offset + (t0 - p.t0_first) * p.t0_stride) / UNIT;
        t.a0 = a[p.a_offset / 2u + t0];
    }
    if t.has1 {
        t.at1 = (p.t1_offset + (t1 - p.t1_first) * p.t1_stride) / UNIT;
        t.a1 = a[p.a_offset / 2u + t1];
    }
    return t;
}

fn probability(l: Unit, row: vec2<f32>, column: Unit) -> Unit {
    let y = over_temperature(l, p.target_inverse, p.target_inverse_low, Unit(row.x), Unit(row.y));
    return unit_exp((y.high + column) + y.low);
}

// Sum of the targets at unit c.
fn target_at(t: Targets, c: u32) -> Unit {
    let column = b[p.b_offset / UNIT + c];
    var sum = Unit();
    if t.has0 { sum = probability(l0[t.at0 + c], t.a0, column); }
    if t.has1 { sum += probability(l1[t.at1 + c], t.a1, column); }
    return sum;
}

@compute @workgroup_size(WG)
fn cross_entropy(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let i = team_index(workgroup_index(wid, nwg), lane);
    if i >= p.rows { return; }
    let entry = p.table_offset + 4u * i;
    let t = targets_of(table[entry], table[entry + 1u]);
    let count = select(0.0, 1.0, t.has0) + select(0.0, 1.0, t.has1);
    let units = p.cols / UNIT;
    let at = (p.s_offset + i * p.s_stride) / UNIT;

    var m = NEG_INF;
    var total = Unit();
    var dot_ = Unit();
#ifdef DISTILL
    let from_ = (p.d_offset + i * p.d_stride) / UNIT;
    var dm = NEG_INF;
    var dtotal = Unit();
    var ddot = Unit();
#endif
    for (var c = member(lane); c < units; c += TEAM) {
        // differences of logits first, which are exact near the maximum, then times 1/τs
        let z = s[at + c];
        let higher = max(m, unit_max(z));
        total = total * exp_accurate((m - higher) * p.inverse) + unit_exp((z - higher) * p.inverse);
        m = higher;
        dot_ = fma(target_at(t, c), z, dot_);
#ifdef DISTILL
        let y = d[from_ + c];
        let above = max(dm, unit_max(y));
        let down = exp_accurate((dm - above) * p.inverse);
        let q = unit_exp((y - above) * p.inverse);
        dtotal = dtotal * down + q;
        ddot = fma(q, z, ddot * down);
        dm = above;
#endif
    }
    let top = team_max(m, lane);
    let sum = team_sum(unit_sum(total) * exp_accurate((m - top) * p.inverse), lane);
    let log_sum = log_accurate(sum);
    let view = count * log_sum + (count * top - team_sum(unit_sum(dot_), lane)) * p.inverse;
    var distill = 0.0;
#ifdef DISTILL
    let dtop = team_max(dm, lane);
    let down = exp_accurate((dm - dtop) * p.inverse);
    let dsum = team_sum(unit_sum(dtotal) * down, lane);
    distill = log_sum + (top - team_sum(unit_sum(ddot) * down, lane) / dsum) * p.inverse;
#endif
    if member(lane) == 0u {
        losses[p.loss_offset + 2u * i] = view;
        losses[p.loss_offset + 2u * i + 1u] = distill;
    }
#ifdef GRADIENT
    let weight = bitcast<f32>(table[entry + 2u]) * p.inverse;
    var own = weight * count;
#ifdef DISTILL
    let other = bitcast<f32>(table[entry + 3u]) * p.inverse;
    own += other;
#endif
    for (var c = member(lane); c < units; c += TEAM) {
        var g = own / sum * unit_exp((s[at + c] - top) * p.inverse) - weight * target_at(t, c);
#ifdef DISTILL
        g -= other / dsum * unit_exp((d[from_ + c] - dtop) * p.inverse);
#endif
        s[at + c] = g;
    }
#endif
}
