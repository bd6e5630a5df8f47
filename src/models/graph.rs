//! A network as a graph of operators over named values, for programs that run such graphs: the operators are those of ONNX
//! (opset 17). A backbone says its graph with this; `weights::onnx` writes it. Every value is called as the node that makes
//! it, and nodes as timm's modules.

use std::collections::HashSet;
use std::fmt::{self, Display};
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::shown::shown;

/// What the images are called, `[batch, channels, height, width]`.
pub const IMAGES: &str = "images";
/// Normed patch tokens, `[batch, patches, width]`.
pub const PATCH_TOKENS: &str = "patch_tokens";
/// What stands for the whole image, `[batch, width]`.
pub const CLS: &str = "cls";
/// The mean of the patch tokens, `[batch, width]`.
pub const MEAN: &str = "mean";

/// A number that is fixed in a graph, or that every call may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// This number, at least one.
    Fixed(usize),
    /// Any.
    Dynamic,
}

impl FromStr for Extent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match (text, text.parse()) {
            ("dynamic", _) => Ok(Self::Dynamic),
            (_, Ok(n @ 1..=1_048_576)) => Ok(Self::Fixed(n)),
            _ => Err(Error::Usage(format!(
                "`{}` is neither a number from 1 to 1048576 nor `dynamic`",
                shown(text)
            ))),
        }
    }
}

impl Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(n) => n.fmt(f),
            Self::Dynamic => f.write_str("dynamic"),
        }
    }
}

/// An axis of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Of this length.
    Fixed(usize),
    /// Of a length that calls choose; axes of the same name are equally long.
    Named(&'static str),
}

/// What a node is told beside its inputs.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A number.
    Int(i64),
    /// Numbers.
    Ints(Vec<i64>),
    /// A floating-point number.
    Float(f32),
}

/// An operator at work.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The operator.
    pub op: &'static str,
    /// Its name.
    pub name: String,
    /// The values it takes; an empty name for one that is left out.
    pub inputs: Vec<String>,
    /// The values it makes.
    pub outputs: Vec<String>,
    /// What it is told.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// How a graph has a tensor of the plain network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// As it is.
    Same,
    /// A matrix, transposed.
    Transposed,
    /// A vector, with two axes of length 1 behind, to go with maps.
    OfMaps,
    /// Position embeddings `[1, from², width]` of a grid of another side.
    Resampled {
        /// The grid's side in the plain network.
        from: usize,
        /// In the graph.
        to: usize,
    },
}

/// A tensor of the plain network in a graph, under the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Its name.
    pub name: String,
    /// How the graph has it.
    pub arrangement: Arrangement,
}

/// Values that are part of the graph.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Floating-point numbers.
    Floats(Vec<f32>),
    /// Whole numbers.
    Ints(Vec<i64>),
}

/// A tensor that is no weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row by row.
    pub values: Values,
}

/// A value that is an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The value.
    pub name: &'static str,
    /// Its axes after the first, which counts the images.
    pub axes: Vec<Axis>,
}

/// A network as a graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// In an order in which they can run.
    pub nodes: Vec<Node>,
    /// The weights that are used.
    pub weights: Vec<Weight>,
    /// All other tensors.
    pub constants: Vec<Constant>,
    /// What comes out.
    pub outputs: Vec<Output>,
    /// Names of weights and constants.
    known: HashSet<String>,
}

impl Graph {
    /// A node with one output, whose name it gives.
    pub fn node(
        &mut self,
        op: &'static str,
        name: impl Into<String>,
        inputs: &[&str],
        attributes: Vec<(&'static str, Attribute)>,
    ) -> String {
        let name = name.into();
        self.nodes.push(Node {
            op,
            name: name.clone(),
            inputs: inputs.iter().map(|input| input.to_string()).collect(),
            outputs: vec![name.clone()],
            attributes,
        });
        name
    }

    /// A tensor of the plain network.
    pub fn weight(&mut self, name: impl Into<String>, arrangement: Arrangement) -> String {
        let name = name.into();
        if self.known.insert(name.clone()) {
            self.weights.push(Weight { name: name.clone(), arrangement });
        }
        name
    }

    fn constant(&mut self, name: impl Into<String>, shape: &[usize], values: Values) -> String {
        let name = name.into();
        if self.known.insert(name.clone()) {
            self.constants.push(Constant { name: name.clone(), shape: shape.to_vec(), values });
        }
        name
    }

    /// Floating-point numbers; what is called alike is one.
    pub fn floats(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f32>) -> String {
        self.constant(name, shape, Values::Floats(values))
    }

    /// A floating-point number.
    pub fn float(&mut self, name: &str, value: f32) -> String {
        self.floats(name, &[], vec![value])
    }

    /// A vector of whole numbers; what is called alike is one.
    pub fn ints(&mut self, name: impl Into<String>, values: Vec<i64>) -> String {
        self.constant(name, &[values.len()], Values::Ints(values))
    }

    /// A whole number.
    pub fn int(&mut self, name: &str, value: i64) -> String {
        self.constant(name, &[], Values::Ints(vec![value]))
    }

    /// x in another shape; 0 keeps an axis, −1 is what remains.
    pub fn reshape(&mut self, name: impl Into<String>, x: &str, shape: &[i64]) -> String {
        let words: Vec<String> = shape.iter().map(i64::to_string).collect();
        let shape = self.ints(format!("shape_{}", words.join("_")), shape.to_vec());
        self.node("Reshape", name, &[x, &shape], vec![])
    }

    /// x with its axes in another order.
    pub fn transpose(&mut self, name: impl Into<String>, x: &str, order: &[i64]) -> String {
        self.node("Transpose", name, &[x], vec![("perm", Attribute::Ints(order.to_vec()))])
    }

    /// Entries of x along an axis.
    pub fn gather(&mut self, name: impl Into<String>, x: &str, index: &str, axis: i64) -> String {
        self.node("Gather", name, &[x, index], vec![("axis", Attribute::Int(axis))])
    }

    /// From `first` on along an axis, up to `end`.
    pub fn slice(&mut self, name: impl Into<String>, x: &str, [first, end]: [i64; 2], axis: i64) -> String {
        let [first, end, axis] = [first, end, axis].map(|n| self.ints(format!("numbers_{n}"), vec![n]));
        self.node("Slice", name, &[x, &first, &end, &axis], vec![])
    }

    /// The mean over some axes, which are gone then.
    pub fn mean(&mut self, name: impl Into<String>, x: &str, axes: &[i64]) -> String {
        let attributes = vec![("axes", Attribute::Ints(axes.to_vec())), ("keepdims", Attribute::Int(0))];
        self.node("ReduceMean", name, &[x], attributes)
    }

    /// Convolution with the weights `{name}.weight`, and the bias where it has one.
    pub fn convolution(
        &mut self,
        name: &str,
        x: &str,
        [kernel, stride, padding]: [usize; 3],
        bias: bool,
    ) -> String {
        let mut inputs = vec![x.to_string(), self.weight(format!("{name}.weight"), Arrangement::Same)];
        if bias {
            inputs.push(self.weight(format!("{name}.bias"), Arrangement::Same));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.node("Conv", name, &inputs, window(kernel, stride, padding))
    }

    /// Linear layer of the last axis with the weights `{name}.weight`, which the graph has transposed, and the bias where it
    /// has one.
    pub fn linear(&mut self, name: &str, x: &str, bias: bool) -> String {
        let weight = self.weight(format!("{name}.weight"), Arrangement::Transposed);
        if !bias {
            return self.node("MatMul", name, &[x, &weight], vec![]);
        }
        let product = self.node("MatMul", format!("{name}.product"), &[x, &weight], vec![]);
        let bias = self.weight(format!("{name}.bias"), Arrangement::Same);
        self.node("Add", name, &[&product, &bias], vec![])
    }

    /// LayerNorm of the last axis with the weights of this name.
    pub fn layer_norm(&mut self, name: &str, x: &str, eps: f32) -> String {
        let [weight, bias] =
            ["weight", "bias"].map(|part| self.weight(format!("{name}.{part}"), Arrangement::Same));
        let attributes = vec![("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(eps))];
        self.node("LayerNormalization", name, &[x, &weight, &bias], attributes)
    }

    /// x/2 · (1 + erf(x/√2))
    pub fn gelu(&mut self, name: &str, x: &str) -> String {
        let root = self.float("root_of_two", std::f32::consts::SQRT_2);
        let [one, half] = [("one", 1.0), ("half", 0.5)].map(|(name, value)| self.float(name, value));
        let y = self.node("Div", format!("{name}.scaled"), &[x, &root], vec![]);
        let y = self.node("Erf", format!("{name}.erf"), &[&y], vec![]);
        let y = self.node("Add", format!("{name}.share"), &[&y, &one], vec![]);
        let y = self.node("Mul", format!("{name}.twice"), &[x, &y], vec![]);
        self.node("Mul", name, &[&y, &half], vec![])
    }

    /// x in so many equal parts along the last axis.
    pub fn split(&mut self, name: &str, x: &str, parts: &[&str]) -> Vec<String> {
        let outputs: Vec<String> = parts.iter().map(|part| format!("{name}.{part}")).collect();
        self.nodes.push(Node {
            op: "Split",
            name: format!("{name}.split"),
            inputs: vec![x.to_string()],
            outputs: outputs.clone(),
            attributes: vec![("axis", Attribute::Int(-1))],
        });
        outputs
    }

    /// Attention of the tokens of `qkv` `[axes.., 3·heads·head_dim]`, the last of these axes being the tokens and 0 for one of any
    /// length, whose scores get the values `added`: `[axes.., heads·head_dim]`, before the projection.
    pub fn attention(
        &mut self,
        name: &str,
        qkv: &str,
        axes: &[i64],
        [heads, head_dim]: [usize; 2],
        added: &[String],
    ) -> String {
        let (heads, width) = (heads as i64, (heads * head_dim) as i64);
        let leading = axes.len() as i64 - 1;
        let before = (0..leading).collect::<Vec<i64>>();
        let order = |last: [i64; 3]| [&before[..], &last.map(|axis| leading + axis)].concat();
        let keep = |last: &[i64]| [axes, last].concat();
        let parts = self.split(name, qkv, &["q", "k", "v"]);
        let mut by_head = Vec::new();
        for (part, letter) in parts.iter().zip(["q", "k", "v"]) {
            let y = self.reshape(format!("{name}.{letter}.split"), part, &keep(&[heads, head_dim as i64]));
            // keys are transposed for the product
            let turned = order(if letter == "k" { [1, 2, 0] } else { [1, 0, 2] });
            by_head.push(self.transpose(format!("{name}.{letter}.heads"), &y, &turned));
        }
        let scale = self.float(&format!("scale_{head_dim}"), (head_dim as f32).powf(-0.5));
        let q = self.node("Mul", format!("{name}.q.scaled"), &[&by_head[0], &scale], vec![]);
        let mut scores = self.node("MatMul", format!("{name}.scores"), &[&q, &by_head[1]], vec![]);
        for (i, value) in added.iter().enumerate() {
            scores = self.node("Add", format!("{name}.scores.{i}"), &[&scores, value], vec![]);
        }
        let weights =
            self.node("Softmax", format!("{name}.weights"), &[&scores], vec![("axis", Attribute::Int(-1))]);
        let y = self.node("MatMul", format!("{name}.heads"), &[&weights, &by_head[2]], vec![]);
        let y = self.transpose(format!("{name}.tokens"), &y, &order([1, 0, 2]));
        self.reshape(format!("{name}.joined"), &y, &keep(&[width]))
    }

    /// Makes a value an output.
    pub fn output(&mut self, name: &'static str, axes: Vec<Axis>) {
        self.outputs.push(Output { name, axes });
    }

    /// Makes the patch tokens of so many, their mean and the class token, `[batch, width]` each, outputs.
    pub fn features(&mut self, patches: Option<usize>, width: usize) {
        self.mean(MEAN, PATCH_TOKENS, &[1]);
        let patches = patches.map_or(Axis::Named("patches"), Axis::Fixed);
        self.output(PATCH_TOKENS, vec![patches, Axis::Fixed(width)]);
        self.output(CLS, vec![Axis::Fixed(width)]);
        self.output(MEAN, vec![Axis::Fixed(width)]);
    }
}

/// What windows over a map are told: square ones, padded alike on all sides.
pub fn window(kernel: usize, stride: usize, padding: usize) -> Vec<(&'static str, Attribute)> {
    let all = |n: usize, count: usize| Attribute::Ints(vec![n as i64; count]);
    vec![("kernel_shape", all(kernel, 2)), ("strides", all(stride, 2)), ("pads", all(padding, 4))]
}

/// For each of `cells`² patch tokens, row by row, which pixel of a map of these rows and columns it stands on. Nothing where
/// each stands on its own.
pub fn cell_index(cells: usize, [height, width]: [usize; 2]) -> Option<Vec<i64>> {
    let place = |cell: usize| cell / cells * height / cells * width + cell % cells * width / cells;
    ([height, width] != [cells; 2]).then(|| (0..cells * cells).map(|cell| place(cell) as i64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_read() {
        assert_eq!("dynamic".parse::<Extent>().unwrap(), Extent::Dynamic);
        assert_eq!("224".parse::<Extent>().unwrap(), Extent::Fixed(224));
        for wrong in ["0", "-1", "", "1.5", "Dynamic", "99999999999999999999999"] {
            assert!(wrong.parse::<Extent>().unwrap_err().to_string().contains("dynamic"), "{wrong}");
        }
    }

    #[test]
    fn cells_stand_on_pixels() {
        assert_eq!(cell_index(2, [2, 2]), None);
        assert_eq!(cell_index(2, [1, 1]).unwrap(), [0, 0, 0, 0]);
        assert_eq!(cell_index(2, [3, 3]).unwrap(), [0, 1, 3, 4]);
    }
}
