//! A transformer block put together from the operations as the ViT does it, timed alone. The comparison with
//! burn (`benches/peers/burn`) takes it from here too.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::harness::{Bench, Ready, Sink, wrong};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::models::vit::NORM_EPS;
use crate::nn::elastic::{InputScale, elastic_linear, vector};
use crate::nn::parameters::{FlatBuffers, FlatLayout, Init, ParameterSpec, Parameters};
use crate::ops::attention::{SequenceGroup, attention};
use crate::ops::layer_norm::layer_norm;
use crate::ops::linear::{linear, mlp};
use crate::ops::residual::residual;
use crate::profile::Work;
use crate::tensor::{DType, Device, Tensor, add_assign, add_scaled};

/// Sizes of a block and of what goes through it.
#[derive(Clone, Copy)]
pub struct BlockSizes {
    /// Sequences.
    pub images: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Width of the tokens.
    pub width: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl BlockSizes {
    /// A block of ViT-S and the tokens of four images of 224 pixels.
    pub const VIT_S: Self = Self { images: 4, length: 197, width: 384, head_dim: 64 };

    /// Rows of the block's input.
    pub fn rows(&self) -> usize {
        self.images * self.length
    }

    /// Floating-point operations of forward and backward: the products, and attention's.
    fn flops(&self) -> f64 {
        let products = 2 * self.rows() * 12 * self.width * self.width;
        let scores = self.images * (self.width / self.head_dim) * self.length * self.length;
        (3 * products + 14 * scores * self.head_dim) as f64
    }
}

/// A block with its parameters, whose gradients add up from call to call.
pub struct Block {
    /// Its sizes.
    pub sizes: BlockSizes,
    /// Its parameters, under names from `block.norm1.weight` to `block.ls2.gamma`.
    pub parameters: Parameters,
}

impl Block {
    /// Random parameters; LayerScale starts at one.
    pub fn new(device: &Device, sizes: BlockSizes) -> Result<Self> {
        let (w, h) = (sizes.width, 4 * sizes.width);
        let (one, small) = (Init::Constant(1.0), Init::Normal(0.05));
        let spec =
            |name: &str, shape: &[usize], init| ParameterSpec::new(format!("block.{name}"), shape, init);
        let specs = [
            spec("norm1.weight", &[w], one),
            spec("norm1.bias", &[w], small),
            spec("qkv.linear.weight", &[3 * w, w], small),
            spec("qkv.linear.bias", &[3 * w], small),
            spec("proj.linear.weight", &[w, w], small),
            spec("proj.linear.bias", &[w], small),
            spec("ls1.gamma", &[w], one),
            spec("norm2.weight", &[w], one),
            spec("norm2.bias", &[w], small),
            spec("fc1.linear.weight", &[h, w], small),
            spec("fc1.linear.bias", &[h], small),
            spec("fc2.linear.weight", &[w, h], small),
            spec("fc2.linear.bias", &[w], small),
            spec("ls2.gamma", &[w], one),
        ];
        let layout = FlatLayout::new(&specs, device.max_tensor_bytes())?;
        let values = FlatBuffers::initialised(&layout, device, &mut ChaCha8Rng::seed_from_u64(7))?;
        Ok(Self { sizes, parameters: Parameters::trained(values)? })
    }

    /// `[rows, width]` to `[rows, width]`.
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let BlockSizes { images, length, width, head_dim } = self.sizes;
        let vector = |name: &str| vector(&self.parameters, &format!("block.{name}"), width);
        let layer = |name: &str, out, input| {
            elastic_linear(&self.parameters, &format!("block.{name}"), (out, input), InputScale(true))
        };
        let groups = [SequenceGroup { count: images, length }];
        let y = layer_norm(tape, x, &vector("norm1.weight")?, &vector("norm1.bias")?, NORM_EPS, None)?;
        let qkv = linear(tape, &y, &layer("qkv", 3 * width, width)?)?;
        let y = attention(tape, &qkv, &groups, width / head_dim, (head_dim as f32).powf(-0.5))?;
        let y = linear(tape, &y, &layer("proj", width, width)?)?;
        let x = residual(tape, x, &y, &vector("ls1.gamma")?, None)?;
        let y = layer_norm(tape, &x, &vector("norm2.weight")?, &vector("norm2.bias")?, NORM_EPS, None)?;
        let y = mlp(tape, &y, &layer("fc1", 4 * width, width)?, &layer("fc2", width, 4 * width)?)?;
        residual(tape, &x, &y, &vector("ls2.gamma")?, None)
    }
}

/// A whole block of ViT-S; its gradient is held against a difference of two forward passes.
pub(super) fn run(bench: &Bench, sink: &mut Sink) -> Result<()> {
    let sizes = BlockSizes::VIT_S;
    let cells = (sizes.rows() * sizes.width) as f64;
    // input, output and their gradients; parameters read, their gradients added to
    let bytes = 4.0 * (4.0 * cells + 3.0 * 12.0 * (sizes.width * sizes.width) as f64);
    let work = Work { flops: sizes.flops(), bytes };
    let name = format!("block/forward+backward {}x{}x{}", sizes.images, sizes.length, sizes.width);
    bench.case(sink, &name, work, || {
        let block = Block::new(&bench.device, sizes)?;
        let shape = [sizes.rows(), sizes.width];
        let (x, dy, direction) =
            (bench.random(1, &shape)?, bench.random(2, &shape)?, bench.random(3, &shape)?);
        let moved = |step: f32| -> Result<f64> {
            let start = Tensor::zeros(&bench.device, &shape, DType::F32)?;
            add_assign(&start, &x)?;
            add_scaled(&start, &direction, step)?;
            dot(block.forward(&Tape::no_grad(), &Var::constant(start))?.value(), &dy)
        };
        let difference = (moved(1e-2)? - moved(-1e-2)?) / 2e-2;
        let gradient = move || {
            let tape = Tape::new();
            let x = tape.leaf(x.clone());
            let y = block.forward(&tape, &x)?;
            let gradients = tape.backward(vec![(&y, dy.clone())])?;
            Ok(gradients.get(&x).expect("a leaf that was used").clone())
        };
        let slope = dot(&gradient()?, &direction)?;
        Ready::new(
            move || gradient().map(drop),
            move || match (slope - difference).abs() <= 1e-2 * difference.abs() {
                true => Ok(()),
                false => Err(wrong("block", format!("{slope}, {difference} expected"))),
            },
        )
    })
}

fn dot(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (a, b) = (a.to_vec::<f32>()?, b.to_vec::<f32>()?);
    Ok(a.iter().zip(&b).map(|(a, b)| *a as f64 * *b as f64).sum())
}
