// out[r] (=) the first column of the largest value of row r of x [rows, cols]; NaN is never the largest. out: dense.
// Grid: one invocation a row, folded. Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"

struct Params { rows: u32, cols: u32, x_offset: u32, x_stride: u32, out_offset: u32 }

const NEG_INF: f32 = -3.40282347e38;

@group(0) @binding(0) var<storage, read_write> out: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;

@compute @workgroup_size(WG)
fn argmax(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let r = workgroup_index(wid, nwg) * WG + lane;
    if r >= p.rows { return; }
    let at = p.x_offset + r * p.x_stride;
    var best = NEG_INF;
    var which = 0u;
    for (var c = 0u; c < p.cols; c++) {
        let v = x[at + c];
        if v > best {
            best = v;
            which = c;
        }
    }
    out[p.out_offset + r] = which;
}
