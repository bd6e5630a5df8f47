//! Linear layers with elastic weights: `y = α·x·Wᵀ + b`, and the two-layer perceptron with its GELU in
//! between.
//!
//! A weight is `[out, in]`, or `[groups, out, in]` for the q, k and v parts of an elastic qkv weight, whose
//! outputs stand side by side. The factor α = in_max / in keeps the scale of a sliced input (poa-facts:
//! elastic linear).
//!
//! On a GPU input and weights may be of half precision; then the output is as well. Biases and the gradients
//! of parameters are in single precision always.

use crate::autograd::{InputGradient, Tape, Var};
use crate::error::{Error, Result};
use crate::ops::matmul::{Epilogue, Matrix, Options, matmul};
use crate::ops::reduce::column_sum;
use crate::tensor::{DType, Tensor};

/// A weight, its bias, and the factor of the input.
#[derive(Clone)]
pub struct LinearWeights {
    /// `[out, in]` or `[groups, out, in]`.
    pub weight: Var,
    /// `[out]`, or `[groups, out]` with any distance between groups.
    pub bias: Option<Var>,
    /// Factor of the product.
    pub alpha: f32,
}

impl LinearWeights {
    /// Columns of the output.
    pub fn outputs(&self) -> usize {
        let shape = self.weight.value().shape();
        shape[..shape.len() - 1].iter().product()
    }

    /// Columns of the input.
    pub fn inputs(&self) -> usize {
        self.weight.value().shape().last().copied().unwrap_or(0)
    }

    /// The bias as one contiguous vector.
    fn bias_vector(&self) -> Result<Option<Tensor>> {
        let Some(bias) = &self.bias else { return Ok(None) };
        let value = bias.value();
        if value.layout().is_contiguous() {
            return Ok(Some(value.reshape(&[value.elements()])?));
        }
        let dense = Tensor::empty(value.device(), value.shape(), DType::F32)?;
        crate::tensor::copy(&dense, value)?;
        Ok(Some(dense.reshape(&[value.elements()])?))
    }

    /// y = epilogue(α·x·Wᵀ), where the caller has put the bias into the epilogue.
    fn forward(&self, x: &Tensor, y: &Tensor, epilogue: Epilogue) -> Result<()> {
        let options = Options { alpha: self.alpha, epilogue, ..Default::default() };
        matmul(&Matrix::new(x)?, &Matrix::weight(self.weight.value())?.t(), &Matrix::new(y)?, &options)
    }

    /// dW += α·dyᵀ·x and db += Σ dy.
    fn backward_parameters(&self, [dw, db]: [InputGradient; 2], x: &Tensor, dy: &Tensor) -> Result<()> {
        dw.write(|dw, accumulate| {
            let options = Options { alpha: self.alpha, accumulate, ..Default::default() };
            matmul(&Matrix::new(dy)?.t(), &Matrix::new(x)?, &Matrix::weight(dw)?, &options)
        })?;
        db.write(|db, accumulate| {
            let shape = db.shape();
            if shape.len() == 1 {
                return column_sum(dy, db, 1.0, accumulate);
            }
            for group in 0..shape[0] {
                let columns = dy.slice(1, group * shape[1]..(group + 1) * shape[1])?;
                let part = db.slice(0, group..group + 1)?.reshape(&[shape[1]])?;
                column_sum(&columns, &part, 1.0, accumulate)?;
            }
            Ok(())
        })
    }

    /// dx (+)= α·dy·W, times GELU's derivative where `epilogue` says so.
    fn backward_input(&self, dy: &Tensor, dx: &Tensor, accumulate: bool, epilogue: Epilogue) -> Result<()> {
        let options = Options { alpha: self.alpha, accumulate, epilogue, ..Default::default() };
        matmul(&Matrix::new(dy)?, &Matrix::weight(self.weight.value())?, &Matrix::new(dx)?, &options)
    }

    fn check(&self, op: &'static str, x: &Tensor) -> Result<()> {
        let fits = x.shape().len() == 2 && x.dim(1) == self.inputs();
        let bias = self.bias.as_ref().is_none_or(|b| b.value().elements() == self.outputs());
        if fits && bias {
            return Ok(());
        }
        Err(Error::shape(op, format!("{x:?} through a weight {:?}", self.weight.value())))
    }
}

fn bias_epilogue(bias: Option<Tensor>) -> Epilogue {
    bias.map_or(Epilogue::None, Epilogue::Bias)
}

/// `y = α·x·Wᵀ + b` for x `[rows, in]`.
pub fn linear(tape: &Tape, x: &Var, layer: &LinearWeights) -> Result<Var> {
    layer.check("linear", x.value())?;
    let y = Tensor::empty(x.value().device(), &[x.value().dim(0), layer.outputs()], x.value().dtype())?;
    layer.forward(x.value(), &y, bias_epilogue(layer.bias_vector()?))?;
    let inputs = [Some(x), Some(&layer.weight), layer.bias.as_ref()];
    let (input, layer) = (x.value().clone(), layer.clone());
    Ok(tape.record("linear", inputs, y, move |[dx, dw, db], dy| {
        layer.backward_parameters([dw, db], &input, &dy)?;
        dx.write(|dx, accumulate| layer.backward_input(&dy, dx, accumulate, Epilogue::None))
    }))
}

/// Two layers' outputs one after the other, as one vector: what belongs together lies in one piece of memory. Each is
/// what [`linear`] gives for its x `[rows, in]`.
pub fn linear_pair(tape: &Tape, [first, second]: [(&Var, &LinearWeights); 2]) -> Result<Var> {
    let sizes = [first, second].map(|(x, layer)| [x.value().dim(0), layer.outputs()]);
    let elements = sizes.map(|[rows, outputs]| rows * outputs);
    let x = first.0.value();
    let y = Tensor::empty(x.device(), &[elements[0] + elements[1]], x.dtype())?;
    let split = move |y: &Tensor| -> Result<[Tensor; 2]> {
        let [before, all] = [elements[0], elements[0] + elements[1]];
        Ok([y.slice(0, 0..before)?.reshape(&sizes[0])?, y.slice(0, before..all)?.reshape(&sizes[1])?])
    };
    for ((x, layer), y) in [first, second].into_iter().zip(split(&y)?) {
        layer.check("linear_pair", x.value())?;
        layer.forward(x.value(), &y, bias_epilogue(layer.bias_vector()?))?;
    }
    let [(x1, l1), (x2, l2)] = [first, second];
    let inputs = [Some(x1), Some(&l1.weight), l1.bias.as_ref(), Some(x2), Some(&l2.weight), l2.bias.as_ref()];
    let saved = [first, second].map(|(x, layer)| (x.value().clone(), layer.clone()));
    Ok(tape.record("linear_pair", inputs, y, move |[dx1, dw1, db1, dx2, dw2, db2], dy| {
        let gradients = [(dx1, dw1, db1), (dx2, dw2, db2)];
        for (((x, layer), dy), (dx, dw, db)) in saved.into_iter().zip(split(&dy)?).zip(gradients) {
            layer.backward_parameters([dw, db], &x, &dy)?;
            dx.write(|dx, accumulate| layer.backward_input(&dy, dx, accumulate, Epilogue::None))?;
        }
        Ok(())
    }))
}

/// `y = fc2(gelu(fc1(x)))` for x `[rows, in]`. The hidden activation is kept before and after GELU; the
/// gradient of GELU is taken on the way out of fc2's product.
pub fn mlp(tape: &Tape, x: &Var, fc1: &LinearWeights, fc2: &LinearWeights) -> Result<Var> {
    fc1.check("mlp", x.value())?;
    let (rows, device, dtype) = (x.value().dim(0), x.value().device(), x.value().dtype());
    let hidden = Tensor::empty(device, &[rows, fc1.outputs()], dtype)?;
    fc2.check("mlp", &hidden)?;
    let inputs = [Some(x), Some(&fc1.weight), fc1.bias.as_ref(), Some(&fc2.weight), fc2.bias.as_ref()];
    let pre = match tape.needs(inputs) {
        true => Some(Tensor::empty(device, &[rows, fc1.outputs()], dtype)?),
        false => None,
    };
    let Some(bias) = fc1.bias_vector()? else {
        return Err(Error::shape("mlp", "the first layer needs a bias"));
    };
    fc1.forward(x.value(), &hidden, Epilogue::BiasGelu { bias, pre: pre.clone() })?;
    let y = Tensor::empty(device, &[rows, fc2.outputs()], dtype)?;
    fc2.forward(&hidden, &y, bias_epilogue(fc2.bias_vector()?))?;
    let (input, first, second) = (x.value().clone(), fc1.clone(), fc2.clone());
    // also where nothing is saved: the tape notes the parameters that are used
    Ok(tape.record("mlp", inputs, y, move |[dx, dw1, db1, dw2, db2], dy| {
        let pre = pre.ok_or_else(|| Error::shape("mlp", "a gradient of what was not saved"))?;
        second.backward_parameters([dw2, db2], &hidden, &dy)?;
        // the hidden activation is not needed any more: its memory takes the gradient of the pre-activation
        let dpre = hidden;
        second.backward_input(&dy, &dpre, false, Epilogue::GeluGrad { pre })?;
        drop(dy);
        first.backward_parameters([dw1, db1], &input, &dpre)?;
        dx.write(|dx, accumulate| first.backward_input(&dpre, dx, accumulate, Epilogue::None))
    }))
}
