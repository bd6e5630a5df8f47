//! The optimiser's pass over flat buffers, split and whole, against a float64 loop.

use half::f16;
use poa_gpu::autograd::Tape;
use poa_gpu::collective::{Collective, PATIENCE, Threads};
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::nn::parameters::{FlatBuffers, FlatLayout, Init, NORM_BLOCK, ParameterSpec, Parameters};
use poa_gpu::ops;
use poa_gpu::ops::gather::narrow_rows;
use poa_gpu::optim::adamw::{AdamW, AdamWConfig, GradientReport, Multipliers, StepSettings};
use poa_gpu::optim::adamw_own::Moment;
use poa_gpu::optim::loss_scale::{INTERVAL, START, ScaleState};
use poa_gpu::optim::shard::{BUCKET, Shard, buckets};
use poa_gpu::share::Share;
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

/// What differs between the runs of [`steps`].
#[derive(Clone, Copy, Debug)]
struct Case {
    gpu: bool,
    limit: usize,
    mixed: bool,
    averages: bool,
}

/// All bits that some steps leave, one of them not finite, of one rank of several; moments on the first.
fn steps(case: Case, ranks: &Collective) -> Vec<Vec<u32>> {
    let specs = [
        ("backbone.a", 2 * NORM_BLOCK + 900),
        ("backbone.b", 197),
        ("dino_head.c", 5000),
        ("dino_head.last_layer0.weight_v", 130),
    ]
    .map(|(name, n)| ParameterSpec::new(name, &[n], Init::Constant(0.0)));
    let device = if case.gpu { ops::open(&DeviceChoice::Gpu).unwrap() } else { Device::cpu() };
    let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, clip_grad: 0.7 };
    let settings = StepSettings { lr: 1e-2, last_layer_lr: 3e-3, weight_decay: 0.1, teacher_momentum: 0.9 };
    let layout = FlatLayout::new(&specs, case.limit).unwrap();
    let [values, teacher] = [0, 1].map(|_| FlatBuffers::zeros(&layout, &device).unwrap());
    for (i, spec) in specs.iter().enumerate() {
        values.write(&spec.name, &random(10 + i as u64, spec.shape[0])).unwrap();
        teacher.write(&spec.name, &random(20 + i as u64, spec.shape[0])).unwrap();
    }
    let mut student = Parameters::trained(values).unwrap();
    let share = Share { rank: ranks.rank(), ranks: ranks.size() };
    let shard = (!ranks.is_alone()).then(|| Shard::new(&layout, &device, share, ranks).unwrap());
    let all = [0, 1, 2, 5].map(multipliers).to_vec();
    let mut optimizer = AdamW::of_shard(&layout, &device, config, all, shard).unwrap();
    let mut averaged = None;
    if case.mixed {
        student = student.with_halves().unwrap();
        averaged = case.averages.then(|| teacher.halves().unwrap());
        let halves = student.halves().unwrap().clone();
        optimizer = optimizer.with_mixed_precision(halves, averaged.clone()).unwrap();
    }
    let loss = Tensor::from_slice(&device, &[1], &[1.0f32]).unwrap();
    let gradients = student.gradients().unwrap();
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for step in 0..4 {
        for (i, spec) in specs.iter().enumerate() {
            let mut values = random(100 * (step + 1) + i as u64, spec.shape[0]);
            if (step, i) == (1, 0) {
                values[NORM_BLOCK + 7] = f32::NAN;
            }
            gradients.write(&spec.name, &values).unwrap();
        }
        for (buffer, range) in buckets(&layout, BUCKET) {
            let Some(shard) = optimizer.shard() else { break };
            let own = shard.own(&range);
            for others in [range.start..own.start, own.end..range.end].into_iter().filter(|r| !r.is_empty()) {
                let junk = vec![f32::INFINITY; others.len()];
                gradients.buffers()[buffer].slice(0, others).unwrap().upload(&junk).unwrap();
            }
        }
        // in the last step the heads get none
        student.touch_modules(&[true, step < 3]);
        optimizer.measure(gradients, &loss).unwrap();
        optimizer.update(&student, case.averages.then_some(&teacher), settings).unwrap();
        let control = optimizer.control().to_vec::<f32>().unwrap();
        assert_eq!(GradientReport::from_control(&control).finite, step != 1);
        optimizer.applied += u64::from(step != 1);
        seen.push(control);
        let left = gradients.buffers().iter().flat_map(|b| b.to_vec::<f32>().unwrap());
        assert!(left.into_iter().all(|g| g == 0.0), "gradients are zeroed");
        for buffers in [student.values(), &teacher] {
            seen.extend(buffers.buffers().iter().map(|b| b.to_vec::<f32>().unwrap()));
        }
    }
    let mut bits: Vec<Vec<u32>> = seen.iter().map(|v| v.iter().map(|v| v.to_bits()).collect()).collect();
    for halves in [student.halves(), averaged.as_ref()].into_iter().flatten() {
        let of = |b: &Tensor| b.to_vec::<f16>().unwrap().iter().map(|v| u32::from(v.to_bits())).collect();
        bits.extend(halves.buffers().iter().map(of));
    }
    if ranks.leads() {
        for moment in [Moment::First, Moment::Second] {
            for spec in &specs {
                let values = optimizer.read_moment(moment, &spec.name).unwrap();
                bits.push(values.iter().map(|v| v.to_bits()).collect());
                // and back again
                let changed: Vec<f32> = values.iter().map(|v| v + 1.0).collect();
                optimizer.write_moment(moment, &spec.name, &changed).unwrap();
                assert_eq!(optimizer.read_moment(moment, &spec.name).unwrap(), changed);
            }
        }
    }
    optimizer.attend().unwrap();
    bits
}

fn split_over_ranks(gpu: bool, mixed: bool) {
    for (limit, averages, size) in
        [(usize::MAX, true, 2), (3 * 4 * NORM_BLOCK, true, 3), (usize::MAX, false, 3), (usize::MAX, true, 7)]
    {
        let case = Case { gpu, limit, mixed, averages };
        let whole = steps(case, &Collective::alone());
        let all: Vec<_> = std::thread::scope(|scope| {
            let run = |side: Threads| {
                scope.spawn(move || steps(case, &Collective::over(move || Ok(side), PATIENCE).unwrap()))
            };
            let threads: Vec<_> = Threads::meeting(size).into_iter().map(run).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (rank, bits) in all.iter().enumerate() {
            assert!(*bits == whole[..bits.len()], "rank {rank} of {size}, {case:?}");
        }
        assert!(all[0].len() == whole.len() && all[1].len() == whole.len() - 8);
    }
}

#[test]
fn split_over_ranks_it_has_the_bits_of_the_whole() {
    for gpu in [false, true] {
        split_over_ranks(gpu, false);
    }
}

#[test]
fn split_over_ranks_it_has_the_bits_of_the_whole_in_half_precision() {
    for gpu in [false, true] {
        split_over_ranks(gpu, true);
    }
}
