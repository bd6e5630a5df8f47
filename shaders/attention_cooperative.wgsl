// Self-attention as in attention.wgsl, of half precision, on cooperative matrices (tensor cores): a subgroup
// owns FRAGMENT rows of one side (queries, or keys in backward_kv), a workgroup SUBGROUPS times as many.
// Subgroups have SUBGROUP invocations or, where it is the driver's to choose, down to LEAST. Then there are more of
// them, and those over multiply the rows of others, since control flow must be uniform, and park what comes of
// it where nobody reads. The rows of the other side stream past, TILE at a time, staged in workgroup memory as the owned ones
// are.
// Products of owned and streaming rows are parked in workgroup memory in single precision, where PER_ROW
// invocations take up a row between them: they make weights of scores, of half precision again, for the
// second product.
// Sums stay small matrices to the end. Those of forward would have to shrink whenever a larger score comes: so a row's
// weights are taken by a level that need not be its largest score so far, but lies at most HEADROOM below it. Then no
// weight is above 256, which half precision has as exactly as 1, and what is small beside the largest weight is
// flushed to zero later than if that were 1. In the first tile the level is the largest score; where a later one
// lies further above it in any row, the workgroup parks its sums, shrinks those rows and takes them back.
// Which row an invocation takes up follows from its number in the workgroup, however an adapter puts subgroups
// together: barriers lie between it and the subgroup that multiplies that row.
// Rows past a sequence's end are staged as zero; streaming ones weigh nothing, owned ones are not written.
// What is computed, bindings and grid: attention.wgsl; rows of all matrices start at multiples of four
// elements, and HEAD is a multiple of 16. Barriers stand in uniform control flow throughout. The small
// matrices: include/cooperative.wgsl.
enable f16;
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "sequences.wgsl"

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> out: array<vec4<f16>>;
@group(0) @binding(1) var<storage, read_write> saved: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<vec4<f16>>;
#ifdef QUERIES
@group(0) @binding(3) var<storage, read> table: array<u32>;
#endif
#endif
#ifdef BACKWARD_Q
@group(0) @binding(0) var<storage, read_write> dqkv: array<vec4<f16>>;
@group(0) @binding(1) var<storage, read_write> saved: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read> dout: array<vec4<f16>>;
@group(0) @binding(4) var<storage, read> out: array<vec4<f16>>;
#ifdef QUERIES
@group(0) @binding(5) var<storage, read> table: array<u32>;
#endif
#endif
#ifdef BACKWARD_KV
@group(0) @binding(0) var<storage, read_write> dqkv: array<vec4<f16>>;
@group(0) @binding(1) var<storage, read> saved: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read> dout: array<vec4<f16>>;
#ifdef QUERIES
@group(0) @binding(4) var<storage, read> table: array<u32>;
#endif
#endif

const WG: u32 = SUBGROUP * SUBGROUPS;
const ROWS: u32 = FRAGMENT * SUBGROUPS;
// Invocations that share a row, and vectors of four that one of them takes.
const PER_ROW: u32 = SUBGROUP / FRAGMENT;
const PAIR_FOURS: u32 = TILE / 4u / PER_ROW;

// Rows in workgroup memory in vectors of four, with padding that puts neighbours into different banks.
const TILE_ROW: u32 = HEAD / 4u + 2u;
const PAIR_ROW: u32 = TILE / 4u + 2u;
const PARK_ROW: u32 = TILE / 4u + 1u;

// What is staged, one after the other: owned rows (q, or k in backward_kv; do, or v), streaming rows, and
// what each pair of them weighs: exp(score − lse) and, in the backward passes, the scores' gradient.
const OWN_X: u32 = 0u;
const OWN_Y: u32 = OWN_X + ROWS * TILE_ROW;
#ifdef FORWARD
const TILE_X: u32 = OWN_Y;
#else
const TILE_X: u32 = OWN_Y + ROWS * TILE_ROW;
#endif
const TILE_Y: u32 = TILE_X + TILE * TILE_ROW;
const GRADIENTS: u32 = TILE_Y + TILE * TILE_ROW;
#ifdef BACKWARD_KV
const WEIGHTS: u32 = GRADIENTS + ROWS * PAIR_ROW;
#else
const WEIGHTS: u32 = GRADIENTS;
#endif
var<workgroup> staged: array<Staged, FOUR * (WEIGHTS + ROWS * PAIR_ROW)>;
// Rows of the subgroups over come last.
var<workgroup> parked: array<Parked, FOUR * (SUBGROUP / LEAST * ROWS) * PARK_ROW>;
#ifdef FORWARD
// 8·ln 2.
const HEADROOM: f32 = 5.545177;
// Whether the level of any row has changed with this tile.
var<workgroup> raised: atomic<u32>;
#endif

#include "cooperative.wgsl"

// The row that an invocation takes up, and which of those that share it is this one.
fn row_of(lane: u32) -> u32 { return lane / PER_ROW; }
fn part_of(lane: u32) -> u32 { return lane % PER_ROW; }

// Stages `rows` rows of a sequence's `length` from `first` on, whose row 0 is at `base`.
fn stage_qkv(to: u32, base: u32, stride: u32, first: u32, rows: u32, length: u32, lane: u32) {
    for (var i = lane; i < rows * (HEAD / 4u); i += WG) {
        let r = i / (HEAD / 4u);
        let c = i % (HEAD / 4u);
        var value = vec4<f16>();
        if first + r < length { value = qkv[(base + (first + r) * stride) / 4u + c]; }
        put_four(to + r * TILE_ROW + c, value);
    }
}

#ifndef FORWARD
fn stage_dout(to: u32, base: u32, first: u32, rows: u32, length: u32, lane: u32) {
    for (var i = lane; i < rows * (HEAD / 4u); i += WG) {
        let r = i / (HEAD / 4u);
        let c = i % (HEAD / 4u);
        var value = vec4<f16>();
        if first + r < length { value = dout[(base + (first + r) * p.dout_stride) / 4u + c]; }
        put_four(to + r * TILE_ROW + c, value);
    }
}
#endif

// Parks own·otherᵀ: FRAGMENT owned rows, TILE streaming ones.
fn park_products(own: u32, other: u32, to: u32) {
    for (var n = 0u; n < TILE; n += FRAGMENT) {
        var sum: Sum;
        for (var f = 0u; f < HEAD; f += FRAGMENT) {
            let rows = left_by_rows(own + f / 4u, TILE_ROW);
            sum = multiply_add(rows, right_by_columns(other + n * TILE_ROW + f / 4u, TILE_ROW), sum);
        }
        park(sum, to + n / 4u, PARK_ROW);
    }
}

fn exp4(x: vec4<f32>) -> vec4<f32> {
    return vec4(exp_accurate(x.x), exp_accurate(x.y), exp_accurate(x.z), exp_accurate(x.w));
}

// Four scores from products, those of the rows from `other` on; no weight past the sequence's end.
fn four_scores(products: vec4<f32>, other: u32, length: u32) -> vec4<f32> {
    return select(vec4(NEG_INF), p.scale * products, vec4(other, other + 1u, other + 2u, other + 3u) < vec4(length));
}

// Writes (=) a small matrix of sums that the subgroup has parked, times a factor: columns from `col` on of the
// owned rows' results.
fn write_parked(at: Place, r: u32, part: u32, base: u32, col: u32, factor: f32) {
    let row = at.start + r;
    if row < owned_rows(at) {
#ifdef FORWARD
        let to = (base + row * p.out_stride + col) / 4u;
#else
        let to = (base + row * p.dqkv_stride + col) / 4u;
#endif
        for (var i = part; i < FRAGMENT / 4u; i += PER_ROW) {
            let value = vec4<f16>(factor * four_parked(r * PARK_ROW + i));
#ifdef FORWARD
            out[to + i] = value;
#else
            dqkv[to + i] = value;
#endif
        }
    }
}

#ifdef FORWARD
// Multiplies an invocation's share of a row of a small matrix that is parked from a column on.
fn scale_parked(r: u32, part: u32, column: u32, factor: f32) {
    for (var i = part; i < FRAGMENT / 4u; i += PER_ROW) {
        let at = r * PARK_ROW + column / 4u + i;
        park_four(at, factor * four_parked(at));
    }
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
#ifdef PLAIN
           @builtin(local_invocation_index) lane: u32) {
    let subgroup = lane / LEAST;
    own_lane = lane % LEAST;
#else
           @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32) {
#endif
    let workgroup = workgroup_index(wid, nwg);
    if workgroup >= workgroups() { return; }
    let at = place(workgroup);
    if at.start >= owned_rows(at) { return; }
    let k = keys_at(at);
    let v = k + p.heads * HEAD;
    // rows that the subgroup multiplies, and where it parks what comes of it
    let own = subgroup % SUBGROUPS * FRAGMENT;
    let park_at = subgroup * FRAGMENT * PARK_ROW;
    let r = row_of(lane);
    let part = part_of(lane);
    stage_qkv(OWN_X, queries_at(at), p.q_stride, at.start, ROWS, at.queries, lane);
#repeat F FRAGMENTS
    var o_$F: Sum;
#end
    var level = NEG_INF;
    var total = 0.0;
    for (var key = 0u; key < at.keys; key += TILE) {
        workgroupBarrier();
        stage_qkv(TILE_X, k, p.kv_stride, key, TILE, at.keys, lane);
        stage_qkv(TILE_Y, v, p.kv_stride, key, TILE, at.keys, lane);
        atomicStore(&raised, 0u);
        workgroupBarrier();
        park_products(OWN_X + own * TILE_ROW, TILE_X, park_at);
        workgroupBarrier();
        var peak = NEG_INF;
        for (var i = 0u; i < TILE / 4u; i++) {
            let s = four_scores(four_parked(r * PARK_ROW + i), key + 4u * i, at.keys);
            peak = max(peak, max(max(s.x, s.y), max(s.z, s.w)));
        }
        var shrink = 1.0;
        if peak > level + HEADROOM {
            shrink = exp_accurate(level - peak);
            level = peak;
            // there are no sums before the first tile
            if key > 0u { atomicStore(&raised, 1u); }
        }
        total *= shrink;
        for (var t = 0u; t < PAIR_FOURS; t++) {
            let i = part + PER_ROW * t;
            let weight = exp4(four_scores(four_parked(r * PARK_ROW + i), key + 4u * i, at.keys) - level);
            total += dot(weight, vec4(1.0));
            put_four(WEIGHTS + r * PAIR_ROW + i, vec4<f16>(weight));
        }
        workgroupBarrier();
        if atomicLoad(&raised) != 0u {
            // in two places in turn, since a place is taken back from while the next is parked
#repeat F FRAGMENTS
            park(o_$F, park_at + $Fu % 2u * FRAGMENT / 4u, PARK_ROW);
            workgroupBarrier();
            scale_parked(r, part, $Fu % 2u * FRAGMENT, shrink);
            workgroupBarrier();
            o_$F = take_back(park_at + $Fu % 2u * FRAGMENT / 4u, PARK_ROW);
#end
        }
        for (var n = 0u; n < TILE; n += FRAGMENT) {
            let weights = left_by_rows(WEIGHTS + own * PAIR_ROW + n / 4u, PAIR_ROW);
#repeat F FRAGMENTS
            o_$F = multiply_add(weights, right_by_rows(TILE_Y + n * TILE_ROW + $Fu * FRAGMENT / 4u, TILE_ROW), o_$F);
#end
        }
    }
    // the invocations of a row have summed weights of different columns
    workgroupBarrier();
    park_one(r * PER_ROW + part, total);
    workgroupBarrier();
    var all = 0.0;
    for (var i = 0u; i < PER_ROW; i++) { all += one_parked(r * PER_ROW + i); }
    if at.start + r < at.queries && part == 0u { saved[saved_at(0u, at, at.start + r)] = level + log_accurate(all); }
    let to = out_at(at);
#repeat F FRAGMENTS
    workgroupBarrier();
    park(o_$F, park_at, PARK_ROW);
    workgroupBarrier();
    write_parked(at, r, part, to, $Fu * FRAGMENT, 1.0 / all);
#end
}
#else
@compute @workgroup_size(WG)
#ifdef BACKWARD_Q
fn backward_q(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
#else
fn backward_kv(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
#endif
#ifdef PLAIN
               @builtin(local_invocation_index) lane: u32) {
    let subgroup = lane / LEAST;
    own_lane = lane % LEAST;
#else
               @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32) {
#endif
    let workgroup = workgroup_index(wid, nwg);
    if workgroup >= workgroups() { return; }
    let at = place(workgroup);
    if at.start >= owned_rows(at) { return; }
    let width = p.heads * HEAD;
    let q = queries_at(at);
    let k = keys_at(at);
    let v = k + width;
    let cotangent = dout_at(at);
    // rows that the subgroup multiplies, and where it parks what comes of it
    let own = subgroup % SUBGROUPS * FRAGMENT;
    let park_at = subgroup * FRAGMENT * PARK_ROW;
    let r = row_of(lane);
    let part = part_of(lane);
#ifdef BACKWARD_Q
    stage_qkv(OWN_X, q, p.q_stride, at.start, ROWS, at.queries, lane);
    stage_dout(OWN_Y, cotangent, at.start, ROWS, at.queries, lane);
    // the invocations of a row sum do·o over different columns; rows past the end weigh nothing
    let row = at.start + r;
    var level = -NEG_INF;
    var partial = 0.0;
    if row < at.queries {
        level = saved[saved_at(0u, at, row)];
        let o = (out_at(at) + row * p.out_stride) / 4u;
        let d = (cotangent + row * p.dout_stride) / 4u;
        for (var c = part; c < HEAD / 4u; c += PER_ROW) { partial += dot(vec4<f32>(out[o + c]), vec4<f32>(dout[d + c])); }
    }
    park_one(r * PER_ROW + part, partial);
    workgroupBarrier();
    var mean = 0.0;
    for (var i = 0u; i < PER_ROW; i++) { mean += one_parked(r * PER_ROW + i); }
    if row < at.queries && part == 0u { saved[saved_at(1u, at, row)] = mean; }
#else
    stage_qkv(OWN_X, k, p.kv_stride, at.start, ROWS, at.keys, lane);
    stage_qkv(OWN_Y, v, p.kv_stride, at.start, ROWS, at.keys, lane);
#endif
#repeat F FRAGMENTS
    var x_$F: Sum;
#ifdef BACKWARD_KV
    var y_$F: Sum;
#endif
#end
    let others = other_rows(at);
    for (var other = 0u; other < others; other += TILE) {
        workgroupBarrier();
#ifdef BACKWARD_Q
        stage_qkv(TILE_X, k, p.kv_stride, other, TILE, others, lane);
        stage_qkv(TILE_Y, v, p.kv_stride, other, TILE, others, lane);
#else
        stage_qkv(TILE_X, q, p.q_stride, other, TILE, others, lane);
        stage_dout(TILE_Y, cotangent, other, TILE, others, lane);
#endif
        workgroupBarrier();
        park_products(OWN_X + own * TILE_ROW, TILE_X, park_at);
        workgroupBarrier();
        var weight: array<vec4<f32>, PAIR_FOURS>;
        for (var t = 0u; t < PAIR_FOURS; t++) {
            let i = part + PER_ROW * t;
            let from_ = other + 4u * i;
#ifdef BACKWARD_KV
            var level: vec4<f32>;
            for (var e = 0u; e < 4u; e++) { level[e] = saved[saved_at(0u, at, min(from_ + e, others - 1u))]; }
#endif
            weight[t] = exp4(four_scores(four_parked(r * PARK_ROW + i), from_, others) - level);
#ifdef BACKWARD_KV
            put_four(WEIGHTS + r * PAIR_ROW + i, vec4<f16>(weight[t]));
#endif
        }
        workgroupBarrier();
        park_products(OWN_Y + own * TILE_ROW, TILE_Y, park_at);
        workgroupBarrier();
        for (var t = 0u; t < PAIR_FOURS; t++) {
            let i = part + PER_ROW * t;
#ifdef BACKWARD_KV
            let from_ = other + 4u * i;
            var mean: vec4<f32>;
            for (var e = 0u; e < 4u; e++) { mean[e] = saved[saved_at(1u, at, min(from_ + e, others - 1u))]; }
#endif
            put_four(GRADIENTS + r * PAIR_ROW + i, vec4<f16>(weight[t] * (four_parked(r * PARK_ROW + i) - mean)));
        }
        workgroupBarrier();
        for (var n = 0u; n < TILE; n += FRAGMENT) {
            let gradients = left_by_rows(GRADIENTS + own * PAIR_ROW + n / 4u, PAIR_ROW);
#ifdef BACKWARD_KV
            let weights = left_by_rows(WEIGHTS + own * PAIR_ROW + n / 4u, PAIR_ROW);
#endif
#repeat F FRAGMENTS
            x_$F = multiply_add(gradients, right_by_rows(TILE_X + n * TILE_ROW + $Fu * FRAGMENT / 4u, TILE_ROW), x_$F);
#ifdef BACKWARD_KV
            y_$F = multiply_add(weights, right_by_rows(TILE_Y + n * TILE_ROW + $Fu * FRAGMENT / 4u, TILE_ROW), y_$F);
#endif
#end
        }
    }
    let to = dqkv_at(at);
#repeat F FRAGMENTS
    workgroupBarrier();
    park(x_$F, park_at, PARK_ROW);
    workgroupBarrier();
#ifdef BACKWARD_Q
    write_parked(at, r, part, to, $Fu * FRAGMENT, p.scale);
#else
    write_parked(at, r, part, to, $Fu * FRAGMENT, p.scale);
    workgroupBarrier();
    park(y_$F, park_at, PARK_ROW);
    workgroupBarrier();
    write_parked(at, r, part, to + width, $Fu * FRAGMENT, 1.0);
#endif
#end
}
#endif
