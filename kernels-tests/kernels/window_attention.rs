//! Attention inside windows: padded, shifted and ragged maps of several sizes, sliced bias tables, and every
//! plan.

use poa_gpu::Result;
use poa_gpu::autograd::{Tape, Var};
use poa_gpu::ops::attention::{Plan, plans};
use poa_gpu::ops::window_attention::{
    MapGroup, Windows, problem, window_attention, window_attention_planned,
};
use poa_gpu::tensor::Device;

use crate::support::{Operand, Tolerance, check, devices, gpu};

struct Case {
    maps: Vec<MapGroup>,
    window: usize,
    shift: usize,
    heads: usize,
    d: usize,
}

/// A token of a window: its place in the window, its row (`None` for padding) and its region.
struct Token {
    y: usize,
    x: usize,
    row: Option<usize>,
    region: (usize, usize),
}

impl Case {
    fn new(maps: &[(usize, usize, usize)], window: usize, shift: usize, heads: usize, d: usize) -> Self {
        let maps = maps.iter().map(|&(count, height, width)| MapGroup { count, height, width }).collect();
        Self { maps, window, shift, heads, d }
    }

    fn rows(&self) -> usize {
        self.maps.iter().map(MapGroup::rows).sum()
    }

    fn padded(&self) -> bool {
        let odd = |side: usize| !side.is_multiple_of(self.window);
        self.maps.iter().any(|m| m.count > 0 && (odd(m.height) || odd(m.width)))
    }

    fn scale(&self) -> f32 {
        (self.d as f32).powf(-0.5)
    }

    fn operands(&self) -> [Operand; 2] {
        let span = 2 * self.window - 1;
        let rows = self.rows() + self.padded() as usize;
        [Operand::new(1, &[rows, 3 * self.heads * self.d]), Operand::new(2, &[span * span, self.heads])]
    }

    /// All windows, as the definition has them: pad, roll, cut.
    fn windows(&self) -> Vec<Vec<Token>> {
        let (w, s) = (self.window, self.shift);
        let (mut all, mut first) = (Vec::new(), 0);
        for map in &self.maps {
            let (down, across) = (map.height.div_ceil(w) * w, map.width.div_ceil(w) * w);
            let region = |i: usize, length: usize| match s {
                0 => 0,
                _ if i < length - w => 0,
                _ if i < length - s => 1,
                _ => 2,
            };
            for _ in 0..map.count {
                for (top, left) in (0..down / w).flat_map(|y| (0..across / w).map(move |x| (y * w, x * w))) {
                    let token = |t: usize| {
                        let (y, x) = (top + t / w, left + t % w);
                        let (from_y, from_x) = ((y + s) % down, (x + s) % across);
                        let inside = from_y < map.height && from_x < map.width;
                        Token {
                            y: t / w,
                            x: t % w,
                            row: inside.then(|| first + from_y * map.width + from_x),
                            region: (region(y, down), region(x, across)),
                        }
                    };
                    all.push((0..w * w).map(token).collect());
                }
                first += map.height * map.width;
            }
        }
        all
    }

    fn reference(&self, qkv: &[f64], bias: &[f64]) -> Vec<f64> {
        let (w, d, width) = (self.window, self.d, self.heads * self.d);
        let mut out = vec![0.0; self.rows() * width];
        for window in self.windows() {
            for h in 0..self.heads {
                let part = |part: usize, token: &Token| {
                    let row = token.row.unwrap_or(self.rows());
                    &qkv[row * 3 * width + part * width + h * d..][..d]
                };
                for query in window.iter().filter(|t| t.row.is_some()) {
                    let score = |key: &Token| {
                        let dot: f64 = part(0, query).iter().zip(part(1, key)).map(|(a, b)| a * b).sum();
                        let r = (query.y + w - 1 - key.y) * (2 * w - 1) + query.x + w - 1 - key.x;
                        let mask = if query.region == key.region { 0.0 } else { -100.0 };
                        dot * f64::from(self.scale()) + bias[r * self.heads + h] + mask
                    };
                    let scores: Vec<f64> = window.iter().map(score).collect();
                    let peak = scores.iter().fold(f64::MIN, |m, s| m.max(*s));
                    let total: f64 = scores.iter().map(|s| (s - peak).exp()).sum();
                    let o = &mut out[query.row.unwrap() * width + h * d..][..d];
                    for (key, s) in window.iter().zip(&scores) {
                        let share = (s - peak).exp() / total;
                        o.iter_mut().zip(part(2, key)).for_each(|(o, v)| *o += share * v);
                    }
                }
            }
        }
        out
    }

    /// Checks with the plan that would be chosen, or another one.
    fn run(&self, operands: [Operand; 2], forced: Option<&Plan>) {
        let op = |tape: &Tape, v: &[Var]| -> Result<Vec<Var>> {
            let device = v[0].value().device();
            let windows = Windows::new(device, &self.maps, self.window, self.shift)?;
            let (heads, scale) = (self.heads, self.scale());
            Ok(vec![match (forced, device) {
                (Some(plan), Device::Gpu(_)) => {
                    window_attention_planned(tape, &v[0], &v[1], &windows, (heads, scale), plan)?
                }
                _ => window_attention(tape, &v[0], &v[1], &windows, heads, scale)?,
            }])
        };
        let label = format!(
            "window attention of {:?}, windows of {} shifted by {}, {} heads of {}, {forced:?}",
            self.maps, self.window, self.shift, self.heads, self.d
        );
        check(&label, &operands, Tolerance::default(), op, &|x| vec![self.reference(&x[0], &x[1])]);
    }
}

#[test]
fn of_maps_that_fit() {
    for (window, side) in [(2, 4), (4, 8), (7, 7), (12, 12)] {
        for shift in [0, window / 2] {
            let case = Case::new(&[(1, side, side)], window, shift, 1, 8);
            case.run(case.operands(), None);
        }
    }
    // a token alone: its weight is one whatever the bias, which has no gradient to compare
    let case = Case::new(&[(1, 3, 3)], 1, 0, 1, 8);
    let [qkv, bias] = case.operands();
    case.run([qkv, bias.constant()], None);
}

#[test]
fn of_padded_maps() {
    for shift in [0, 1, 2] {
        for (height, width) in [(1, 1), (2, 2), (4, 3), (5, 4), (6, 9)] {
            let case = Case::new(&[(2, height, width)], 4, shift, 2, 4);
            case.run(case.operands(), None);
        }
    }
}

#[test]
fn of_maps_of_several_sizes() {
    // padded and not, on both sides of a group without maps
    let case = Case::new(&[(2, 6, 6), (3, 2, 4), (0, 5, 5), (1, 3, 3)], 3, 1, 3, 6);
    case.run(case.operands(), None);
}

#[test]
fn of_heads_of_any_size() {
    for d in [1, 4, 12, 16, 20, 24, 32, 40, 64, 128] {
        let case = Case::new(&[(1, 5, 4)], 4, 2, 2, d);
        case.run(case.operands(), None);
    }
}

#[test]
fn of_strided_slices_and_parameters() {
    let case = Case::new(&[(2, 4, 4), (2, 3, 5)], 4, 2, 3, 8);
    let [qkv, bias] = case.operands();
    // the table of a narrower network is the first columns of a wider one's
    case.run([qkv.clone().strided(), bias.clone().strided().parameter()], None);
    case.run([qkv.clone().strided().parameter(), bias.clone().constant()], None);
    case.run([qkv.constant(), bias.strided()], None);
}

#[test]
fn with_every_plan() {
    for (d, window) in [(4, 4), (16, 7), (24, 5), (30, 3)] {
        let case =
            Case::new(&[(3, 2 * window, window), (2, window - 1, window + 1)], window, window / 2, 2, d);
        let windows = Windows::new(&gpu(), &case.maps, window, 0).unwrap();
        let Device::Gpu(gpu) = gpu() else { unreachable!("gpu() is a GPU") };
        for plan in plans(&problem(&windows, 2, d), gpu.caps()) {
            let [qkv, bias] = case.operands();
            case.run([qkv.strided(), bias.strided().parameter()], Some(&plan));
        }
    }
}

#[test]
fn of_many_windows() {
    // several windows a workgroup in the pass that sums over windows
    let case = Case::new(&[(300, 4, 4), (7, 3, 3)], 2, 1, 8, 2);
    case.run(case.operands(), None);
}

#[test]
fn refuses_what_does_not_fit() {
    for device in devices() {
        let case = Case::new(&[(1, 4, 4)], 4, 0, 2, 4);
        let windows = Windows::new(&device, &case.maps, 4, 0).unwrap();
        let [qkv, bias] = case.operands();
        let var = |o: &Operand| {
            Var::constant(crate::support::place(&device, &o.shape, &o.values, o.placing).unwrap())
        };
        let (qkv, bias) = (var(&qkv), var(&bias));
        assert!(window_attention(&Tape::no_grad(), &qkv, &bias, &windows, 2, 1.0).is_ok());
        assert!(window_attention(&Tape::no_grad(), &qkv, &bias, &windows, 4, 1.0).is_err());
        assert!(window_attention(&Tape::no_grad(), &bias, &bias, &windows, 2, 1.0).is_err());
        assert!(Windows::new(&device, &case.maps, 4, 4).is_err());
    }
}
