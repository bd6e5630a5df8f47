//! Weights and constants as an ONNX model has them: each is made when its turn to be written comes.

use crate::error::{Error, Result};
use crate::models::graph::{Arrangement, Constant, Graph, Values, Weight};
use crate::weights::extract::Extraction;
use crate::weights::onnx::schema::{FLOAT, INT64};
use crate::weights::resample::positions;

/// A tensor of the model.
pub(super) struct Tensor<'a> {
    pub name: &'a str,
    pub shape: Vec<usize>,
    content: Content<'a>,
}

enum Content<'a> {
    /// A weight, of this shape in the plain network.
    Weight(Arrangement, Vec<usize>),
    Constant(&'a Values),
}

impl<'a> Tensor<'a> {
    /// All tensors of a graph, constants first.
    pub fn all(graph: &'a Graph, extraction: &Extraction) -> Result<Vec<Self>> {
        let weights: std::collections::HashMap<_, _> =
            extraction.tensors().into_iter().map(|spec| (spec.name, spec.shape)).collect();
        let constant = |Constant { name, shape, values }: &'a Constant| Self {
            name,
            shape: shape.clone(),
            content: Content::Constant(values),
        };
        let weight = |Weight { name, arrangement }: &'a Weight| {
            let plain = weights.get(name).ok_or_else(|| {
                Error::Usage(format!("the graph takes a tensor `{name}`, which the plain network has not"))
            })?;
            let shape = arranged(*arrangement, plain);
            Ok(Self { name, shape, content: Content::Weight(*arrangement, plain.clone()) })
        };
        graph.constants.iter().map(|c| Ok(constant(c))).chain(graph.weights.iter().map(weight)).collect()
    }

    /// `TensorProto.DataType`
    pub fn data_type(&self) -> i32 {
        match self.content {
            Content::Constant(Values::Ints(_)) => INT64,
            _ => FLOAT,
        }
    }

    /// Whether it may lie in another file: shapes and the like are needed to read a model.
    pub fn is_weight(&self) -> bool {
        matches!(self.content, Content::Weight(..))
    }

    /// Bytes of its values.
    pub fn bytes(&self) -> u64 {
        let element = if self.data_type() == INT64 { 8 } else { 4 };
        element * self.shape.iter().product::<usize>() as u64
    }

    /// Its values, little-endian.
    pub fn read(&self, extraction: &Extraction) -> Result<Vec<u8>> {
        Ok(match &self.content {
            Content::Constant(Values::Ints(values)) => values.iter().flat_map(|n| n.to_le_bytes()).collect(),
            Content::Constant(Values::Floats(values)) => bytes_of(values),
            Content::Weight(arrangement, plain) => {
                bytes_of(&arrange(*arrangement, plain, extraction.read(self.name)?))
            }
        })
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    match cfg!(target_endian = "little") {
        true => bytemuck::cast_slice(values).to_vec(),
        false => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// The shape of a weight of this shape.
fn arranged(arrangement: Arrangement, plain: &[usize]) -> Vec<usize> {
    match (arrangement, plain) {
        (Arrangement::Transposed, &[rows, columns]) => vec![columns, rows],
        (Arrangement::OfMaps, plain) => [plain, &[1, 1]].concat(),
        (Arrangement::Resampled { to, .. }, &[one, _, width]) => vec![one, to * to, width],
        _ => plain.to_vec(),
    }
}

/// Its values.
fn arrange(arrangement: Arrangement, plain: &[usize], values: Vec<f32>) -> Vec<f32> {
    match (arrangement, plain) {
        (Arrangement::Transposed, &[_, columns]) => {
            let column = |c| values.iter().skip(c).step_by(columns).copied();
            (0..columns).flat_map(column).collect()
        }
        (Arrangement::Resampled { from, to }, &[_, _, width]) => {
            // a row for a class token stands in front, and is not wanted
            positions(&values, width, 0, from, to).split_off(width)
        }
        _ => values,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_transposed() {
        let values: Vec<f32> = (0..6u8).map(f32::from).collect();
        assert_eq!(arranged(Arrangement::Transposed, &[2, 3]), [3, 2]);
        assert_eq!(arrange(Arrangement::Transposed, &[2, 3], values), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }
}
