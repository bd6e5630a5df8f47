//! The optimiser's pass over flat buffers, split and whole, against a float64 loop.

use half::f16;
use poa_gpu::autograd::Tape;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::nn::parameters::{FlatBuffers, FlatLayout, Init, NORM_BLOCK, ParameterSpec, Parameters};
use poa_gpu::ops;
use poa_gpu::ops::gather::narrow_rows;
use poa_gpu::optim::adamw::{AdamW, AdamWConfig, GradientReport, Multipliers, StepSettings};
use poa_gpu::optim::loss_scale::{INTERVAL, START, ScaleState};
use poa_gpu::tensor::{Device, Tensor};

use crate::support::{assert_close, random};

const NAMES: [(&str, usize); 6] = [
    ("backbone.a", 1),
    ("backbone.b", 197),
    ("backbone.untouched", 70),
    ("dino_head.c", 3000),
    ("dino_head.d", 65),
    ("dino_head.last_layer0.weight_v", 130),
];

fn multipliers(i: usize) -> Multipliers {
    Multipliers { lr: 1.0 - 0.1 * i as f64, weight_decay: (i % 2) as f64, last_layer: i == 5 }
}

fn scaled(values: &[f32], factor: f32) -> Vec<f32> {
    values.iter().map(|v| v * factor).collect()
}

#[test]
fn the_loss_scale_moves_with_the_steps() {
    let specs = [ParameterSpec::new("backbone.a", &[5], Init::Constant(0.5))];
    let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, clip_grad: 1.0 };
    for device in [Device::cpu(), ops::open(&DeviceChoice::Gpu).unwrap()] {
        let layout = FlatLayout::new(&specs, usize::MAX).unwrap();
        let teacher = FlatBuffers::zeros(&layout, &device).unwrap();
        let student = Parameters::trained(FlatBuffers::zeros(&layout, &device).unwrap())
            .unwrap()
            .with_halves()
            .unwrap();
        let (halves, averaged) = (student.halves().unwrap().clone(), teacher.halves().unwrap());
        let optimizer = AdamW::new(&layout, &device, config, vec![multipliers(0)]).unwrap();
        let optimizer = optimizer.with_mixed_precision(halves, Some(averaged)).unwrap();
        let loss = Tensor::from_slice(&device, &[1], &[1.0f32]).unwrap();
        let scale = optimizer.loss_scale().unwrap();
        let state = |scale, good_steps| ScaleState { scale, good_steps };
        assert_eq!(scale.get().unwrap(), state(START, 0));
        let settings = StepSettings { lr: 0.1, last_layer_lr: 0.1, weight_decay: 0.0, teacher_momentum: 0.5 };
        let step = |gradient: f32| {
            student.gradients().unwrap().write("backbone.a", &[gradient; 5]).unwrap();
            let _ = student.take_touched();
            optimizer.measure(student.gradients().unwrap(), &loss).unwrap();
            optimizer.update(&student, Some(&teacher), settings).unwrap();
            GradientReport::from_control(&optimizer.control().to_vec::<f32>().unwrap())
        };
        let report = step(START);
        assert!(report.finite && (report.norms[0] - 5f64.sqrt()).abs() < 1e-6, "the scale is taken out");
        assert_eq!(scale.get().unwrap(), state(START, 1));
        let report = step(f32::INFINITY);
        assert_eq!((report.finite, report.loss_scale), (false, Some(START as f64)));
        assert_eq!(scale.get().unwrap(), state(START / 2.0, 0), "halved by a step that was not finite");
        scale.set(state(START, INTERVAL - 2)).unwrap();
        step(1.0);
        assert_eq!(scale.get().unwrap(), state(START, INTERVAL - 1));
        step(1.0);
        assert_eq!(scale.get().unwrap(), state(2.0 * START, 0), "doubled by enough good steps");
    }
}

#[test]
fn three_steps_with_clipping_decay_and_moving_average() {
    let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, clip_grad: 0.7 };
    let settings = StepSettings { lr: 1e-2, last_layer_lr: 3e-3, weight_decay: 0.1, teacher_momentum: 0.9 };
    let specs: Vec<_> =
        NAMES.iter().map(|(n, len)| ParameterSpec::new(*n, &[*len], Init::Constant(0.0))).collect();
    for device in [Device::cpu(), ops::open(&DeviceChoice::Gpu).unwrap()] {
        // all in one buffer, and in as many as the smallest limit makes; in single and in mixed precision;
        // with and without a teacher
        let split = 4 * NORM_BLOCK;
        for (limit, mixed, averages) in [
            (usize::MAX, false, true),
            (split, false, true),
            (split, true, true),
            (usize::MAX, false, false),
            (split, false, false),
            (split, true, false),
        ] {
            let layout = FlatLayout::new(&specs, limit).unwrap();
            let values = FlatBuffers::zeros(&layout, &device).unwrap();
            let teacher = FlatBuffers::zeros(&layout, &device).unwrap();
            let mut reference: Vec<[Vec<f64>; 4]> = Vec::new();
            for (i, (name, len)) in NAMES.iter().enumerate() {
                let (p, t) = (random(10 + i as u64, *len), random(20 + i as u64, *len));
                values.write(name, &p).unwrap();
                teacher.write(name, &t).unwrap();
                let wide = |v: Vec<f32>| v.into_iter().map(f64::from).collect::<Vec<f64>>();
                reference.push([wide(p), wide(t), vec![0.0; *len], vec![0.0; *len]]);
            }
            let mut student = Parameters::trained(values).unwrap();
            let all = (0..NAMES.len()).map(multipliers).collect();
            let mut optimizer = AdamW::new(&layout, &device, config, all).unwrap();
            let teacher_halves = teacher.halves().unwrap();
            if mixed {
                student = student.with_halves().unwrap();
                let averaged = averages.then(|| teacher_halves.clone());
                let halves = student.halves().unwrap().clone();
                optimizer = optimizer.with_mixed_precision(halves, averaged).unwrap();
            }
            // the loss scale of mixed precision is a power of two: it changes no bit of the rest
            let scale = if mixed { START } else { 1.0 };
            let loss = Tensor::from_slice(&device, &[1], &[1.0f32]).unwrap();
            for step in 0..3u64 {
                let gradients: Vec<Vec<f32>> = NAMES
                    .iter()
                    .enumerate()
                    .map(|(i, (_, len))| random(100 * (step + 1) + i as u64, *len))
                    .collect();
                for (i, (name, len)) in NAMES.iter().enumerate().filter(|(i, _)| *i != 2) {
                    let tape = Tape::new();
                    let var = student.var(name).unwrap().view(|t| t.reshape(&[*len, 1])).unwrap();
                    let out = narrow_rows(&tape, &var, 0, *len).unwrap();
                    tape.backward(vec![(
                        &out,
                        Tensor::from_slice(&device, &[*len, 1], &scaled(&gradients[i], scale)).unwrap(),
                    )])
                    .unwrap();
                }
                optimizer.measure(student.gradients().unwrap(), &loss).unwrap();
                let report = GradientReport::from_control(&optimizer.control().to_vec::<f32>().unwrap());
                let square = |i: usize| gradients[i].iter().map(|g| (*g as f64).powi(2)).sum::<f64>();
                let norms = [(square(0) + square(1)).sqrt(), (square(3) + square(4) + square(5)).sqrt()];
                assert!(report.finite);
                assert_eq!(report.loss_scale, mixed.then_some(START as f64));
                for (got, want) in report.norms.iter().zip(norms) {
                    assert!((got / want - 1.0).abs() < 1e-6, "{got} {want}");
                }
                optimizer.update(&student, averages.then_some(&teacher), settings).unwrap();
                optimizer.applied += 1;
                let t = step as i32 + 1;
                for (i, [p, teacher, m, v]) in reference.iter_mut().enumerate() {
                    let k = multipliers(i);
                    let lr = k.lr * if k.last_layer { settings.last_layer_lr } else { settings.lr };
                    let clip = (config.clip_grad / (norms[usize::from(i > 2)] + 1e-6)).min(1.0);
                    for j in 0..p.len() {
                        if i != 2 {
                            let g = gradients[i][j] as f64 * clip;
                            m[j] = config.beta1 * m[j] + (1.0 - config.beta1) * g;
                            v[j] = config.beta2 * v[j] + (1.0 - config.beta2) * g * g;
                            let (mh, vh) =
                                (m[j] / (1.0 - config.beta1.powi(t)), v[j] / (1.0 - config.beta2.powi(t)));
                            p[j] = p[j] * (1.0 - lr * settings.weight_decay * k.weight_decay)
                                - lr * mh / (vh.sqrt() + config.eps);
                        }
                        if averages {
                            let keep = settings.teacher_momentum;
                            teacher[j] = keep * teacher[j] + (1.0 - keep) * p[j];
                        }
                    }
                }
            }
            for (i, (name, _)) in NAMES.iter().enumerate() {
                let [p, t, m, v] = &reference[i];
                let sets = [(student.values(), p), (&teacher, t), (&optimizer.m, m), (&optimizer.v, v)];
                for (what, (set, want)) in ["student", "teacher", "m", "v"].into_iter().zip(sets) {
                    let label = format!("{what} of {name} on {}, limit {limit}", device.kind());
                    assert_close(&label, &set.read(name).unwrap(), want, 2e-7, 5e-6);
                }
                let averaged = averages.then_some(&teacher_halves);
                for (set, halves) in [(student.values(), student.halves()), (&teacher, averaged)] {
                    let Some(halves) = halves.filter(|_| mixed) else { continue };
                    let rounded = set.read(name).unwrap().into_iter().map(f16::from_f32);
                    let halves = halves.get(name).unwrap().to_vec::<f16>().unwrap();
                    assert!(rounded.eq(halves), "{name} in half precision on {}", device.kind());
                }
                let left = student.gradients().unwrap().read(name).unwrap();
                assert!(left.iter().all(|g| *g == 0.0), "the gradient of {name} is zeroed");
            }
        }
    }
}
