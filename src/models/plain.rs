//! Plain networks: what a backbone says of a sub-network that is cut out for others. The backbone gives
//! names, shapes and places; `weights` reads and writes.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::str::FromStr;

use serde_json::Value;

use crate::checks::unknown;
use crate::error::{Error, Result};
use crate::nn::elastic::InputScale;
use crate::nn::parameters::ParameterSpec;

/// For whom a plain network is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// timm, as `timm.create_model("local-dir:DIR", pretrained=True)` loads it.
    Timm,
    /// The backbones of DINOv2's hub.
    Dinov2,
    /// Every sub-network, with all its sizes in `config.json`. A ViT's is what POA's
    /// `tools/extract_elastic_net.py` writes.
    Poa,
    /// Hugging Face's transformers, as `AutoModel.from_pretrained(DIR)` loads it: by a class of its own where one has this
    /// structure, else by its wrapper of timm.
    Transformers,
    /// Every sub-network as an ONNX model with timm's names, which `weights::onnx` writes.
    Onnx,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 5] = [Self::Timm, Self::Dinov2, Self::Poa, Self::Transformers, Self::Onnx];

    /// What the format is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timm => "timm",
            Self::Dinov2 => "dinov2",
            Self::Poa => "poa",
            Self::Transformers => "transformers",
            Self::Onnx => "onnx",
        }
    }

    /// Whether tensors are called as in timm, and what training alone needs is left out.
    pub fn is_named_as_timm(self) -> bool {
        matches!(self, Self::Timm | Self::Onnx)
    }
}

impl Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|f| f.name() == name)
            .ok_or_else(|| Error::Usage(unknown("format", name, &Self::ALL.map(Self::name))))
    }
}

/// Equal pieces along an axis, each of which is cut for itself, and in which order a plain network has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// The axis.
    pub axis: usize,
    /// How many pieces the official parameter has.
    pub count: usize,
    /// For each piece of the plain network which of the official ones it is; a part may have some of them alone.
    pub order: Vec<usize>,
}

impl Pieces {
    /// All pieces in this order.
    pub fn all(axis: usize, order: impl IntoIterator<Item = usize>) -> Self {
        let order: Vec<usize> = order.into_iter().collect();
        Self { axis, count: order.len(), order }
    }

    /// From the plain network's order back to the official one, where it has all of them.
    pub fn inverse(&self) -> Self {
        let place = |piece| self.order.iter().position(|p| *p == piece).unwrap_or(piece);
        Self { axis: self.axis, count: self.count, order: (0..self.count).map(place).collect() }
    }
}

/// How a plain network has a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainName {
    /// Its name.
    pub name: String,
    /// Pieces of it, where it is not one.
    pub pieces: Option<Pieces>,
}

impl PlainName {
    /// A parameter that is one piece.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), pieces: None }
    }
}

/// A tensor of a plain network and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Name in the plain network.
    pub name: String,
    /// Shape in the plain network.
    pub shape: Vec<usize>,
    /// Official name, in the intact network, of the parameter it is cut from.
    pub source: String,
    /// Shape of that parameter.
    pub source_shape: Vec<usize>,
    /// Factor of its values.
    pub alpha: f32,
    /// Pieces that are cut for themselves.
    pub pieces: Option<Pieces>,
    /// Rows of a source `[1, rows, columns]` that are left out in front.
    pub skipped: usize,
    /// A part of the same shape that is added.
    pub plus: Option<Box<Part>>,
}

impl Part {
    /// Folds in the α of an elastic layer that has its inputs on this axis: their largest number over their
    /// number, where the network scales its inputs.
    pub fn fold_alpha(&mut self, axis: usize, scale: InputScale) {
        self.alpha = scale.alpha(self.source_shape[axis], self.shape[axis]);
    }

    /// The part that has of this one's pieces only one, under a name of its own. Of a part without pieces it is the whole.
    pub fn piece(&self, number: usize, name: impl Into<String>) -> Self {
        let mut one = Self { name: name.into(), ..self.clone() };
        if let Some(Pieces { axis, order, .. }) = &mut one.pieces {
            one.shape[*axis] /= order.len();
            *order = order.get(number).copied().into_iter().collect();
        }
        one
    }

    /// The part's values, row by row, of those of its source; without what is added.
    pub fn cut(&self, values: &[f32]) -> Vec<f32> {
        let mut from = self.source_shape.clone();
        let mut before = 0;
        if let [1, rows, columns] = &mut from[..] {
            (*rows, before) = (*rows - self.skipped, self.skipped * *columns);
        }
        let mut out = corner(&values[before..], &from, &self.shape, self.pieces.as_ref());
        if self.alpha != 1.0 {
            out.iter_mut().for_each(|x| *x *= self.alpha);
        }
        out
    }
}

/// A sub-network as a plain one.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainNetwork {
    /// All its tensors.
    pub parts: Vec<Part>,
    /// Channels of the images it is for.
    pub channels: usize,
    /// Pixels of their side.
    pub image: usize,
    /// What is particular to it in `config.json`; format, name and normalisation of images are added to it.
    /// For timm `architecture`, `model_args`, and of `pretrained_cfg` what depends on the network.
    pub config: Value,
}

/// The parts of a plain network with the parameters `plain`, cut from one with the parameters `intact`.
/// `original` is the official name in the intact network of a parameter that has another number there,
/// `names` how the plain network has a parameter, if it does.
pub fn parts(
    intact: &[ParameterSpec],
    plain: Vec<ParameterSpec>,
    original: impl Fn(&str) -> Option<String>,
    names: impl Fn(&str) -> Option<PlainName>,
) -> Vec<Part> {
    let shapes: HashMap<&str, &[usize]> = intact.iter().map(|s| (s.name.as_str(), &s.shape[..])).collect();
    let part = |spec: ParameterSpec| {
        let PlainName { name, pieces } = names(&spec.name)?;
        let source = original(&spec.name).unwrap_or(spec.name);
        let source_shape = shapes.get(source.as_str()).copied().unwrap_or_default().to_vec();
        let shape = spec.shape;
        Some(Part { name, shape, source, source_shape, alpha: 1.0, pieces, skipped: 0, plus: None })
    };
    plain.into_iter().filter_map(part).collect()
}

/// The name in the intact network of a parameter whose name begins with `prefix` and its block's number;
/// block k was `blocks[k]`.
pub fn renumbered(name: &str, prefix: &str, blocks: &[usize]) -> Option<String> {
    let (block, part) = name.strip_prefix(prefix)?.split_once('.')?;
    Some(format!("{prefix}{}.{part}", blocks.get(block.parse::<usize>().ok()?)?))
}

/// The first `to` entries along every axis of a tensor of shape `from`, row by row; of each of its pieces,
/// where it has some.
pub fn corner(values: &[f32], from: &[usize], to: &[usize], pieces: Option<&Pieces>) -> Vec<f32> {
    let (mut from, mut to) = (from.to_vec(), to.to_vec());
    let split = pieces.map(|Pieces { axis, count, order }| {
        for (shape, pieces) in [(&mut from, *count), (&mut to, order.len())] {
            shape[*axis] /= pieces;
            shape.insert(*axis, pieces);
        }
        (*axis, &order[..])
    });
    let mut out = Vec::with_capacity(to.iter().product());
    append(values, &from, &to, split, &mut out);
    out
}

/// As [`corner`], of a tensor whose axis of pieces is one of its own.
fn append(
    values: &[f32],
    from: &[usize],
    to: &[usize],
    pieces: Option<(usize, &[usize])>,
    out: &mut Vec<f32>,
) {
    if from == to && pieces.is_none() {
        return out.extend_from_slice(values);
    }
    if let [_, inner_from @ ..] = from
        && let [count, inner_to @ ..] = to
    {
        let inner = inner_from.iter().product::<usize>();
        for i in 0..*count {
            let (at, rest) = match pieces {
                Some((0, order)) => (order[i], None),
                Some((axis, order)) => (i, Some((axis - 1, order))),
                None => (i, None),
            };
            append(&values[at * inner..][..inner], inner_from, inner_to, rest, out);
        }
    }
}

/// What timm's `first_conv` says. It names the layer whose weights timm converts from three channels to
/// another number; where they have that number already, no layer is to be named.
pub fn first_conv(channels: usize, name: &str) -> Option<&str> {
    (channels == 3).then_some(name)
}

/// The 64-bit float that is written as the 32-bit one is: 0.485, not 0.48500001430511475.
pub fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}
