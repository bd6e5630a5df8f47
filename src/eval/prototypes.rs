//! Projection heads with their prototypes on any features: of a checkpoint's teacher, or of a network that was extracted
//! with them.

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::files::tensor_file::TensorFile;
use crate::nn::elastic::InputScale;
use crate::nn::head::{HeadSizes, ProjectionHead};
use crate::nn::parameters::{FlatBuffers, FlatLayout, Parameters};
use crate::ops::matmul::{Matrix, Options, matmul};
use crate::ops::top_k::{Scored, TopK};
use crate::ops::weight_norm::effective;
use crate::tensor::{DType, Device, ELEMENT_BYTES, Tensor};

/// Modules of heads: of all tokens, or of class tokens where patches have others; of patches.
pub const MODULES: [&str; 2] = ["dino_head", "ibot_head"];

/// What a file calls a head's layer of this official name, and its prototypes; in the names of an extraction where it has
/// those.
fn named(file: &TensorFile, module: &str, index: usize, part: &str) -> String {
    let plain = format!("{module}.{index}.mlp.{}", part.replace(".linear", ""));
    if file.contains(&plain) { plain } else { format!("{module}.mlp{index}.{part}") }
}

fn plain_prototypes(module: &str, index: usize) -> String {
    format!("{module}.{index}.prototypes.weight")
}

/// The heads of a module in a file of a teacher or of an extraction, by their numbers, with the sizes that their tensors have,
/// as if networks were elastic with α; what a file does not say.
pub fn heads_in(file: &TensorFile, module: &str) -> Result<Vec<ProjectionHead>> {
    let mut heads = Vec::new();
    loop {
        let index = heads.len();
        let first = named(file, module, index, "0.linear.weight");
        if !file.contains(&first) {
            return Ok(heads);
        }
        let pair = |name: &str| match file.shape(name)? {
            [a, b] => Ok([*a, *b]),
            other => Err(Error::file(file.path(), format!("tensor `{name}` is {other:?}, and no matrix"))),
        };
        let [hidden, input] = pair(&first)?;
        let plain = plain_prototypes(module, index);
        let official = format!("{module}.last_layer{index}.weight_v");
        let [prototypes, bottleneck] = pair(if file.contains(&plain) { &plain } else { &official })?;
        let input_scale = InputScale(true);
        let sizes = HeadSizes { input, hidden, bottleneck, prototypes, input_scale, init_std: 0.02 };
        heads.push(ProjectionHead { module: module.into(), index, sizes });
    }
}

/// One of the heads that a file has; without a number the one with the most prototypes. A number that there is not is an
/// error.
pub fn head_of(file: &TensorFile, module: &str, number: Option<usize>) -> Result<ProjectionHead> {
    let mut heads = heads_in(file, module)?;
    let most = heads.iter().map(|head| head.sizes.prototypes).max();
    let at = number.or_else(|| heads.iter().position(|head| Some(head.sizes.prototypes) == most));
    match at.filter(|at| *at < heads.len()) {
        Some(at) => Ok(heads.swap_remove(at)),
        None if heads.is_empty() => Err(Error::file(
            file.path(),
            "has no projection heads; give a checkpoint, or a network of `poa-gpu extract --heads`",
        )),
        None => Err(Error::Usage(format!(
            "--head {}: there are heads 0 to {}, with {} prototypes",
            number.unwrap_or_default(),
            heads.len() - 1,
            heads.iter().map(|head| head.sizes.prototypes.to_string()).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// A head on a device.
pub struct Prototypes {
    head: ProjectionHead,
    parameters: Parameters,
    /// g·v/‖v‖ `[prototypes, bottleneck]`.
    weight: Tensor,
}

impl Prototypes {
    /// Loads a head that [`head_of`] has found.
    pub fn open(file: &TensorFile, head: ProjectionHead, device: &Device) -> Result<Self> {
        let layout = FlatLayout::new(&head.mlp_specs(), device.max_tensor_bytes())?;
        let values = FlatBuffers::zeros(&layout, device)?;
        for place in layout.places() {
            let part = place.spec.name.splitn(3, '.').nth(2).unwrap_or_default();
            let name = named(file, &head.module, head.index, part);
            values.write(&place.spec.name, &file.read_f32_as(&name, &place.spec.shape)?)?;
        }
        let parameters = Parameters::frozen(values);
        let plain = plain_prototypes(&head.module, head.index);
        if file.contains(&plain) {
            let shape = [head.sizes.prototypes, head.sizes.bottleneck];
            let weight = Tensor::from_slice(device, &shape, &file.read_f32_as(&plain, &shape)?)?;
            return Ok(Self { weight, parameters, head });
        }
        let tensor = |part: &str, shape: &[usize]| {
            let name = format!("{}.last_layer{}.{part}", head.module, head.index);
            Tensor::from_slice(device, shape, &file.read_f32_as(&name, shape)?)
        };
        let (count, width) = (head.sizes.prototypes, head.sizes.bottleneck);
        let weight = effective(&tensor("weight_v", &[count, width])?, &tensor("weight_g", &[count, 1])?)?;
        Ok(Self { weight: weight.weight().clone(), parameters, head })
    }

    /// Number of prototypes.
    pub fn count(&self) -> usize {
        self.head.sizes.prototypes
    }

    /// The widest features that it takes.
    pub fn input(&self) -> usize {
        self.head.sizes.input
    }

    /// Logits `[n, prototypes]` of features `[n, width]`, of any width that the head was trained with: cosines with the
    /// prototypes times their lengths, without a temperature.
    pub fn logits(&self, features: &Tensor) -> Result<Tensor> {
        let bottleneck =
            self.head.forward(&Tape::no_grad(), &self.parameters, &Var::constant(features.clone()))?;
        let bottleneck = bottleneck.value();
        let logits = Tensor::empty(features.device(), &[features.dim(0), self.count()], DType::F32)?;
        let (a, b) = (Matrix::new(bottleneck)?, Matrix::new(&self.weight)?.t());
        matmul(&a, &b, &Matrix::new(&logits)?, &Options::default())?;
        Ok(logits)
    }

    /// The `k` prototypes with the largest logits of each of the features `[n, width]`, the largest first.
    pub fn nearest(&self, features: &Tensor, k: usize) -> Result<Vec<Vec<Scored>>> {
        let mut all = Vec::with_capacity(features.dim(0));
        // as many rows as their logits can be bound
        let rows = (features.device().max_tensor_bytes() / (self.count() * ELEMENT_BYTES)).clamp(1, 4096);
        for first in (0..features.dim(0)).step_by(rows) {
            let part = features.slice(0, first..features.dim(0).min(first + rows))?;
            let logits = self.logits(&part)?;
            let mut largest = TopK::new(part.device(), part.dim(0), k)?;
            largest.add(&logits, 0)?;
            all.extend(largest.sorted()?);
        }
        Ok(all)
    }
}
