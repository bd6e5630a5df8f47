//! Strided matrix products, `C = epilogue(α·A·B)`: any of the three operands may be transposed, a slice,
//! batched, or have one dimension cut into groups that lie apart (the q, k and v rows of an elastic qkv
//! weight).

mod bf16;
mod block;
mod cpu;
mod geometry;
mod gpu;
mod matrix;
mod multiply;
mod params;
mod plan;
mod precision;
mod self_test;
mod tune;
mod variant;
pub mod window;
mod window_cpu;
mod window_gpu;

pub use matrix::{Axis, Epilogue, Matrix, Options};
pub use plan::{EpilogueKind, Force, Plan, Problem, kernels, plan};
pub use precision::Precision;
pub use variant::{PLAIN, PLAIN_SINGLE, Variant, variants};

pub use bf16::is_supported as multiplies_bf16;
pub use self_test::{check_products, self_test};
pub use tune::{VARIABLE, by_timing, by_timing_in};

use crate::error::{Error, Result};
use crate::profile;
use crate::tensor::{DType, Device, Tensor};

/// C = epilogue(α·A·B) with A `[M, K]`, B `[K, N]`, C `[M, N]`, or batches of them (a batch of one serves
/// all).
///
/// On a GPU A and B may both be of half precision; then C (and the epilogue's pre-activation with it) may be
/// as well. Sums and the bias are in single precision.
pub fn matmul(a: &Matrix, b: &Matrix, c: &Matrix, options: &Options) -> Result<()> {
    matmul_with(a, b, c, options, Force::default())
}

/// [`matmul`] with parts of the GPU's plan given. The CPU has no plan.
pub fn matmul_with(a: &Matrix, b: &Matrix, c: &Matrix, options: &Options, force: Force) -> Result<()> {
    let _span = profile::operation("matmul");
    let ((ba, m, k), (bb, kb, n), (bc, mc, nc)) = (a.size(), b.size(), c.size());
    let batches = [ba, bb].iter().all(|&x| x == bc || x == 1);
    let bad_epilogue = !matches!(options.epilogue, Epilogue::None) && (options.accumulate || bc != 1);
    if k != kb || m != mc || n != nc || !batches || bad_epilogue || k == 0 {
        return Err(Error::shape(
            "matmul",
            format!("{:?} by {:?} into {:?} with {options:?}", a.size(), b.size(), c.size()),
        ));
    }
    if m == 0 || n == 0 || bc == 0 {
        return Ok(());
    }
    demand_types("matmul", [&a.tensor, &b.tensor, &c.tensor])?;
    profile::flops(2.0 * (bc * m * n * k) as f64);
    match c.tensor.device() {
        Device::Cpu(_) => cpu::product(a, b, c, options),
        Device::Gpu(device) => gpu::product(device, a, b, c, options, force),
    }
}

/// Which types of operands (a, b, c) products take.
fn demand_types(op: &'static str, operands: [&Tensor; 3]) -> Result<()> {
    let types = operands.map(Tensor::dtype);
    let single = types == [DType::F32; 3];
    let gpu = matches!(operands[2].device(), Device::Gpu(_));
    let half = gpu && types[..2] == [DType::F16; 2] && types[2] != DType::U32;
    match single || half {
        true => Ok(()),
        false => {
            let problem = format!("{types:?}: operands of half precision come in pairs, on a GPU");
            Err(Error::shape(op, problem))
        }
    }
}
