// The small matrices of matmul_cooperative.wgsl, which binds the staged tiles: FRAGMENT×FRAGMENT of A, of B, and of sums.
// An operation with T loads or stores by rows, without it by columns; strides count in elements of the array.
// PLAIN does the same with plain arithmetic, the sums of a small matrix spread over the 32 invocations that stand for a
// subgroup: slow, and a test of everything around it on adapters without cooperative matrices.
#ifdef PLAIN
// Where a small matrix lies among the staged elements, and how far neighbours in a column and in a row are apart.
struct Left { at: u32, down: u32, across: u32 }
struct Right { at: u32, down: u32, across: u32 }
alias Sum = array<f32, FRAGMENT * FRAGMENT / 32u>;

var<private> own_lane: u32;

fn left_element(m: Left, r: u32, c: u32) -> f32 {
    let i = m.at + r * m.down + c * m.across;
    return f32(a_tile[i / 4u][i % 4u]);
}
fn right_element(m: Right, r: u32, c: u32) -> f32 {
    let i = m.at + r * m.down + c * m.across;
    return f32(b_tile[i / 4u][i % 4u]);
}
fn multiply_add(a: Left, b: Right, c: Sum) -> Sum {
    var sum = c;
    for (var i = 0u; i < FRAGMENT * FRAGMENT / 32u; i++) {
        let e = own_lane + 32u * i;
        for (var k = 0u; k < FRAGMENT; k++) {
            sum[i] += left_element(a, e / FRAGMENT, k) * right_element(b, k, e % FRAGMENT);
        }
    }
    return sum;
}
fn park(sum: Sum, own: u32) {
    var values = sum;
    for (var i = 0u; i < FRAGMENT * FRAGMENT / 32u; i++) {
        let e = own_lane + 32u * i;
        let to = 4u * own + e / FRAGMENT * 4u * PARK_ROW + e % FRAGMENT;
        parked[to / 4u][to % 4u] = values[i];
    }
}
#else
enable wgpu_cooperative_matrix;

#ifdef EIGHT
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
#else
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
#endif

fn multiply_add(a: Left, b: Right, c: Sum) -> Sum { return coopMultiplyAdd(a, b, c); }
fn park(sum: Sum, own: u32) {
    let stride = PARK_ROW;
    coopStoreT(sum, &parked[own], stride);
}
#endif

// The small matrix of A from a row and k of a buffer on, and that of B from a column and k.
fn left(buffer: u32, row: u32, k: u32) -> Left {
    let stride = A_ROW;
#ifdef A_ALONG_M
    let from_ = buffer * A_TILE + k * A_ROW + row / 4u;
#ifdef PLAIN
    return Left(4u * from_, 1u, 4u * stride);
#else
    return coopLoad<Left>(&a_tile[from_], stride);
#endif
#else
    let from_ = buffer * A_TILE + row * A_ROW + k / 4u;
#ifdef PLAIN
    return Left(4u * from_, 4u * stride, 1u);
#else
    return coopLoadT<Left>(&a_tile[from_], stride);
#endif
#endif
}
fn right(buffer: u32, col: u32, k: u32) -> Right {
    let stride = B_ROW;
#ifdef B_ALONG_K
    let from_ = buffer * B_TILE + col * B_ROW + k / 4u;
#ifdef PLAIN
    return Right(4u * from_, 1u, 4u * stride);
#else
    return coopLoad<Right>(&b_tile[from_], stride);
#endif
#else
    let from_ = buffer * B_TILE + k * B_ROW + col / 4u;
#ifdef PLAIN
    return Right(4u * from_, 4u * stride, 1u);
#else
    return coopLoadT<Right>(&b_tile[from_], stride);
#endif
#endif
}
