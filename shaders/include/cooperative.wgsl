// Small matrices of FRAGMENT×FRAGMENT: of A and of B in half precision, which are read from `staged`, and of
// sums in single, which are written to `parked`: two arrays of vectors of four that the including shader has
// in workgroup memory. Places and strides count in vectors. A matrix lies by rows (an element's right
// neighbour is next to it) or by columns.
// PLAIN does the same with plain arithmetic, the sums of a small matrix spread over the 32 invocations that
// stand for a subgroup: slow, and a test of everything around it on adapters without cooperative matrices.
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

fn element(i: u32) -> f32 { return f32(staged[i / 4u][i % 4u]); }

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
        let to = 4u * (at + e / FRAGMENT * stride) + e % FRAGMENT;
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

fn left_by_rows(at: u32, stride: u32) -> Left { return coopLoadT<Left>(&staged[at], stride); }
fn left_by_columns(at: u32, stride: u32) -> Left { return coopLoad<Left>(&staged[at], stride); }
fn right_by_rows(at: u32, stride: u32) -> Right { return coopLoadT<Right>(&staged[at], stride); }
fn right_by_columns(at: u32, stride: u32) -> Right { return coopLoad<Right>(&staged[at], stride); }
fn multiply_add(a: Left, b: Right, c: Sum) -> Sum { return coopMultiplyAdd(a, b, c); }
fn park(sum: Sum, at: u32, stride: u32) { coopStoreT(sum, &parked[at], stride); }
#endif
