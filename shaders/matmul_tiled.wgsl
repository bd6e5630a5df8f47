// C = epilogue(alpha · A·B) by tiles of BM×BN, staged through workgroup memory BK deep; 4·RUNS_M by 4·RUNS_N
// results an invocation.
// Shapes, strides, bindings and epilogues: include/matmul.wgsl. Where C_VEC4 results are written four at a time.
// Grid: one workgroup a tile, batch and part of K, folded. Workgroup: WG = BM·BN / (16·RUNS_M·RUNS_N).
// An invocation's rows and columns come in runs of four that lie 4·DOWN and 4·ACROSS apart. Invocations stand
// in blocks of 8 across and 4 down, so that what 32 of them read of workgroup memory is least: four vectors of
// A, eight of B. Both tiles lie with rows of a k side by side, so that a run is one vector. All sums are
// variables of their own, since an array would leave registers where a compiler keeps a loop.
// Tiles are staged by blocks of four rows (columns of B) and four k, LOADS an invocation: four vectors are read
// along the way in which neighbours lie in memory (A_ALONG_M, B_ALONG_K), while the tile before is multiplied, and
// turned where that is along K. Every other four k of a tile along K have halves of their eights exchanged
// (SWAP): then what eight invocations write at once lies in different banks. What lies beyond the edges of A and
// B repeats the last row or column, whose results are not written; beyond the end of K zeros are staged.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "matmul.wgsl"

const ACROSS: u32 = BN / (4u * RUNS_N);
const DOWN: u32 = BM / (4u * RUNS_M);
const WG: u32 = ACROSS * DOWN;
// Vectors of a row of the staged tiles, and blocks of them.
const A_ROW: u32 = BM / 4u;
const B_ROW: u32 = BN / 4u;
const A_BLOCKS: u32 = A_ROW * BK / 4u;
const BLOCKS: u32 = A_BLOCKS + B_ROW * BK / 4u;
// Narrow tiles have no halves to exchange.
const A_SWAP: u32 = min(BM / 32u, 1u) * 4u;
const B_SWAP: u32 = 4u;

// A's tile, then B's.
var<workgroup> staged: array<vec4<f32>, 4u * BLOCKS>;

// A block that an invocation stages: its first row of A or column of B, its first k in a tile, the place of that
// k among the staged vectors, and where its four rows or columns begin in memory.
struct Block { first: u32, k: u32, to: u32, at: vec4<u32> }

// What is read of it: four elements of each row (column) along K, or of each k. Where WINDOW some are no
// pixels.
struct Fetched { v0: vec4<In>, v1: vec4<In>, v2: vec4<In>, v3: vec4<In>, is_pixel: vec4<bool> }

// Block i of a tile whose neighbours in memory lie along K: (vector of rows, four of k). Eight invocations take
// two fours of k of four vectors of rows.
fn along_k(i: u32) -> vec2<u32> {
    return vec2(i / 2u % 4u + i / BK * 4u, i % 2u + i / 8u % (BK / 8u) * 2u);
}

#ifdef WINDOW
// Where the pixels of a block's rows under a tap begin, or OUTSIDE.
fn pixels(first: u32, tap: u32) -> vec4<u32> {
    return vec4(tap_at(spot(min(first, p.m - 1u)), tap), tap_at(spot(min(first + 1u, p.m - 1u)), tap),
                tap_at(spot(min(first + 2u, p.m - 1u)), tap), tap_at(spot(min(first + 3u, p.m - 1u)), tap));
}
#endif

fn a_block(i: u32, job: Job) -> Block {
#ifdef A_ALONG_M
    let place = vec2(i % A_ROW, i / A_ROW);
#else
    let place = along_k(i);
#endif
    let row = job.row + 4u * place.x;
    let to = 4u * place.y * A_ROW + (place.x ^ (place.y % 2u * A_SWAP));
#ifdef A_ALONG_M
#ifdef A_VEC4
    // whole vectors alone
    let rows = vec4(min(row, p.m - 4u));
#else
    let rows = min(row + vec4(0u, 1u, 2u, 3u), vec4(p.m - 1u));
#endif
#else
    let rows = min(row + vec4(0u, 1u, 2u, 3u), vec4(p.m - 1u));
#endif
#ifdef WINDOW
    return Block(row, 4u * place.y, to, rows);
#else
    return Block(row, 4u * place.y, to, vec4(a_row(rows.x), a_row(rows.y), a_row(rows.z), a_row(rows.w)));
#endif
}

fn b_block(i: u32, job: Job) -> Block {
#ifdef B_ALONG_K
    let place = along_k(i);
#else
    let place = vec2(i % B_ROW, i / B_ROW);
#endif
    let col = job.col + 4u * place.x;
    let to = 4u * A_BLOCKS + 4u * place.y * B_ROW + (place.x ^ (place.y % 2u * B_SWAP));
#ifdef B_ALONG_K
    let cols = min(col + vec4(0u, 1u, 2u, 3u), vec4(p.n - 1u));
#else
#ifdef B_VEC4
    let cols = vec4(min(col, p.n - 4u));
#else
    let cols = min(col + vec4(0u, 1u, 2u, 3u), vec4(p.n - 1u));
#endif
#endif
    return Block(col, 4u * place.y, to, vec4(b_col(cols.x), b_col(cols.y), b_col(cols.z), b_col(cols.w)));
}

// Four elements along K of a row that begins at `at`, from k on.
fn a_four_k(at: u32, k: u32, end: u32) -> vec4<In> {
#ifdef A_VEC4
    return a[(at + min(k, (end - 1u) / 4u * 4u)) / 4u];
#else
#ifdef WINDOW
    let near = 1u;
#else
    let near = p.a_k;
#endif
    let ks = at + near * min(k + vec4(0u, 1u, 2u, 3u), vec4(end - 1u));
    return vec4(a[ks.x], a[ks.y], a[ks.z], a[ks.w]);
#endif
}
fn b_four_k(at: u32, k: u32, end: u32) -> vec4<In> {
#ifdef B_VEC4
    return b[(at + min(k, (end - 1u) / 4u * 4u)) / 4u];
#else
    let ks = at + p.b_k * min(k + vec4(0u, 1u, 2u, 3u), vec4(end - 1u));
    return vec4(b[ks.x], b[ks.y], b[ks.z], b[ks.w]);
#endif
}

// Elements of four rows (columns) that begin at `at`, from_ their start.
fn a_four_rows(at: vec4<u32>, from_: u32) -> vec4<In> {
#ifdef A_VEC4
    return a[(at.x + from_) / 4u];
#else
    return vec4(a[at.x + from_], a[at.y + from_], a[at.z + from_], a[at.w + from_]);
#endif
}
fn b_four_cols(at: vec4<u32>, from_: u32) -> vec4<In> {
#ifdef B_VEC4
    return b[(at.x + from_) / 4u];
#else
    return vec4(b[at.x + from_], b[at.y + from_], b[at.z + from_], b[at.w + from_]);
#endif
}

// Reads a block of the tile from k on. `from_` is where A begins, or its group of K; `tap` the tap of windows.
fn fetch_a(block: Block, from_: u32, tap: u32, k0: u32, end: u32) -> Fetched {
    let k = k0 + block.k;
#ifdef A_ALONG_M
#ifdef WINDOW
    let ks = k + vec4(0u, 1u, 2u, 3u);
    let one = Spot(0u, 0u, 1u);
    let s0 = spot(k);
    let s1 = later(s0, one);
    let s2 = later(s1, one);
    let at = vec4(tap_at(s0, tap), tap_at(s1, tap), tap_at(s2, tap), tap_at(later(s2, one), tap));
    let is_pixel = select(vec4(false), at != vec4(OUTSIDE), ks < vec4(end));
    let near = from_ + select(vec4(0u), at, is_pixel);
#else
    let is_pixel = vec4(true);
    let near = from_ + p.a_k * min(k + vec4(0u, 1u, 2u, 3u), vec4(end - 1u));
#endif
    return Fetched(a_four_rows(block.at, near.x), a_four_rows(block.at, near.y),
                   a_four_rows(block.at, near.z), a_four_rows(block.at, near.w), is_pixel);
#else
#ifdef WINDOW
    let is_pixel = block.at != vec4(OUTSIDE);
    let at = from_ + select(vec4(0u), block.at, is_pixel);
#else
    let is_pixel = vec4(true);
    let at = from_ + block.at;
#endif
    return Fetched(a_four_k(at.x, k, end), a_four_k(at.y, k, end),
                   a_four_k(at.z, k, end), a_four_k(at.w, k, end), is_pixel);
#endif
}
fn fetch_b(block: Block, from_: u32, k0: u32, end: u32) -> Fetched {
    let k = k0 + block.k;
#ifdef B_ALONG_K
    let at = from_ + block.at;
    return Fetched(b_four_k(at.x, k, end), b_four_k(at.y, k, end),
                   b_four_k(at.z, k, end), b_four_k(at.w, k, end), vec4(true));
#else
    let near = from_ + p.b_k * min(k + vec4(0u, 1u, 2u, 3u), vec4(end - 1u));
    return Fetched(b_four_cols(block.at, near.x), b_four_cols(block.at, near.y),
                   b_four_cols(block.at, near.z), b_four_cols(block.at, near.w), vec4(true));
#endif
}

// Four vectors as they are staged: one a k.
struct Turned { v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32> }

fn turn(v: Turned) -> Turned {
    return Turned(vec4(v.v0.x, v.v1.x, v.v2.x, v.v3.x), vec4(v.v0.y, v.v1.y, v.v2.y, v.v3.y),
                  vec4(v.v0.z, v.v1.z, v.v2.z, v.v3.z), vec4(v.v0.w, v.v1.w, v.v2.w, v.v3.w));
}
fn plain(v: Fetched) -> Turned {
    return Turned(vec4<f32>(v.v0), vec4<f32>(v.v1), vec4<f32>(v.v2), vec4<f32>(v.v3));
}
// The same of A.
fn single(v: Fetched) -> Turned {
    var all = plain(v);
#ifdef WINDOW
    all.v0 = select(vec4(0.0), all.v0, v.is_pixel.x);
    all.v1 = select(vec4(0.0), all.v1, v.is_pixel.y);
    all.v2 = select(vec4(0.0), all.v2, v.is_pixel.z);
    all.v3 = select(vec4(0.0), all.v3, v.is_pixel.w);
#endif
    return all;
}

// Stages four vectors of k, k + 1, .. where a row of the tile has so many.
fn put(to: u32, row: u32, values: Turned, k: u32, end: u32) {
    var all = values;
    if k + 4u > end {
        all.v0 = select(vec4(0.0), all.v0, k < end);
        all.v1 = select(vec4(0.0), all.v1, k + 1u < end);
        all.v2 = select(vec4(0.0), all.v2, k + 2u < end);
        all.v3 = vec4(0.0);
    }
    staged[to] = all.v0;
    staged[to + row] = all.v1;
    staged[to + 2u * row] = all.v2;
    staged[to + 3u * row] = all.v3;
}

// Takes four results of a row through the epilogue.
fn finish_four(to: u32, row: u32, col: u32, values: vec4<f32>) {
#ifdef C_VEC4
    if col < p.n { finish(to + c_col(col), row, col, values); }
#else
#repeat Q 4
    if col + $Qu < p.n { finish(to + c_col(col + $Qu), row, col + $Qu, values[$Q]); }
#end
#endif
}

@compute @workgroup_size(WG)
fn tiled(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let job = find_job(workgroup_index(wid, nwg), BM, BN);
    if !job.valid { return; }
    let x = lane % 8u + lane / 32u % (ACROSS / 8u) * 8u;
    let y = lane / 8u % 4u + lane / (4u * ACROSS) * 4u;
#repeat T LOADS
    var block$T: Block;
    var fetched$T: Fetched;
    if lane + $Tu * WG < A_BLOCKS {
        block$T = a_block(lane + $Tu * WG, job);
    } else if lane + $Tu * WG < BLOCKS {
        block$T = b_block(lane + $Tu * WG - A_BLOCKS, job);
    }
#end
#repeat I RUNS_M
#repeat R 4
#repeat J RUNS_N
    var s$I$R$J: vec4<f32>;
#end
#end
#end
    // what is staged, in k; and the tile that is fetched next: its group of K, and its first k
    var depth = 0u;
    var group = 0u;
    var next = job.first;
    loop {
        let more = group < p.k_groups;
        if more {
#ifdef WINDOW
            let a_from = job.a;
#ifdef A_ALONG_M
            let tap = job.batch;
#else
            let tap = group;
#endif
#else
            let a_from = job.a + group * p.a_k_far;
            let tap = 0u;
#endif
            let b_from = job.b + b_group(group);
#repeat T LOADS
            if lane + $Tu * WG < A_BLOCKS {
#ifdef WINDOW
#ifndef A_ALONG_M
                if next == job.first { block$T.at = pixels(block$T.first, group); }
#endif
#endif
                fetched$T = fetch_a(block$T, a_from, tap, next, job.last);
            } else if lane + $Tu * WG < BLOCKS {
                fetched$T = fetch_b(block$T, b_from, next, job.last);
            }
#end
        }
        for (var k = 0u; k < depth; k += 4u) {
            let a_at = k * A_ROW + (y ^ (k & A_SWAP));
            let b_at = 4u * A_BLOCKS + k * B_ROW + (x ^ (k & B_SWAP));
#repeat K 4
            {
#repeat J RUNS_N
                let right$J = staged[b_at + $Ku * B_ROW + $Ju * ACROSS];
#end
#repeat I RUNS_M
                let left$I = staged[a_at + $Ku * A_ROW + $Iu * DOWN];
#repeat R 4
#repeat J RUNS_N
                s$I$R$J = fma(vec4(left$I[$R]), right$J, s$I$R$J);
#end
#end
#end
            }
#end
        }
        if !more { break; }
        // all have multiplied what was staged
        workgroupBarrier();
#repeat T LOADS
        if lane + $Tu * WG < A_BLOCKS {
#ifdef A_ALONG_M
            put(block$T.to, A_ROW, single(fetched$T), next + block$T.k, job.last);
#else
            put(block$T.to, A_ROW, turn(single(fetched$T)), next + block$T.k, job.last);
#endif
        } else if lane + $Tu * WG < BLOCKS {
#ifdef B_ALONG_K
            put(block$T.to, B_ROW, turn(plain(fetched$T)), next + block$T.k, job.last);
#else
            put(block$T.to, B_ROW, plain(fetched$T), next + block$T.k, job.last);
#endif
        }
#end
        workgroupBarrier();
        depth = min(BK, job.last - next);
        next += BK;
        if next >= job.last {
            next = job.first;
            group++;
        }
    }
    // a row at a time, so that the epilogue is compiled once
    for (var i = 0u; i < 4u * RUNS_M; i++) {
#repeat J RUNS_N
        var row$J: vec4<f32>;
#end
        switch i {
#repeat I RUNS_M
#repeat R 4
            case 4u * $Iu + $Ru: {
#repeat J RUNS_N
                row$J = s$I$R$J;
#end
            }
#end
#end
            default: {}
        }
        let row = job.row + (i / 4u * DOWN + y) * 4u + i % 4u;
        if row < p.m {
            let to = job.c + c_row(row);
#repeat J RUNS_N
            finish_four(to, row, job.col + ($Ju * ACROSS + x) * 4u, row$J);
#end
        }
    }
}
