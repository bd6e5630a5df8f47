// A step of stochastic gradient descent with momentum: v = momentum·v + g, w −= factor·rate·v, both in place.
// w, v, g: dense, `count` elements; every `per_rate` consecutive ones have their own of `rates`.
// Grid: one invocation an element, folded. Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"

struct Params {
    count: u32, per_rate: u32,
    w_offset: u32, v_offset: u32, g_offset: u32, rates_offset: u32,
    momentum: f32, factor: f32,
}

@group(0) @binding(0) var<storage, read_write> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> v: array<f32>;
@group(0) @binding(2) var<storage, read> g: array<f32>;
@group(0) @binding(3) var<storage, read> rates: array<f32>;

@compute @workgroup_size(WG)
fn sgd(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
       @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg) * WG + lane;
    if i >= p.count { return; }
    let velocity = fma(p.momentum, v[p.v_offset + i], g[p.g_offset + i]);
    v[p.v_offset + i] = velocity;
    let rate = p.factor * rates[p.rates_offset + i / p.per_rate];
    w[p.w_offset + i] = fma(-rate, velocity, w[p.w_offset + i]);
}
