// What window attention needs before it and leaves to be summed, for windows of `window`² tokens. Rows of
// pairs are padded to a multiple of four.
//   spread_bias   pairs[side, head, own, other] the bias of a query and a key: own is the query on side 0,
//                 the key on side 1.
//                 Padding is NEG_INF. Grid: one invocation an element of pairs, folded.
//   fold_bias     dbias[r, head] (=, or += where `accumulate`) the sum of ds [heads, queries, keys], or
//                 [heads, keys, queries] where `key_first`, over the pairs of a query and a key whose
//                 distance is r. Grid: one invocation an element of dbias, folded.
//   sum_padding   parts[part, c] = Σ over the part's rows of w[row]·x[row, c]: the first `cols` columns with
//                 x = q and w the saved Σ ds over padded keys, times `scale`; then as many with x = do and w
//                 = Σ exp(s − lse). qkv and do are of half precision where HALF.
//                 Grid: (ceil(2·cols / WG), parts).
#include "params.wgsl"
#include "grid.wgsl"

#ifdef SPREAD_BIAS
#include "math.wgsl"

struct Params { heads: u32, window: u32, pairs_offset: u32, bias_offset: u32, bias_stride: u32 }

@group(0) @binding(0) var<storage, read_write> pairs: array<f32>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;

@compute @workgroup_size(WG)
fn spread_bias(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    let w = p.window;
    let length = w * w;
    let pitch = (length + 3u) / 4u * 4u;
    if at >= 2u * p.heads * length * pitch { return; }
    let other = at % pitch;
    let own = at / pitch % length;
    let head = at / (pitch * length) % p.heads;
    let own_is_key = at / (pitch * length) >= p.heads;
    let query = select(own, other, own_is_key);
    let key = select(other, own, own_is_key);
    let down = query / w + w - 1u - key / w;
    let across = query % w + w - 1u - key % w;
    var value = NEG_INF;
    if other < length { value = bias[p.bias_offset + (down * (2u * w - 1u) + across) * p.bias_stride + head]; }
    pairs[p.pairs_offset + at] = value;
}
#endif

#ifdef FOLD_BIAS
struct Params {
    heads: u32, window: u32, key_first: u32, sums_offset: u32, out_offset: u32, out_stride: u32, accumulate: u32,
}

@group(0) @binding(0) var<storage, read_write> dbias: array<f32>;
@group(0) @binding(1) var<storage, read> sums: array<f32>;

@compute @workgroup_size(WG)
fn fold_bias(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    let w = p.window;
    let span = 2u * w - 1u;
    if at >= span * span * p.heads { return; }
    let r = at / p.heads;
    let head = at % p.heads;
    // query − key + w − 1, downwards and across
    let down = r / span;
    let across = r % span;
    let length = w * w;
    let pitch = (length + 3u) / 4u * 4u;
    var total = 0.0;
    for (var y = max(down, w - 1u) - (w - 1u); y < min(w, down + 1u); y++) {
        for (var x = max(across, w - 1u) - (w - 1u); x < min(w, across + 1u); x++) {
            let key = (y + w - 1u - down) * w + x + w - 1u - across;
            let query = y * w + x;
            let pair = select(query * pitch + key, key * pitch + query, p.key_first != 0u);
            total += sums[p.sums_offset + head * length * pitch + pair];
        }
    }
    let to = p.out_offset + r * p.out_stride + head;
    if p.accumulate != 0u { dbias[to] += total; } else { dbias[to] = total; }
}
#endif

#ifdef SUM_PADDING
#include "act.wgsl"

struct Params {
    heads: u32, head_dim: u32, rows: u32, first: u32, last: u32, per_part: u32,
    out_offset: u32, qkv_offset: u32, qkv_stride: u32, dout_offset: u32, dout_stride: u32, saved_offset: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> parts: array<f32>;
@group(0) @binding(1) var<storage, read> qkv: array<Act>;
@group(0) @binding(2) var<storage, read> dout: array<Act>;
@group(0) @binding(3) var<storage, read> saved: array<f32>;

@compute @workgroup_size(WG)
fn sum_padding(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = wid.x * WG + lane;
    let cols = p.heads * p.head_dim;
    if c >= 2u * cols { return; }
    let start = p.first + wid.y * p.per_part;
    let end = min(start + p.per_part, p.last);
    var total = 0.0;
    if c < cols {
        let weights = p.saved_offset + (2u * p.heads + c / p.head_dim) * p.rows;
        for (var r = start; r < end; r++) {
            total += saved[weights + r] * f32(qkv[p.qkv_offset + r * p.qkv_stride + c]);
        }
        total *= p.scale;
    } else {
        let at = c - cols;
        let weights = p.saved_offset + (3u * p.heads + at / p.head_dim) * p.rows;
        for (var r = start; r < end; r++) {
            total += saved[weights + r] * f32(dout[p.dout_offset + r * p.dout_stride + at]);
        }
    }
    parts[p.out_offset + wid.y * 2u * cols + c] = total;
}
#endif
