//! Convolutions against plain loops: kernels, strides, paddings, slices of weights, odd sizes, every variant.

use half::f16;
use poa_gpu::autograd::Var;
use poa_gpu::gpu::Caps;
use poa_gpu::ops::conv::{Conv, MapShape, conv_images, conv2d};
use poa_gpu::ops::matmul::window::{Window, window_gradient, window_product};
use poa_gpu::ops::matmul::{Force, PLAIN, PLAIN_SINGLE, Precision, Variant, variants};
use poa_gpu::tensor::{DType, Device, Tensor, to_type};

use crate::support::{Operand, Tolerance, assert_close, check, devices, gpu, random};

/// One convolution.
#[derive(Clone, Copy, Debug)]
struct Case {
    shape: MapShape,
    channels: usize,
    out: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    alpha: f32,
}

impl Case {
    fn new([images, height, width]: [usize; 3], [channels, out]: [usize; 2], [k, s, p]: [usize; 3]) -> Self {
        let shape = MapShape { images, height, width };
        Self { shape, channels, out, kernel: k, stride: s, padding: p, alpha: 1.0 }
    }

    /// The convolution of x `[rows, channels]` with w `[out, channels, kernel, kernel]`, by its definition.
    fn reference(&self, x: &[f64], w: &[f64]) -> Vec<f64> {
        let Self { shape, channels, out, kernel, stride, padding, alpha } = *self;
        let after = shape.after(kernel, stride, padding);
        let mut y = Vec::with_capacity(after.rows() * out);
        for i in 0..after.images {
            for (r, c) in (0..after.height).flat_map(|r| (0..after.width).map(move |c| (r, c))) {
                for o in 0..out {
                    let mut total = 0.0;
                    for (ky, kx) in (0..kernel).flat_map(|a| (0..kernel).map(move |b| (a, b))) {
                        let (py, px) = (r * stride + ky, c * stride + kx);
                        if py < padding || px < padding {
                            continue;
                        }
                        let (py, px) = (py - padding, px - padding);
                        if py >= shape.height || px >= shape.width {
                            continue;
                        }
                        let pixel = &x[((i * shape.height + py) * shape.width + px) * channels..][..channels];
                        for (ch, v) in pixel.iter().enumerate() {
                            total += v * w[((o * channels + ch) * kernel + ky) * kernel + kx];
                        }
                    }
                    y.push(alpha as f64 * total);
                }
            }
        }
        y
    }

    fn conv(&self, weight: &Var) -> poa_gpu::Result<Conv> {
        let Self { channels, out, kernel, stride, padding, alpha, .. } = *self;
        // strided operands have rows further apart than they are long: that stands for a slice
        let weight = weight.view(|w| w.reshape(&[out, channels, kernel, kernel]))?;
        Ok(Conv { weight, stride, padding, alpha })
    }

    fn check(self) {
        let inputs = self.channels * self.kernel * self.kernel;
        let x = Operand::new(1, &[self.shape.rows(), self.channels]);
        let w = Operand::new(2, &[self.out, inputs]).strided().parameter().map(|v| 0.5 * v);
        check(
            &format!("{self:?}"),
            &[x, w],
            Tolerance { atol: 2e-5, rtol: 1e-5 },
            |tape, v| Ok(vec![conv2d(tape, &v[0], self.shape, &self.conv(&v[1])?)?.0]),
            &|x| vec![self.reference(&x[0], &x[1])],
        );
    }
}

#[test]
fn kernels_strides_and_paddings() {
    for spec in [[1, 1, 0], [1, 2, 0], [3, 1, 1], [3, 2, 1], [7, 2, 3], [2, 2, 0], [3, 3, 0], [2, 3, 0]] {
        Case::new([2, 9, 7], [8, 12], spec).check();
        Case::new([1, 8, 10], [3, 5], spec).check();
    }
    // single pixels, and maps smaller than the kernel
    Case::new([3, 1, 1], [4, 8], [3, 1, 1]).check();
    Case::new([2, 2, 1], [5, 4], [3, 2, 1]).check();
    Case { alpha: 1.5, ..Case::new([1, 5, 6], [20, 40], [3, 1, 1]) }.check();
    Case { alpha: 0.5, ..Case::new([2, 6, 4], [36, 33], [3, 2, 1]) }.check();
}

#[test]
fn slices_of_weights_and_a_second_use() {
    let case = Case { alpha: 2.0, ..Case::new([2, 5, 5], [4, 8], [3, 1, 1]) };
    let (full_out, full_in) = (12, 6);
    let w = Operand::new(2, &[full_out, full_in * 9]).parameter();
    check(
        "elastic convolution, twice",
        &[Operand::new(1, &[case.shape.rows(), 4]).strided(), w],
        Tolerance::default(),
        |tape, v| {
            let weight =
                v[1].view(|w| w.reshape(&[full_out, full_in, 3, 3])?.slice(0, 0..8)?.slice(1, 0..4))?;
            let conv = Conv { weight, stride: 1, padding: 1, alpha: 2.0 };
            let first = conv2d(tape, &v[0], case.shape, &conv)?.0;
            let second = conv2d(tape, &v[0], case.shape, &Conv { stride: 2, ..conv })?.0;
            Ok(vec![first, second])
        },
        &|x| {
            let w: Vec<f64> = (0..8 * 36).map(|i| x[1][i / 36 * full_in * 9 + i % 36]).collect();
            vec![case.reference(&x[0], &w), Case { stride: 2, ..case }.reference(&x[0], &w)]
        },
    );
}

#[test]
fn of_images() {
    for (spec, [height, width], channels, out) in [
        ([7, 2, 3], [16, 16], 3, 8),
        ([7, 2, 3], [9, 13], 3, 5),
        ([3, 1, 1], [4, 6], 3, 4),
        ([7, 2, 3], [9, 13], 1, 5),
        ([7, 2, 3], [16, 16], 4, 8),
        ([7, 2, 3], [8, 6], 6, 3),
    ] {
        let case = Case::new([2, height, width], [channels, out], spec);
        let images = random(5, 2 * channels * height * width);
        let plane = height * width;
        let pixels: Vec<f64> = (0..2 * plane * channels)
            .map(|i| {
                let (pixel, channel) = (i / channels, i % channels);
                images[(pixel / plane * channels + channel) * plane + pixel % plane] as f64
            })
            .collect();
        check(
            &format!("images, {case:?}"),
            &[Operand::new(2, &[out, channels * spec[0] * spec[0]]).strided().parameter()],
            Tolerance::default(),
            |tape, v| {
                let images =
                    Tensor::from_slice(v[0].value().device(), &[2, channels, height, width], &images)?;
                Ok(vec![conv_images(tape, &images, &case.conv(&v[0])?)?.0])
            },
            &|x| vec![case.reference(&pixels, &x[0])],
        );
    }
}

/// The products under a convolution with every variant forced, and the pixels of the gradient cut into parts.
#[test]
fn every_variant() {
    check_variants(Precision::Single);
}

/// The same of half precision, on a GPU; the gradient of the weights is single.
#[test]
fn every_variant_in_half_precision() {
    check_variants(Precision::Half);
}

/// All that there are, and those with plain arithmetic in cooperative matrices' place.
fn window_variants(caps: &Caps, precision: Precision) -> Vec<Variant> {
    let plain: &[Variant] = if precision == Precision::Single { &[PLAIN_SINGLE] } else { &PLAIN };
    [&variants(caps, precision), plain].concat()
}

fn check_variants(precision: Precision) {
    let half = precision == Precision::Half;
    let values = |seed, count| -> Vec<f32> {
        let values = random(seed, count).into_iter();
        values.map(|v| if half { f16::from_f32(v).to_f32() } else { v }).collect()
    };
    let dtype = if half { DType::F16 } else { DType::F32 };
    let single = |t: &Tensor| to_type(t, DType::F32).unwrap().to_vec::<f32>().unwrap();
    // of an element of what comes out, beside what is single
    let rounding = if half { 2e-3 } else { 0.0 };
    let cases = [
        Case::new([2, 9, 7], [8, 36], [3, 2, 1]),
        Case::new([1, 13, 5], [70, 20], [3, 1, 1]),
        Case::new([1, 6, 6], [5, 7], [3, 1, 1]),
        // all in eights, over the edges of tiles and of what is staged at a time
        Case::new([2, 9, 11], [40, 72], [3, 2, 1]),
    ];
    for case in cases {
        let Case { shape, channels, out, kernel, stride, padding, .. } = case;
        let after = shape.after(kernel, stride, padding);
        let taps = kernel * kernel;
        let (x, w) = (values(1, shape.rows() * channels), values(2, out * channels * taps));
        let dy = values(3, after.rows() * out);
        let double = |v: &[f32]| v.iter().map(|v| *v as f64).collect::<Vec<f64>>();
        let y = case.reference(&double(&x), &double(&w));
        // the convolution is linear in its weights: the gradient is what each weight alone gives, times dy
        let mut dw = vec![0.0f64; taps * channels * out];
        for r in 0..after.rows() {
            let (i, line, c) =
                (r / after.width / after.height, r / after.width % after.height, r % after.width);
            for tap in 0..taps {
                let (py, px) = (line * stride + tap / kernel, c * stride + tap % kernel);
                if py < padding || px < padding || py - padding >= shape.height || px - padding >= shape.width
                {
                    continue;
                }
                let pixel = (i * shape.height + py - padding) * shape.width + px - padding;
                for ch in 0..channels {
                    for o in 0..out {
                        dw[(tap * channels + ch) * out + o] +=
                            x[pixel * channels + ch] as f64 * dy[r * out + o] as f64;
                    }
                }
            }
        }
        let packed: Vec<f32> = (0..taps * channels * out)
            .map(|i| w[(i % out * channels + i / out % channels) * taps + i / out / channels])
            .collect();
        for device in devices().into_iter().filter(|d| !half || d.kind() == "gpu") {
            let forced = match &device {
                Device::Cpu(_) => vec![None],
                Device::Gpu(gpu) => [None]
                    .into_iter()
                    .chain(window_variants(gpu.caps(), precision).into_iter().map(Some))
                    .collect(),
            };
            let map = |shape: MapShape, values: &[f32], columns: usize| {
                let dims = [shape.images, shape.height, shape.width, columns];
                to_type(&Tensor::from_slice(&device, &dims, values).unwrap(), dtype).unwrap()
            };
            let (x, dy) = (map(shape, &x, channels), map(after, &dy, out));
            let dims = [kernel, kernel, channels, out];
            let w = to_type(&Tensor::from_slice(&device, &dims, &packed).unwrap(), dtype).unwrap();
            let window = Window::new(stride, padding);
            for (variant, parts) in forced.into_iter().flat_map(|v| [(v, None), (v, Some(2)), (v, Some(3))]) {
                let force = Force { variant, parts };
                let label = format!("{case:?} {force:?} on {}", device.kind());
                let result = Tensor::empty(&device, dy.shape(), dtype).unwrap();
                window_product(&x, window, &w, &result, 1.0, false, force).unwrap();
                assert_close(&label, &single(&result), &y, 4e-5, 2e-6 + rounding);
                assert!(result.fences_intact().unwrap(), "{label}: written beside the output");
                window_product(&x, window, &w, &result, 2.0, true, force).unwrap();
                let three: Vec<f64> = y.iter().map(|v| 3.0 * v).collect();
                assert_close(&label, &single(&result), &three, 2e-4 + 5.0 * rounding, 2e-6 + rounding);
                let gradient = Tensor::empty(&device, &dims, DType::F32).unwrap();
                window_gradient(&x, window, &dy, &gradient, 1.0, force).unwrap();
                assert_close(&label, &gradient.to_vec::<f32>().unwrap(), &dw, 4e-5, 2e-6);
                assert!(gradient.fences_intact().unwrap(), "{label}: written beside the gradient");
            }
        }
    }
}

/// What gradients of inputs ask for, where plain arithmetic stands in for cooperative matrices: taps last first,
/// turned weights, every other row and pixel of what is added to; a map that is a slice.
#[test]
fn turned_windows_of_cooperative_products() {
    // everything in eights, all but C in eights, nothing
    for [channels, out] in [[24, 40], [40, 20], [11, 21]] {
        let run = |device: &Device, variant: Option<Variant>| {
            let dtype = if device.kind() == "gpu" { DType::F16 } else { DType::F32 };
            let tensor = |seed, shape: &[usize]| {
                let values = random(seed, shape.iter().product()).into_iter();
                let values: Vec<f32> = values.map(|v| f16::from_f32(v).to_f32()).collect();
                to_type(&Tensor::from_slice(device, shape, &values).unwrap(), dtype).unwrap()
            };
            let x = tensor(1, &[2, 6, 7, channels + 8]);
            let x = x.slice(1, 1..6).unwrap().slice(2, 0..5).unwrap().slice(3, 8..8 + channels).unwrap();
            let w = tensor(2, &[2, 3, out, channels]).transpose(2, 3);
            let whole = tensor(3, &[2, 4, 12, 2 * out]);
            let y = whole.slice(2, 0..6).unwrap().slice(3, 0..out).unwrap();
            let window = Window { step: 1, start: [-1, 1], reversed: true };
            let force = Force { variant, parts: None };
            window_product(&x, window, &w, &y, 0.5, true, force).unwrap();
            to_type(&whole, DType::F32).unwrap().to_vec::<f32>().unwrap()
        };
        let want: Vec<f64> = run(&Device::cpu(), None).into_iter().map(f64::from).collect();
        for variant in PLAIN {
            let label = format!("{channels} to {out} channels, {variant:?}");
            assert_close(&label, &run(&gpu(), Some(variant)), &want, 1e-3, 1e-3);
        }
    }
}

#[test]
fn operands_must_fit() {
    for device in devices() {
        let x = Var::constant(Tensor::zeros(&device, &[12, 4], DType::F32).unwrap());
        let weight = |shape: &[usize]| Var::constant(Tensor::zeros(&device, shape, DType::F32).unwrap());
        let run = |shape: MapShape, weight: Var, padding| {
            let conv = Conv { weight, stride: 1, padding, alpha: 1.0 };
            conv2d(&poa_gpu::autograd::Tape::no_grad(), &x, shape, &conv).is_ok()
        };
        let shape = MapShape { images: 1, height: 3, width: 4 };
        assert!(run(shape, weight(&[5, 4, 3, 3]), 1));
        assert!(!run(shape, weight(&[5, 3, 3, 3]), 1));
        assert!(!run(shape, weight(&[5, 4, 3, 2]), 1));
        assert!(!run(shape, weight(&[5, 4, 7, 7]), 1));
        assert!(!run(MapShape { images: 2, ..shape }, weight(&[5, 4, 3, 3]), 1));
    }
}
