// The largest of windows of `kernel`² pixels two pixels apart, the first `padding` before the map, over maps whose rows are
// pixels: 3×3 padded by one, or 2×2.
//   forward   y = the largest (=), tap = which of the window it was, the first of equals
//   backward  x (=, or += where `accumulate`) the sum of y over the windows in which the pixel was the
//             largest;
//             here x is dx and y is dy
// x and y are of half precision where HALF; sums are single.
// Grid: one invocation an element of what is written, folded. Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"
#include "act.wgsl"

struct Params {
    count: u32, cols: u32, height: u32, width: u32, out_height: u32, out_width: u32,
    x_offset: u32, x_stride: u32, y_offset: u32, y_stride: u32, tap_offset: u32,
    kernel: u32, padding: u32, accumulate: u32,
}

#ifdef FORWARD
@group(0) @binding(0) var<storage, read_write> y: array<Act>;
@group(0) @binding(1) var<storage, read_write> taps: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<Act>;

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.count { return; }
    let place = at / p.cols;
    let c = at % p.cols;
    let column = place % p.out_width;
    let line = (place / p.out_width) % p.out_height;
    let image = place / (p.out_width * p.out_height);
    var largest = 0.0;
    var which = 0u;
    var any = false;
    for (var tap = 0u; tap < p.kernel * p.kernel; tap++) {
        // below zero it wraps around, and is then larger than any size
        let r = 2u * line + tap / p.kernel - p.padding;
        let q = 2u * column + tap % p.kernel - p.padding;
        if r >= p.height || q >= p.width { continue; }
        let value = f32(x[p.x_offset + ((image * p.height + r) * p.width + q) * p.x_stride + c]);
        // written so that NaN is passed on
        if !any || !(value <= largest) {
            largest = value;
            which = tap;
            any = true;
        }
    }
    y[p.y_offset + place * p.y_stride + c] = Act(largest);
    taps[p.tap_offset + at] = which;
}
#endif

#ifdef BACKWARD
@group(0) @binding(0) var<storage, read_write> x: array<Act>;
@group(0) @binding(1) var<storage, read> taps: array<u32>;
@group(0) @binding(2) var<storage, read> y: array<Act>;

@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_index(wid, nwg) * WG + lane;
    if at >= p.count { return; }
    let pixel = at / p.cols;
    let c = at % p.cols;
    let column = pixel % p.width;
    let line = (pixel / p.width) % p.height;
    let image = pixel / (p.width * p.height);
    var total = 0.0;
    for (var r = line / 2u; r <= (line + p.padding) / 2u; r++) {
        for (var q = column / 2u; q <= (column + p.padding) / 2u; q++) {
            if r >= p.out_height || q >= p.out_width { continue; }
            let tap = (line + p.padding - 2u * r) * p.kernel + column + p.padding - 2u * q;
            let place = (image * p.out_height + r) * p.out_width + q;
            if taps[p.tap_offset + place * p.cols + c] == tap {
                total += f32(y[p.y_offset + place * p.y_stride + c]);
            }
        }
    }
    let to = p.x_offset + pixel * p.x_stride + c;
    if p.accumulate != 0u { total += f32(x[to]); }
    x[to] = Act(total);
}
#endif
