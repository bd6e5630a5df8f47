// Self-attention inside the windows of maps, one head at a time, with a relative position bias and the
// shift's mask.
//   forward       o = softmax(s)·v with s = scale·q·kᵀ + bias + mask; saved: log Σ exp(s)
//   backward_q    delta = Σ do·o; ds = exp(s − lse)∘(do·vᵀ − delta); dq = scale·ds·k; and what other kernels
//                 sum:
//                 sums[part, head, query, key] = Σ ds over the part's windows, and for every query Σ ds and Σ exp(s − lse)
//                 over the padded keys
//   backward_kv   dk = scale·dsᵀ·q, dv = exp(s − lse)ᵀ·do
//   backward      both at once, where an invocation adds up faster than it reads: owned keys, and what
//                 queries get is summed over the subgroup; its sums are [part, head, key, query]
// dqkv is written (=) but for its last row where that stands for padded tokens.
//
// qkv [rows, 3·width], or [rows + 1, 3·width] with the row of all padded tokens last; out and do [rows,
// width]; rows may lie apart and are in the order of the maps. index [windows, LENGTH] says for every token
// of a window which row it is (`rows` for padding), and in its four highest bits its region: regions do not
// see each other. saved [4, heads, rows]:
// lse, delta, Σ ds and Σ exp(s − lse) over padded keys. bias [2, heads, LENGTH, PITCH]: that of pairs of an
// owned and a streaming token, for owned queries and then for owned keys, from spread_bias of
// window_gradients.wgsl. As in sums, rows are padded to a multiple of four: bias with NEG_INF, so that tokens
// past the window's end weigh nothing.
//
// Rows are owned and streamed as in attention.wgsl, four tokens at a time: a workgroup of WG invocations
// takes WG·OWN tokens of a window and head. qkv, out and their gradients are of half precision where HALF,
// all else is single. Grid, folded: (window, head, block of tokens); in backward_q
// (part, head, block) and in backward (part, head), a part being `per_part` windows that one workgroup
// handles in turn, so that their ds can be added up in one place.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "attention_rows.wgsl"
#ifdef BACKWARD
#include "over_lanes.wgsl"
#endif

struct Params {
    heads: u32, rows: u32, windows: u32, per_part: u32,
    qkv_offset: u32, qkv_stride: u32,
    out_offset: u32, out_stride: u32,
    dout_offset: u32, dout_stride: u32,
    dqkv_offset: u32, dqkv_stride: u32,
    saved_offset: u32, sums_offset: u32, index_offset: u32, bias_offset: u32,
    padded: u32,
    scale: f32,
}

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> out: array<Cell>;
@group(0) @binding(1) var<storage, read_write> saved: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<Cell>;
@group(0) @binding(3) var<storage, read> index: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;
#endif
#ifdef SUMS_DS
@group(0) @binding(0) var<storage, read_write> dqkv: array<Cell>;
@group(0) @binding(1) var<storage, read_write> saved: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> qkv: array<Cell>;
@group(0) @binding(4) var<storage, read> dout: array<Cell>;
@group(0) @binding(5) var<storage, read> out: array<Cell>;
@group(0) @binding(6) var<storage, read> index: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<vec4<f32>>;
#endif
#ifdef BACKWARD_KV
@group(0) @binding(0) var<storage, read_write> dqkv: array<Cell>;
@group(0) @binding(1) var<storage, read> saved: array<f32>;
@group(0) @binding(2) var<storage, read> qkv: array<Cell>;
@group(0) @binding(3) var<storage, read> dout: array<Cell>;
@group(0) @binding(4) var<storage, read> index: array<u32>;
@group(0) @binding(5) var<storage, read> bias: array<vec4<f32>>;
#endif

const LENGTH: u32 = WINDOW * WINDOW;
// A row of pairs in vectors of four: what STEP is here.
const FOURS: u32 = (LENGTH + 3u) / 4u;
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

// What is added to the products of owned and streaming rows: bias, of owned queries or keys, and the shift's
// mask between these tokens' entries.
fn add_bias(products: Pairs, side: u32, at: Place, lane: u32, first: u32, own: array<u32, OWN>, entries: Places) -> Pairs {
    var scores = products;
    var mine = own;
    var theirs = entries;
    for (var o = 0u; o < OWN; o++) {
        let row = (side * p.heads + at.head) * LENGTH + token(at, lane, o);
        let added = bias[p.bias_offset / 4u + row * FOURS + first / 4u];
        for (var j = 0u; j < STEP; j++) {
            scores[j][o] += added[j] + select(MASKED, 0.0, (mine[o] >> 28u) == (theirs[j] >> 28u));
        }
    }
    return scores;
}

// The owned tokens. Invocation `lane` owns tokens start + lane + o·WG, o < OWN; those past the window's end
// repeat its last token and are not written.
fn token(at: Place, lane: u32, o: u32) -> u32 { return min(at.start + o * WG + lane, LENGTH - 1u); }

fn own_entries(at: Place, window: u32, lane: u32) -> array<u32, OWN> {
    var entries: array<u32, OWN>;
    for (var o = 0u; o < OWN; o++) { entries[o] = entry(window, token(at, lane, o)); }
    return entries;
}

fn own_qkv(base: u32, entries: array<u32, OWN>, factor: f32) -> Rows {
    var rows: Rows;
    var from_ = entries;
    for (var o = 0u; o < OWN; o++) { rows[o] = read_row(base + row_of(from_[o]) * p.qkv_stride, factor); }
    return rows;
}

// Writes (=) the owned rows times their factors to the output, whose rows are `stride` apart; padded ones
// nowhere.
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

#ifdef Y_IS_DO
// The same of the gradients of owned keys, to their parts of dqkv.
fn store_keys(dk: Rows, dv: Rows, at: Place, entries: array<u32, OWN>, lane: u32) {
    let width = p.heads * HEAD;
    let to = p.dqkv_offset + at.head * HEAD + width;
    var factor: Each;
    for (var o = 0u; o < OWN; o++) { factor[o] = p.scale; }
    store(dk, factor, to, p.dqkv_stride, at, entries, lane);
    for (var o = 0u; o < OWN; o++) { factor[o] = 1.0; }
    store(dv, factor, to + width, p.dqkv_stride, at, entries, lane);
}
#endif

#ifndef BROADCAST
// Fills both tiles with the tokens of a window from `first` on: `x` and `y` are where row 0 of each part
// starts.
fn fill_tiles(x: u32, y: u32, window: u32, first: u32, lane: u32) {
    workgroupBarrier();
    for (var i = lane; i < min(TILE, LENGTH - first) * CHUNKS; i += WG) {
        let e = entry(window, first + i / CHUNKS);
        let c = i % CHUNKS;
        tiles[i] = qkv8(x + row_of(e) * p.qkv_stride, c);
#ifdef Y_IS_DO
        tiles[TILE_Y + i] = dout8(y + real_row(e) * p.dout_stride, c);
#else
        tiles[TILE_Y + i] = qkv8(y + row_of(e) * p.qkv_stride, c);
#endif
    }
    workgroupBarrier();
}
#endif

// Streaming tokens past the window's end repeat its last one.
fn streaming(token: u32) -> u32 { return min(token, LENGTH - 1u); }

// The STEP tokens from `first` on.
fn streaming_tokens(first: u32) -> Places {
    var tokens: Places;
    for (var j = 0u; j < STEP; j++) { tokens[j] = streaming(first + j); }
    return tokens;
}

// The rows of these entries, and those that padded tokens take where they have none.
fn rows_of(entries: Places) -> Places {
    var rows = entries;
    for (var j = 0u; j < STEP; j++) { rows[j] = row_of(rows[j]); }
    return rows;
}

fn real_rows(entries: Places) -> Places {
    var rows = entries;
    for (var j = 0u; j < STEP; j++) { rows[j] = real_row(rows[j]); }
    return rows;
}

#ifdef BROADCAST
// The entry, of those of the STEP tokens from `first` on, that this invocation holds for its subgroup.
fn held_entry(window: u32, first: u32, sub: u32) -> u32 { return entry(window, streaming(first + sub % STEP)); }

fn all_entries(held: u32) -> Places {
    var entries: Places;
    for (var j = 0u; j < STEP; j++) { entries[j] = subgroupShuffle(held, j); }
    return entries;
}
#else
// The entries of the STEP tokens from `first` on.
fn read_entries(window: u32, first: u32) -> Places {
    var entries: Places;
    for (var j = 0u; j < STEP; j++) { entries[j] = entry(window, streaming(first + j)); }
    return entries;
}
#endif

#ifdef SUMS_DS
// Writes (=, or += where `more`) ds of the owned tokens, of which `own` is the first, and the four streaming
// ones from `other` on to the part's sums.
fn sum_slopes(ds: Pairs, sums_at: u32, own: u32, other: u32, more: bool) {
    var slopes = ds;
    for (var o = 0u; o < OWN; o++) {
        let token = own + o * WG;
        if token < LENGTH {
            let to = sums_at + token * FOURS + other / 4u;
            let four = vec4(slopes[0][o], slopes[1][o], slopes[2][o], slopes[3][o]);
            if more { sums[to] += four; } else { sums[to] = four; }
        }
    }
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
    var q = own_qkv(base, own, p.scale);
    var sum: Rows;
    var most: Each;
    var total: Each;
    for (var o = 0u; o < OWN; o++) { most[o] = NEG_INF; }
    for (var key = 0u; key < LENGTH; key += STEP) {
#ifdef BROADCAST
        var entries = all_entries(held_entry(at.item, key, sub));
#else
        if key % TILE == 0u { fill_tiles(k, v, at.item, key, lane); }
        var entries = read_entries(at.item, key);
#endif
        let tokens = streaming_tokens(key);
        var x = stream_x(places(rows_of(entries), k, p.qkv_stride), tokens, sub);
        var y = stream_y(places(rows_of(entries), v, p.qkv_stride), tokens, sub);
        var products: Pairs;
        for (var j = 0u; j < STEP; j++) { products[j] = dots(&q, &x, j); }
        var s = add_bias(products, 0u, at, lane, key, own, entries);
        var shrink = take_scores(&s, &most, &total);
        shrink_add(&sum, &shrink, &s, &y);
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
    let sums_at = p.sums_offset / 4u + workgroup / BLOCKS * LENGTH * FOURS;
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
            for (var c = 0u; c < CHUNKS; c++) { dy[o][c] = dout8(cotangent, c); }
            mean[o] = dot_out(result, &dy, o);
            level[o] = select(-NEG_INF, saved[saved_at(0u, at.head, row)], kept);
        }
        var padded_ds: Each;
        var padded_weight: Each;
        var sum: Rows;
        for (var key = 0u; key < LENGTH; key += STEP) {
#ifdef BROADCAST
            var entries = all_entries(held_entry(window, key, sub));
#else
            if key % TILE == 0u { fill_tiles(k, v, window, key, lane); }
            var entries = read_entries(window, key);
#endif
            let tokens = streaming_tokens(key);
            var x = stream_x(places(rows_of(entries), k, p.qkv_stride), tokens, sub);
            var y = stream_y(places(rows_of(entries), v, p.qkv_stride), tokens, sub);
            var products: Pairs;
            var ds: Pairs;
            for (var j = 0u; j < STEP; j++) {
                products[j] = dots(&q, &x, j);
                ds[j] = dots(&dy, &y, j);
            }
            var s = add_bias(products, 0u, at, lane, key, own, entries);
            for (var j = 0u; j < STEP; j++) {
                let padded = f32(row_of(entries[j]) >= p.rows);
                for (var o = 0u; o < OWN; o++) {
                    let weight = exp_accurate(s[j][o] - level[o]);
                    ds[j][o] = weight * (ds[j][o] - mean[o]);
                    padded_ds[o] += padded * ds[j][o];
                    padded_weight[o] += padded * weight;
                }
            }
            add(&sum, &ds, &x);
            sum_slopes(ds, sums_at, at.start + lane, key, window > first);
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
    var k = own_qkv(q + width, own, p.scale);
    var v = own_qkv(q + 2u * width, own, 1.0);
    var dk: Rows;
    var dv: Rows;
    for (var query = 0u; query < LENGTH; query += STEP) {
#ifdef BROADCAST
        let held = held_entry(at.item, query, sub);
        var entries = all_entries(held);
        // the first four invocations of a subgroup read lse of the next four queries, the others delta
        let levels = saved[saved_at(sub / STEP, at.head, real_row(held))];
#else
        if query % TILE == 0u { fill_tiles(q, d, at.item, query, lane); }
        var entries = read_entries(at.item, query);
#endif
        let tokens = streaming_tokens(query);
        var x = stream_x(places(rows_of(entries), q, p.qkv_stride), tokens, sub);
        var y = stream_y(places(real_rows(entries), d, p.dout_stride), tokens, sub);
        var products: Pairs;
        var ds: Pairs;
        for (var j = 0u; j < STEP; j++) {
            products[j] = dots(&k, &x, j);
            ds[j] = dots(&v, &y, j);
        }
        var s = add_bias(products, 1u, at, lane, query, own, entries);
        for (var j = 0u; j < STEP; j++) {
#ifdef BROADCAST
            let saved_level = subgroupShuffle(levels, j);
            let mean = subgroupShuffle(levels, STEP + j);
#else
            let saved_level = saved[saved_at(0u, at.head, real_row(entries[j]))];
            let mean = saved[saved_at(1u, at.head, real_row(entries[j]))];
#endif
            // padded queries have no cotangent
            let level = select(-NEG_INF, saved_level, row_of(entries[j]) < p.rows);
            for (var o = 0u; o < OWN; o++) {
                s[j][o] = exp_accurate(s[j][o] - level);
                ds[j][o] = s[j][o] * (ds[j][o] - mean);
            }
        }
        add(&dk, &ds, &x);
        add(&dv, &s, &y);
    }
    store_keys(dk, dv, at, own, lane);
}
#endif

#ifdef BACKWARD
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(subgroup_invocation_id) sub: u32, @builtin(local_invocation_index) lane: u32) {
    let workgroup = workgroup_index(wid, nwg);
    if workgroup >= (p.windows + p.per_part - 1u) / p.per_part * p.heads { return; }
    let part = workgroup / p.heads;
    let head = workgroup % p.heads;
    let width = p.heads * HEAD;
    let q = p.qkv_offset + head * HEAD;
    let d = p.dout_offset + head * HEAD;
    let y_of_d = p.out_offset + head * HEAD;
    let dq = p.dqkv_offset + head * HEAD;
    let sums_at = p.sums_offset / 4u + workgroup * LENGTH * FOURS;
    let first = part * p.per_part;
    let last = min(first + p.per_part, p.windows);
    for (var window = first; window < last; window++) {
        for (var start = 0u; start < LENGTH; start += WG * OWN) {
            let at = Place(window, head, start);
            var own = own_entries(at, window, lane);
            var k = own_qkv(q + width, own, p.scale);
            var v = own_qkv(q + 2u * width, own, 1.0);
            var dk: Rows;
            var dv: Rows;
            for (var query = 0u; query < LENGTH; query += STEP) {
                let held = held_entry(window, query, sub);
                var entries = all_entries(held);
                let levels = saved[saved_at(0u, head, real_row(held))];
                let tokens = streaming_tokens(query);
                var x = stream_x(places(rows_of(entries), q, p.qkv_stride), tokens, sub);
                var y = stream_y(places(real_rows(entries), d, p.dout_stride), tokens, sub);
                var deltas = stream_deltas(&y, places(real_rows(entries), y_of_d, p.out_stride), sub);
                var products: Pairs;
                var ds: Pairs;
                for (var j = 0u; j < STEP; j++) {
                    products[j] = dots(&k, &x, j);
                    ds[j] = dots(&v, &y, j);
                }
                var s = add_bias(products, 1u, at, lane, query, own, entries);
                var kept: array<bool, STEP>;
                // of the keys that are padding: Σ ds of the four queries, then Σ exp(s − lse)
                var over_padding: array<f32, 8>;
                for (var j = 0u; j < STEP; j++) {
                    kept[j] = row_of(entries[j]) < p.rows && query + j < LENGTH;
                    // padded queries have no cotangent
                    let level = select(-NEG_INF, subgroupShuffle(levels, j), kept[j]);
                    for (var o = 0u; o < OWN; o++) {
                        // a token that repeats the last one has been counted
                        let weight = select(0.0, exp_accurate(s[j][o] - level), start + o * WG + lane < LENGTH);
                        s[j][o] = weight;
                        ds[j][o] = weight * (ds[j][o] - deltas[j]);
                        let padding = f32(row_of(own[o]) >= p.rows);
                        over_padding[j] += padding * ds[j][o];
                        over_padding[4u + j] += padding * weight;
                    }
                }
                add(&dk, &ds, &x);
                add(&dv, &s, &y);
                give(&k, &ds, places(rows_of(entries), dq, p.dqkv_stride), kept, start > 0u, sub);
                sum_slopes(ds, sums_at, start + lane, query, window > first);
                if p.padded != 0u {
                    var terms: array<vec4<f32>, 8>;
                    for (var i = 0u; i < 8u; i++) { terms[i] = vec4(over_padding[i]); }
                    let total = totals(terms, sub).x;
                    // the first four invocations hold the queries' entries, and so do the last four
                    if row_of(held) < p.rows && query + sub % 4u < LENGTH {
                        let to = saved_at(2u + sub / 4u, head, row_of(held));
                        if start > 0u { saved[to] += total; } else { saved[to] = total; }
                    }
                }
            }
            store_keys(dk, dv, at, own, lane);
        }
    }
}
#endif
