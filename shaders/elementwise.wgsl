// Elementwise operations on matrices of `count` elements in rows of `cols`, each operand with its own offset
// and row stride; where FLAT they are one row. Grid: one invocation a unit (units.wgsl), folded. Workgroup:
// WG.
// Operands are of half precision where HALF.
// `add_scaled` and `gelu_gradient_add` add to the output (+=), the others write it (=).
#include "params.wgsl"
#include "grid.wgsl"
#include "unit_math.wgsl"

struct Params {
    count: u32, cols: u32,
    out_offset: u32, out_stride: u32,
    a_offset: u32, a_stride: u32,
    b_offset: u32, b_stride: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> dst: array<Stored>;
@group(0) @binding(1) var<storage, read> a: array<Stored>;
#ifdef BINARY
@group(0) @binding(2) var<storage, read> b: array<Stored>;
#endif

struct Place { valid: bool, dst: u32, a: u32, b: u32 }

fn place(wid: vec3<u32>, nwg: vec3<u32>, lane: u32) -> Place {
    let i = workgroup_index(wid, nwg) * WG + lane;
#ifdef FLAT
    // divisions cost more than all the rest
    return Place(i < p.count / UNIT, p.out_offset / UNIT + i, p.a_offset / UNIT + i, p.b_offset / UNIT + i);
#else
    let units = p.cols / UNIT;
    let r = i / units;
    let c = i % units;
    return Place(i < p.count / UNIT, (p.out_offset + r * p.out_stride) / UNIT + c,
                 (p.a_offset + r * p.a_stride) / UNIT + c, (p.b_offset + r * p.b_stride) / UNIT + c);
#endif
}

@compute @workgroup_size(WG)
fn add_scaled(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let at = place(wid, nwg, lane);
    if at.valid { dst[at.dst] = Stored(Unit(dst[at.dst]) + p.scale * Unit(a[at.a])); }
}

@compute @workgroup_size(WG)
fn scale(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let at = place(wid, nwg, lane);
    if at.valid { dst[at.dst] = Stored(p.scale * Unit(a[at.a])); }
}

@compute @workgroup_size(WG)
fn gelu_forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let at = place(wid, nwg, lane);
    if at.valid { dst[at.dst] = Stored(unit_gelu(Unit(a[at.a]))); }
}

#ifdef BINARY
@compute @workgroup_size(WG)
fn gelu_gradient(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let at = place(wid, nwg, lane);
    if at.valid { dst[at.dst] = Stored(Unit(b[at.b]) * unit_gelu_grad(Unit(a[at.a]))); }
}

@compute @workgroup_size(WG)
fn gelu_gradient_add(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let at = place(wid, nwg, lane);
    if at.valid { dst[at.dst] = Stored(Unit(dst[at.dst]) + Unit(b[at.b]) * unit_gelu_grad(Unit(a[at.a]))); }
}
#endif
