//! Products on the CPU, of matrices in memory: by the `gemm` crate, or of operands rounded to bfloat16 where the device says
//! so and the processor can.

use super::bf16;
use super::block::Block;

/// Multiplies.
///
/// # Safety
/// All elements of A and B can be read, those of C written, and C is nobody else's meanwhile.
pub(super) unsafe fn multiply_block(block: Block) {
    // SAFETY: as promised
    if unsafe { block.bf16 && bf16::multiply(block) } {
        return;
    }
    let Block { m, n, k, c, a, b, alpha, accumulate, all_cores, .. } = block;
    let cores = if all_cores { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    let [c_row, c_col, a_row, a_col, b_row, b_col] =
        [c.row, c.col, a.row, a.col, b.row, b.col].map(|stride| stride as isize);
    // SAFETY: as promised
    unsafe {
        gemm::gemm(
            m, n, k, c.first, c_col, c_row, accumulate, a.first, a_col, a_row, b.first, b_col, b_row, 1.0f32,
            alpha, false, false, false, cores,
        );
    }
}
