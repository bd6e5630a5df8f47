// C = epilogue(alpha · A·B) on cooperative matrices (tensor cores): a subgroup multiplies small matrices of
// FRAGMENT×FRAGMENT as a whole and adds them up in single precision. A and B are of half precision or, where
// SINGLE, of single. Subgroups have
// SUBGROUP invocations or, where it is the driver's to choose, down to LEAST.
// Shapes, strides, bindings and epilogues: include/matmul.wgsl. WIDE: A and B are read eight elements at a
// time, C is written four or, where C_EIGHT, eight: 16 bytes of half precision.
// Grid: one workgroup a tile of BM×BN, batch and part of K, folded. Workgroup: SUBGROUP·(BM / SIDE)·(BN / SIDE).
// Where subgroups are smaller there are more of them, and those over multiply as well, since control flow must be
// uniform, but write nothing.
// A subgroup makes SIDE×SIDE results, FRAGMENTS×FRAGMENTS small matrices, each a variable of its own, since
// arrays of them are not allowed. Tiles of A and B, BK deep, are staged in two buffers: while one is
// multiplied the next tile travels from memory through registers into the other, with one barrier a step.
// What lies beyond the edges is staged as zero. A row of a staged tile has eight elements of padding, so that
// the rows of a small matrix lie in different banks; rows start at multiples of 16 bytes. The tiles lie as A
// and B do in memory (rows of a tile run along K, or where A_ALONG_M along M and unless B_ALONG_K along N),
// and a small matrix is loaded by rows or by columns.
// An invocation stages A_EIGHTS and B_EIGHTS times eight elements of a tile; where they lie, but for k, is worked
// out once (those of A: include/eights.wgsl, where it is windows include/eights_window.wgsl).
// In the end one small matrix of every subgroup at a time goes through workgroup memory into the epilogue, and the
// next one into another place there, so that there is one barrier for each.
// The small matrices themselves: include/cooperative.wgsl; PLAIN has plain arithmetic in their place.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "matmul.wgsl"
const SIDE: u32 = FRAGMENT * FRAGMENTS;
const ACROSS: u32 = BN / SIDE;
const SUBGROUPS: u32 = ACROSS * (BM / SIDE);
const WG: u32 = SUBGROUP * SUBGROUPS;

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
// A row of parked sums in vectors of four, and vectors that go through the epilogue together.
const PARK_ROW: u32 = FRAGMENT / 4u;
#ifdef C_EIGHT
const FOURS: u32 = 2u;
#else
const FOURS: u32 = 1u;
#endif
// Vectors of the small matrices that are parked at a time, one of every subgroup there may be.
const PARK: u32 = WG / LEAST * FRAGMENT * PARK_ROW;

// Eight elements on their way from memory. Not the type that buffers have: that one has a layout in SPIR-V, and
// what has one must not be anywhere else.
struct Fetched { low: vec4<In>, high: vec4<In> }

// Two tiles of A, then two of B.
var<workgroup> staged: array<Staged, FOUR * 2u * (A_TILE + B_TILE)>;
var<workgroup> parked: array<Parked, FOUR * 2u * PARK>;
// On their way from memory.
var<private> next_a: array<Fetched, A_EIGHTS>;
var<private> next_b: array<Fetched, B_EIGHTS>;

#include "cooperative.wgsl"

// The small matrix of A from a row and k of a buffer on, and that of B from a column and k.
fn left(buffer: u32, row: u32, k: u32) -> Left {
#ifdef A_ALONG_M
    return left_by_columns(buffer * A_TILE + k * A_ROW + row / 4u, A_ROW);
#else
    return left_by_rows(buffer * A_TILE + row * A_ROW + k / 4u, A_ROW);
#endif
}
fn right(buffer: u32, col: u32, k: u32) -> Right {
#ifdef B_ALONG_K
    return right_by_columns(2u * A_TILE + buffer * B_TILE + col * B_ROW + k / 4u, B_ROW);
#else
    return right_by_rows(2u * A_TILE + buffer * B_TILE + k * B_ROW + col / 4u, B_ROW);
#endif
}

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

#ifdef WINDOW
#include "eights_window.wgsl"
#else
#include "eights.wgsl"
#endif

#ifdef WIDE
// As `a_at`, of B.
var<private> b_at: array<u32, B_EIGHTS>;

fn find_right(job: Job, lane: u32) {
#repeat T B_EIGHTS
    let at$T = b_place(lane + $Tu * WG);
#ifdef B_ALONG_K
    b_at[$T] = job.b + b_col(min(job.col + at$T.x, p.n - 1u)) + at$T.y * p.b_k;
#else
    b_at[$T] = job.b + b_col(min(job.col + at$T.x, p.n - 8u)) + at$T.y * p.b_k;
#endif
#end
}
fn b_eight(from_: u32, inside: bool) -> Fetched {
    if !inside { return Fetched(); }
    return Fetched(b[from_ / 8u].low, b[from_ / 8u].high);
}
fn fetch_right(job: Job, group: u32, k0: u32, lane: u32) {
    let from_ = b_group(group) + k0 * p.b_k;
#repeat T B_EIGHTS
    next_b[$T] = b_eight(from_ + b_at[$T], k0 + b_place(lane + $Tu * WG).y < job.last);
#end
}
#else
fn find_right(job: Job, lane: u32) {}

fn b_one(from_: u32, col: u32, k: u32, last: u32) -> In {
    if col >= p.n || k >= last { return In(); }
    return b[from_ + b_col(col) + k * p.b_k];
}
fn b_eight(from_: u32, col: u32, k: u32, last: u32) -> Fetched {
    var all: Fetched;
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
fn fetch_right(job: Job, group: u32, k0: u32, lane: u32) {
    for (var t = 0u; t < B_EIGHTS; t++) {
        let at = b_place(lane + t * WG);
        next_b[t] = b_eight(job.b + b_group(group), job.col + at.x, k0 + at.y, job.last);
    }
}
#endif

// Steps of BK in a group of K; the same for all parts, so that control flow is seen to be uniform.
fn steps() -> u32 { return (p.k_part + BK - 1u) / BK; }

// Reads the tiles of a step.
fn fetch(job: Job, step: u32, lane: u32) {
    let group = step / steps();
    let k0 = job.first + (step % steps()) * BK;
    fetch_left(job, group, k0, lane);
    fetch_right(job, group, k0, lane);
}

// Where an invocation's i-th eight is staged, from the start of a tile.
fn a_staged(i: u32) -> u32 {
    let at = a_place(i);
#ifdef A_ALONG_M
    return at.y * A_ROW + at.x / 4u;
#else
    return at.x * A_ROW + at.y / 4u;
#endif
}
fn b_staged(i: u32) -> u32 {
    let at = b_place(i);
#ifdef B_ALONG_K
    return at.x * B_ROW + at.y / 4u;
#else
    return at.y * B_ROW + at.x / 4u;
#endif
}

// Puts what was read into a buffer.
fn stage(buffer: u32, lane: u32) {
    let a_to = buffer * A_TILE;
    let b_to = 2u * A_TILE + buffer * B_TILE;
#repeat T A_EIGHTS
    let a$T = a_to + a_staged(lane + $Tu * WG);
    put_four(a$T, next_a[$T].low);
    put_four(a$T + 1u, next_a[$T].high);
#end
#repeat T B_EIGHTS
    let b$T = b_to + b_staged(lane + $Tu * WG);
    put_four(b$T, next_b[$T].low);
    put_four(b$T + 1u, next_b[$T].high);
#end
}

// Takes the subgroup's parked sums, of the small matrix from this row and column of C on, through the
// epilogue. They stay there until the next but one is parked.
fn finish_parked(job: Job, row: u32, col: u32, own: u32, lane: u32, size: u32) {
    workgroupBarrier();
    for (var i = lane; i < FRAGMENT * PARK_ROW / FOURS; i += size) {
        let r = row + FOURS * i / PARK_ROW;
        let c = col + FOURS * i % PARK_ROW * 4u;
        if r < p.m && c < p.n {
            let at = own + FOURS * i;
            let to = job.c + c_row(r);
#ifdef C_EIGHT
            finish(to + c_col(c), r, c, four_parked(at), four_parked(at + 1u));
#else
            let value = four_parked(at);
#ifdef WIDE
            finish(to + c_col(c), r, c, value);
#else
            for (var e = 0u; e < min(4u, p.n - c); e++) { finish(to + c_col(c + e), r, c + e, value[e]); }
#endif
#endif
        }
    }
}

@compute @workgroup_size(WG)
fn cooperative(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
#ifdef PLAIN
               @builtin(local_invocation_index) lane: u32) {
    let subgroup = lane / LEAST;
    let sub = lane % LEAST;
    let size = LEAST;
    own_lane = sub;
#else
               @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32,
               @builtin(subgroup_invocation_id) sub: u32, @builtin(subgroup_size) size: u32) {
#endif
    var job = find_job(workgroup_index(wid, nwg), BM, BN);
    // control flow must be uniform: a workgroup without a tile multiplies zeros and writes nothing
    if !job.valid {
        job.last = 0u;
        job.row = p.m;
    }
    let y = subgroup % SUBGROUPS / ACROSS * SIDE;
    let x = subgroup % ACROSS * SIDE;
#repeat Y FRAGMENTS
#repeat X FRAGMENTS
    var s$Y$X: Sum;
#end
#end
    let count = p.k_groups * steps();
    find_left(job, lane);
    find_right(job, lane);
    fetch(job, 0u, lane);
    stage(0u, lane);
    workgroupBarrier();
    for (var step = 0u; step < count; step++) {
        let buffer = step % 2u;
        if step + 1u < count { fetch(job, step + 1u, lane); }
        for (var k = 0u; k < BK; k += FRAGMENT) {
#repeat Y FRAGMENTS
            let a$Y = left(buffer, y + $Yu * FRAGMENT, k);
#end
#repeat X FRAGMENTS
            let b$X = right(buffer, x + $Xu * FRAGMENT, k);
#repeat Y FRAGMENTS
            s$Y$X = multiply_add(a$Y, b$X, s$Y$X);
#end
#end
        }
        // the other buffer was last read before the barrier
        if step + 1u < count { stage(1u - buffer, lane); }
        workgroupBarrier();
    }
    let here = subgroup * FRAGMENT * PARK_ROW;
    let row = select(p.m, job.row + y, subgroup < SUBGROUPS);
    let col = job.col + x;
    // where small matrices are parked in turn
    var own = here;
#repeat Y FRAGMENTS
#repeat X FRAGMENTS
    park(s$Y$X, own, PARK_ROW);
    finish_parked(job, row + $Yu * FRAGMENT, col + $Xu * FRAGMENT, own, sub, size);
    own = 2u * here + PARK - own;
#end
#end
}
