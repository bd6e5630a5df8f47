//! The pass over all parameters: norms, clipping, AdamW, the teacher's moving average.

use super::harness::{Bench, Ready, Sink, close};
use crate::autograd::Tape;
use crate::error::Result;
use crate::nn::parameters::{FlatBuffers, FlatLayout, Init, ParameterSpec, Parameters};
use crate::ops::gather::narrow_rows;
use crate::optim::adamw::{AdamW, AdamWConfig, Multipliers, StepSettings};
use crate::profile::Work;
use crate::tensor::Tensor;

pub(super) fn run(bench: &Bench, sink: &mut Sink) -> Result<()> {
    let n = 16 << 20;
    // gradient added (3 accesses), norm (1), update: read p g m v t, write p g m v t
    let work = Work { flops: 20.0 * n as f64, bytes: 4.0 * 14.0 * n as f64 };
    bench.case(sink, "adamw/16M parameters, clip, ema", work, || {
        let specs = [ParameterSpec::new("backbone.w", &[n], Init::Normal(0.02))];
        let layout = FlatLayout::new(&specs, bench.device.max_tensor_bytes())?;
        let values = FlatBuffers::zeros(&layout, &bench.device)?;
        let start = bench.random(1, &[n])?.to_vec::<f32>()?;
        values.buffers()[0].upload(&start)?;
        let student = Parameters::trained(values.clone())?;
        let teacher = FlatBuffers::zeros(&layout, &bench.device)?;
        let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, clip_grad: 1.5 };
        let one = vec![Multipliers { lr: 1.0, weight_decay: 1.0, last_layer: false }];
        let optimizer = AdamW::new(&layout, &bench.device, config, one)?;
        let loss = Tensor::from_slice(&bench.device, &[1], &[1.0f32])?;
        let gradient = bench.random(2, &[n / 1024, 1024])?;
        let sign = gradient.slice(0, 0..1)?.to_vec::<f32>()?[7].signum() as f64;
        let var = student.var("backbone.w")?.view(|t| t.reshape(&[n / 1024, 1024]))?;
        let settings =
            StepSettings { lr: 1e-3, last_layer_lr: 1e-3, weight_decay: 0.04, teacher_momentum: 0.99 };
        Ready::new(
            move || {
                // a gradient arrives once a step: that is what marks the parameter as touched
                let tape = Tape::new();
                let y = narrow_rows(&tape, &var, 0, n / 1024)?;
                tape.backward(vec![(&y, gradient.clone())])?;
                let gradients = student.gradients().expect("of trained parameters");
                optimizer.measure(gradients, &loss)?;
                optimizer.update(&student, Some(&teacher), settings)
            },
            move || {
                let want = start[7] as f64 * (1.0 - 4e-5) - 1e-3 * sign;
                close("adamw", values.read("backbone.w")?[7], want)
            },
        )
    })
}
