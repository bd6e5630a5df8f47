// Rows of `cols` channels, `per_image` of an image, times a factor for every channel of the image:
//   y (=, or += where `accumulate`) x·factors[image]. factors: dense.
// Grid: one invocation an element, folded. Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"

struct Params {
    count: u32, cols: u32, per_image: u32,
    x_offset: u32, x_stride: u32, y_offset: u32, y_stride: u32, factors_offset: u32, accumulate: u32,
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> factors: array<f32>;

@compute @workgroup_size(WG)
fn scale_channels(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.count { return; }
    let r = at / p.cols;
    let c = at % p.cols;
    var value = x[p.x_offset + r * p.x_stride + c] * factors[p.factors_offset + r / p.per_image * p.cols + c];
    let to = p.y_offset + r * p.y_stride + c;
    if p.accumulate != 0u { value += y[to]; }
    y[to] = value;
}
