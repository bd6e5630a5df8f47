// l/τ + offset where 1/τ = inverse + inverse_low and the offset is a sum of two numbers too. The result
// stands for high + low: only the first is rounded, at its own size. `inverse` has 12 significant bits, so
// its product with the first 12 of l is exact and nothing rests on fma being fused.
#include "units.wgsl"

struct Parts { high: Unit, low: Unit }

fn over_temperature(l: Unit, inverse: f32, inverse_low: f32, offset: Unit, offset_low: Unit) -> Parts {
    let head = bitcast<Unit>(bitcast<Bits>(l) & Bits(0xfffff000u));
    return Parts(fma(head, Unit(inverse), offset), fma(l - head, Unit(inverse), fma(l, Unit(inverse_low), offset_low)));
}
