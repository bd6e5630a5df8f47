//! Attention: lengths, groups, head sizes, strides, and every plan.

use poa_gpu::Result;
use poa_gpu::autograd::{Tape, Var};
use poa_gpu::ops::attention::{Plan, Problem, SequenceGroup, attention, attention_planned, plan, plans};
use poa_gpu::tensor::Device;

use crate::support::{Operand, Tolerance, check, gpu};

fn groups(list: &[(usize, usize)]) -> Vec<SequenceGroup> {
    list.iter().map(|&(count, length)| SequenceGroup { count, length }).collect()
}

fn rows(groups: &[SequenceGroup]) -> usize {
    groups.iter().map(|g| g.count * g.length).sum()
}

fn reference(qkv: &[f64], groups: &[SequenceGroup], heads: usize, d: usize, scale: f64) -> Vec<f64> {
    let width = heads * d;
    let mut out = vec![0.0; rows(groups) * width];
    let lengths = groups.iter().flat_map(|g| std::iter::repeat_n(g.length, g.count));
    let mut first = 0;
    for t in lengths {
        for h in 0..heads {
            let part =
                |part: usize, row: usize| &qkv[(first + row) * 3 * width + part * width + h * d..][..d];
            for i in 0..t {
                let dot =
                    |j: usize| part(0, i).iter().zip(part(1, j)).map(|(a, b)| a * b).sum::<f64>() * scale;
                let scores: Vec<f64> = (0..t).map(dot).collect();
                let peak = scores.iter().fold(f64::MIN, |m, s| m.max(*s));
                let total: f64 = scores.iter().map(|s| (s - peak).exp()).sum();
                let o = &mut out[(first + i) * width + h * d..][..d];
                for (j, s) in scores.iter().enumerate() {
                    let w = (s - peak).exp() / total;
                    o.iter_mut().zip(part(2, j)).for_each(|(o, v)| *o += w * v);
                }
            }
        }
        first += t;
    }
    out
}

struct Case {
    groups: Vec<SequenceGroup>,
    heads: usize,
    d: usize,
    scale: f32,
}

impl Case {
    fn new(list: &[(usize, usize)], heads: usize, d: usize) -> Self {
        Self { groups: groups(list), heads, d, scale: 1.0 / (d as f32).sqrt() }
    }

    fn problem(&self) -> Problem {
        Problem { groups: self.groups.clone(), heads: self.heads, head_dim: self.d, half: false }
    }

    fn operand(&self) -> Operand {
        Operand::new(1, &[rows(&self.groups), 3 * self.heads * self.d])
    }

    fn label(&self) -> String {
        let list: Vec<_> = self.groups.iter().map(|g| (g.count, g.length)).collect();
        format!("attention of {list:?}, {} heads of {}", self.heads, self.d)
    }

    /// Checks with the plan that would be chosen, or another one.
    fn run(&self, operand: Operand, forced: Option<&Plan>) {
        let op = |tape: &Tape, v: &[Var]| -> Result<Vec<Var>> {
            let (groups, heads, scale) = (&self.groups, self.heads, self.scale);
            Ok(vec![match (forced, v[0].value().device()) {
                (Some(plan), Device::Gpu(_)) => attention_planned(tape, &v[0], groups, heads, scale, plan)?,
                _ => attention(tape, &v[0], groups, heads, scale)?,
            }])
        };
        let reference =
            |x: &[Vec<f64>]| vec![reference(&x[0], &self.groups, self.heads, self.d, self.scale as f64)];
        check(&format!("{}, {forced:?}", self.label()), &[operand], Tolerance::default(), op, &reference);
    }
}

fn all_plans(problem: &Problem) -> Vec<Plan> {
    let Device::Gpu(gpu) = gpu() else { unreachable!("gpu() is a GPU") };
    plans(problem, gpu.caps())
}

#[test]
fn of_one_sequence_of_any_length() {
    for length in [1, 2, 7, 17, 37, 65, 197] {
        let case = Case::new(&[(1, length)], 1, 16);
        case.run(case.operand(), None);
    }
}

#[test]
fn of_heads_of_any_size() {
    for d in [1, 4, 6, 8, 16, 20, 32, 64, 80, 127, 128] {
        let case = Case::new(&[(1, 19), (2, 5)], 2, d);
        case.run(case.operand(), None);
    }
}

#[test]
fn with_every_plan() {
    for d in [4, 30, 64] {
        let case = Case::new(&[(2, 21), (1, 37), (3, 1), (1, 9), (2, 8)], 2, d);
        for plan in all_plans(&case.problem()) {
            case.run(case.operand().strided(), Some(&plan));
        }
    }
    let case = Case::new(&[(1, 197), (2, 65)], 1, 8);
    for plan in all_plans(&case.problem()) {
        case.run(case.operand(), Some(&plan));
    }
}

#[test]
fn of_strided_rows_and_parameters() {
    for parameter in [false, true] {
        let case = Case::new(&[(2, 17), (0, 5), (3, 7)], 3, 12);
        let operand = case.operand().strided();
        case.run(if parameter { operand.parameter() } else { operand }, None);
    }
}

#[test]
fn of_more_groups_than_a_dispatch_takes() {
    let list: Vec<_> = (1..12).map(|i| (i % 3 + 1, i)).collect();
    let case = Case::new(&list, 2, 8);
    case.run(case.operand(), None);
}

#[test]
fn of_a_long_sequence() {
    let case = Case::new(&[(1, 2100)], 1, 4);
    case.run(case.operand().constant(), None);
}

#[test]
fn of_large_scores() {
    // exact products: a large score has no rounding to enlarge
    let mut case = Case::new(&[(1, 37)], 1, 16);
    case.scale = 64.0;
    for plan in all_plans(&case.problem()) {
        for factor in [1.0, 64.0, 65_536.0] {
            case.run(case.operand().map(|v| (v * 4.0).round() * factor).constant(), Some(&plan));
        }
    }
}

#[test]
fn a_second_use_adds_to_the_gradient() {
    let list = groups(&[(2, 11)]);
    check(
        "attention twice",
        &[Operand::new(1, &[22, 48])],
        Tolerance::default(),
        |tape, v| Ok(vec![attention(tape, &v[0], &list, 2, 0.3)?, attention(tape, &v[0], &list, 2, 0.9)?]),
        &|x| vec![reference(&x[0], &list, 2, 8, 0.3), reference(&x[0], &list, 2, 8, 0.9)],
    );
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let device = gpu();
    let tape = Tape::no_grad();
    let qkv = |rows: usize, cols: usize| {
        Var::constant(
            poa_gpu::tensor::Tensor::from_slice(&device, &[rows, cols], &vec![0.0f32; rows * cols]).unwrap(),
        )
    };
    assert!(attention(&tape, &qkv(7, 24), &groups(&[(2, 3)]), 2, 1.0).is_err());
    assert!(attention(&tape, &qkv(6, 24), &groups(&[(2, 3)]), 5, 1.0).is_err());
    assert!(attention(&tape, &qkv(6, 3 * 129), &groups(&[(2, 3)]), 1, 1.0).is_err());
    let Device::Gpu(gpu) = &device else { unreachable!("gpu() is a GPU") };
    let problem = Problem { groups: groups(&[(1, 4)]), heads: 1, head_dim: 64, half: false };
    assert!(plans(&problem, gpu.caps()).contains(&plan(&problem, gpu.caps()).unwrap()));
}
