// Self-attention inside sequences, one head at a time (Dao et al. 2022, in the form that needs no atomics).
//   forward       o = softmax(s)·v with s = scale·q·kᵀ; saved: lse[head, row] = log Σ exp(s)
//   backward_q    delta[head, row] = Σ do·o; ds = exp(s − lse)∘(do·vᵀ − delta); dq = scale·ds·k
//   backward_kv   dk = scale·dsᵀ·q, dv = exp(s − lse)ᵀ·do
// dqkv is written (=). No score leaves the registers.
//
// qkv [rows, 3·width] with q, k and v side by side, out and do [rows, width], width = heads·HEAD; rows may lie apart.
//
// Every invocation owns OWN rows of one side (queries, or keys in backward_kv) and keeps them and its sums in
// registers; the rows of the other side stream past, TILE at a time:
//   by default   through workgroup memory: 2·TILE·HEAD floats
//   BROADCAST    through registers: the eight invocations of a subgroup load eight neighbouring elements and
//                broadcast them. Needs subgroups of eight; for software adapters, whose loads cost most.
// Rows are handled in chunks of eight elements; where HEAD is not a multiple of eight (RAGGED) the rest is zero.
//
// Grid: one workgroup of WG invocations for WG·OWN rows of a sequence and head, folded. Up to four groups of
// sequences: group i ends before workgroup end_i, starts at row first_i and has sequences of length_i rows.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "attention_rows.wgsl"

struct Params {
    heads: u32, rows: u32,
    qkv_offset: u32, qkv_stride: u32,
    out_offset: u32, out_stride: u32,
    dout_offset: u32, dout_stride: u32,
    dqkv_offset: u32, dqkv_stride: u32,
    lse_offset: u32, delta_offset: u32,
    end_0: u32, end_1: u32, end_2: u32, end_3: u32,
    first_0: u32, first_1: u32, first_2: u32, first_3: u32,
    length_0: u32, length_1: u32, length_2: u32, length_3: u32,
    scale: f32,
}

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> out: array<Cell>;
@group(0) @binding(1) var<storage, read_write> lse: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<Cell>;
#endif
#ifdef BACKWARD_Q
@group(0) @binding(0) var<storage, read_write> dqkv: array<Cell>;
@group(0) @binding(1) var<storage, read_write> delta: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<Cell>;
@group(0) @binding(3) var<storage, read> dout: array<Cell>;
@group(0) @binding(4) var<storage, read> lse: array<f32>;
@group(0) @binding(5) var<storage, read> out: array<Cell>;
#endif
#ifdef BACKWARD_KV
@group(0) @binding(0) var<storage, read_write> dqkv: array<Cell>;
@group(0) @binding(1) var<storage, read> delta: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<Cell>;
@group(0) @binding(3) var<storage, read> dout: array<Cell>;
@group(0) @binding(4) var<storage, read> lse: array<f32>;
#endif

const ROWS: u32 = WG * OWN;

// What a workgroup works on: rows [start, start + ROWS) of the sequence of `length` rows from row `first`.
struct Place { first: u32, length: u32, head: u32, start: u32 }

fn workgroups() -> u32 { return p.end_3; }

fn place(workgroup: u32) -> Place {
    var from_ = 0u;
    var first = p.first_0;
    var length = p.length_0;
    if workgroup >= p.end_0 { from_ = p.end_0; first = p.first_1; length = p.length_1; }
    if workgroup >= p.end_1 { from_ = p.end_1; first = p.first_2; length = p.length_2; }
    if workgroup >= p.end_2 { from_ = p.end_2; first = p.first_3; length = p.length_3; }
    let blocks = (length + ROWS - 1u) / ROWS;
    let i = workgroup - from_;
    let j = i / blocks;
    return Place(first + j / p.heads * length, length, j % p.heads, (i % blocks) * ROWS);
}

// The owned rows. Invocation `lane` owns rows start + lane + o·WG, o < OWN; those past the sequence's end repeat its
// last row and are not written.
fn owned(at: Place, lane: u32, o: u32) -> u32 { return min(at.start + o * WG + lane, at.length - 1u); }

fn own_qkv(base: u32, at: Place, lane: u32, factor: f32) -> Rows {
    var rows: Rows;
    for (var o = 0u; o < OWN; o++) { rows[o] = read_row(base + owned(at, lane, o) * p.qkv_stride, factor); }
    return rows;
}

#ifdef BACKWARD_Q
fn own_dout(base: u32, at: Place, lane: u32) -> Rows {
    var rows: Rows;
    for (var o = 0u; o < OWN; o++) {
        let row = base + owned(at, lane, o) * p.dout_stride;
        for (var c = 0u; c < CHUNKS; c++) { rows[o][c] = dout8(row, c); }
    }
    return rows;
}
#endif

// Writes (=) the owned rows times their factors to the output, whose rows are `stride` apart.
fn store(rows: Rows, factors: Each, base: u32, stride: u32, at: Place, lane: u32) {
    var from_ = rows;
    var factor = factors;
    for (var o = 0u; o < OWN; o++) {
        let row = at.start + o * WG + lane;
        if row < at.length {
            write_row(&from_, o, factor[o], base + row * stride);
        }
    }
}

#ifndef BROADCAST
// Fills both tiles with the first n rows from `x` and `y` on.
fn fill_tiles(x: u32, x_stride: u32, y: u32, y_stride: u32, n: u32, lane: u32) {
    workgroupBarrier();
    for (var i = lane; i < n * CHUNKS; i += WG) {
        let j = i / CHUNKS;
        let c = i % CHUNKS;
        tile_x[i] = qkv8(x + j * x_stride, c);
#ifdef BACKWARD_KV
        tile_y[i] = dout8(y + j * y_stride, c);
#else
        tile_y[i] = qkv8(y + j * y_stride, c);
#endif
    }
    workgroupBarrier();
}
#endif

#ifdef FORWARD
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
#ifdef BROADCAST
           @builtin(subgroup_invocation_id) sub: u32,
#endif
           @builtin(local_invocation_index) lane: u32) {
    let workgroup = workgroup_index(wid, nwg);
    if workgroup >= workgroups() { return; }
    let at = place(workgroup);
    let width = p.heads * HEAD;
    let base = p.qkv_offset + at.first * p.qkv_stride + at.head * HEAD;
    var q = own_qkv(base, at, lane, p.scale);
    var sum: Rows;
    var most: Each;
    var total: Each;
    for (var o = 0u; o < OWN; o++) { most[o] = NEG_INF; }
    for (var key = 0u; key < at.length; key += TILE) {
        let n = min(TILE, at.length - key);
        let k = base + width + key * p.qkv_stride;
        let v = k + width;
#ifndef BROADCAST
        fill_tiles(k, p.qkv_stride, v, p.qkv_stride, n, lane);
#endif
        // one longer than the loops over it, which therefore stay loops on software adapters
        var s: array<array<f32, TILE + 1u>, OWN>;
        var peak = most;
        for (var j = 0u; j < n; j++) {
#ifdef BROADCAST
            var x = stream_x(k + j * p.qkv_stride, sub);
#else
            var x = j * CHUNKS;
#endif
            var score = dots(&q, &x);
            for (var o = 0u; o < OWN; o++) {
                s[o][j] = score[o];
                peak[o] = max(peak[o], score[o]);
            }
        }
        raise(&most, &peak, &total, &sum);
        for (var j = 0u; j < n; j++) {
#ifdef BROADCAST
            var y = stream_y(v + j * p.qkv_stride, sub);
#else
            var y = j * CHUNKS;
#endif
            var weight: Each;
            for (var o = 0u; o < OWN; o++) {
                weight[o] = exp_accurate(s[o][j] - peak[o]);
                total[o] += weight[o];
            }
            add_y(&sum, &weight, &y);
        }
    }
    var share: Each;
    for (var o = 0u; o < OWN; o++) {
        let row = at.start + o * WG + lane;
        if row < at.length {
            lse[p.lse_offset + at.head * p.rows + at.first + row] = most[o] + log_accurate(total[o]);
        }
        share[o] = 1.0 / total[o];
    }
    store(sum, share, p.out_offset + at.first * p.out_stride + at.head * HEAD, p.out_stride, at, lane);
}
#endif

#ifdef BACKWARD_Q
@compute @workgroup_size(WG)
fn backward_q(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
#ifdef BROADCAST
              @builtin(subgroup_invocation_id) sub: u32,
#endif
              @builtin(local_invocation_index) lane: u32) {
    let workgroup = workgroup_index(wid, nwg);
    if workgroup >= workgroups() { return; }
    let at = place(workgroup);
    let width = p.heads * HEAD;
    let base = p.qkv_offset + at.first * p.qkv_stride + at.head * HEAD;
    let saved = at.head * p.rows + at.first;
    let cotangent = p.dout_offset + at.first * p.dout_stride + at.head * HEAD;
    let result = p.out_offset + at.first * p.out_stride + at.head * HEAD;
    var mean: Each;
    var level: Each;
    for (var o = 0u; o < OWN; o++) {
        let row = owned(at, lane, o);
        mean[o] = dot_out(result + row * p.out_stride, cotangent + row * p.dout_stride);
        level[o] = lse[p.lse_offset + saved + row];
        if row == at.start + o * WG + lane { delta[p.delta_offset + saved + row] = mean[o]; }
    }
    var q = own_qkv(base, at, lane, p.scale);
    var dy = own_dout(cotangent, at, lane);
    var sum: Rows;
    for (var key = 0u; key < at.length; key += TILE) {
        let n = min(TILE, at.length - key);
        let k = base + width + key * p.qkv_stride;
        let v = k + width;
#ifndef BROADCAST
        fill_tiles(k, p.qkv_stride, v, p.qkv_stride, n, lane);
#endif
        for (var j = 0u; j < n; j++) {
#ifdef BROADCAST
            var x = stream_x(k + j * p.qkv_stride, sub);
            var y = stream_y(v + j * p.qkv_stride, sub);
#else
            var x = j * CHUNKS;
            var y = j * CHUNKS;
#endif
            let products = both_dots(&q, &dy, &x, &y);
            var s = products.x;
            var ds = products.y;
            for (var o = 0u; o < OWN; o++) { ds[o] = exp_accurate(s[o] - level[o]) * (ds[o] - mean[o]); }
            add_x(&sum, &ds, &x);
        }
    }
    var factor: Each;
    for (var o = 0u; o < OWN; o++) { factor[o] = p.scale; }
    store(sum, factor, p.dqkv_offset + at.first * p.dqkv_stride + at.head * HEAD, p.dqkv_stride, at, lane);
}
#endif

#ifdef BACKWARD_KV
@compute @workgroup_size(WG)
fn backward_kv(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
#ifdef BROADCAST
               @builtin(subgroup_invocation_id) sub: u32,
#endif
               @builtin(local_invocation_index) lane: u32) {
    let workgroup = workgroup_index(wid, nwg);
    if workgroup >= workgroups() { return; }
    let at = place(workgroup);
    let width = p.heads * HEAD;
    let base = p.qkv_offset + at.first * p.qkv_stride + at.head * HEAD;
    let cotangent = p.dout_offset + at.first * p.dout_stride + at.head * HEAD;
    let saved = at.head * p.rows + at.first;
    var k = own_qkv(base + width, at, lane, p.scale);
    var v = own_qkv(base + 2u * width, at, lane, 1.0);
    var dk: Rows;
    var dv: Rows;
    for (var query = 0u; query < at.length; query += TILE) {
        let n = min(TILE, at.length - query);
        let q = base + query * p.qkv_stride;
        let d = cotangent + query * p.dout_stride;
#ifndef BROADCAST
        fill_tiles(q, p.qkv_stride, d, p.dout_stride, n, lane);
#endif
        for (var j = 0u; j < n; j++) {
#ifdef BROADCAST
            var x = stream_x(q + j * p.qkv_stride, sub);
            var y = stream_y(d + j * p.dout_stride, sub);
#else
            var x = j * CHUNKS;
            var y = j * CHUNKS;
#endif
            let products = both_dots(&k, &v, &x, &y);
            var s = products.x;
            var ds = products.y;
            let level = lse[p.lse_offset + saved + query + j];
            let mean = delta[p.delta_offset + saved + query + j];
            for (var o = 0u; o < OWN; o++) {
                s[o] = exp_accurate(s[o] - level);
                ds[o] = s[o] * (ds[o] - mean);
            }
            add_x(&dk, &ds, &x);
            add_y(&dv, &s, &y);
        }
    }
    let to = p.dqkv_offset + at.first * p.dqkv_stride + at.head * HEAD + width;
    var factor: Each;
    for (var o = 0u; o < OWN; o++) { factor[o] = p.scale; }
    store(dk, factor, to, p.dqkv_stride, at, lane);
    for (var o = 0u; o < OWN; o++) { factor[o] = 1.0; }
    store(dv, factor, to + width, p.dqkv_stride, at, lane);
}
#endif
