//! The kernels, at the sizes and under the names of `cargo bench`. burn gets operands in the layout that suits it: the
//! second factor of a product as `[k, n]`, queries, keys and values apart.

use std::rc::Rc;

use burn::tensor::activation::{gelu, softmax};
use burn::tensor::module::{attention as burn_attention, layer_norm as burn_layer_norm};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Tensor as BurnTensor, TensorData};
use poa_gpu::autograd::{Tape, Var};
use poa_gpu::models::vit::NORM_EPS;
use poa_gpu::ops;
use poa_gpu::ops::attention::{SequenceGroup, attention};
use poa_gpu::ops::layer_norm::layer_norm;
use poa_gpu::ops::matmul::{Matrix, Options, matmul};
use poa_gpu::tensor::{DType, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::case::{Case, Devices, Outputs, TOLERANCE, read_ours, read_theirs};

const ROWS: usize = 788;
const WIDTH: usize = 384;

/// Values around zero.
pub fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random::<f32>() - 0.5).collect()
}

impl Devices {
    /// These values as our tensor.
    pub fn ours<const D: usize>(&self, shape: [usize; D], values: &[f32]) -> Tensor {
        Tensor::from_slice(&self.ours, &shape, values).expect("our tensor")
    }

    /// These values as burn's tensor, without gradients.
    pub fn theirs<const D: usize>(&self, shape: [usize; D], values: &[f32]) -> BurnTensor<D> {
        BurnTensor::from_data(TensorData::new(values.to_vec(), shape), &self.theirs)
    }
}

/// `[rows, columns]` turned round.
pub fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|j| (0..rows).map(move |i| values[i * columns + j])).collect()
}

/// The product of `[m, k]` with `[n, k]` transposed, as a linear layer has it.
pub fn product([m, n, k]: [usize; 3], devices: &Devices) -> Case {
    let (x, y) = (random(1, m * k), random(2, n * k));
    let (a, b) = (devices.ours([m, k], &x), devices.ours([n, k], &y));
    let (c, d) = (devices.theirs([m, k], &x), devices.theirs([k, n], &transposed(&y, n, k)));
    let device = devices.ours.clone();
    Case {
        tolerance: TOLERANCE,
        ours: Box::new(move || {
            let out = Tensor::empty(&device, &[m, n], DType::F32).expect("a result");
            let b = Matrix::new(&b).expect("a matrix").t();
            let (a, out_matrix) = (Matrix::new(&a).expect("a matrix"), Matrix::new(&out).expect("a matrix"));
            matmul(&a, &b, &out_matrix, &Options::default()).expect("our product");
            read_ours(vec![out])
        }),
        theirs: Box::new(move || {
            let out = c.clone().matmul(d.clone());
            Box::new(|| vec![read_theirs(out)])
        }),
    }
}

/// Softmax over rows.
pub fn softmax_rows(devices: &Devices) -> Case {
    let x = random(1, ROWS * WIDTH);
    let (a, b) = (Var::constant(devices.ours([ROWS, WIDTH], &x)), devices.theirs([ROWS, WIDTH], &x));
    Case {
        tolerance: TOLERANCE,
        ours: Box::new(move || {
            let y = ops::softmax::softmax(&Tape::no_grad(), &a, 1.0).expect("our softmax");
            read_ours(vec![y.value().clone()])
        }),
        theirs: Box::new(move || {
            let y = softmax(b.clone(), 1);
            Box::new(|| vec![read_theirs(y)])
        }),
    }
}

/// The exact GELU.
pub fn gelus(devices: &Devices) -> Case {
    let x = random(1, ROWS * WIDTH);
    let (a, b) = (Var::constant(devices.ours([ROWS, WIDTH], &x)), devices.theirs([ROWS, WIDTH], &x));
    Case {
        tolerance: TOLERANCE,
        ours: Box::new(move || {
            let y = ops::gelu::gelu(&Tape::no_grad(), &a).expect("our GELU");
            read_ours(vec![y.value().clone()])
        }),
        theirs: Box::new(move || {
            let y = gelu(b.clone());
            Box::new(|| vec![read_theirs(y)])
        }),
    }
}

/// LayerNorm, and its gradients where `backward`.
pub fn norm(backward: bool, devices: &Devices) -> Case {
    let (x, gamma, beta) = (random(1, ROWS * WIDTH), random(2, WIDTH), random(3, WIDTH));
    let input = devices.ours([ROWS, WIDTH], &x);
    let ones = devices.ours([ROWS, WIDTH], &vec![1.0; ROWS * WIDTH]);
    let (g, b) = (devices.ours([WIDTH], &gamma), devices.ours([WIDTH], &beta));
    let ours: Box<dyn FnMut() -> Outputs> = match backward {
        false => {
            let [x, g, b] = [input, g, b].map(Var::constant);
            Box::new(move || {
                let y = layer_norm(&Tape::no_grad(), &x, &g, &b, NORM_EPS, None).expect("our LayerNorm");
                read_ours(vec![y.value().clone()])
            })
        }
        true => {
            let parameter = |t: Tensor| {
                let gradient = Tensor::zeros(t.device(), t.shape(), DType::F32).expect("zeros");
                (Var::parameter(t, gradient.clone(), Rc::default()), gradient)
            };
            let ((g, dg), (b, db)) = (parameter(g), parameter(b));
            Box::new(move || {
                let tape = Tape::new();
                let x = tape.leaf(input.clone());
                let y = layer_norm(&tape, &x, &g, &b, NORM_EPS, None).expect("our LayerNorm");
                let gradients = tape.backward(vec![(&y, ones.clone())]).expect("our gradients");
                let dx = gradients.get(&x).expect("a gradient").clone();
                read_ours(vec![y.value().clone(), dx, dg.clone(), db.clone()])
            })
        }
    };
    let (x, g, b) =
        (devices.theirs([ROWS, WIDTH], &x), devices.theirs([WIDTH], &gamma), devices.theirs([WIDTH], &beta));
    let eps = NORM_EPS as f64;
    Case {
        tolerance: TOLERANCE,
        ours,
        theirs: match backward {
            false => Box::new(move || {
                let y = burn_layer_norm(x.clone(), g.clone(), Some(b.clone()), eps);
                Box::new(|| vec![read_theirs(y)])
            }),
            true => Box::new(move || {
                let [g, b] = [&g, &b].map(|p| p.clone().autodiff().require_grad());
                let x = x.clone().autodiff().require_grad();
                let y = burn_layer_norm(x.clone(), g.clone(), Some(b.clone()), eps);
                let gradients = y.backward();
                Box::new(move || {
                    let [dg, db] = [g, b].map(|p| read_theirs(p.grad(&gradients).expect("a gradient")));
                    let dx = read_theirs(x.grad(&gradients).expect("a gradient"));
                    vec![read_theirs(y.inner()), dx, dg, db]
                })
            }),
        },
    }
}

/// Attention of 24 heads of 197 tokens, and its gradients where `backward`.
pub fn attention_heads(backward: bool, devices: &Devices) -> Case {
    let (images, length, heads, dim) = (4, 197, 6, 64);
    let (rows, width) = (images * length, heads * dim);
    let packed = random(1, rows * 3 * width);
    let qkv = devices.ours([rows, 3 * width], &packed);
    let ones = devices.ours([rows, width], &vec![1.0; rows * width]);
    let groups = [SequenceGroup { count: images, length }];
    let scale = (dim as f32).powf(-0.5);
    let ours: Box<dyn FnMut() -> Outputs> = match backward {
        false => {
            let qkv = Var::constant(qkv);
            Box::new(move || {
                let y = attention(&Tape::no_grad(), &qkv, &groups, heads, scale).expect("our attention");
                read_ours(vec![y.value().clone()])
            })
        }
        true => Box::new(move || {
            let tape = Tape::new();
            let x = tape.leaf(qkv.clone());
            let y = attention(&tape, &x, &groups, heads, scale).expect("our attention");
            let gradients = tape.backward(vec![(&y, ones.clone())]).expect("our gradients");
            let dx = gradients.get(&x).expect("a gradient").clone();
            read_ours(vec![y.value().clone(), dx])
        }),
    };
    let parts = split_heads(&packed, [images, length, heads, dim])
        .map(|part| devices.theirs([images, heads, length, dim], &part));
    // [images, heads, length, dim] to [rows, width]
    let packed_rows = move |t: BurnTensor<4>| -> BurnTensor<2> { t.swap_dims(1, 2).reshape([rows, width]) };
    Case {
        tolerance: TOLERANCE,
        ours,
        theirs: match backward {
            false => Box::new(move || {
                let [q, k, v] = parts.clone();
                let y = burn_attention(q, k, v, None, None, AttentionModuleOptions::default());
                Box::new(move || vec![read_theirs(packed_rows(y))])
            }),
            true => Box::new(move || {
                let [q, k, v] = parts.clone().map(|t| t.autodiff().require_grad());
                let options = AttentionModuleOptions::default();
                let y = burn_attention(q.clone(), k.clone(), v.clone(), None, None, options);
                let gradients = y.backward();
                Box::new(move || {
                    let parts = [q, k, v].map(|t| packed_rows(t.grad(&gradients).expect("a gradient")));
                    vec![read_theirs(packed_rows(y.inner())), read_theirs(BurnTensor::cat(parts.to_vec(), 1))]
                })
            }),
        },
    }
}

/// Queries, keys and values `[images, heads, length, dim]` each, of packed ones `[images·length, 3·heads·dim]`.
fn split_heads(packed: &[f32], [images, length, heads, dim]: [usize; 4]) -> [Vec<f32>; 3] {
    let width = heads * dim;
    [0, 1, 2].map(|part| {
        let mut all = Vec::with_capacity(images * length * width);
        for image in 0..images {
            for head in 0..heads {
                for token in 0..length {
                    let start = (image * length + token) * 3 * width + part * width + head * dim;
                    all.extend_from_slice(&packed[start..start + dim]);
                }
            }
        }
        all
    })
}
