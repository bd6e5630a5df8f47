// What a kernel reads and writes at a time: four neighbouring elements where its operands are laid out for it
// (VEC4), else one. Arithmetic is on Units of single precision; activations lie in memory as Stored
// (act.wgsl).
#include "act.wgsl"
#ifdef VEC4
alias Stored = vec4<Act>;
alias Unit = vec4<f32>;
alias Bits = vec4<u32>;
const UNIT: u32 = 4u;
fn unit_sum(u: Unit) -> f32 { return (u.x + u.y) + (u.z + u.w); }
fn unit_max(u: Unit) -> f32 { return max(max(u.x, u.y), max(u.z, u.w)); }
#else
alias Stored = Act;
alias Unit = f32;
alias Bits = u32;
const UNIT: u32 = 1u;
fn unit_sum(u: Unit) -> f32 { return u; }
fn unit_max(u: Unit) -> f32 { return u; }
#endif
