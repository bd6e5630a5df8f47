//! One ViT-S block, forward and backward: LayerNorm, attention, residual, LayerNorm, MLP, residual. Ours has LayerScale
//! (of one) besides, which burn's is spared.

use burn::tensor::activation::gelu;
use burn::tensor::module::{attention, layer_norm, linear};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Gradients, Tensor as BurnTensor};
use poa_gpu::autograd::Tape;
use poa_gpu::bench::block::{Block, BlockSizes};
use poa_gpu::models::vit::NORM_EPS;

use crate::case::{Case, Devices, read_ours, read_theirs};
use crate::kernels::{random, transposed};

/// Parameters that both have, in the order in which results are compared.
const VECTORS: [&str; 8] = [
    "norm1.weight",
    "norm1.bias",
    "qkv.bias",
    "proj.bias",
    "norm2.weight",
    "norm2.bias",
    "fc1.bias",
    "fc2.bias",
];
const MATRICES: [&str; 4] = ["qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"];

/// Our name of a parameter.
fn our_name(name: &str) -> String {
    let (layer, part) = name.split_once('.').expect("layer and part");
    let linear = if layer.starts_with("norm") { "" } else { ".linear" };
    format!("block.{layer}{linear}.{part}")
}

/// burn's parameters; matrices are `[in, out]`.
#[derive(Clone)]
struct Theirs {
    sizes: BlockSizes,
    vectors: [BurnTensor<1>; 8],
    matrices: [BurnTensor<2>; 4],
}

impl Theirs {
    fn tracked(&self) -> Self {
        Self {
            sizes: self.sizes,
            vectors: self.vectors.clone().map(|t| t.autodiff().require_grad()),
            matrices: self.matrices.clone().map(|t| t.autodiff().require_grad()),
        }
    }

    /// `[images, length, width]` to the same.
    fn forward(&self, x: BurnTensor<3>) -> BurnTensor<3> {
        let BlockSizes { images, length, width, head_dim } = self.sizes;
        let [g1, b1, b_qkv, b_proj, g2, b2, b_fc1, b_fc2] = self.vectors.clone();
        let [w_qkv, w_proj, w_fc1, w_fc2] = self.matrices.clone();
        let y = layer_norm(x.clone(), g1, Some(b1), NORM_EPS as f64);
        let qkv = linear(y, w_qkv, Some(b_qkv));
        let heads = qkv.reshape([images, length, 3, width / head_dim, head_dim]).permute([2, 0, 3, 1, 4]);
        let mut parts = heads.chunk(3, 0).into_iter().map(|t| t.squeeze_dim::<4>(0));
        let mut part = || parts.next().expect("three parts");
        let y = attention(part(), part(), part(), None, None, AttentionModuleOptions::default());
        let y = y.swap_dims(1, 2).reshape([images, length, width]);
        let x = x + linear(y, w_proj, Some(b_proj));
        let y = layer_norm(x.clone(), g2, Some(b2), NORM_EPS as f64);
        x + linear(gelu(linear(y, w_fc1, Some(b_fc1))), w_fc2, Some(b_fc2))
    }

    /// Gradients in the order of [`VECTORS`], then of [`MATRICES`], the latter as we have them.
    fn read(self, gradients: &Gradients) -> Vec<Vec<f32>> {
        let vectors = self.vectors.map(|t| read_theirs(t.grad(gradients).expect("a gradient")));
        let matrices = self.matrices.map(|t| {
            let [inputs, outputs] = t.dims();
            transposed(&read_theirs(t.grad(gradients).expect("a gradient")), inputs, outputs)
        });
        vectors.into_iter().chain(matrices).collect()
    }
}

/// The block over the tokens of four images.
pub fn block(devices: &Devices) -> Case {
    let sizes = BlockSizes::VIT_S;
    let BlockSizes { images, length, width, .. } = sizes;
    let x = random(1, sizes.rows() * width);
    let block = Block::new(&devices.ours, sizes).expect("our block");
    let value = |name: &str| block.parameters.values().read(&our_name(name)).expect("a parameter");
    let theirs = Theirs {
        sizes,
        vectors: VECTORS.map(|name| {
            let values = value(name);
            devices.theirs([values.len()], &values)
        }),
        matrices: MATRICES.map(|name| {
            let shape = block.parameters.values().get(&our_name(name)).expect("a parameter").shape().to_vec();
            devices.theirs([shape[1], shape[0]], &transposed(&value(name), shape[0], shape[1]))
        }),
    };
    let input = devices.ours([sizes.rows(), width], &x);
    let ones = devices.ours([sizes.rows(), width], &vec![1.0; x.len()]);
    let their_input = devices.theirs([images, length, width], &x);
    Case {
        // burn takes the derivative of GELU's approximation by tanh
        tolerance: 1e-3,
        ours: Box::new(move || {
            let tape = Tape::new();
            let x = tape.leaf(input.clone());
            let y = block.forward(&tape, &x).expect("our block");
            let gradients = tape.backward(vec![(&y, ones.clone())]).expect("our gradients");
            let sums = block.parameters.gradients().expect("gradients");
            let mut all = vec![y.value().clone(), gradients.get(&x).expect("a gradient").clone()];
            all.extend(
                VECTORS.iter().chain(&MATRICES).map(|name| sums.get(&our_name(name)).expect("a gradient")),
            );
            read_ours(all)
        }),
        theirs: Box::new(move || {
            let block = theirs.tracked();
            let x = their_input.clone().autodiff().require_grad();
            let y = block.forward(x.clone());
            let gradients = y.backward();
            Box::new(move || {
                let dx = read_theirs(x.grad(&gradients).expect("a gradient"));
                let mut all = vec![read_theirs(y.inner()), dx];
                all.extend(block.read(&gradients));
                all
            })
        }),
    }
}
