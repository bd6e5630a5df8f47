//! Stochastic gradient descent with momentum for many classifiers at once, each with a learning rate of its
//! own.

use crate::cpu::{RowsMut, for_rows};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::tensor::{DType, Device, Tensor};

const SHADER: Shader = shader!("sgd.wgsl", kernels);
const WG: u32 = 256;

params!(SgdParams {
    count: u32,
    per_rate: u32,
    w_offset: u32,
    v_offset: u32,
    g_offset: u32,
    rates_offset: u32,
    momentum: f32,
    factor: f32,
});

fn kernel() -> Kernel {
    Kernel::new::<SgdParams>(SHADER, "sgd", vec![("WG", WG)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel()]
}

/// Parameters and what SGD keeps of their gradients.
pub struct Sgd {
    /// The parameters, whose first dimension is cut into equal parts, one a learning rate.
    pub values: Tensor,
    /// Shaped like them: v.
    velocity: Tensor,
    /// `[parts]`
    rates: Tensor,
    momentum: f32,
}

impl Sgd {
    /// Dense `values`, whose elements lie in as many equal, consecutive parts as there are `rates`.
    pub fn new(values: Tensor, rates: &[f64], momentum: f64) -> Result<Self> {
        let parts = rates.len().max(1);
        if rates.is_empty() || !values.elements().is_multiple_of(parts) || !values.layout().is_contiguous() {
            return Err(Error::shape("sgd", format!("{values:?} with {} learning rates", rates.len())));
        }
        let rates: Vec<f32> = rates.iter().map(|r| *r as f32).collect();
        Ok(Self {
            velocity: Tensor::zeros(values.device(), values.shape(), DType::F32)?,
            rates: Tensor::from_slice(values.device(), &[parts], &rates)?,
            values,
            momentum: momentum as f32,
        })
    }

    /// v = momentum·v + gradient, values −= factor·rate·v; `factor` is the schedule's.
    pub fn step(&self, gradient: &Tensor, factor: f64) -> Result<()> {
        if gradient.elements() != self.values.elements() || !gradient.layout().is_contiguous() {
            return Err(Error::shape("sgd", format!("a gradient {gradient:?} of {:?}", self.values)));
        }
        let (count, momentum, factor) = (gradient.elements(), self.momentum, factor as f32);
        let per_rate = count / self.rates.elements();
        match gradient.device() {
            Device::Cpu(_) => {
                let (g, rates) = (&*gradient.cpu_read::<f32>("sgd")?, &*self.rates.cpu_read::<f32>("sgd")?);
                // in the rows of a matrix, as so few learning rates would leave most cores idle
                let row = self.values.shape().last().map_or(1, |last| (*last).max(1));
                let row = if per_rate.is_multiple_of(row) { row } else { 1 };
                let values = &mut *self.values.cpu_write::<f32>("sgd")?;
                let velocity = &mut *self.velocity.cpu_write::<f32>("sgd")?;
                for_rows(
                    (RowsMut::dense(values, row), RowsMut::dense(velocity, row)),
                    #[inline(always)]
                    |math, r, (w, v)| {
                        let rate = factor * rates[r * row / per_rate];
                        for ((w, v), g) in w.iter_mut().zip(v).zip(&g[r * row..]) {
                            *v = math.mul_add(momentum, *v, *g);
                            *w = math.mul_add(-rate, *v, *w);
                        }
                    },
                );
                Ok(())
            }
            Device::Gpu(gpu) => {
                let params = SgdParams {
                    count,
                    per_rate,
                    w_offset: self.values.layout().offset,
                    v_offset: self.velocity.layout().offset,
                    g_offset: gradient.layout().offset,
                    rates_offset: self.rates.layout().offset,
                    momentum,
                    factor,
                };
                let tensors = [&self.values, &self.velocity, gradient, &self.rates];
                gpu.dispatch(&kernel(), &tensors, &params, gpu.caps().grid(count.div_ceil(WG as usize)))
            }
        }
    }
}
