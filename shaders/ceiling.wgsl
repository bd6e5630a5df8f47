// The most arithmetic a device does: eight independent chains of multiply-adds on four lanes, from registers
// alone.
// Grid: one invocation an element of the output. Writes (=), so that nothing is optimised away.
#include "params.wgsl"

struct Params { rounds: u32, offset: u32, seed: f32 }

@group(0) @binding(0) var<storage, read_write> dst: array<f32>;

@compute @workgroup_size(WG)
fn multiply_add(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = wid.x * WG + lane;
    let start = vec4<f32>(f32(i), f32(i) + 1.0, f32(i) + 2.0, f32(i) + 3.0) * p.seed;
    var a = start; var b = start + 1.0; var c = start + 2.0; var d = start + 3.0;
    var e = start + 4.0; var f = start + 5.0; var g = start + 6.0; var h = start + 7.0;
    let m = vec4<f32>(0.999);
    let s = vec4<f32>(p.seed);
    for (var r = 0u; r < p.rounds; r++) {
        a = fma(a, m, s); b = fma(b, m, s); c = fma(c, m, s); d = fma(d, m, s);
        e = fma(e, m, s); f = fma(f, m, s); g = fma(g, m, s); h = fma(h, m, s);
    }
    let total = a + b + c + d + e + f + g + h;
    dst[p.offset + i] = total.x + total.y + total.z + total.w;
}
