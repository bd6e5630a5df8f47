// Self-attention inside sequences, one head at a time (Dao et al. 2022, in the form that needs no atomics).
//   forward       o = softmax(s)·v with s = scale·q·kᵀ; saved: lse = log Σ exp(s)
//   backward_q    delta = Σ do·o; ds = exp(s − lse)∘(do·vᵀ − delta); dq = scale·ds·k
//   backward_kv   dk = scale·dsᵀ·q, dv = exp(s − lse)ᵀ·do; with KEYS_ALONE or VALUES_ALONE one of the two
// dqkv is written (=). No score leaves the registers.
//
// qkv has q [queries, width] and, side by side, k and v [keys, 2·width], width = heads·HEAD, in any places: of a query for
// each key all three side by side, [rows, 3·width]. out and do [queries, width], dqkv as qkv; rows may lie apart.
// saved [2, heads, queries]: lse and delta.
//
// Every invocation owns OWN rows of one side (queries, or keys in backward_kv) and keeps them and its sums in
// registers; the rows of the other side stream past, STEP at a time:
//   by default   through workgroup memory, which takes TILE of them: 2·TILE·HEAD floats
//   BROADCAST    through registers: the eight invocations of a subgroup load eight neighbouring elements and
//                broadcast them. Needs subgroups of eight; for software adapters, whose loads cost most.
// Rows are handled in chunks of eight elements; where HEAD is not a multiple of eight (RAGGED) the rest is
// zero.
//
// Grid: one workgroup of WG invocations for WG·OWN rows of a sequence and head, folded; see
// include/sequences.wgsl.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "sequences.wgsl"
#include "attention_rows.wgsl"

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> out: array<Cell>;
@group(0) @binding(1) var<storage, read_write> saved: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<Cell>;
#ifdef QUERIES
@group(0) @binding(3) var<storage, read> table: array<u32>;
#endif
#endif
#ifdef BACKWARD_Q
@group(0) @binding(0) var<storage, read_write> dqkv: array<Cell>;
@group(0) @binding(1) var<storage, read_write> saved: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<Cell>;
@group(0) @binding(3) var<storage, read> dout: array<Cell>;
@group(0) @binding(4) var<storage, read> out: array<Cell>;
#ifdef QUERIES
@group(0) @binding(5) var<storage, read> table: array<u32>;
#endif
#endif
#ifdef BACKWARD_KV
@group(0) @binding(0) var<storage, read_write> dqkv: array<Cell>;
@group(0) @binding(1) var<storage, read> saved: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<Cell>;
@group(0) @binding(3) var<storage, read> dout: array<Cell>;
#ifdef QUERIES
@group(0) @binding(4) var<storage, read> table: array<u32>;
#endif
#endif

const ROWS: u32 = WG * OWN;

// The owned rows. Invocation `lane` owns rows start + lane + o·WG, o < OWN; those past the sequence's end
// repeat its last row and are not written.
fn owned(at: Place, lane: u32, o: u32) -> u32 { return min(at.start + o * WG + lane, owned_rows(at) - 1u); }

fn own_qkv(base: u32, stride: u32, at: Place, lane: u32, factor: f32) -> Rows {
    var rows: Rows;
    for (var o = 0u; o < OWN; o++) { rows[o] = read_row(base + owned(at, lane, o) * stride, factor); }
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
        if row < owned_rows(at) {
            write_row(&from_, o, factor[o], base + row * stride);
        }
    }
}

#ifndef BROADCAST
// Fills both tiles with the rows of the other side from `first` on: row r of a part starts at `x` +
// r·`x_stride`.
fn fill_tiles(x: u32, x_stride: u32, y: u32, y_stride: u32, at: Place, first: u32, lane: u32) {
    workgroupBarrier();
    for (var i = lane; i < min(TILE, other_rows(at) - first) * CHUNKS; i += WG) {
        let row = first + i / CHUNKS;
        let c = i % CHUNKS;
        tiles[i] = qkv8(x + row * x_stride, c);
#ifdef BACKWARD_KV
        tiles[TILE_Y + i] = dout8(y + row * y_stride, c);
#else
        tiles[TILE_Y + i] = qkv8(y + row * y_stride, c);
#endif
    }
    workgroupBarrier();
}
#endif

// Streaming rows past the sequence's end repeat its last row and weigh nothing.
fn streaming(at: Place, row: u32) -> u32 { return min(row, other_rows(at) - 1u); }

// The STEP rows from `first` on.
fn streaming_rows(at: Place, first: u32) -> Places {
    var rows: Places;
    for (var j = 0u; j < STEP; j++) { rows[j] = streaming(at, first + j); }
    return rows;
}

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
    if at.start >= owned_rows(at) { return; }
    let k = keys_at(at);
    let v = k + p.heads * HEAD;
    var q = own_qkv(queries_at(at), p.q_stride, at, lane, p.scale);
    var sum: Rows;
    var most: Each;
    var total: Each;
    for (var o = 0u; o < OWN; o++) { most[o] = NEG_INF; }
    for (var key = 0u; key < at.keys; key += STEP) {
#ifndef BROADCAST
        if key % TILE == 0u { fill_tiles(k, p.kv_stride, v, p.kv_stride, at, key, lane); }
#endif
        let rows = streaming_rows(at, key);
        var x = stream_x(places(rows, k, p.kv_stride), rows, sub);
        var y = stream_y(places(rows, v, p.kv_stride), rows, sub);
        var s: Pairs;
        for (var j = 0u; j < STEP; j++) {
            s[j] = dots(&q, &x, j);
            for (var o = 0u; o < OWN; o++) { s[j][o] = select(NEG_INF, s[j][o], key + j < at.keys); }
        }
        var shrink = take_scores(&s, &most, &total);
        shrink_add(&sum, &shrink, &s, &y);
    }
    var share: Each;
    for (var o = 0u; o < OWN; o++) {
        let row = at.start + o * WG + lane;
        if row < at.queries { saved[saved_at(0u, at, row)] = most[o] + log_accurate(total[o]); }
        share[o] = 1.0 / total[o];
    }
    store(sum, share, out_at(at), p.out_stride, at, lane);
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
    if at.start >= owned_rows(at) { return; }
    let k = keys_at(at);
    let v = k + p.heads * HEAD;
    let result = out_at(at);
    var dy = own_dout(dout_at(at), at, lane);
    var mean: Each;
    var level: Each;
    for (var o = 0u; o < OWN; o++) {
        let row = owned(at, lane, o);
        mean[o] = dot_out(result + row * p.out_stride, &dy, o);
        level[o] = saved[saved_at(0u, at, row)];
        if row == at.start + o * WG + lane { saved[saved_at(1u, at, row)] = mean[o]; }
    }
    var q = own_qkv(queries_at(at), p.q_stride, at, lane, p.scale);
    var sum: Rows;
    for (var key = 0u; key < at.keys; key += STEP) {
#ifndef BROADCAST
        if key % TILE == 0u { fill_tiles(k, p.kv_stride, v, p.kv_stride, at, key, lane); }
#endif
        let rows = streaming_rows(at, key);
        var x = stream_x(places(rows, k, p.kv_stride), rows, sub);
        var y = stream_y(places(rows, v, p.kv_stride), rows, sub);
        var ds: Pairs;
        for (var j = 0u; j < STEP; j++) {
            var s = dots(&q, &x, j);
            ds[j] = dots(&dy, &y, j);
            for (var o = 0u; o < OWN; o++) {
                let gradient = exp_accurate(s[o] - level[o]) * (ds[j][o] - mean[o]);
                ds[j][o] = select(0.0, gradient, key + j < at.keys);
            }
        }
        add(&sum, &ds, &x);
    }
    var factor: Each;
    for (var o = 0u; o < OWN; o++) { factor[o] = p.scale; }
    store(sum, factor, dqkv_at(at), p.dqkv_stride, at, lane);
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
    if at.start >= owned_rows(at) { return; }
    let width = p.heads * HEAD;
    let base = queries_at(at);
    let cotangent = dout_at(at);
    var k = own_qkv(keys_at(at), p.kv_stride, at, lane, p.scale);
#ifndef VALUES_ALONE
    var v = own_qkv(keys_at(at) + width, p.kv_stride, at, lane, 1.0);
    var dk: Rows;
#endif
#ifndef KEYS_ALONE
    var dv: Rows;
#endif
    for (var query = 0u; query < at.queries; query += STEP) {
#ifdef BROADCAST
        // the first four invocations of a subgroup read lse of the next four queries, the others delta
        let levels = saved[saved_at(sub / 4u, at, streaming(at, query + sub % 4u))];
#else
        if query % TILE == 0u { fill_tiles(base, p.q_stride, cotangent, p.dout_stride, at, query, lane); }
#endif
        var rows = streaming_rows(at, query);
        var x = stream_x(places(rows, base, p.q_stride), rows, sub);
        var y = stream_y(places(rows, cotangent, p.dout_stride), rows, sub);
        var s: Pairs;
#ifndef VALUES_ALONE
        var ds: Pairs;
#endif
        for (var j = 0u; j < STEP; j++) {
            s[j] = dots(&k, &x, j);
#ifdef BROADCAST
            let level = subgroupShuffle(levels, j);
            let mean = subgroupShuffle(levels, 4u + j);
#else
            let level = saved[saved_at(0u, at, rows[j])];
            let mean = saved[saved_at(1u, at, rows[j])];
#endif
#ifndef VALUES_ALONE
            ds[j] = dots(&v, &y, j);
#endif
            for (var o = 0u; o < OWN; o++) {
                s[j][o] = select(0.0, exp_accurate(s[j][o] - level), query + j < at.queries);
#ifndef VALUES_ALONE
                ds[j][o] = s[j][o] * (ds[j][o] - mean);
#endif
            }
        }
#ifndef VALUES_ALONE
        add(&dk, &ds, &x);
#endif
#ifndef KEYS_ALONE
        add(&dv, &s, &y);
#endif
    }
    let to = dqkv_at(at);
    var factor: Each;
#ifndef VALUES_ALONE
    for (var o = 0u; o < OWN; o++) { factor[o] = p.scale; }
    store(dk, factor, to, p.dqkv_stride, at, lane);
#endif
#ifndef KEYS_ALONE
    for (var o = 0u; o < OWN; o++) { factor[o] = 1.0; }
    store(dv, factor, to + width, p.dqkv_stride, at, lane);
#endif
}
#endif
