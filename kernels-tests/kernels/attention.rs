//! Attention: lengths, groups, head sizes, strides, and every plan.

use poa_gpu::Result;
use poa_gpu::autograd::{Tape, Var};
use poa_gpu::ops::attention::{
    Plan, Problem, Queries, SequenceGroup, attention, attention_of, attention_of_planned, attention_planned,
    plan, plans,
};
use poa_gpu::tensor::{Device, Tensor};

use crate::support::{Operand, Tolerance, check, gpu};

fn groups(list: &[(usize, usize)]) -> Vec<SequenceGroup> {
    list.iter().map(|&(count, length)| SequenceGroup { count, length }).collect()
}

fn rows(groups: &[SequenceGroup]) -> usize {
    groups.iter().map(|g| g.count * g.length).sum()
}

fn lengths(groups: &[SequenceGroup]) -> Vec<usize> {
    groups.iter().flat_map(|g| std::iter::repeat_n(g.length, g.count)).collect()
}

/// Attention of `counts` queries of each sequence, where `q(row)` is the row of q and `kv(row)` that of k and v.
fn attend<'a>(
    groups: &[SequenceGroup],
    counts: &[usize],
    [heads, d]: [usize; 2],
    scale: f64,
    q: impl Fn(usize) -> &'a [f64],
    kv: impl Fn(usize) -> &'a [f64],
) -> Vec<f64> {
    let width = heads * d;
    let mut out = Vec::new();
    let (mut query, mut key) = (0, 0);
    for (&count, t) in counts.iter().zip(lengths(groups)) {
        for i in 0..count {
            for h in 0..heads {
                let part = |part: usize, row: usize| &kv(key + row)[part * width + h * d..][..d];
                let dot = |j: usize| {
                    q(query + i)[h * d..][..d].iter().zip(part(0, j)).map(|(a, b)| a * b).sum::<f64>() * scale
                };
                let scores: Vec<f64> = (0..t).map(dot).collect();
                let peak = scores.iter().fold(f64::MIN, |m, s| m.max(*s));
                let total: f64 = scores.iter().map(|s| (s - peak).exp()).sum();
                let mut o = vec![0.0; d];
                for (j, s) in scores.iter().enumerate() {
                    let w = (s - peak).exp() / total;
                    o.iter_mut().zip(part(1, j)).for_each(|(o, v)| *o += w * v);
                }
                out.extend(o);
            }
        }
        query += count;
        key += t;
    }
    out
}

fn reference(qkv: &[f64], groups: &[SequenceGroup], heads: usize, d: usize, scale: f64) -> Vec<f64> {
    let width = heads * d;
    let row = |row: usize| &qkv[row * 3 * width..][..3 * width];
    attend(groups, &lengths(groups), [heads, d], scale, row, |r| &row(r)[width..])
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

/// Queries of some tokens alone: sequences and how many each asks.
struct Asked {
    groups: Vec<SequenceGroup>,
    counts: Vec<usize>,
    heads: usize,
    d: usize,
}

impl Asked {
    fn new(list: &[(usize, usize)], counts: &[usize], heads: usize, d: usize) -> Self {
        Self { groups: groups(list), counts: counts.to_vec(), heads, d }
    }

    fn operand(&self) -> Operand {
        let queries: usize = self.counts.iter().sum();
        Operand::new(1, &[(queries + 2 * rows(&self.groups)) * self.heads * self.d])
    }

    fn plans(&self) -> Vec<Plan> {
        let groups = self.groups.clone();
        all_plans(&Problem { groups, heads: self.heads, head_dim: self.d, half: false })
    }

    fn run(&self, operand: Operand, uses: usize, forced: Option<&Plan>) {
        let scale = 1.0 / (self.d as f32).sqrt();
        let heads = [self.heads, self.d];
        let width = self.heads * self.d;
        let op = |tape: &Tape, v: &[Var]| -> Result<Vec<Var>> {
            let device = v[0].value().device();
            let words = Queries::words(&self.groups, &self.counts);
            let queries =
                Queries::new(self.counts.clone(), Tensor::from_slice(device, &[words.len()], &words)?)?;
            let once = |_| match (forced, device) {
                (Some(plan), Device::Gpu(_)) => {
                    attention_of_planned(tape, &v[0], &self.groups, &queries, heads, scale, plan)
                }
                _ => attention_of(tape, &v[0], &self.groups, &queries, heads, scale),
            };
            (0..uses).map(once).collect()
        };
        let reference = |x: &[Vec<f64>]| {
            let (q, kv) = x[0].split_at(self.counts.iter().sum::<usize>() * width);
            let (q, kv) = (|r| &q[r * width..][..width], |r| &kv[r * 2 * width..][..2 * width]);
            vec![attend(&self.groups, &self.counts, heads, f64::from(scale), q, kv); uses]
        };
        let label = format!("attention of {:?} of {:?}, {heads:?}, {forced:?}", self.counts, self.groups);
        check(&label, &[operand], Tolerance::default(), op, &reference);
    }
}

#[test]
fn of_some_queries_with_every_plan() {
    let case = Asked::new(&[(2, 21), (1, 37), (3, 1), (2, 9)], &[21, 1, 19, 1, 0, 1, 3, 0], 2, 16);
    for plan in case.plans() {
        case.run(case.operand(), 1, Some(&plan));
    }
}

#[test]
fn of_some_queries_of_heads_of_any_size() {
    for d in [4, 30, 64] {
        let case = Asked::new(&[(2, 21), (1, 37), (1, 9)], &[21, 1, 19, 0], 2, d);
        case.run(case.operand().strided(), 1, None);
    }
    // class tokens and masked patches of large crops, class tokens of small ones, rows at multiples of four
    let case = Asked::new(&[(3, 197), (4, 37)], &[99, 1, 40, 1, 1, 1, 1], 1, 16);
    case.run(case.operand().vec4_aligned(), 1, None);
}

#[test]
fn a_second_use_of_some_queries_adds_to_the_gradient() {
    let case = Asked::new(&[(2, 11), (1, 5)], &[3, 1, 2], 3, 8);
    case.run(case.operand(), 2, None);
}

#[test]
fn all_queries_asked_for_give_what_attention_gives() {
    let (list, counts) = ([(2, 21), (1, 37)], [21, 21, 37]);
    let (case, whole) = (Asked::new(&list, &counts, 2, 16), Case::new(&list, 2, 16));
    let (rows, width) = (79, 32);
    let operand = whole.operand();
    for device in [Device::cpu(), gpu()] {
        let tape = Tape::no_grad();
        let qkv = Tensor::from_slice(&device, &[rows, 3 * width], &operand.values).unwrap();
        let of_all = attention(&tape, &Var::constant(qkv), &whole.groups, 2, whole.scale).unwrap();
        let parts = operand.values.chunks_exact(3 * width);
        let q = parts.clone().flat_map(|row| &row[..width]);
        let packed: Vec<f32> = q.chain(parts.flat_map(|row| &row[width..])).copied().collect();
        let packed = Var::constant(Tensor::from_slice(&device, &[packed.len()], &packed).unwrap());
        let words = Queries::words(&case.groups, &case.counts);
        let table = Tensor::from_slice(&device, &[words.len()], &words).unwrap();
        let queries = Queries::new(case.counts.clone(), table).unwrap();
        let asked = attention_of(&tape, &packed, &case.groups, &queries, [2, 16], whole.scale).unwrap();
        assert_eq!(of_all.value().to_vec::<f32>().unwrap(), asked.value().to_vec::<f32>().unwrap());
    }
}

#[test]
fn queries_that_do_not_fit_are_errors() {
    let (device, tape) = (gpu(), Tape::no_grad());
    let of = |counts: &[usize], elements: usize| -> Result<Var> {
        let list = groups(&[(2, 3)]);
        let words = Queries::words(&list, counts);
        let table = Tensor::from_slice(&device, &[words.len()], &words)?;
        let qkv = Var::constant(Tensor::from_slice(&device, &[elements], &vec![0.0f32; elements])?);
        attention_of(&tape, &qkv, &list, &Queries::new(counts.to_vec(), table)?, [1, 4], 1.0)
    };
    assert!(of(&[1, 2], 4 * (3 + 12)).is_ok());
    assert!(of(&[1, 2], 4 * (4 + 12)).is_err());
    assert!(of(&[1], 4 * (1 + 12)).is_err());
    let table = Tensor::from_slice(&device, &[4], &[0u32; 4]).unwrap();
    assert!(Queries::new(vec![1, 2], table).is_err());
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
