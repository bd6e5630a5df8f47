// l/τ + offset where 1/τ = inverse + inverse_low and the offset is a sum of two numbers too. The result (x, y) stands
// for x + y: only x is rounded, at its own size. `inverse` has 12 significant bits, so its product with the first 12
// of l is exact and nothing rests on fma being fused.
fn over_temperature(l: f32, inverse: f32, inverse_low: f32, offset: f32, offset_low: f32) -> vec2<f32> {
    let head = bitcast<f32>(bitcast<u32>(l) & 0xfffff000u);
    return vec2<f32>(fma(head, inverse, offset), fma(l - head, inverse, fma(l, inverse_low, offset_low)));
}
