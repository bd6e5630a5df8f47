// C = epilogue(alpha · A·B) for software adapters whose subgroups have eight lanes. There a load costs as
// much as a hundred multiplications and workgroup memory is no faster than a buffer, so a subgroup keeps
// ROWS×32 results in registers and shares what it loads: every lane holds other elements of A, and
// subgroupBroadcast hands each to all.
// Shapes, strides, bindings and epilogues: include/matmul.wgsl.
// Grid: one workgroup a tile, batch and part of K, folded. Workgroup: one subgroup.
// Lane l makes columns 4l..4l+3 of the tile. Four steps of K are taken at once; for them and every eight rows
// a lane loads one vector of A: its row and four k, or where A_ALONG_M its k (l mod 4) and four rows. Where
// A_VEC4, B_VEC4 operands are aligned and a vector is one load (a third of the time of four). What is read of
// A: include/left.wgsl, include/left_window.wgsl.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "matmul.wgsl"

const BLOCKS: u32 = ROWS / 8u;

fn a_element(i: u32) -> f32 {
#ifdef A_VEC4
    return f32(a[i / 4u][i % 4u]);
#else
    return f32(a[i]);
#endif
}

fn b_element(i: u32) -> f32 {
#ifdef B_VEC4
    return f32(b[i / 4u][i % 4u]);
#else
    return f32(b[i]);
#endif
}

#ifndef B_VEC4
// The elements of B `from_` each column's start.
fn four(from_: u32, column: array<u32, 4>) -> vec4<f32> {
    return vec4<f32>(vec4(b[column[0] + from_], b[column[1] + from_], b[column[2] + from_], b[column[3] + from_]));
}
#endif

const SHORT_SUM: u32 = 32u;

// Results wait here for the epilogue, which loops over them: compiled for every result apart it would take
// longer to build than all the rest, and seconds with GELU.
var<workgroup> parked: array<vec4<f32>, 8u * ROWS>;
// The short sum of the last k, and those before it. Indexed by constants alone once loops are unrolled:
// llvmpipe reads and writes what is indexed by variables lane by lane, in private memory as in workgroup
// memory.
var<private> sums: array<vec4<f32>, ROWS>;
var<private> totals: array<vec4<f32>, ROWS>;
var<private> left: array<vec4<f32>, BLOCKS>;

#ifdef WINDOW
#include "left_window.wgsl"
#else
#include "left.wgsl"
#endif

// sums += x·right for eight rows, where lane r holds row r's x.
fn add_rows(s: u32, x: f32, right: vec4<f32>) {
    sums[s] = fma(vec4(subgroupBroadcast(x, 0u)), right, sums[s]);
    sums[s + 1u] = fma(vec4(subgroupBroadcast(x, 1u)), right, sums[s + 1u]);
    sums[s + 2u] = fma(vec4(subgroupBroadcast(x, 2u)), right, sums[s + 2u]);
    sums[s + 3u] = fma(vec4(subgroupBroadcast(x, 3u)), right, sums[s + 3u]);
    sums[s + 4u] = fma(vec4(subgroupBroadcast(x, 4u)), right, sums[s + 4u]);
    sums[s + 5u] = fma(vec4(subgroupBroadcast(x, 5u)), right, sums[s + 5u]);
    sums[s + 6u] = fma(vec4(subgroupBroadcast(x, 6u)), right, sums[s + 6u]);
    sums[s + 7u] = fma(vec4(subgroupBroadcast(x, 7u)), right, sums[s + 7u]);
}

// Ends the short sums and begins others.
fn gather_sums() {
    for (var i = 0u; i < ROWS; i++) {
        totals[i] += sums[i];
        sums[i] = vec4(0.0);
    }
}

// One of the four steps of K. Called with constants, so that nothing is indexed dynamically: Mesa does not
// unroll a loop around this, and sums would not stay in registers (19 instead of 30 GFLOP/s).
fn add_step(q: u32, right: vec4<f32>) {
    for (var i = 0u; i < BLOCKS; i++) {
#ifdef A_ROWS_IN_VECTORS
        for (var r = 0u; r < 8u; r++) {
            let x = subgroupShuffle(left[i][r % 4u], (r & 4u) + q);
            sums[8u * i + r] = fma(vec4(x), right, sums[8u * i + r]);
        }
#else
        add_rows(8u * i, left[i][q], right);
#endif
    }
}

@compute @workgroup_size(8)
fn broadcast(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
             @builtin(subgroup_invocation_id) lane: u32) {
    let job = find_job(workgroup_index(wid, nwg), ROWS, 32u);
    if !job.valid { return; }
    let col = job.col + 4u * lane;
    // rows and columns past the edge repeat the last one; they are not written
    var col_at: array<u32, 4>;
    for (var j = 0u; j < 4u; j++) {
        col_at[j] = job.b + b_col(min(col + j, p.n - 1u));
    }
#ifdef B_VEC4
#ifndef B_ALONG_K
    col_at[0] = job.b + b_col(min(col, p.n - 4u));
#endif
#endif
    find_rows(job, lane);
    for (var i = 0u; i < ROWS; i++) {
        sums[i] = vec4(0.0);
        totals[i] = vec4(0.0);
    }
    for (var group = 0u; group < p.k_groups; group++) {
        enter_group(job, group);
        let b_from = b_group(group);
        var k = job.first;
        for (; k + 4u <= job.last;) {
            let stop = min(k + SHORT_SUM, job.last);
            for (; k + 4u <= stop; k += 4u) {
            load_four(k);
#ifdef B_VEC4
#ifdef B_ALONG_K
            let c0 = vec4<f32>(b[(col_at[0] + b_from + k) / 4u]);
            let c1 = vec4<f32>(b[(col_at[1] + b_from + k) / 4u]);
            let c2 = vec4<f32>(b[(col_at[2] + b_from + k) / 4u]);
            let c3 = vec4<f32>(b[(col_at[3] + b_from + k) / 4u]);
            add_step(0u, vec4(c0.x, c1.x, c2.x, c3.x));
            add_step(1u, vec4(c0.y, c1.y, c2.y, c3.y));
            add_step(2u, vec4(c0.z, c1.z, c2.z, c3.z));
            add_step(3u, vec4(c0.w, c1.w, c2.w, c3.w));
#else
            let from_ = col_at[0] + b_from + k * p.b_k;
            add_step(0u, vec4<f32>(b[from_ / 4u]));
            add_step(1u, vec4<f32>(b[(from_ + p.b_k) / 4u]));
            add_step(2u, vec4<f32>(b[(from_ + 2u * p.b_k) / 4u]));
            add_step(3u, vec4<f32>(b[(from_ + 3u * p.b_k) / 4u]));
#endif
#else
            let at_0 = b_from + k * p.b_k;
            let at_1 = at_0 + p.b_k;
            let at_2 = at_1 + p.b_k;
            let at_3 = at_2 + p.b_k;
            add_step(0u, four(at_0, col_at));
            add_step(1u, four(at_1, col_at));
            add_step(2u, four(at_2, col_at));
            add_step(3u, four(at_3, col_at));
#endif
            }
            gather_sums();
        }
        // what four do not divide
        for (; k < job.last; k++) {
            var right: vec4<f32>;
            for (var j = 0u; j < 4u; j++) { right[j] = b_element(col_at[j] + b_from + k * p.b_k); }
            load_one(job, k);
            for (var i = 0u; i < BLOCKS; i++) { add_rows(8u * i, left[i].x, right); }
        }
    }
    gather_sums();
    // every lane takes back what it parks: no barrier
    for (var i = 0u; i < ROWS; i++) { parked[8u * i + lane] = totals[i]; }
    let rows = min(ROWS, p.m - job.row);
    let cols = min(4u, max(p.n, col) - col);
    for (var i = 0u; i < rows; i++) {
        let row = job.row + i;
        let to = job.c + c_row(row);
        for (var j = 0u; j < cols; j++) {
            finish(to + c_col(col + j), row, col + j, parked[8u * i + lane][j]);
        }
    }
}
