// C = epilogue(alpha · A·B) by tiles of BM×BN, staged through workgroup memory BK deep; TM×TN results an
// invocation.
// Shapes, strides, bindings and epilogues: include/matmul.wgsl.
// Grid: one workgroup a tile, batch and part of K, folded. Workgroup: (BM / TM)·(BN / TN).
// An invocation's rows and columns come in runs of four that lie BM / (TM / 4) and BN / (TN / 4) apart, so
// that the invocations of a subgroup read neighbouring vectors of workgroup memory. A is staged transposed,
// so that a run of rows is one vector, which one invocation writes whole: a write of a component may touch the
// others. A_ALONG_M and B_ALONG_K say which way neighbouring invocations walk through memory while staging: the
// way in which neighbours lie side by side. One vector of padding a row spreads the writes over banks.
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
// Vectors of A that are staged at a time, by all invocations and at most by one.
const A_VECTORS: u32 = BM / 4u * BK;
const A_LOADS: u32 = (A_VECTORS + WG - 1u) / WG;

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
        var row_at: array<u32, 4u * A_LOADS>;
        for (var t = 0u; t < 4u * A_LOADS; t++) {
            row_at[t] = OUTSIDE;
            let row = job.row + (lane + t / 4u * WG) / BK * 4u + t % 4u;
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
                if i >= A_VECTORS { break; }
#ifdef A_ALONG_M
                let r = i % (BM / 4u);
                let k = i / (BM / 4u);
#else
                let r = i / BK;
                let k = i % BK;
#endif
#ifdef WINDOW
#ifdef A_ALONG_M
                let pixel = tap_at(spot(k0 + k), job.batch);
#endif
#endif
                var values = vec4(0.0);
                for (var q = 0u; q < 4u; q++) {
                    let row = job.row + 4u * r + q;
                    if row >= p.m || k0 + k >= job.last { continue; }
#ifdef WINDOW
#ifdef A_ALONG_M
                    if pixel != OUTSIDE { values[q] = f32(a[job.a + pixel + row]); }
#else
                    let pixel = row_at[4u * t + q];
                    if pixel != OUTSIDE { values[q] = f32(a[job.a + pixel + k0 + k]); }
#endif
#else
                    values[q] = f32(a[a_from + a_row(row) + (k0 + k) * p.a_k]);
#endif
                }
                a_tile[k * A_ROW + r] = values;
            }
            for (var i = lane; i < BN / 4u * BK; i += WG) {
#ifdef B_ALONG_K
                let r = i / BK;
                let k = i % BK;
#else
                let r = i % (BN / 4u);
                let k = i / (BN / 4u);
#endif
                var values = vec4(0.0);
                for (var q = 0u; q < 4u; q++) {
                    let col = job.col + 4u * r + q;
                    if col < p.n && k0 + k < job.last {
                        values[q] = f32(b[b_from + b_col(col) + (k0 + k) * p.b_k]);
                    }
                }
                b_tile[k * B_ROW + r] = values;
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
