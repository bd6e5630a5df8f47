// C = epilogue(alpha · A·B) by tiles of BM×BN, staged through workgroup memory BK deep; TM×TN results an
// invocation.
// Shapes, strides, bindings and epilogues: include/matmul.wgsl.
// Grid: one workgroup a tile, batch and part of K, folded. Workgroup: (BM / TM)·(BN / TN).
// An invocation's rows and columns come in runs of four that lie BM / (TM / 4) and BN / (TN / 4) apart, so
// that the invocations of a subgroup read neighbouring vectors of workgroup memory. A is staged transposed,
// so that a run of rows is one vector. A_ALONG_M and B_ALONG_K say which way neighbouring invocations walk
// through memory while staging: the way in which neighbours lie side by side. One vector of padding a row
// spreads the writes over banks.
#include "params.wgsl"
#include "grid.wgsl"
#include "math.wgsl"
#include "matmul.wgsl"

const WG: u32 = (BM / TM) * (BN / TN);
const ACROSS: u32 = BN / TN;
const DOWN: u32 = BM / TM;
const RUNS_M: u32 = TM / 4u;
const RUNS_N: u32 = TN / 4u;
const A_ROW: u32 = BM / 4u + 1u;
const B_ROW: u32 = BN / 4u + 1u;
// Elements of A that an invocation stages at a time.
const A_LOADS: u32 = BM * BK / WG;

var<workgroup> a_tile: array<vec4<f32>, BK * A_ROW>;
var<workgroup> b_tile: array<vec4<f32>, BK * B_ROW>;

@compute @workgroup_size(WG)
fn tiled(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let job = find_job(workgroup_index(wid, nwg), BM, BN);
    if !job.valid { return; }
    let x = lane % ACROSS;
    let y = lane / ACROSS;
    var sums: array<vec4<f32>, TM * RUNS_N>;
    for (var group = 0u; group < p.k_groups; group++) {
#ifdef WINDOW
#ifndef A_ALONG_M
        // an invocation's elements are in the same rows every time
        var row_at: array<u32, A_LOADS>;
        for (var t = 0u; t < A_LOADS; t++) {
            row_at[t] = OUTSIDE;
            let row = job.row + (lane + t * WG) / BK;
            if row < p.m { row_at[t] = tap_at(spot(row), group); }
        }
#endif
#else
        let a_from = job.a + group * p.a_k_far;
#endif
        let b_from = job.b + b_group(group);
        for (var k0 = job.first; k0 < job.last; k0 += BK) {
            for (var t = 0u; t < A_LOADS; t++) {
                let i = lane + t * WG;
#ifdef A_ALONG_M
                let r = i % BM;
                let k = i / BM;
#else
                let r = i / BK;
                let k = i % BK;
#endif
                var value = 0.0;
                if job.row + r < p.m && k0 + k < job.last {
#ifdef WINDOW
#ifdef A_ALONG_M
                    let pixel = tap_at(spot(k0 + k), job.batch);
                    if pixel != OUTSIDE { value = a[job.a + pixel + job.row + r]; }
#else
                    if row_at[t] != OUTSIDE { value = a[job.a + row_at[t] + k0 + k]; }
#endif
#else
                    value = f32(a[a_from + a_row(job.row + r) + (k0 + k) * p.a_k]);
#endif
                }
                a_tile[k * A_ROW + r / 4u][r % 4u] = value;
            }
            for (var i = lane; i < BN * BK; i += WG) {
#ifdef B_ALONG_K
                let r = i / BK;
                let k = i % BK;
#else
                let r = i % BN;
                let k = i / BN;
#endif
                var value = 0.0;
                if job.col + r < p.n && k0 + k < job.last {
                    value = f32(b[b_from + b_col(job.col + r) + (k0 + k) * p.b_k]);
                }
                b_tile[k * B_ROW + r / 4u][r % 4u] = value;
            }
            workgroupBarrier();
            for (var k = 0u; k < BK; k++) {
                var right: array<vec4<f32>, RUNS_N>;
                for (var j = 0u; j < RUNS_N; j++) { right[j] = b_tile[k * B_ROW + j * ACROSS + x]; }
                for (var i = 0u; i < RUNS_M; i++) {
                    let left = a_tile[k * A_ROW + i * DOWN + y];
                    for (var j = 0u; j < RUNS_N; j++) {
                        let s = 4u * i * RUNS_N + j;
                        sums[s] = fma(vec4(left.x), right[j], sums[s]);
                        sums[s + RUNS_N] = fma(vec4(left.y), right[j], sums[s + RUNS_N]);
                        sums[s + 2u * RUNS_N] = fma(vec4(left.z), right[j], sums[s + 2u * RUNS_N]);
                        sums[s + 3u * RUNS_N] = fma(vec4(left.w), right[j], sums[s + 3u * RUNS_N]);
                    }
                }
            }
            workgroupBarrier();
        }
    }
    for (var i = 0u; i < TM; i++) {
        let row = job.row + ((i / 4u) * DOWN + y) * 4u + i % 4u;
        if row >= p.m { continue; }
        let to = job.c + c_row(row);
        for (var j = 0u; j < TN; j++) {
            let col = job.col + ((j / 4u) * ACROSS + x) * 4u + j % 4u;
            if col < p.n {
                finish(to + c_col(col), row, col, sums[i * RUNS_N + j / 4u][j % 4u]);
            }
        }
    }
}
