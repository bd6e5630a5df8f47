// What all matrix products share: parameters, operands, the workgroup's place in the grid, and the epilogue.
//   C = epilogue(alpha · A·B), A [m, k·k_groups], B [k·k_groups, n], C [m, n], for each of `batches`
// Element (i, q) of A is at a_offset + batch·a_batch + at(i, m_group, a_m, a_m_far) + g·a_k_far + q·a_k,
// where g counts groups of k and q runs inside one; B and C likewise. An axis without groups is one group.
// K may be cut into `parts` of `k_part` (of one group): then C is a scratch of partial sums [batches·parts,
// m, n], which `combine` of matmul_combine.wgsl sums in order.
// Where A_VEC4, B_VEC4 or C_VEC4 (C and pre) the operand is aligned for vectors of four and bound as such, where
// WIDE A and B for vectors of eight, where C_EIGHT C and pre, which are of half precision then.
// Where WINDOW the rows of A (its columns, where A_ALONG_M) are windows over the pixels of images, as
// convolutions have them; then the parameters are others and the places are worked out in window.wgsl. C's
// rows are then pixels too (where A_ALONG_M: dense rows, a matrix for every tap of the window).
// Epilogues (defines): none, BIAS, BIAS + GELU (+ SAVE_PRE), GELU_GRAD. C is written (=), or added to (+=)
// where ACCUMULATE.
// Where HALF, A and B are of half precision, where C_HALF C and pre are; sums and bias are in single
// precision always.
#ifdef HALF
enable f16;
alias In = f16;
#else
alias In = f32;
#endif
#ifdef C_HALF
enable f16;
alias Out = f16;
#else
alias Out = f32;
#endif

#ifdef WINDOW
struct Params {
    m: u32, n: u32, k: u32, k_groups: u32,
    a_offset: u32, b_offset: u32, c_offset: u32,
    grid_h: u32, grid_w: u32, step: u32, top: u32, left: u32, height: u32, width: u32, taps_x: u32,
    a_image: u32, a_row: u32, a_pixel: u32,
    b_k: u32, b_n: u32, b_tap_y: u32, b_tap_x: u32,
    c_image: u32, c_row: u32, c_m: u32, c_batch: u32,
    batches: u32, parts: u32, k_part: u32,
    alpha: f32,
}
#else
struct Params {
    m: u32, m_group: u32, a_m: u32, a_m_far: u32, c_m: u32, c_m_far: u32,
    n: u32, n_group: u32, b_n: u32, b_n_far: u32, c_n: u32, c_n_far: u32,
    k: u32, k_groups: u32, a_k: u32, a_k_far: u32, b_k: u32, b_k_far: u32,
    a_offset: u32, b_offset: u32, c_offset: u32,
    a_batch: u32, b_batch: u32, c_batch: u32,
    batches: u32, parts: u32, k_part: u32,
    alpha: f32,
    bias_offset: u32, pre_offset: u32, pre_stride: u32,
}
#endif

// What A, B, and C with pre are bound as: eights are of one type where C has them, since all are halves.
#ifdef WIDE
struct Eight { low: vec4<In>, high: vec4<In> }
alias AUnit = Eight;
alias BUnit = Eight;
#else
#ifdef A_VEC4
alias AUnit = vec4<In>;
#else
alias AUnit = In;
#endif
#ifdef B_VEC4
alias BUnit = vec4<In>;
#else
alias BUnit = In;
#endif
#endif
#ifdef C_EIGHT
alias CUnit = Eight;
#else
#ifdef C_VEC4
alias CUnit = vec4<Out>;
#else
alias CUnit = Out;
#endif
#endif

@group(0) @binding(0) var<storage, read_write> c: array<CUnit>;
#ifdef COMBINE
@group(0) @binding(1) var<storage, read> partial: array<f32>;
#ifdef BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#ifdef SAVE_PRE
@group(0) @binding(3) var<storage, read_write> pre: array<CUnit>;
#endif
#endif
#ifdef GELU_GRAD
@group(0) @binding(2) var<storage, read> pre: array<CUnit>;
#endif
#else
@group(0) @binding(1) var<storage, read> a: array<AUnit>;
@group(0) @binding(2) var<storage, read> b: array<BUnit>;
#ifdef BIAS
@group(0) @binding(3) var<storage, read> bias: array<f32>;
#ifdef SAVE_PRE
@group(0) @binding(4) var<storage, read_write> pre: array<CUnit>;
#endif
#endif
#ifdef GELU_GRAD
@group(0) @binding(3) var<storage, read> pre: array<CUnit>;
#endif
#endif

#ifdef WINDOW
#include "window.wgsl"
#else
// Place of element i of an axis in memory.
fn at(i: u32, group: u32, near: u32, far: u32) -> u32 {
#ifdef GROUPED
    return (i / group) * far + (i % group) * near;
#else
    return i * near;
#endif
}

// Places of a row of A, a column of B, a row and a column of C.
fn a_row(i: u32) -> u32 { return at(i, p.m_group, p.a_m, p.a_m_far); }
fn b_col(j: u32) -> u32 { return at(j, p.n_group, p.b_n, p.b_n_far); }
fn c_row(i: u32) -> u32 { return at(i, p.m_group, p.c_m, p.c_m_far); }
fn c_col(j: u32) -> u32 { return at(j, p.n_group, p.c_n, p.c_n_far); }

// Where a group of K begins in B.
fn b_group(group: u32) -> u32 { return group * p.b_k_far; }
#endif

// A workgroup's share: rows from `row`, columns from `col`, and in every group of K the range first..last.
struct Job { valid: bool, batch: u32, row: u32, col: u32, first: u32, last: u32, a: u32, b: u32, c: u32 }

// Neighbouring workgroups share rows of A and differ in columns; where BAND, that many rows of tiles are
// taken together, column by column.
fn find_job(index: u32, tile_rows: u32, tile_cols: u32) -> Job {
    let across = (p.n + tile_cols - 1u) / tile_cols;
    let tiles = across * ((p.m + tile_rows - 1u) / tile_rows);
    let z = index / tiles;
    let tile = index % tiles;
    // what one part reads stays in cache for all batches: those of a convolution's gradient are taps of the
    // same maps
    let part = z / p.batches;
    let batch = z % p.batches;
    let first = part * p.k_part;
#ifdef WINDOW
    let a_from = p.a_offset;
    let b_from = p.b_offset;
#else
    let a_from = p.a_offset + batch * p.a_batch;
    let b_from = p.b_offset + batch * p.b_batch;
#endif
#ifdef BAND
    let top = tile / (BAND * across) * BAND;
    let height = min(BAND, tiles / across - top);
    let y = top + tile % (BAND * across) % height;
    let x = tile % (BAND * across) / height;
#else
    let y = tile / across;
    let x = tile % across;
#endif
    let c_from = p.c_offset + (batch * p.parts + part) * p.c_batch;
    return Job(part < p.parts, batch, y * tile_rows, x * tile_cols,
               first, min(first + p.k_part, p.k), a_from, b_from, c_from);
}

#ifdef BIAS
fn four_biases(col: u32) -> vec4<f32> {
    let first = p.bias_offset + col;
    return vec4(bias[first], bias[first + 1u], bias[first + 2u], bias[first + 3u]);
}
#ifdef GELU
fn four_gelus(x: vec4<f32>) -> vec4<f32> { return vec4(gelu(x.x), gelu(x.y), gelu(x.z), gelu(x.w)); }
#endif
#endif
#ifdef GELU_GRAD
fn four_slopes(before: vec4<Out>) -> vec4<f32> {
    let x = vec4<f32>(before);
    return vec4(gelu_grad(x.x), gelu_grad(x.y), gelu_grad(x.z), gelu_grad(x.w));
}
#endif

#ifdef C_EIGHT
// Takes eight products of a row through the epilogue; `to` is the place of C[row, col].
fn finish(to: u32, row: u32, col: u32, low: vec4<f32>, high: vec4<f32>) {
    var x = p.alpha * low;
    var y = p.alpha * high;
#ifdef BIAS
    x += four_biases(col);
    y += four_biases(col + 4u);
#ifdef SAVE_PRE
    pre[(p.pre_offset + row * p.pre_stride + col) / 8u] = Eight(vec4<Out>(x), vec4<Out>(y));
#endif
#ifdef GELU
    x = four_gelus(x);
    y = four_gelus(y);
#endif
#endif
#ifdef GELU_GRAD
    let before = pre[(p.pre_offset + row * p.pre_stride + col) / 8u];
    x *= four_slopes(before.low);
    y *= four_slopes(before.high);
#endif
#ifdef ACCUMULATE
    let prior = c[to / 8u];
    x += vec4<f32>(prior.low);
    y += vec4<f32>(prior.high);
#endif
    c[to / 8u] = Eight(vec4<Out>(x), vec4<Out>(y));
}
#else
#ifdef C_VEC4
// Takes four products of a row through the epilogue; `to` is the place of C[row, col].
fn finish(to: u32, row: u32, col: u32, products: vec4<f32>) {
    var value = p.alpha * products;
#ifdef BIAS
    value += four_biases(col);
#ifdef SAVE_PRE
    pre[(p.pre_offset + row * p.pre_stride + col) / 4u] = vec4<Out>(value);
#endif
#ifdef GELU
    value = four_gelus(value);
#endif
#endif
#ifdef GELU_GRAD
    value *= four_slopes(pre[(p.pre_offset + row * p.pre_stride + col) / 4u]);
#endif
#ifdef ACCUMULATE
    value += vec4<f32>(c[to / 4u]);
#endif
    c[to / 4u] = vec4<Out>(value);
}
#else
// Takes a product through the epilogue; `to` is the place of C[row, col].
fn finish(to: u32, row: u32, col: u32, product: f32) {
    var value = p.alpha * product;
#ifdef BIAS
    value += bias[p.bias_offset + col];
#ifdef SAVE_PRE
    pre[p.pre_offset + row * p.pre_stride + col] = Out(value);
#endif
#ifdef GELU
    value = gelu(value);
#endif
#endif
#ifdef GELU_GRAD
    value *= gelu_grad(f32(pre[p.pre_offset + row * p.pre_stride + col]));
#endif
#ifdef ACCUMULATE
    value += f32(c[to]);
#endif
    c[to] = Out(value);
}
#endif
#endif
