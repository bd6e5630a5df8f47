//! Two-dimensional convolutions with elastic weights over maps whose channels lie side by side, a pixel a
//! row: without padding and stride a 1×1 convolution is a product, and the others are products over windows
//! ([`crate::ops::matmul::window`]). Weights are in the official order `[out, in, down, across]` and may be
//! slices; their gradient is added through the slice. For the windows a small copy of them has the taps in
//! front.
//!
//! On a GPU maps and weights may be of half precision, both; then what comes out is as well, and the gradient
//! of the weights is single.

use crate::autograd::{InputGradient, Tape, Var};
use crate::error::{Error, Result};
use crate::ops::linear::{LinearWeights, linear};
use crate::ops::matmul::Force;
use crate::ops::matmul::window::{Window, window_gradient, window_product};
use crate::tensor::{DType, Layout, Tensor, fill, strided_copy};

/// Images of one size, as rows `[images·height·width, channels]`, pixel by pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// Number of images.
    pub images: usize,
    /// Pixels down.
    pub height: usize,
    /// Pixels across.
    pub width: usize,
}

impl MapShape {
    /// Pixels of all images.
    pub fn rows(&self) -> usize {
        self.images * self.height * self.width
    }

    /// The map that windows of `kernel` pixels leave.
    pub fn after(&self, kernel: usize, stride: usize, padding: usize) -> Self {
        let size = |pixels: usize| (pixels + 2 * padding).saturating_sub(kernel) / stride + 1;
        Self { height: size(self.height), width: size(self.width), ..*self }
    }

    fn view(&self, rows: &Tensor) -> Result<Tensor> {
        rows.reshape(&[self.images, self.height, self.width, rows.dim(1)])
    }
}

/// A convolution without bias.
#[derive(Clone)]
pub struct Conv {
    /// `[out, in, kernel, kernel]`, or a slice of it.
    pub weight: Var,
    /// Pixels between neighbouring windows.
    pub stride: usize,
    /// Zeros on each side of the map.
    pub padding: usize,
    /// Factor of the product: the width of the intact input over that of this one.
    pub alpha: f32,
}

/// A convolution that has been made, for its gradients.
struct Call {
    conv: Conv,
    /// Maps before and after.
    shapes: [MapShape; 2],
    /// The weights `[kernel, kernel, in, out]`.
    taps: Tensor,
}

/// `[out, in, down, across]` as `[down, across, in, out]`.
fn taps_first(weight: &Tensor) -> Tensor {
    weight.transpose(0, 2).transpose(1, 3).transpose(2, 3)
}

impl Conv {
    /// (out, in, kernel).
    fn sizes(&self) -> Result<[usize; 3]> {
        match *self.weight.value().shape() {
            [out, input, down, across] if down == across && down > 0 && self.stride > 0 => {
                Ok([out, input, down])
            }
            _ => Err(Error::shape("conv2d", format!("a weight {:?}", self.weight.value()))),
        }
    }

    /// The weights as `[kernel, kernel, channels, out]`; channels that the weights do not have are zero.
    fn taps(&self, channels: usize) -> Result<Tensor> {
        let [out, input, kernel] = self.sizes()?;
        let device = self.weight.value().device();
        let taps = Tensor::empty(device, &[kernel, kernel, channels, out], self.weight.value().dtype())?;
        if channels > input {
            fill(&taps, 0)?;
        }
        strided_copy(&taps.slice(2, 0..input)?, &taps_first(self.weight.value()), false)?;
        Ok(taps)
    }

    /// Adds gradients `[kernel, kernel, channels, out]` to those of the weights.
    fn add_gradient(&self, dw: InputGradient, gradient: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        let input = self.weight.value().dim(1);
        dw.write(|dw, accumulate| strided_copy(&taps_first(dw), &gradient()?.slice(2, 0..input)?, accumulate))
    }
}

impl Call {
    fn window(&self) -> Window {
        Window::new(self.conv.stride, self.conv.padding)
    }

    fn weight_gradient(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let dw = Tensor::empty(x.device(), self.taps.shape(), DType::F32)?;
        let (x, dy) = (self.shapes[0].view(x)?, self.shapes[1].view(dy)?);
        window_gradient(&x, self.window(), &dy, &dw, self.conv.alpha, Force::default())?;
        Ok(dw)
    }

    /// dx (+)= the windows of dy that have seen each pixel. With a stride s, pixels whose rows (and columns)
    /// leave the same rest by s have seen the same taps, every s-th: a product for each pair of rests.
    fn input_gradient(&self, dy: &Tensor, dx: &Tensor, accumulate: bool) -> Result<()> {
        let [kernel, s, padding] = [self.taps.dim(0), self.conv.stride, self.conv.padding];
        let [before, after] = self.shapes;
        let (dy, dx) = (after.view(dy)?, before.view(dx)?);
        // (first tap, taps, start, pixels) of the rows or columns of a rest
        let part = |rest: usize, pixels: usize| {
            let first = (rest + padding) % s;
            let taps = kernel.saturating_sub(first).div_ceil(s);
            let start = ((rest + padding - first) / s) as isize - taps as isize + 1;
            (first, taps, start, pixels.saturating_sub(rest).div_ceil(s))
        };
        for rest in 0..s * s {
            let (down, across) = (rest / s, rest % s);
            let (first_y, taps_y, top, rows) = part(down, before.height);
            let (first_x, taps_x, left, columns) = part(across, before.width);
            if taps_y * taps_x * rows * columns == 0 {
                continue;
            }
            let window = Window { step: 1, start: [top, left], reversed: true };
            let weights = stepped(&self.taps, [first_y, first_x], [taps_y, taps_x], s, [0, 1]);
            let weights = weights.transpose(2, 3);
            let pixels = stepped(&dx, [down, across], [rows, columns], s, [1, 2]);
            window_product(&dy, window, &weights, &pixels, self.conv.alpha, accumulate, Force::default())?;
        }
        Ok(())
    }
}

/// Every `step`-th element of two dimensions, `counts` of them from `first`.
fn stepped(t: &Tensor, first: [usize; 2], counts: [usize; 2], step: usize, dims: [usize; 2]) -> Tensor {
    let mut layout: Layout = t.layout().clone();
    for ((dim, first), count) in dims.into_iter().zip(first).zip(counts) {
        layout.offset += first * layout.strides[dim];
        layout.shape[dim] = count;
        layout.strides[dim] *= step;
    }
    t.with_layout(layout)
}

/// The convolution of maps `x` `[rows, in]` and the shape of what comes out, `[rows, out]`.
pub fn conv2d(tape: &Tape, x: &Var, shape: MapShape, conv: &Conv) -> Result<(Var, MapShape)> {
    let [out, input, kernel] = conv.sizes()?;
    let fits = x.value().shape() == [shape.rows(), input];
    if !fits || shape.height + 2 * conv.padding < kernel || shape.width + 2 * conv.padding < kernel {
        return Err(Error::shape(
            "conv2d",
            format!("{:?} as {shape:?} through a weight {:?}", x.value(), conv.weight.value()),
        ));
    }
    let after = shape.after(kernel, conv.stride, conv.padding);
    if (kernel, conv.stride, conv.padding) == (1, 1, 0) {
        let weight = conv.weight.view(|w| w.reshape(&[out, input]))?;
        let y = linear(tape, x, &LinearWeights { weight, bias: None, alpha: conv.alpha })?;
        return Ok((y, after));
    }
    let call = Call { conv: conv.clone(), shapes: [shape, after], taps: conv.taps(input)? };
    let y = Tensor::empty(x.value().device(), &[after.rows(), out], x.value().dtype())?;
    let map = shape.view(x.value())?;
    let places = after.view(&y)?;
    window_product(&map, call.window(), &call.taps, &places, conv.alpha, false, Force::default())?;
    let input = x.value().clone();
    let y = tape.record("conv2d", [x, &conv.weight], y, move |[dx, dw], dy| {
        call.conv.add_gradient(dw, || call.weight_gradient(&input, &dy))?;
        // some pixels may not have been seen by any window
        let all_seen = call.taps.dim(0) >= call.conv.stride;
        match all_seen {
            true => dx.write(|dx, accumulate| call.input_gradient(&dy, dx, accumulate)),
            false => dx.add_to(|dx| call.input_gradient(&dy, dx, true)),
        }
    });
    Ok((y, after))
}

/// The convolution of images `[n, channels, height, width]`, which take no gradient. They are copied once,
/// padded, with channels side by side and filled up to four: a row of taps is then one contiguous run, a
/// single tap as wide. The precision is that of the weights.
pub fn conv_images(tape: &Tape, images: &Tensor, conv: &Conv) -> Result<(Var, MapShape)> {
    let [out, input, kernel] = conv.sizes()?;
    let (s, padding) = (conv.stride, conv.padding);
    let wrong = || Error::shape("conv_images", format!("{images:?} through a {:?}", conv.weight.value()));
    let &[count, channels, height, width] = images.shape() else { return Err(wrong()) };
    if channels != input || height + 2 * padding < kernel || width + 2 * padding < kernel {
        return Err(wrong());
    }
    let depth = channels.next_multiple_of(4);
    let (tall, wide) = (height + 2 * padding, width + 2 * padding);
    let dtype = conv.weight.value().dtype();
    let padded = Tensor::zeros(images.device(), &[count, tall, wide, depth], dtype)?;
    let inner = padded.slice(1, padding..padding + height)?.slice(2, padding..padding + width)?;
    let pixels = images.transpose(1, 2).transpose(2, 3);
    strided_copy(&inner.slice(3, 0..channels)?, &pixels, false)?;
    // pixels that overlap: each begins one pixel after the one before and has a whole row of taps
    let mut layout = padded.layout().clone();
    layout.shape = vec![count, tall, wide - kernel + 1, kernel * depth];
    let runs = padded.with_layout(layout);
    let after = MapShape { images: count, height, width }.after(kernel, s, padding);
    let taps = conv.taps(depth)?;
    let y = Tensor::empty(images.device(), &[after.rows(), out], dtype)?;
    let window = Window::new(s, 0);
    let run_taps = taps.reshape(&[kernel, 1, kernel * depth, out])?;
    window_product(&runs, window, &run_taps, &after.view(&y)?, conv.alpha, false, Force::default())?;
    let call = conv.clone();
    let y = tape.record("conv_images", [&conv.weight], y, move |[dw], dy| {
        call.add_gradient(dw, || {
            let dw = Tensor::empty(dy.device(), taps.shape(), DType::F32)?;
            let runs_dw = dw.reshape(&[kernel, 1, kernel * depth, out])?;
            window_gradient(&runs, window, &after.view(&dy)?, &runs_dw, call.alpha, Force::default())?;
            Ok(dw)
        })
    });
    Ok((y, after))
}
