// Elementary functions with the accuracy of the CPU reference (a few units in the last place). The built-ins
// may be far less accurate: WGSL allows exp an error of 3 + 2|x| units.

const NEG_INF: f32 = -3.4028235e38;

// e^x; zero below the smallest normal number.
fn exp_accurate(x: f32) -> f32 {
    let c = clamp(x, -87.3, 88.7);
    let n = floor(fma(c, 1.44269504, 0.5));
    let r = fma(n, 2.12194440e-4, fma(n, -0.693359375, c));
    var q = 1.9875691500e-4;
    q = fma(q, r, 1.3981999507e-3);
    q = fma(q, r, 8.3334519073e-3);
    q = fma(q, r, 4.1665795894e-2);
    q = fma(q, r, 1.6666665459e-1);
    q = fma(q, r, 5.0000001201e-1);
    let y = fma(q * r, r, r) + 1.0;
    return select(y * bitcast<f32>(u32(i32(n) + 127) << 23u), 0.0, x < -87.3);
}

// ln x for positive normal x.
fn log_accurate(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    // x = m·2^e with m in [√½, √2)
    let shifted = bits - 0x3f3504f3u;
    let e = f32(i32(shifted) >> 23u);
    let m = bitcast<f32>((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0;
    let s = m * m;
    var q = 7.0376836292e-2;
    q = fma(q, m, -1.1514610310e-1);
    q = fma(q, m, 1.1676998740e-1);
    q = fma(q, m, -1.2420140846e-1);
    q = fma(q, m, 1.4249322787e-1);
    q = fma(q, m, -1.6668057665e-1);
    q = fma(q, m, 2.0000714765e-1);
    q = fma(q, m, -2.4999993993e-1);
    q = fma(q, m, 3.3333331174e-1);
    q = q * m * s;
    q = fma(e, -2.12194440e-4, q);
    q = fma(-0.5, s, q);
    return fma(e, 0.693359375, m + q);
}

// Φ(x), the normal distribution function, to one unit in the last place of 1, and in the lower tail to 1e-4
// of its own value as far as −5: ½ + a polynomial near zero, e^(a polynomial) in the tails.
fn normal_cdf(x: f32) -> f32 {
    let y = x * 0.70710678;
    let t = abs(y);
    let s = t * t;
    if t > 0.927734375 {
        var far = fma(fma(t, -1.72853470e-5, 3.83197126e-4), s, fma(t, -3.88396438e-3, 2.42546219e-2));
        far = fma(far, t, -1.06777877e-1);
        far = fma(far, t, -6.34846687e-1);
        far = fma(far, t, -1.28717512e-1);
        let tail = 0.5 * exp_accurate(fma(far, t, -t));
        return select(1.0 - tail, tail, x < 0.0);
    }
    var near = -5.96761703e-4;
    near = fma(near, s, 4.99119423e-3);
    near = fma(near, s, -2.67681349e-2);
    near = fma(near, s, 1.12819925e-1);
    near = fma(near, s, -3.76125336e-1);
    near = fma(near, s, 1.28379166e-1);
    return fma(fma(near, y, y), 0.5, 0.5);
}

// GELU, the exact one: x·Φ(x).
fn gelu(x: f32) -> f32 {
    return x * normal_cdf(x);
}

// dGELU/dx = Φ(x) + x·φ(x).
fn gelu_grad(x: f32) -> f32 {
    return normal_cdf(x) + x * 0.39894228 * exp_accurate(-0.5 * x * x);
}
