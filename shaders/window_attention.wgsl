// Self-attention inside the windows of maps, one head at a time, with a relative position bias and the shift's mask.
//   forward       o = softmax(s)·v with s = scale·q·kᵀ + bias + mask; saved: log Σ exp(s)
//   backward_q    delta = Σ do·o; ds = exp(s − lse)∘(do·vᵀ − delta); dq = scale·ds·k; and what other kernels sum:
//                 sums[part, head, key, query] = Σ ds over the part's windows, and for every query Σ ds and Σ exp(s − lse)
//                 over the padded keys
//   backward_kv   dk = scale·dsᵀ·q, dv = exp(s − lse)ᵀ·do
// dqkv is written (=) but for its last row where that stands for padded tokens.
//
// qkv [rows, 3·width], or [rows + 1, 3·width] with the row of all padded tokens last; out and do [rows, width]; rows may
// lie apart and are in the order of the maps. index [windows, LENGTH] says for every token of a window which row it is
// (`rows` for padding), and in its four highest bits its region: regions do not see each other. saved [4, heads, rows]:
// lse, delta, Σ ds and Σ exp(s − lse) over padded keys. bias [(2·WINDOW − 1)², heads].
//
// Rows are owned and streamed as in attention.wgsl: a workgroup of WG invocations takes WG·OWN tokens of a window and
// head. Grid, folded: (window, head, block of tokens); in backward_q (part, head, block), a part being `per_part` windows
// that one workgroup handles in turn, so that their ds can be added up in one place.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "attention_rows.wgsl"

struct Params {
    heads: u32, rows: u32, windows: u32, per_part: u32,
    qkv_offset: u32, qkv_stride: u32,
    out_offset: u32, out_stride: u32,
    dout_offset: u32, dout_stride: u32,
    dqkv_offset: u32, dqkv_stride: u32,
    saved_offset: u32, sums_offset: u32, index_offset: u32,
    bias_offset: u32, bias_stride: u32,
    scale: f32,
}

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> out: array<Cell>;
@group(0) @binding(1) var<storage, read_write> saved: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<Cell>;
@group(0) @binding(3) var<storage, read> index: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
#endif
#ifdef BACKWARD_Q
@group(0) @binding(0) var<storage, read_write> dqkv: array<Cell>;
@group(0) @binding(1) var<storage, read_write> saved: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;
@group(0) @binding(3) var<storage, read> qkv: array<Cell>;
@group(0) @binding(4) var<storage, read> dout: array<Cell>;
@group(0) @binding(5) var<storage, read> out: array<Cell>;
@group(0) @binding(6) var<storage, read> index: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
#endif
#ifdef BACKWARD_KV
@group(0) @binding(0) var<storage, read_write> dqkv: array<Cell>;
@group(0) @binding(1) var<storage, read> saved: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<Cell>;
@group(0) @binding(3) var<storage, read> dout: array<Cell>;
@group(0) @binding(4) var<storage, read> index: array<u32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
#endif

const LENGTH: u32 = WINDOW * WINDOW;
const BLOCKS: u32 = (LENGTH + WG * OWN - 1u) / (WG * OWN);
const MASKED: f32 = -100.0;

// What a workgroup works on: the tokens from `start` on, for one head. `item` is a window or a part.
struct Place { item: u32, head: u32, start: u32 }

fn place(workgroup: u32) -> Place {
    let j = workgroup / BLOCKS;
    return Place(j / p.heads, j % p.heads, (workgroup % BLOCKS) * WG * OWN);
}

fn entry(window: u32, token: u32) -> u32 { return index[p.index_offset + window * LENGTH + token]; }
fn row_of(e: u32) -> u32 { return e & 0x0fffffffu; }
// Padded tokens have no row of their own in out, do and saved; whatever is computed for them is not kept.
fn real_row(e: u32) -> u32 { return min(row_of(e), p.rows - 1u); }
fn saved_at(kind: u32, head: u32, row: u32) -> u32 { return p.saved_offset + (kind * p.heads + head) * p.rows + row; }

// Place of a token in the bias table, as far as it follows from the token alone: that of query − key + CENTRE.
fn spot(token: u32) -> u32 { return (token / WINDOW) * (2u * WINDOW - 1u) + token % WINDOW; }
const CENTRE: u32 = 2u * WINDOW * (WINDOW - 1u);

// Bias and mask of a score; spots and entries of query and key.
fn extra(query: u32, key: u32, a: u32, b: u32, head: u32) -> f32 {
    let value = bias[p.bias_offset + (query + CENTRE - key) * p.bias_stride + head];
    return value + select(MASKED, 0.0, (a >> 28u) == (b >> 28u));
}

// The owned tokens. Invocation `lane` owns tokens start + lane + o·WG, o < OWN; those past the window's end repeat its last
// token and are not written.
fn token(at: Place, lane: u32, o: u32) -> u32 { return min(at.start + o * WG + lane, LENGTH - 1u); }

fn own_entries(at: Place, window: u32, lane: u32) -> array<u32, OWN> {
    var entries: array<u32, OWN>;
    for (var o = 0u; o < OWN; o++) { entries[o] = entry(window, token(at, lane, o)); }
    return entries;
}

fn own_spots(at: Place, lane: u32) -> array<u32, OWN> {
    var spots: array<u32, OWN>;
    for (var o = 0u; o < OWN; o++) { spots[o] = spot(token(at, lane, o)); }
    return spots;
}

fn own_qkv(base: u32, entries: array<u32, OWN>, factor: f32) -> Rows {
    var rows: Rows;
    var from_ = entries;
    for (var o = 0u; o < OWN; o++) { rows[o] = read_row(base + row_of(from_[o]) * p.qkv_stride, factor); }
    return rows;
}

// Writes (=) the owned rows times their factors to the output, whose rows are `stride` apart; padded ones nowhere.
fn store(rows: Rows, factors: Each, base: u32, stride: u32, at: Place, entries: array<u32, OWN>, lane: u32) {
    var from_ = rows;
    var factor = factors;
    var to = entries;
    for (var o = 0u; o < OWN; o++) {
        let row = row_of(to[o]);
        if at.start + o * WG + lane < LENGTH && row < p.rows {
            write_row(&from_, o, factor[o], base + row * stride);
        }
    }
}

#ifndef BROADCAST
// Fills both tiles with the n tokens of a window from `first` on: `x` and `y` are where row 0 of each part starts.
fn fill_tiles(x: u32, y: u32, window: u32, first: u32, n: u32, lane: u32) {
    workgroupBarrier();
    for (var i = lane; i < n * CHUNKS; i += WG) {
        let e = entry(window, first + i / CHUNKS);
        let c = i % CHUNKS;
        tile_x[i] = qkv8(x + row_of(e) * p.qkv_stride, c);
#ifdef BACKWARD_KV
        tile_y[i] = dout8(y + real_row(e) * p.dout_stride, c);
#else
        tile_y[i] = qkv8(y + row_of(e) * p.qkv_stride, c);
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
    if workgroup >= p.windows * p.heads * BLOCKS { return; }
    let at = place(workgroup);
    let width = p.heads * HEAD;
    let base = p.qkv_offset + at.head * HEAD;
    let k = base + width;
    let v = k + width;
    var own = own_entries(at, at.item, lane);
    var spots = own_spots(at, lane);
    var q = own_qkv(base, own, p.scale);
    var sum: Rows;
    var most: Each;
    var total: Each;
    for (var o = 0u; o < OWN; o++) { most[o] = NEG_INF; }
    for (var key = 0u; key < LENGTH; key += TILE) {
        let n = min(TILE, LENGTH - key);
#ifndef BROADCAST
        fill_tiles(k, v, at.item, key, n, lane);
#endif
        // one longer than the loops over it, which therefore stay loops on software adapters
        var s: array<array<f32, TILE + 1u>, OWN>;
        var peak = most;
        for (var j = 0u; j < n; j++) {
            let e = entry(at.item, key + j);
            let there = spot(key + j);
#ifdef BROADCAST
            var x = stream_x(k + row_of(e) * p.qkv_stride, sub);
#else
            var x = j * CHUNKS;
#endif
            var products = dots(&q, &x);
            for (var o = 0u; o < OWN; o++) {
                let score = products[o] + extra(spots[o], there, own[o], e, at.head);
                s[o][j] = score;
                peak[o] = max(peak[o], score);
            }
        }
        raise(&most, &peak, &total, &sum);
        for (var j = 0u; j < n; j++) {
#ifdef BROADCAST
            var y = stream_y(v + row_of(entry(at.item, key + j)) * p.qkv_stride, sub);
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
        let row = row_of(own[o]);
        if at.start + o * WG + lane < LENGTH && row < p.rows {
            saved[saved_at(0u, at.head, row)] = most[o] + log_accurate(total[o]);
        }
        share[o] = 1.0 / total[o];
    }
    store(sum, share, p.out_offset + at.head * HEAD, p.out_stride, at, own, lane);
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
    if workgroup >= (p.windows + p.per_part - 1u) / p.per_part * p.heads * BLOCKS { return; }
    let at = place(workgroup);
    let width = p.heads * HEAD;
    let base = p.qkv_offset + at.head * HEAD;
    let k = base + width;
    let v = k + width;
    let sums_at = p.sums_offset + workgroup / BLOCKS * LENGTH * LENGTH;
    var spots = own_spots(at, lane);
    var factor: Each;
    for (var o = 0u; o < OWN; o++) { factor[o] = p.scale; }
    let first = at.item * p.per_part;
    let last = min(first + p.per_part, p.windows);
    for (var window = first; window < last; window++) {
        var own = own_entries(at, window, lane);
        var q = own_qkv(base, own, p.scale);
        var dy: Rows;
        var mean: Each;
        var level: Each;
        for (var o = 0u; o < OWN; o++) {
            let row = real_row(own[o]);
            let result = p.out_offset + row * p.out_stride + at.head * HEAD;
            let cotangent = p.dout_offset + row * p.dout_stride + at.head * HEAD;
            // padded queries have no cotangent
            let kept = row_of(own[o]) < p.rows;
            mean[o] = dot_out(result, cotangent);
            for (var c = 0u; c < CHUNKS; c++) { dy[o][c] = dout8(cotangent, c); }
            level[o] = select(-NEG_INF, saved[saved_at(0u, at.head, row)], kept);
        }
        var padded_ds: Each;
        var padded_weight: Each;
        var sum: Rows;
        for (var key = 0u; key < LENGTH; key += TILE) {
            let n = min(TILE, LENGTH - key);
#ifndef BROADCAST
            fill_tiles(k, v, window, key, n, lane);
#endif
            for (var j = 0u; j < n; j++) {
                let e = entry(window, key + j);
                let there = spot(key + j);
#ifdef BROADCAST
                var x = stream_x(k + row_of(e) * p.qkv_stride, sub);
                var y = stream_y(v + row_of(e) * p.qkv_stride, sub);
#else
                var x = j * CHUNKS;
                var y = j * CHUNKS;
#endif
                let products = both_dots(&q, &dy, &x, &y);
                var s = products.x;
                var ds = products.y;
                let padded = f32(row_of(e) >= p.rows);
                for (var o = 0u; o < OWN; o++) {
                    let weight = exp_accurate(s[o] + extra(spots[o], there, own[o], e, at.head) - level[o]);
                    ds[o] = weight * (ds[o] - mean[o]);
                    padded_ds[o] += padded * ds[o];
                    padded_weight[o] += padded * weight;
                }
                add_x(&sum, &ds, &x);
                for (var o = 0u; o < OWN; o++) {
                    let query = at.start + o * WG + lane;
                    if query < LENGTH {
                        let to = sums_at + (key + j) * LENGTH + query;
                        if window == first { sums[to] = ds[o]; } else { sums[to] += ds[o]; }
                    }
                }
            }
        }
        for (var o = 0u; o < OWN; o++) {
            let row = row_of(own[o]);
            if at.start + o * WG + lane < LENGTH && row < p.rows {
                saved[saved_at(1u, at.head, row)] = mean[o];
                saved[saved_at(2u, at.head, row)] = padded_ds[o];
                saved[saved_at(3u, at.head, row)] = padded_weight[o];
            }
        }
        store(sum, factor, p.dqkv_offset + at.head * HEAD, p.dqkv_stride, at, own, lane);
    }
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
    if workgroup >= p.windows * p.heads * BLOCKS { return; }
    let at = place(workgroup);
    let width = p.heads * HEAD;
    let q = p.qkv_offset + at.head * HEAD;
    let d = p.dout_offset + at.head * HEAD;
    var own = own_entries(at, at.item, lane);
    var spots = own_spots(at, lane);
    var k = own_qkv(q + width, own, p.scale);
    var v = own_qkv(q + 2u * width, own, 1.0);
    var dk: Rows;
    var dv: Rows;
    for (var query = 0u; query < LENGTH; query += TILE) {
        let n = min(TILE, LENGTH - query);
#ifndef BROADCAST
        fill_tiles(q, d, at.item, query, n, lane);
#endif
        for (var j = 0u; j < n; j++) {
            let e = entry(at.item, query + j);
            let there = spot(query + j);
            let row = real_row(e);
#ifdef BROADCAST
            var x = stream_x(q + row * p.qkv_stride, sub);
            var y = stream_y(d + row * p.dout_stride, sub);
#else
            var x = j * CHUNKS;
            var y = j * CHUNKS;
#endif
            let products = both_dots(&k, &v, &x, &y);
            var s = products.x;
            var ds = products.y;
            // padded queries have no cotangent
            let level = select(-NEG_INF, saved[saved_at(0u, at.head, row)], row_of(e) < p.rows);
            let mean = saved[saved_at(1u, at.head, row)];
            for (var o = 0u; o < OWN; o++) {
                s[o] = exp_accurate(s[o] + extra(there, spots[o], e, own[o], at.head) - level);
                ds[o] = s[o] * (ds[o] - mean);
            }
            add_x(&dk, &ds, &x);
            add_y(&dv, &s, &y);
        }
    }
    let to = p.dqkv_offset + at.head * HEAD + width;
    var factor: Each;
    for (var o = 0u; o < OWN; o++) { factor[o] = p.scale; }
    store(dk, factor, to, p.dqkv_stride, at, own, lane);
    for (var o = 0u; o < OWN; o++) { factor[o] = 1.0; }
    store(dv, factor, to + width, p.dqkv_stride, at, own, lane);
}
#endif
