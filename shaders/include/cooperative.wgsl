// Small matrices of FRAGMENT×FRAGMENT: of A and of B in half precision, where SINGLE in single, which are read from
// `staged`, and of sums in single, which are written to `parked` and taken back from there: two arrays of `Staged` and `Parked` that the including shader
// has in workgroup memory, FOUR a vector of four elements. Places and strides count in vectors of four. A
// matrix lies by rows (an element's right neighbour is next to it) or by columns.
// The elements of small matrices of 8×8 (EIGHT) are by themselves, since Metal, which has these alone, loads them
// from scalars; others are vectors, which are fewer loads and stores.
// PLAIN does the same with plain arithmetic, the sums of a small matrix spread over the 32 invocations that
// stand for a subgroup: slow, and a test of everything around it on adapters without cooperative matrices.
#ifdef SINGLE
alias Factor = f32;
#else
alias Factor = f16;
#endif
#ifdef EIGHT
alias Staged = Factor;
alias Parked = f32;
const FOUR: u32 = 4u;

fn put_four(at: u32, value: vec4<Factor>) {
    let i = 4u * at;
    staged[i] = value.x;
    staged[i + 1u] = value.y;
    staged[i + 2u] = value.z;
    staged[i + 3u] = value.w;
}
fn four_parked(at: u32) -> vec4<f32> {
    let i = 4u * at;
    return vec4(parked[i], parked[i + 1u], parked[i + 2u], parked[i + 3u]);
}
fn park_four(at: u32, value: vec4<f32>) {
    let i = 4u * at;
    parked[i] = value.x;
    parked[i + 1u] = value.y;
    parked[i + 2u] = value.z;
    parked[i + 3u] = value.w;
}
// One number in a vector's place.
fn park_one(at: u32, value: f32) { parked[4u * at] = value; }
fn one_parked(at: u32) -> f32 { return parked[4u * at]; }
#else
alias Staged = vec4<Factor>;
alias Parked = vec4<f32>;
const FOUR: u32 = 1u;

fn put_four(at: u32, value: vec4<Factor>) { staged[at] = value; }
fn four_parked(at: u32) -> vec4<f32> { return parked[at]; }
fn park_four(at: u32, value: vec4<f32>) { parked[at] = value; }
fn park_one(at: u32, value: f32) { parked[at] = vec4(value); }
fn one_parked(at: u32) -> f32 { return parked[at].x; }
#endif

#ifdef PLAIN
// Where a small matrix lies among the staged elements, and how far neighbours in a column and in a row are
// apart.
struct Left { at: u32, down: u32, across: u32 }
struct Right { at: u32, down: u32, across: u32 }
alias Sum = array<f32, FRAGMENT * FRAGMENT / 32u>;

var<private> own_lane: u32;

fn left_by_rows(at: u32, stride: u32) -> Left { return Left(4u * at, 4u * stride, 1u); }
fn left_by_columns(at: u32, stride: u32) -> Left { return Left(4u * at, 1u, 4u * stride); }
fn right_by_rows(at: u32, stride: u32) -> Right { return Right(4u * at, 4u * stride, 1u); }
fn right_by_columns(at: u32, stride: u32) -> Right { return Right(4u * at, 1u, 4u * stride); }

#ifdef EIGHT
fn element(i: u32) -> f32 { return f32(staged[i]); }
fn park_element(i: u32, value: f32) { parked[i] = value; }
fn parked_element(i: u32) -> f32 { return parked[i]; }
#else
fn element(i: u32) -> f32 { return f32(staged[i / 4u][i % 4u]); }
fn park_element(i: u32, value: f32) { parked[i / 4u][i % 4u] = value; }
fn parked_element(i: u32) -> f32 { return parked[i / 4u][i % 4u]; }
#endif

fn multiply_add(a: Left, b: Right, c: Sum) -> Sum {
    var sum = c;
    for (var i = 0u; i < FRAGMENT * FRAGMENT / 32u; i++) {
        let e = own_lane + 32u * i;
        let row = a.at + e / FRAGMENT * a.down;
        let col = b.at + e % FRAGMENT * b.across;
        // no constant, so that it stays a loop: unrolled it takes llvmpipe a minute to compile
        let side = FRAGMENT + own_lane / 32u;
        for (var k = 0u; k < side; k++) { sum[i] += element(row + k * a.across) * element(col + k * b.down); }
    }
    return sum;
}
fn park(sum: Sum, at: u32, stride: u32) {
    var values = sum;
    for (var i = 0u; i < FRAGMENT * FRAGMENT / 32u; i++) {
        let e = own_lane + 32u * i;
        park_element(4u * (at + e / FRAGMENT * stride) + e % FRAGMENT, values[i]);
    }
}
fn take_back(at: u32, stride: u32) -> Sum {
    var sum: Sum;
    for (var i = 0u; i < FRAGMENT * FRAGMENT / 32u; i++) {
        let e = own_lane + 32u * i;
        sum[i] = parked_element(4u * (at + e / FRAGMENT * stride) + e % FRAGMENT);
    }
    return sum;
}
#else
enable wgpu_cooperative_matrix;

#ifdef EIGHT
#ifdef SINGLE
alias Left = coop_mat8x8<f32, A>;
alias Right = coop_mat8x8<f32, B>;
#else
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
#endif
alias Sum = coop_mat8x8<f32, C>;
#else
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
#endif

// Places have names of their own: naga 30 does not write out what is computed inside of these calls for SPIR-V.
fn left_by_rows(at: u32, stride: u32) -> Left {
    let from_ = FOUR * at;
    let row = FOUR * stride;
    return coopLoadT<Left>(&staged[from_], row);
}
fn left_by_columns(at: u32, stride: u32) -> Left {
    let from_ = FOUR * at;
    let row = FOUR * stride;
    return coopLoad<Left>(&staged[from_], row);
}
fn right_by_rows(at: u32, stride: u32) -> Right {
    let from_ = FOUR * at;
    let row = FOUR * stride;
    return coopLoadT<Right>(&staged[from_], row);
}
fn right_by_columns(at: u32, stride: u32) -> Right {
    let from_ = FOUR * at;
    let row = FOUR * stride;
    return coopLoad<Right>(&staged[from_], row);
}
fn multiply_add(a: Left, b: Right, c: Sum) -> Sum { return coopMultiplyAdd(a, b, c); }
fn park(sum: Sum, at: u32, stride: u32) {
    let to = FOUR * at;
    let row = FOUR * stride;
    coopStoreT(sum, &parked[to], row);
}
fn take_back(at: u32, stride: u32) -> Sum {
    let from_ = FOUR * at;
    let row = FOUR * stride;
    return coopLoadT<Sum>(&parked[from_], row);
}
#endif
