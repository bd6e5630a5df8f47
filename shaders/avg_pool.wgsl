// Means of runs of rows, where runs may overlap and rows may be in none. run [runs, 3]: first row, length,
// row of the output.
//   forward    y[o] (=) the mean of x[first .. first + length]
//   backward   dx[r] (=, or += where `accumulate`) Σ dy[o] / length over the runs that row r is in: those in
//              users[starts[r] .. starts[r + 1]]
// All are of half precision where HALF; sums are single.
// Grid: one invocation an element of the runs, or of dx, folded.
#include "params.wgsl"
#include "grid.wgsl"
#include "act.wgsl"

struct Params {
    rows: u32, cols: u32, x_offset: u32, x_stride: u32, y_offset: u32, y_stride: u32,
    runs_offset: u32, starts_offset: u32, users_offset: u32, accumulate: u32,
}

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> y: array<Act>;
@group(0) @binding(1) var<storage, read> x: array<Act>;
@group(0) @binding(2) var<storage, read> run: array<u32>;

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let i = p.runs_offset + at / p.cols * 3u;
    let c = at % p.cols;
    let first = run[i];
    let length = run[i + 1u];
    var total = 0.0;
    for (var r = first; r < first + length; r++) { total += f32(x[p.x_offset + r * p.x_stride + c]); }
    y[p.y_offset + run[i + 2u] * p.y_stride + c] = Act(total / f32(length));
}
#endif

#ifdef BACKWARD
@group(0) @binding(0) var<storage, read_write> dx: array<Act>;
@group(0) @binding(1) var<storage, read> dy: array<Act>;
@group(0) @binding(2) var<storage, read> run: array<u32>;
@group(0) @binding(3) var<storage, read> starts: array<u32>;
@group(0) @binding(4) var<storage, read> users: array<u32>;

@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.rows * p.cols { return; }
    let r = at / p.cols;
    let c = at % p.cols;
    var total = 0.0;
    for (var u = starts[p.starts_offset + r]; u < starts[p.starts_offset + r + 1u]; u++) {
        let i = p.runs_offset + 3u * users[p.users_offset + u];
        total += f32(dy[p.y_offset + run[i + 2u] * p.y_stride + c]) / f32(run[i + 1u]);
    }
    let to = p.x_offset + r * p.x_stride + c;
    if p.accumulate != 0u { total += f32(dx[to]); }
    dx[to] = Act(total);
}
#endif
