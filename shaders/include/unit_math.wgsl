// math.wgsl for units.
#include "units.wgsl"
#include "math.wgsl"
#ifdef VEC4
fn unit_exp(u: Unit) -> Unit {
    return Unit(exp_accurate(u.x), exp_accurate(u.y), exp_accurate(u.z), exp_accurate(u.w));
}
fn unit_gelu(u: Unit) -> Unit { return Unit(gelu(u.x), gelu(u.y), gelu(u.z), gelu(u.w)); }
fn unit_gelu_grad(u: Unit) -> Unit {
    return Unit(gelu_grad(u.x), gelu_grad(u.y), gelu_grad(u.z), gelu_grad(u.w));
}
#else
fn unit_exp(u: Unit) -> Unit { return exp_accurate(u); }
fn unit_gelu(u: Unit) -> Unit { return gelu(u); }
fn unit_gelu_grad(u: Unit) -> Unit { return gelu_grad(u); }
#endif
