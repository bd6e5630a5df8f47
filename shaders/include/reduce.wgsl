// Sums and maxima over a workgroup of WG invocations (a power of two), the same in every invocation
// afterwards. The order of additions is fixed, so results are the same bits in every run.
var<workgroup> reduce_scratch: array<f32, WG>;

fn workgroup_sum(value: f32, lane: u32) -> f32 {
    reduce_scratch[lane] = value;
    for (var width = WG / 2u; width > 0u; width = width / 2u) {
        workgroupBarrier();
        if lane < width {
            reduce_scratch[lane] += reduce_scratch[lane + width];
        }
    }
    workgroupBarrier();
    let total = reduce_scratch[0];
    workgroupBarrier();
    return total;
}

fn workgroup_max(value: f32, lane: u32) -> f32 {
    reduce_scratch[lane] = value;
    for (var width = WG / 2u; width > 0u; width = width / 2u) {
        workgroupBarrier();
        if lane < width {
            reduce_scratch[lane] = max(reduce_scratch[lane], reduce_scratch[lane + width]);
        }
    }
    workgroupBarrier();
    let total = reduce_scratch[0];
    workgroupBarrier();
    return total;
}
