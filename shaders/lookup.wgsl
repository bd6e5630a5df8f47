// out[i] = table[channel of i, value of i]: 8-bit values, four in a word and the first lowest, become what a table of 256
// numbers a channel says. No rounding is the device's own.
// `count` values in planes of `plane`, the channels' in turn. Grid: one invocation a value, folded. Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"

struct Params { count: u32, plane: u32, channels: u32, out_offset: u32, words_offset: u32, table_offset: u32, }

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> table: array<f32>;

@compute @workgroup_size(WG)
fn look_up(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(wid, nwg) * WG + lane;
    if i >= p.count { return; }
    let value = (words[p.words_offset + (i >> 2u)] >> (8u * (i & 3u))) & 255u;
    let channel = (i / p.plane) % p.channels;
    out[p.out_offset + i] = table[p.table_offset + 256u * channel + value];
}
