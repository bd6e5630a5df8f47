// Packed tokens of `crops` crops of one size: row (crop, 0) is cls + its position, the next `registers` rows are
// those of the registers, and row (crop, before + t), before = 1 + registers, is patch t (or the mask token) +
// position t. The output starts at out_offset and is dense.
//   forward           out (=)
//   backward_patches  dpatch[crop, t] (=, or += where `accumulate`) dy of an unmasked patch, 0 for a masked
//                     one
//   backward_shared   sums (=): row t the sum over crops of dy[crop, t]; then, with MASKED, for t ≥ before at row
//                     patches + t the sum over the crops where the patch is masked
// Patches and tokens are of half precision where HALF; what is shared by all crops is single.
// Grid: one invocation an element of the output, folded.
#include "params.wgsl"
#include "grid.wgsl"
#include "act.wgsl"

struct Params {
    crops: u32, registers: u32, patches: u32, cols: u32,
    out_offset: u32, patch_offset: u32, patch_stride: u32,
    position_offset: u32, position_stride: u32,
    cls_offset: u32, cls_position_offset: u32, mask_token_offset: u32, mask_offset: u32,
    register_offset: u32, register_stride: u32, accumulate: u32,
}

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> dst: array<Act>;
@group(0) @binding(1) var<storage, read> embedded: array<Act>;
@group(0) @binding(2) var<storage, read> positions: array<f32>;
@group(0) @binding(3) var<storage, read> cls: array<f32>;
@group(0) @binding(4) var<storage, read> cls_position: array<f32>;
#ifdef MASKED
@group(0) @binding(5) var<storage, read> mask_token: array<f32>;
@group(0) @binding(6) var<storage, read> mask: array<u32>;
#endif
#ifdef REGISTERS
#ifdef MASKED
@group(0) @binding(7) var<storage, read> registers: array<f32>;
#else
@group(0) @binding(5) var<storage, read> registers: array<f32>;
#endif
#endif

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    let r = at / p.cols;
    let c = at % p.cols;
    let before = p.registers + 1u;
    let crop = r / (p.patches + before);
    let t = r % (p.patches + before);
    if crop >= p.crops { return; }
    if t == 0u {
        dst[p.out_offset + at] = Act(cls[p.cls_offset + c] + cls_position[p.cls_position_offset + c]);
        return;
    }
#ifdef REGISTERS
    if t < before {
        dst[p.out_offset + at] = Act(registers[p.register_offset + (t - 1u) * p.register_stride + c]);
        return;
    }
#endif
    let patch_row = crop * p.patches + t - before;
    var v = f32(embedded[p.patch_offset + patch_row * p.patch_stride + c]);
#ifdef MASKED
    if mask[p.mask_offset + patch_row] != 0u { v = mask_token[p.mask_token_offset + c]; }
#endif
    dst[p.out_offset + at] = Act(v + positions[p.position_offset + (t - before) * p.position_stride + c]);
}
#endif

#ifdef BACKWARD_PATCHES
@group(0) @binding(0) var<storage, read_write> dst: array<Act>;
@group(0) @binding(1) var<storage, read> dy: array<Act>;
#ifdef MASKED
@group(0) @binding(2) var<storage, read> mask: array<u32>;
#endif

@compute @workgroup_size(WG)
fn backward_patches(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    let patch_row = at / p.cols;
    let c = at % p.cols;
    if patch_row >= p.crops * p.patches { return; }
    var d = f32(dy[p.out_offset + (patch_row + (patch_row / p.patches + 1u) * (p.registers + 1u)) * p.cols + c]);
#ifdef MASKED
    if mask[p.mask_offset + patch_row] != 0u { d = 0.0; }
#endif
    let to = p.patch_offset + patch_row * p.patch_stride + c;
    if p.accumulate != 0u { d += f32(dst[to]); }
    dst[to] = Act(d);
}
#endif

#ifdef BACKWARD_SHARED
@group(0) @binding(0) var<storage, read_write> dst: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<Act>;
#ifdef MASKED
@group(0) @binding(2) var<storage, read> mask: array<u32>;
#endif

@compute @workgroup_size(WG)
fn backward_shared(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    let t = at / p.cols;
    let c = at % p.cols;
    let before = p.registers + 1u;
    if t >= p.patches + before { return; }
    var total = 0.0;
    var masked = 0.0;
    for (var crop = 0u; crop < p.crops; crop++) {
        let d = f32(dy[p.out_offset + (crop * (p.patches + before) + t) * p.cols + c]);
        total += d;
#ifdef MASKED
        if t >= before && mask[p.mask_offset + crop * p.patches + t - before] != 0u { masked += d; }
#endif
    }
    dst[p.position_offset + at] = total;
#ifdef MASKED
    if t >= before { dst[p.position_offset + (p.patches + t) * p.cols + c] = masked; }
#endif
}
#endif
