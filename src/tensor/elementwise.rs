//! Addition in place, copies and scaling of matrices of contiguous rows. On a GPU operands may be of half
//! precision, all of them.

use crate::cpu::math::Math;
use crate::cpu::{Arch, RowsMut, for_rows};
use crate::error::Result;
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, WG, activation_types, common_rows, half_define, vec4_aligned};

const SHADER: Shader = shader!("elementwise.wgsl", kernels);

params!(ElementwiseParams {
    count: u32,
    cols: u32,
    out_offset: u32,
    out_stride: u32,
    a_offset: u32,
    a_stride: u32,
    b_offset: u32,
    b_stride: u32,
    scale: f32,
});

/// A computation of `elementwise.wgsl` from operands a and, where it is binary, b.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elementwise {
    /// `elementwise.wgsl`, with the list of whoever runs it.
    pub shader: Shader,
    /// The entry point.
    pub entry: &'static str,
    /// Whether there is an operand b.
    pub binary: bool,
}

/// out += scale·a
const ADD_SCALED: Elementwise = Elementwise { shader: SHADER, entry: "add_scaled", binary: false };
/// out = scale·a
const SCALE: Elementwise = Elementwise { shader: SHADER, entry: "scale", binary: false };

/// All variants.
pub(super) fn kernels(caps: &Caps) -> Vec<Kernel> {
    [ADD_SCALED, SCALE].iter().flat_map(|of| of.kernels(caps)).collect()
}

impl Elementwise {
    fn kernel(self, dtype: DType, vec4: bool, flat: bool) -> Kernel {
        let mut defines = vec![("WG", WG)];
        defines.extend(vec4.then_some(("VEC4", 1)));
        defines.extend(flat.then_some(("FLAT", 1)));
        defines.extend(self.binary.then_some(("BINARY", 1)));
        defines.extend(half_define(dtype));
        Kernel::new::<ElementwiseParams>(self.shader, self.entry, defines)
    }

    /// All variants of one computation.
    pub(crate) fn kernels(self, caps: &Caps) -> Vec<Kernel> {
        let kinds = [(false, false), (false, true), (true, false), (true, true)];
        let of = |dtype| kinds.map(|(vec4, flat)| self.kernel(dtype, vec4, flat));
        activation_types(caps).flat_map(of).collect()
    }

    /// Runs it on operands of one shape. On the CPU `each(math, out, a, b)` does so for pieces of
    /// rows; it is inlined always, see [`for_rows`].
    pub(crate) fn run(
        self,
        out: &Tensor,
        a: &Tensor,
        b: Option<&Tensor>,
        scale: f32,
        each: impl Fn(Math, &mut [f32], &[f32], &[f32]) + Sync,
    ) -> Result<()> {
        let _span = profile::operation(self.entry);
        let [o, ra, rb] = common_rows(self.entry, [out, a, b.unwrap_or(a)])?;
        match out.device() {
            Device::Cpu(_) => {
                let name = self.entry;
                if o.rows == 1 {
                    // cut so that all cores take part
                    let width = o.cols.clamp(1, 8192);
                    let (a, b) = (&*a.cpu_read::<f32>(name)?, &*b.unwrap_or(a).cpu_read::<f32>(name)?);
                    let out = &mut *out.cpu_write::<f32>(name)?;
                    let whole = o.cols / width * width;
                    let (head, tail) = out.split_at_mut(whole);
                    for_rows(
                        RowsMut::dense(head, width),
                        #[inline(always)]
                        |math, r, y| each(math, y, &a[r * width..][..width], &b[r * width..][..width]),
                    );
                    Arch::get().run(
                        #[inline(always)]
                        |math| each(math, tail, &a[whole..], &b[whole..]),
                    );
                } else {
                    let (a, b) = (a.cpu_rows::<f32>(name)?, b.unwrap_or(a).cpu_rows::<f32>(name)?);
                    for_rows(
                        out.cpu_rows_mut::<f32>(name)?.rows_mut(),
                        #[inline(always)]
                        |math, r, y| each(math, y, a.row(r), b.row(r)),
                    );
                }
                Ok(())
            }
            Device::Gpu(gpu) => {
                let count = o.rows * o.cols;
                let params = ElementwiseParams {
                    count,
                    cols: o.cols,
                    out_offset: o.offset,
                    out_stride: o.stride,
                    a_offset: ra.offset,
                    a_stride: ra.stride,
                    b_offset: rb.offset,
                    b_stride: rb.stride,
                    scale,
                };
                let vec4 = vec4_aligned(&[o, ra, rb], &[]);
                let units = if vec4 { count / 4 } else { count };
                let grid = gpu.caps().grid(units.div_ceil(WG as usize));
                let mut tensors = vec![out, a];
                tensors.extend(b);
                gpu.dispatch(&self.kernel(out.dtype(), vec4, o.rows == 1), &tensors, &params, grid)
            }
        }
    }
}

/// `out += a`
pub fn add_assign(out: &Tensor, a: &Tensor) -> Result<()> {
    add_scaled(out, a, 1.0)
}

/// `out += scale·a`
pub fn add_scaled(out: &Tensor, a: &Tensor, scale: f32) -> Result<()> {
    ADD_SCALED.run(
        out,
        a,
        None,
        scale,
        #[inline(always)]
        |_, y, a, _| {
            y.iter_mut().zip(a).for_each(|(y, a)| *y += scale * a);
        },
    )
}

/// `out = a`
pub fn copy(out: &Tensor, a: &Tensor) -> Result<()> {
    scale(out, a, 1.0)
}

/// `out = scale·a`
pub fn scale(out: &Tensor, a: &Tensor, scale: f32) -> Result<()> {
    SCALE.run(
        out,
        a,
        None,
        scale,
        #[inline(always)]
        |_, y, a, _| {
            y.iter_mut().zip(a).for_each(|(y, a)| *y = scale * a);
        },
    )
}
