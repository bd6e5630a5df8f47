//! One head's loss from features to a number: value, rows and every gradient, in any pieces.

use poa_gpu::Result;
use poa_gpu::autograd::{Tape, Var};
use poa_gpu::ops::cross_entropy::NO_TARGET;
use poa_gpu::ops::prototype_loss::{LossRow, LossRows, PrototypeLoss, Segment, prototype_loss};
use poa_gpu::ops::sinkhorn::sinkhorn;
use poa_gpu::tensor::{Device, Tensor};

use crate::cross_entropy::{cross_entropy, log_softmax};
use crate::sinkhorn::{chunks, reference as targets_of};
use crate::support::{Operand, Tolerance, assert_close, check, devices, random};
use crate::weight_norm::reference as weight_norm;

const TEMPERATURE: f64 = 0.1;
const LAMBDA: f32 = 0.8;

/// A batch of images with global and local crops and some masked patches.
#[derive(Clone, Copy)]
struct Case {
    images: usize,
    locals: usize,
    masked: usize,
    width: usize,
    prototypes: usize,
    /// Rows of a chunk of teacher logits.
    chunk: usize,
    budget: Option<usize>,
}

const SMALL: Case =
    Case { images: 3, locals: 2, masked: 7, width: 16, prototypes: 24, chunk: 100, budget: None };

impl Case {
    fn cls_rows(&self) -> usize {
        self.images * (2 + self.locals)
    }

    fn rows(&self) -> usize {
        self.cls_rows() + self.masked
    }

    /// Global crops meet the other view, local crops both; weights as in the paper's loss.
    fn table(&self) -> Vec<LossRow> {
        let (b, terms) = (self.images as u32, (2 + 2 * self.locals) as f32);
        let row = |targets, weight: f32, distill| LossRow {
            targets,
            intact: LAMBDA * weight,
            elastic: (1.0 - LAMBDA) * weight,
            distill: (1.0 - LAMBDA) * distill,
        };
        let mut rows = Vec::new();
        let (globals, locals) = (2.0 * b as f32, self.locals as f32 * b as f32);
        for i in 0..2 * b {
            rows.push(row([(i + b) % (2 * b), NO_TARGET], 2.0 / terms / globals, 1.0 / globals));
        }
        for i in 0..self.locals as u32 * b {
            rows.push(row([i % b, i % b + b], 1.0 / terms / b as f32, 1.0 / locals));
        }
        rows.extend((0..self.masked as u32).map(|i| row([NO_TARGET, i], 0.5 / (1.0 + i as f32), 0.0)));
        rows
    }

    fn teacher(&self) -> [Vec<f32>; 2] {
        let logits =
            |seed, rows: usize| random(seed, rows * self.prototypes).iter().map(|v| v * 0.3).collect();
        [logits(11, 2 * self.images), logits(12, self.masked)]
    }

    /// Unit rows, as the bottleneck gives them, and prototypes.
    fn operands(&self) -> [Operand; 4] {
        let (n, d, k) = (self.rows(), self.width, self.prototypes);
        let unit = |seed| {
            let mut z = Operand::new(seed, &[n, d]);
            for row in z.values.chunks_mut(d) {
                let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                row.iter_mut().for_each(|v| *v /= norm);
            }
            z
        };
        [
            unit(1),
            unit(2).strided(),
            Operand::new(3, &[k, d]).parameter().strided(),
            Operand::new(4, &[k, 1]).map(|g| 1.0 + 0.1 * g).parameter(),
        ]
    }

    fn reference(&self, x: &[Vec<f64>]) -> (f64, [Vec<f64>; 2]) {
        let (d, k) = (self.width, self.prototypes);
        let w = weight_norm(&x[2], &x[3]);
        let logits = |z: &[f64]| -> Vec<Vec<f64>> {
            let dot = |z: &[f64], w: &[f64]| z.iter().zip(w).map(|(a, b)| a * b).sum::<f64>();
            z.chunks(d).map(|z| w.chunks(d).map(|w| dot(z, w)).collect()).collect()
        };
        let students = [logits(&x[0]), logits(&x[1])];
        let teacher = self.teacher();
        let targets = [targets_of(&teacher[0], k, 0.05, 3), targets_of(&teacher[1], k, 0.05, 3)];
        let (mut total, mut losses) = (0.0, [Vec::new(), Vec::new()]);
        for (i, row) in self.table().iter().enumerate() {
            let targets = &targets[(i >= self.cls_rows()) as usize];
            for (student, (s, weight)) in students.iter().zip([row.intact, row.elastic]).enumerate() {
                let view: f64 = row
                    .targets
                    .iter()
                    .filter(|t| **t != NO_TARGET)
                    .map(|t| cross_entropy(&s[i], &targets[*t as usize * k..][..k]))
                    .sum();
                total += weight as f64 * view;
                losses[student].push(view);
                let mut distill = 0.0;
                if student == 1 && i < self.cls_rows() {
                    // the partner is detached; see `partner` below
                    let q: Vec<f64> =
                        log_softmax(&self.partner(i), TEMPERATURE).iter().map(|v| v.exp()).collect();
                    distill = cross_entropy(&s[i], &q);
                    total += row.distill as f64 * distill;
                }
                losses[student].push(distill);
            }
        }
        (total, losses)
    }

    /// The intact student's logits of a row at the operands themselves: no gradient flows through them.
    fn partner(&self, row: usize) -> Vec<f64> {
        let [z, _, v, g] = self.operands().map(|o| o.values.iter().map(|v| *v as f64).collect::<Vec<f64>>());
        let z = &z[row * self.width..][..self.width];
        weight_norm(&v, &g).chunks(self.width).map(|w| w.iter().zip(z).map(|(a, b)| a * b).sum()).collect()
    }

    fn run<T>(
        &self,
        tape: &Tape,
        intact: &Var,
        elastic: Option<&Var>,
        v: &Var,
        g: &Var,
        f: impl Fn(Var, Tensor, Option<Tensor>) -> Result<T>,
    ) -> Result<T> {
        let device: Device = v.value().device().clone();
        let [cls, masked] = self.teacher();
        let cls = sinkhorn(chunks(&device, &cls, self.prototypes, self.chunk)?, 0.05, 3)?;
        let masked = sinkhorn(chunks(&device, &masked, self.prototypes, self.chunk)?, 0.05, 3)?;
        let segments = [
            Segment { rows: 0..self.cls_rows(), targets: &cls, distill: true },
            Segment { rows: self.cls_rows()..self.rows(), targets: &masked, distill: false },
        ];
        let rows = LossRows::new(&device, self.table())?;
        let call = PrototypeLoss {
            intact,
            elastic,
            v,
            g,
            rows: &rows,
            segments: &segments,
            temperature: TEMPERATURE,
            budget: self.budget,
            loss_scale: None,
        };
        let loss = prototype_loss(tape, &call)?;
        assert!(loss.intact.fences_intact()?, "losses were written beside");
        f(loss.total, loss.intact, loss.elastic)
    }
}

#[test]
fn in_any_pieces() {
    let row = SMALL.prototypes * 4;
    for (name, case) in [
        ("whole", SMALL),
        ("row by row", Case { budget: Some(1), ..SMALL }),
        ("three rows at a time", Case { budget: Some(3 * row), ..SMALL }),
        ("small teacher chunks", Case { chunk: 2, ..SMALL }),
        ("small teacher chunks, small pieces", Case { chunk: 4, budget: Some(2 * row), ..SMALL }),
        ("two prototypes", Case { prototypes: 2, ..SMALL }),
        ("many prototypes", Case { images: 2, prototypes: 1000, budget: Some(5 * 4000), ..SMALL }),
        ("no local crops", Case { locals: 0, masked: 1, ..SMALL }),
    ] {
        let [intact, elastic, v, g] = case.operands();
        // gradients through the prototypes include those of the distillation's elastic side only
        check(
            &format!("prototype loss, {name}"),
            &[intact, elastic, v, g],
            Tolerance { atol: 4e-6, rtol: 4e-6 },
            |tape, x| {
                let total = case.run(tape, &x[0], Some(&x[1]), &x[2], &x[3], |total, _, _| Ok(total))?;
                Ok(vec![total])
            },
            &|x| vec![vec![case.reference(x).0]],
        );
    }
}

#[test]
fn rows_alone_and_frozen_prototypes() {
    let case = Case { locals: 3, images: 5, prototypes: 100, budget: Some(4000), ..SMALL };
    let inputs: Vec<Vec<f64>> =
        case.operands().iter().map(|o| o.values.iter().map(|v| *v as f64).collect()).collect();
    let (want, losses) = case.reference(&inputs);
    for device in devices() {
        let values = case.operands().map(|o| Tensor::from_slice(&device, &o.shape, &o.values).unwrap());
        let [intact, elastic, v, g] = values.map(Var::constant);
        let tape = Tape::no_grad();
        let (total, rows) = case
            .run(&tape, &intact, Some(&elastic), &v, &g, |total, a, b| Ok((total, [Some(a), b])))
            .unwrap();
        assert!(!total.is_tracked());
        let relative = (total.value().item().unwrap() as f64 / want - 1.0).abs();
        println!("prototype loss on {}: {relative:.1e}", device.kind());
        assert!(relative < 1e-6, "{relative:e}");
        for (got, want) in rows.into_iter().zip(&losses) {
            assert_close("row losses", &got.unwrap().to_vec::<f32>().unwrap(), want, 2e-6, 2e-6);
        }

        // the intact student alone, prototypes without gradient
        let tape = Tape::new();
        let z = tape.leaf(intact.value().clone());
        let total = case
            .run(&tape, &z, None, &v, &g, |total, _, elastic| {
                assert!(elastic.is_none());
                Ok(total)
            })
            .unwrap();
        let want: f64 =
            case.table().iter().enumerate().map(|(i, r)| r.intact as f64 * losses[0][2 * i]).sum();
        assert!((total.value().item().unwrap() as f64 / want - 1.0).abs() < 1e-6);
        let one = Tensor::from_slice(&device, &[1], &[1.0f32]).unwrap();
        let gradients = tape.backward(vec![(&total, one)]).unwrap();
        let dz = gradients.get(&z).unwrap().to_vec::<f32>().unwrap();
        assert!(dz.iter().all(|v| v.is_finite()) && dz.iter().any(|v| *v != 0.0));
    }
}

/// Pieces change the order of sums, and with it their rounding, and nothing else.
#[test]
fn losses_and_gradients_are_the_same_in_any_pieces() {
    let case = Case { images: 8, prototypes: 500, ..SMALL };
    for device in devices() {
        let run = |budget| -> Vec<Vec<f32>> {
            let case = Case { budget, ..case };
            let tape = Tape::new();
            let values = case.operands().map(|o| Tensor::from_slice(&device, &o.shape, &o.values).unwrap());
            let [a, b, v, g] = values.map(|t| tape.leaf(t));
            let (total, losses) = case
                .run(&tape, &a, Some(&b), &v, &g, |total, a, b| Ok((total, [a, b.expect("is there")])))
                .unwrap();
            let one = Tensor::from_slice(&device, &[1], &[1.0f32]).unwrap();
            let gradients = tape.backward(vec![(&total, one)]).unwrap();
            let rows = losses.iter().map(|t| t.to_vec::<f32>().unwrap());
            let gradients = [&a, &b, &v, &g].map(|var| gradients.get(var).unwrap().to_vec::<f32>().unwrap());
            rows.chain(gradients).collect()
        };
        let whole = run(None);
        for budget in [3 * 2000, 10 * 2000] {
            for (got, want) in run(Some(budget)).iter().zip(&whole) {
                let want: Vec<f64> = want.iter().map(|v| *v as f64).collect();
                assert_close(&format!("{budget} on {}", device.kind()), got, &want, 1e-6, 1e-6);
            }
        }
    }
}

#[test]
fn the_same_bits_every_time() {
    let case = Case { prototypes: 500, budget: Some(8000), ..SMALL };
    for device in devices() {
        let run = || {
            let tape = Tape::new();
            let values = case.operands().map(|o| Tensor::from_slice(&device, &o.shape, &o.values).unwrap());
            let [a, b, v, g] = values.map(|t| tape.leaf(t));
            let total = case.run(&tape, &a, Some(&b), &v, &g, |total, _, _| Ok(total)).unwrap();
            let one = Tensor::from_slice(&device, &[1], &[0.25f32]).unwrap();
            let gradients = tape.backward(vec![(&total, one)]).unwrap();
            let mut all = total.value().to_vec::<f32>().unwrap();
            for var in [&a, &b, &v, &g] {
                all.extend(gradients.get(var).unwrap().to_vec::<f32>().unwrap());
            }
            all.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(run(), run(), "on {}", device.kind());
    }
}
