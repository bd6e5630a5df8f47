// C = epilogue(alpha · A·B) for A and B of half precision on cooperative matrices (tensor cores): a subgroup of 32
// multiplies small matrices of FRAGMENT×FRAGMENT as a whole and adds them up in single precision.
// Shapes, strides, bindings and epilogues: include/matmul.wgsl. WIDE: A and B are read eight elements at a time, C four.
// Grid: one workgroup a tile of BM×BN, batch and part of K, folded. Workgroup: 32·(BM / SIDE)·(BN / SIDE).
// A subgroup makes SIDE×SIDE results, FRAGMENTS×FRAGMENTS small matrices (two; four where FOUR), each a variable of its own,
// since arrays of them are not allowed. Tiles of A and B, BK deep, are staged in two buffers: while one is multiplied the
// next tile travels from memory through registers into the other, with one barrier a step. What lies beyond the edges is
// staged as zero. A row of a staged tile has eight elements of padding, so that the rows of a small matrix lie in different
// banks; rows start at multiples of 16 bytes. The tiles lie as A and B do in memory (rows of a tile run along K, or where
// A_ALONG_M along M and unless B_ALONG_K along N), and a small matrix is loaded by rows or by columns.
// In the end one small matrix of every subgroup at a time goes through workgroup memory into the epilogue.
// The small matrices themselves: include/cooperative.wgsl; PLAIN has plain arithmetic in their place.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "matmul.wgsl"
const SIDE: u32 = FRAGMENT * FRAGMENTS;
const ACROSS: u32 = BN / SIDE;
const SUBGROUPS: u32 = ACROSS * (BM / SIDE);
const WG: u32 = 32u * SUBGROUPS;

// Rows of the staged tiles in vectors of four, and whole tiles.
#ifdef A_ALONG_M
const A_ROW: u32 = BM / 4u + 2u;
const A_TILE: u32 = BK * A_ROW;
#else
const A_ROW: u32 = BK / 4u + 2u;
const A_TILE: u32 = BM * A_ROW;
#endif
#ifdef B_ALONG_K
const B_ROW: u32 = BK / 4u + 2u;
const B_TILE: u32 = BN * B_ROW;
#else
const B_ROW: u32 = BN / 4u + 2u;
const B_TILE: u32 = BK * B_ROW;
#endif
// Eights that an invocation stages at a time.
const A_EIGHTS: u32 = BM * BK / 8u / WG;
const B_EIGHTS: u32 = BN * BK / 8u / WG;
// A row of parked sums in vectors of four.
const PARK_ROW: u32 = FRAGMENT / 4u + 1u;

#ifndef WIDE
struct Eight { low: vec4<f16>, high: vec4<f16> }
#endif

var<workgroup> a_tile: array<vec4<f16>, 2u * A_TILE>;
var<workgroup> b_tile: array<vec4<f16>, 2u * B_TILE>;
var<workgroup> parked: array<vec4<f32>, SUBGROUPS * FRAGMENT * PARK_ROW>;
// On their way from memory.
var<private> next_a: array<Eight, A_EIGHTS>;
var<private> next_b: array<Eight, B_EIGHTS>;

#include "cooperative.wgsl"

// Place of an invocation's i-th eight in a tile: (row or column of C, k).
fn a_place(i: u32) -> vec2<u32> {
#ifdef A_ALONG_M
    return vec2(8u * (i % (BM / 8u)), i / (BM / 8u));
#else
    return vec2(i / (BK / 8u), 8u * (i % (BK / 8u)));
#endif
}
fn b_place(i: u32) -> vec2<u32> {
#ifdef B_ALONG_K
    return vec2(i / (BK / 8u), 8u * (i % (BK / 8u)));
#else
    return vec2(8u * (i % (BN / 8u)), i / (BN / 8u));
#endif
}

#ifdef WIDE
fn a_eight(from_: u32, row: u32, k: u32, last: u32) -> Eight {
    if row >= p.m || k >= last { return Eight(); }
    return a[(from_ + a_row(row) + k * p.a_k) / 8u];
}
fn b_eight(from_: u32, col: u32, k: u32, last: u32) -> Eight {
    if col >= p.n || k >= last { return Eight(); }
    return b[(from_ + b_col(col) + k * p.b_k) / 8u];
}
#else
fn a_one(from_: u32, row: u32, k: u32, last: u32) -> f16 {
    if row >= p.m || k >= last { return f16(); }
    return a[from_ + a_row(row) + k * p.a_k];
}
fn b_one(from_: u32, col: u32, k: u32, last: u32) -> f16 {
    if col >= p.n || k >= last { return f16(); }
    return b[from_ + b_col(col) + k * p.b_k];
}
fn a_eight(from_: u32, row: u32, k: u32, last: u32) -> Eight {
    var all: Eight;
    for (var e = 0u; e < 4u; e++) {
#ifdef A_ALONG_M
        all.low[e] = a_one(from_, row + e, k, last);
        all.high[e] = a_one(from_, row + e + 4u, k, last);
#else
        all.low[e] = a_one(from_, row, k + e, last);
        all.high[e] = a_one(from_, row, k + e + 4u, last);
#endif
    }
    return all;
}
fn b_eight(from_: u32, col: u32, k: u32, last: u32) -> Eight {
    var all: Eight;
    for (var e = 0u; e < 4u; e++) {
#ifdef B_ALONG_K
        all.low[e] = b_one(from_, col, k + e, last);
        all.high[e] = b_one(from_, col, k + e + 4u, last);
#else
        all.low[e] = b_one(from_, col + e, k, last);
        all.high[e] = b_one(from_, col + e + 4u, k, last);
#endif
    }
    return all;
}
#endif

// Steps of BK in a group of K; the same for all parts, so that control flow is seen to be uniform.
fn steps() -> u32 { return (p.k_part + BK - 1u) / BK; }

// Reads the tiles of a step.
fn fetch(job: Job, step: u32, lane: u32) {
    let group = step / steps();
    let k0 = job.first + (step % steps()) * BK;
    let a_from = job.a + group * p.a_k_far;
    let b_from = job.b + b_group(group);
    for (var t = 0u; t < A_EIGHTS; t++) {
        let at = a_place(lane + t * WG);
        next_a[t] = a_eight(a_from, job.row + at.x, k0 + at.y, job.last);
    }
    for (var t = 0u; t < B_EIGHTS; t++) {
        let at = b_place(lane + t * WG);
        next_b[t] = b_eight(b_from, job.col + at.x, k0 + at.y, job.last);
    }
}

// Puts what was read into a buffer.
fn stage(buffer: u32, lane: u32) {
    for (var t = 0u; t < A_EIGHTS; t++) {
        let at = a_place(lane + t * WG);
#ifdef A_ALONG_M
        let to = buffer * A_TILE + at.y * A_ROW + at.x / 4u;
#else
        let to = buffer * A_TILE + at.x * A_ROW + at.y / 4u;
#endif
        a_tile[to] = next_a[t].low;
        a_tile[to + 1u] = next_a[t].high;
    }
    for (var t = 0u; t < B_EIGHTS; t++) {
        let at = b_place(lane + t * WG);
#ifdef B_ALONG_K
        let to = buffer * B_TILE + at.x * B_ROW + at.y / 4u;
#else
        let to = buffer * B_TILE + at.y * B_ROW + at.x / 4u;
#endif
        b_tile[to] = next_b[t].low;
        b_tile[to + 1u] = next_b[t].high;
    }
}

// Takes the subgroup's parked sums, of the small matrix from this row and column of C on, through the epilogue.
fn finish_parked(job: Job, row: u32, col: u32, own: u32, lane: u32) {
    workgroupBarrier();
    for (var i = lane; i < FRAGMENT * FRAGMENT / 4u; i += 32u) {
        let r = row + i / (FRAGMENT / 4u);
        let c = col + i % (FRAGMENT / 4u) * 4u;
        if r < p.m && c < p.n {
            let value = parked[own + i / (FRAGMENT / 4u) * PARK_ROW + i % (FRAGMENT / 4u)];
            let to = job.c + c_row(r);
#ifdef WIDE
            finish(to + c_col(c), r, c, value);
#else
            for (var e = 0u; e < min(4u, p.n - c); e++) { finish(to + c_col(c + e), r, c + e, value[e]); }
#endif
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(WG)
fn cooperative(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
#ifdef PLAIN
               @builtin(local_invocation_index) lane: u32) {
    let subgroup = lane / 32u;
    let sub = lane % 32u;
    own_lane = sub;
#else
               @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32,
               @builtin(subgroup_invocation_id) sub: u32) {
#endif
    var job = find_job(workgroup_index(wid, nwg), BM, BN);
    // control flow must be uniform: a workgroup without a tile multiplies zeros and writes nothing
    if !job.valid {
        job.last = 0u;
        job.row = p.m;
    }
    let y = subgroup / ACROSS * SIDE;
    let x = subgroup % ACROSS * SIDE;
    var s00: Sum;
    var s01: Sum;
    var s10: Sum;
    var s11: Sum;
#ifdef FOUR
    var s02: Sum;
    var s03: Sum;
    var s12: Sum;
    var s13: Sum;
    var s20: Sum;
    var s21: Sum;
    var s22: Sum;
    var s23: Sum;
    var s30: Sum;
    var s31: Sum;
    var s32: Sum;
    var s33: Sum;
#endif
    let count = p.k_groups * steps();
    fetch(job, 0u, lane);
    stage(0u, lane);
    workgroupBarrier();
    for (var step = 0u; step < count; step++) {
        let buffer = step % 2u;
        if step + 1u < count { fetch(job, step + 1u, lane); }
        for (var k = 0u; k < BK; k += FRAGMENT) {
            let a0 = left(buffer, y, k);
            let a1 = left(buffer, y + FRAGMENT, k);
#ifdef FOUR
            let a2 = left(buffer, y + 2u * FRAGMENT, k);
            let a3 = left(buffer, y + 3u * FRAGMENT, k);
#endif
            let b0 = right(buffer, x, k);
            s00 = multiply_add(a0, b0, s00);
            s10 = multiply_add(a1, b0, s10);
#ifdef FOUR
            s20 = multiply_add(a2, b0, s20);
            s30 = multiply_add(a3, b0, s30);
#endif
            let b1 = right(buffer, x + FRAGMENT, k);
            s01 = multiply_add(a0, b1, s01);
            s11 = multiply_add(a1, b1, s11);
#ifdef FOUR
            s21 = multiply_add(a2, b1, s21);
            s31 = multiply_add(a3, b1, s31);
            let b2 = right(buffer, x + 2u * FRAGMENT, k);
            s02 = multiply_add(a0, b2, s02);
            s12 = multiply_add(a1, b2, s12);
            s22 = multiply_add(a2, b2, s22);
            s32 = multiply_add(a3, b2, s32);
            let b3 = right(buffer, x + 3u * FRAGMENT, k);
            s03 = multiply_add(a0, b3, s03);
            s13 = multiply_add(a1, b3, s13);
            s23 = multiply_add(a2, b3, s23);
            s33 = multiply_add(a3, b3, s33);
#endif
        }
        // the other buffer was last read before the barrier
        if step + 1u < count { stage(1u - buffer, lane); }
        workgroupBarrier();
    }
    let own = subgroup * FRAGMENT * PARK_ROW;
    let row = job.row + y;
    let col = job.col + x;
    park(s00, own);
    finish_parked(job, row, col, own, sub);
    park(s01, own);
    finish_parked(job, row, col + FRAGMENT, own, sub);
    park(s10, own);
    finish_parked(job, row + FRAGMENT, col, own, sub);
    park(s11, own);
    finish_parked(job, row + FRAGMENT, col + FRAGMENT, own, sub);
#ifdef FOUR
    park(s02, own);
    finish_parked(job, row, col + 2u * FRAGMENT, own, sub);
    park(s03, own);
    finish_parked(job, row, col + 3u * FRAGMENT, own, sub);
    park(s12, own);
    finish_parked(job, row + FRAGMENT, col + 2u * FRAGMENT, own, sub);
    park(s13, own);
    finish_parked(job, row + FRAGMENT, col + 3u * FRAGMENT, own, sub);
    park(s20, own);
    finish_parked(job, row + 2u * FRAGMENT, col, own, sub);
    park(s21, own);
    finish_parked(job, row + 2u * FRAGMENT, col + FRAGMENT, own, sub);
    park(s22, own);
    finish_parked(job, row + 2u * FRAGMENT, col + 2u * FRAGMENT, own, sub);
    park(s23, own);
    finish_parked(job, row + 2u * FRAGMENT, col + 3u * FRAGMENT, own, sub);
    park(s30, own);
    finish_parked(job, row + 3u * FRAGMENT, col, own, sub);
    park(s31, own);
    finish_parked(job, row + 3u * FRAGMENT, col + FRAGMENT, own, sub);
    park(s32, own);
    finish_parked(job, row + 3u * FRAGMENT, col + 2u * FRAGMENT, own, sub);
    park(s33, own);
    finish_parked(job, row + 3u * FRAGMENT, col + 3u * FRAGMENT, own, sub);
#endif
}
