// Elementary functions with the accuracy of the CPU reference (a few units in the last place). The built-ins may be
// far less accurate: WGSL allows exp an error of 3 + 2|x| units.

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

// The error function by a rational approximation in x², saturated at ±4.
fn erf(v: f32) -> f32 {
    let x = clamp(v, -4.0, 4.0);
    let s = x * x;
    var a = -2.72614225801306e-10;
    a = fma(a, s, 2.77068142495902e-08);
    a = fma(a, s, -2.10102402082508e-06);
    a = fma(a, s, -5.69250639462346e-05);
    a = fma(a, s, -7.34990630326855e-04);
    a = fma(a, s, -2.95459980854025e-03);
    a = fma(a, s, -1.60960333262415e-02);
    var b = -1.45660718464996e-05;
    b = fma(b, s, -2.13374055278905e-04);
    b = fma(b, s, -1.68282697438203e-03);
    b = fma(b, s, -7.37332916720468e-03);
    b = fma(b, s, -1.42647390514189e-02);
    return x * a / b;
}

// GELU, the exact one: x·Φ(x).
fn gelu(x: f32) -> f32 {
    return 0.5 * x * (1.0 + erf(x * 0.70710678));
}

// dGELU/dx = Φ(x) + x·φ(x).
fn gelu_grad(x: f32) -> f32 {
    return 0.5 * (1.0 + erf(x * 0.70710678)) + x * 0.39894228 * exp_accurate(-0.5 * x * x);
}
