// The `take` largest of what every row has kept and of its new scores, in order of their indices.
//   candidates of a row: keys[row] with index[row] (`kept` of them), then x[row] (`cols`), indexed from
//     `first` on
//   out_keys, out_index (=): the `take` largest keys and their indices; of equal keys the first candidates
// A key is a score's bits, brought into the order of unsigned numbers; both zeros have one key, NaN has that
// of −∞.
// The smallest key that is taken is found by halving the range it may lie in, each time counting what lies
// above.
// keys, index: dense [rows, kept]; out_keys, out_index: dense [rows, take]; x: the bits of f32 [rows, cols].
// Grid: one workgroup a row, folded. Workgroup: WG, a power of two.
#include "params.wgsl"
#include "grid.wgsl"

struct Params {
    rows: u32, cols: u32, kept: u32, take: u32, first: u32,
    x_offset: u32, x_stride: u32,
    keys_offset: u32, index_offset: u32, out_keys_offset: u32, out_index_offset: u32,
}

@group(0) @binding(0) var<storage, read_write> out_keys: array<u32>;
@group(0) @binding(1) var<storage, read_write> out_index: array<u32>;
@group(0) @binding(2) var<storage, read> keys: array<u32>;
@group(0) @binding(3) var<storage, read> index: array<u32>;
@group(0) @binding(4) var<storage, read> x: array<u32>;

// Keys of −∞ and +∞.
const LOWEST: u32 = 0x007fffffu;
const HIGHEST: u32 = 0xff800000u;

var<workgroup> scratch: array<vec2<u32>, WG>;

fn key_of(bits: u32) -> u32 {
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u { return LOWEST; }
    if magnitude == 0u { return 0x80000000u; }
    return select(bits | 0x80000000u, ~bits, bits > magnitude);
}

fn candidate(row: u32, i: u32) -> u32 {
    if i < p.kept { return keys[p.keys_offset + row * p.kept + i]; }
    return key_of(x[p.x_offset + row * p.x_stride + i - p.kept]);
}

// Largest of either number over the workgroup.
fn workgroup_most(value: vec2<u32>, lane: u32) -> vec2<u32> {
    scratch[lane] = value;
    for (var width = WG / 2u; width > 0u; width = width / 2u) {
        workgroupBarrier();
        if lane < width { scratch[lane] = max(scratch[lane], scratch[lane + width]); }
    }
    return workgroupUniformLoad(&scratch[0]);
}

fn workgroup_total(value: u32, lane: u32) -> u32 {
    scratch[lane] = vec2<u32>(value, 0u);
    for (var width = WG / 2u; width > 0u; width = width / 2u) {
        workgroupBarrier();
        if lane < width { scratch[lane] += scratch[lane + width]; }
    }
    return workgroupUniformLoad(&scratch[0]).x;
}

// Sums over the invocations up to this one.
fn workgroup_scan(value: vec2<u32>, lane: u32) -> vec2<u32> {
    var total = value;
    scratch[lane] = total;
    for (var width = 1u; width < WG; width = width * 2u) {
        workgroupBarrier();
        var before = vec2<u32>(0u);
        if lane >= width { before = scratch[lane - width]; }
        workgroupBarrier();
        total += before;
        scratch[lane] = total;
    }
    return total;
}

// What to take: keys above the first number, and so many equal to it as the second says. `low`: a key that is
// not above the smallest one taken.
fn limit_of(row: u32, total: u32, low: u32, lane: u32) -> vec2<u32> {
    var least = low;
    var most = HIGHEST;
    var above = 0u;
    while least < most {
        let middle = least + (most - least) / 2u + ((most - least) & 1u);
        var mine = 0u;
        for (var i = lane; i < total; i += WG) { mine += select(0u, 1u, candidate(row, i) >= middle); }
        let count = workgroup_total(mine, lane);
        if count > p.take {
            least = middle;
        } else {
            above = count;
            most = middle - 1u;
            // all those above, and none that is equal
            if count == p.take { least = most; }
        }
    }
    return vec2<u32>(least, p.take - above);
}

@compute @workgroup_size(WG)
fn top_k(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(wid, nwg);
    if row >= p.rows { return; }
    var total = p.kept + p.cols;
    // no key is zero
    var limit = vec2<u32>(0u);
    if p.take < total {
        // once enough is kept, only what is larger than the smallest of it can come in
        let full = p.kept == p.take;
        var bounds = vec2<u32>(0u);
        for (var i = lane; i < total; i += WG) {
            let key = candidate(row, i);
            if i >= p.kept { bounds.y = max(bounds.y, key); }
            if i < p.kept || !full { bounds.x = max(bounds.x, ~key); }
        }
        bounds = workgroup_most(bounds, lane);
        if full && bounds.y <= ~bounds.x {
            total = p.kept;
        } else {
            limit = limit_of(row, total, ~bounds.x, lane);
        }
    }
    // every invocation takes from its own run of candidates, behind what those before it take
    let share = (total + WG - 1u) / WG;
    let start = min(lane * share, total);
    let end = min(start + share, total);
    var mine = vec2<u32>(0u);
    for (var i = start; i < end; i++) {
        let key = candidate(row, i);
        mine += vec2<u32>(select(0u, 1u, key > limit.x), select(0u, 1u, key == limit.x));
    }
    var before = workgroup_scan(mine, lane) - mine;
    for (var i = start; i < end; i++) {
        let key = candidate(row, i);
        if key > limit.x || (key == limit.x && before.y < limit.y) {
            let to = row * p.take + before.x + min(before.y, limit.y);
            out_keys[p.out_keys_offset + to] = key;
            var at = p.first + i - p.kept;
            if i < p.kept { at = index[p.index_offset + row * p.kept + i]; }
            out_index[p.out_index_offset + to] = at;
        }
        before += vec2<u32>(select(0u, 1u, key > limit.x), select(0u, 1u, key == limit.x));
    }
}
