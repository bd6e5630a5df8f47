//! Fused cross-entropy: losses and gradients of every row against f64.

use poa_gpu::ops::cross_entropy::{CrossEntropy, NO_TARGET, RowTargets, row_table};
use poa_gpu::ops::sinkhorn::{Targets, sinkhorn};
use poa_gpu::tensor::{DType, Device, Tensor};

use crate::sinkhorn::{chunks, reference as targets_of};
use crate::support::{Placing, devices, place, random};

const TEMPERATURE: f64 = 0.1;

pub fn log_softmax(s: &[f64], temperature: f64) -> Vec<f64> {
    let max = s.iter().fold(f64::NEG_INFINITY, |m, v| m.max(v / temperature));
    let lse = max + s.iter().map(|v| (v / temperature - max).exp()).sum::<f64>().ln();
    s.iter().map(|v| v / temperature - lse).collect()
}

/// −Σ p·log_softmax(s/τs)
pub fn cross_entropy(s: &[f64], p: &[f64]) -> f64 {
    -log_softmax(s, TEMPERATURE).iter().zip(p).map(|(l, p)| l * p).sum::<f64>()
}

/// Losses and gradients of a single prototype are zero, so nothing is taken relative to all of them.
#[track_caller]
fn close(what: &str, got: &[f32], want: &[f64], atol: f64, rtol: f64) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (*g as f64 - w).abs();
        assert!(error <= atol + rtol * w.abs(), "{what}: element {i} is {g}, {w} expected");
    }
    assert_eq!(got.len(), want.len(), "{what}");
}

struct Case {
    rows: usize,
    cols: usize,
    teacher_rows: usize,
    chunk: usize,
    scale: f32,
}

/// Rows with two targets, with one in either place, and with none.
fn table(case: &Case) -> Vec<RowTargets> {
    let (n, weights) = (case.teacher_rows as u32, random(77, 2 * case.rows));
    (0..case.rows)
        .map(|i| {
            let (a, b) = (i as u32 % n, (i as u32 + n / 2) % n);
            let rows = match i % 4 {
                0 | 1 => [a, b],
                2 => [NO_TARGET, b],
                _ if i % 8 == 3 => [a, NO_TARGET],
                _ => [NO_TARGET, NO_TARGET],
            };
            RowTargets { rows, weight: weights[2 * i].abs(), distill: weights[2 * i + 1].abs() }
        })
        .collect()
}

/// Runs the rows one chunk pair at a time: every row is a call of its own where chunks are small.
fn run(
    device: &Device,
    case: &Case,
    values: [&[f32]; 3],
    distill: bool,
    gradient: bool,
) -> (Vec<f32>, Vec<f32>) {
    let [student, partner, teacher] = values;
    let (n, k) = (case.rows, case.cols);
    let targets: Targets = sinkhorn(chunks(device, teacher, k, case.chunk).unwrap(), 0.05, 3).unwrap();
    let s = place(device, &[n, k], student, Placing::Strided).unwrap();
    let d = place(device, &[n, k], partner, Placing::Dense).unwrap();
    let rows = table(case);
    let all = row_table(device, &rows).unwrap();
    let losses = Tensor::empty(device, &[n, 2], DType::F32).unwrap();
    let chunk = |t: u32| if t == NO_TARGET { 0 } else { targets.chunk_of(t as usize).unwrap() };
    let single = targets.logits().len() == 1;
    let step = if single { n } else { 1 };
    for r in (0..n).step_by(step).map(|i| i..i + step) {
        CrossEntropy {
            logits: &s.slice(0, r.clone()).unwrap(),
            partner: distill.then_some(&d.slice(0, r.clone()).unwrap()),
            targets: &targets,
            chunks: rows[r.start].rows.map(|t| if single { 0 } else { chunk(t) }),
            table: &all.slice(0, r.clone()).unwrap(),
            losses: &losses.slice(0, r.clone()).unwrap(),
            temperature: TEMPERATURE,
            gradient,
        }
        .run()
        .unwrap();
    }
    assert!(losses.fences_intact().unwrap(), "losses were written beside");
    (losses.to_vec().unwrap(), s.to_vec().unwrap())
}

#[test]
fn rows_with_any_targets() {
    for case in [
        Case { rows: 1, cols: 1, teacher_rows: 1, chunk: 1, scale: 1.0 },
        Case { rows: 3, cols: 7, teacher_rows: 4, chunk: 4, scale: 1.0 },
        Case { rows: 17, cols: 24, teacher_rows: 6, chunk: 4, scale: 1.0 },
        Case { rows: 100, cols: 1000, teacher_rows: 30, chunk: 30, scale: 0.3 },
        Case { rows: 9, cols: 1000, teacher_rows: 10, chunk: 3, scale: 20.0 },
        Case { rows: 4, cols: 65_536, teacher_rows: 4, chunk: 4, scale: 0.3 },
    ] {
        let (n, k) = (case.rows, case.cols);
        let values = |seed: u64, rows: usize| -> Vec<f32> {
            random(seed, rows * k).iter().map(|v| v * case.scale).collect()
        };
        let teacher: Vec<f32> = random(3, case.teacher_rows * k).iter().map(|v| v * 0.3).collect();
        let (student, partner) = (values(1, n), values(2, n));
        let p = targets_of(&teacher, k, 0.05, 3);
        for distill in [false, true] {
            let (mut losses, mut gradients) = (Vec::new(), Vec::new());
            for (i, row) in table(&case).iter().enumerate() {
                let wide = |v: &[f32]| -> Vec<f64> { v[i * k..][..k].iter().map(|v| *v as f64).collect() };
                let s = wide(&student);
                let own: Vec<f64> = log_softmax(&s, TEMPERATURE).iter().map(|v| v.exp()).collect();
                let mut gradient = vec![0.0; k];
                let mut add = |target: &[f64], weight: f32| {
                    for ((g, o), t) in gradient.iter_mut().zip(&own).zip(target) {
                        *g += weight as f64 * (o - t) / TEMPERATURE;
                    }
                };
                let mut view = 0.0;
                for t in row.rows.into_iter().filter(|t| *t != NO_TARGET) {
                    let target = &p[t as usize * k..][..k];
                    view += cross_entropy(&s, target);
                    add(target, row.weight);
                }
                let mut distillation = 0.0;
                if distill {
                    let q: Vec<f64> =
                        log_softmax(&wide(&partner), TEMPERATURE).iter().map(|v| v.exp()).collect();
                    distillation = cross_entropy(&s, &q);
                    add(&q, row.distill);
                }
                losses.extend([view, distillation]);
                gradients.extend(gradient);
            }
            // losses are differences of numbers of the logits' size
            let size = student.iter().fold(0.0f64, |m, v| m.max(v.abs() as f64 / TEMPERATURE));
            for device in devices() {
                let what = format!("cross-entropy {n}x{k} distill {distill} on {}", device.kind());
                let (got, ds) = run(&device, &case, [&student, &partner, &teacher], distill, true);
                close(&format!("{what}: losses"), &got, &losses, 3e-7 * size.max(1.0), 2e-6);
                let largest = gradients.iter().fold(1.0f64, |m, v| m.max(v.abs()));
                close(
                    &format!("{what}: gradient"),
                    &ds,
                    &gradients,
                    1e-6 * largest * (size / 8.0).max(1.0),
                    4e-6,
                );
                let worst = got
                    .iter()
                    .zip(&losses)
                    .filter(|(_, l)| **l > 1e-3)
                    .map(|(g, l)| (*g as f64 / l - 1.0).abs());
                println!("{what}: losses to {:.1e}", worst.fold(0.0, f64::max));
                let (again, s) = run(&device, &case, [&student, &partner, &teacher], distill, false);
                close(&format!("{what}: losses alone"), &again, &losses, 3e-7 * size.max(1.0), 2e-6);
                assert!(s == student, "{what}: logits were changed without a gradient");
            }
        }
    }
}
