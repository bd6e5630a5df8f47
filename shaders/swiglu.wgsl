// SwiGLU's gate on rows of `cols` outputs: y = silu(x1)·x2 of x = [x1 x2], silu(x) = x·s, s = 1 / (1 + e^-x).
//   forward   dst = y (=)
//   backward  dst = dx = [dy·x2·s·(1 + x1·(1 − s))  dy·x1·s] (=, or += where `accumulate`), of y_offset: dy
// Grid: one invocation a unit (units.wgsl) of y, folded; it reads both halves of x. Workgroup: WG.
// Operands are of half precision where HALF.
#include "params.wgsl"
#include "grid.wgsl"
#include "unit_math.wgsl"

struct Params {
    count: u32, cols: u32,
    x_offset: u32, x_stride: u32,
    y_offset: u32, y_stride: u32,
    dx_offset: u32, dx_stride: u32, accumulate: u32,
}

@group(0) @binding(0) var<storage, read_write> dst: array<Stored>;
@group(0) @binding(1) var<storage, read> x: array<Stored>;
#ifdef BACKWARD
@group(0) @binding(2) var<storage, read> dy: array<Stored>;
#endif

fn unit_sigmoid(u: Unit) -> Unit { return Unit(1.0) / (Unit(1.0) + unit_exp(-u)); }

#ifdef FORWARD
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg) * WG + lane;
    if i >= p.count / UNIT { return; }
    let units = p.cols / UNIT;
    let r = i / units;
    let c = i % units;
    let at = (p.x_offset + r * p.x_stride) / UNIT + c;
    let gate = Unit(x[at]);
    dst[(p.y_offset + r * p.y_stride) / UNIT + c] = Stored(gate * unit_sigmoid(gate) * Unit(x[at + units]));
}
#endif

#ifdef BACKWARD
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg) * WG + lane;
    if i >= p.count / UNIT { return; }
    let units = p.cols / UNIT;
    let r = i / units;
    let c = i % units;
    let at = (p.x_offset + r * p.x_stride) / UNIT + c;
    let gate = Unit(x[at]);
    let d = Unit(dy[(p.y_offset + r * p.y_stride) / UNIT + c]);
    let s = unit_sigmoid(gate);
    var dgate = d * Unit(x[at + units]) * s * (Unit(1.0) + gate * (Unit(1.0) - s));
    var dvalue = d * gate * s;
    let to = (p.dx_offset + r * p.dx_stride) / UNIT + c;
    if p.accumulate != 0u {
        dgate += Unit(dst[to]);
        dvalue += Unit(dst[to + units]);
    }
    dst[to] = Stored(dgate);
    dst[to + units] = Stored(dvalue);
}
#endif
