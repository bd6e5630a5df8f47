//! Writes an ONNX model tensor by tensor: the lengths of all messages follow from shapes, so that what stands before and
//! between the values can be written ahead of them.

use std::io::{BufWriter, Write};
use std::path::Path;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::json;

use crate::error::{Error, Result};
use crate::files::own::create_own;
use crate::files::whole::partial_of;
use crate::models::backbone::Backbone;
use crate::models::graph::{Arrangement, Attribute, Axis, CLS, Extent, IMAGES, Node};
use crate::weights::card::CARD;
use crate::weights::describe::{CROP, describe};
use crate::weights::extract::Extraction;
use crate::weights::folder::{write_folder, write_text};
use crate::weights::onnx::schema::{
    AttributeProto, Dimension, EXTERNAL, FLOAT, GRAPH_FIELD, GraphProto, INITIALIZER_FIELD, IR_VERSION,
    Length, ModelProto, NodeProto, OPSET, OperatorSetIdProto, RAW_DATA_FIELD, StringStringEntryProto,
    TensorProto, TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
};
use crate::weights::onnx::tensors::Tensor;

/// File of the model in its folder.
pub const MODEL: &str = "model.onnx";
/// File of the weights where the model is too large to have them itself.
pub const DATA: &str = "model.onnx.data";
/// What a classifier gives, `[batch, classes]`.
const LOGITS: &str = "logits";
/// Values of a file of weights begin at multiples of this, so that they can be mapped into memory.
const ALIGNMENT: u64 = 4096;

/// How a model is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnnxOptions {
    /// Images a call.
    pub batch: Extent,
    /// Pixels of their side; without one those of the global crops.
    pub size: Option<Extent>,
    /// Bytes of weights that the model has itself, at most; where there are more, all are in [`DATA`]. A message ends at 2 GB.
    pub within: u64,
}

impl Default for OnnxOptions {
    fn default() -> Self {
        Self { batch: Extent::Dynamic, size: None, within: 1_900_000_000 }
    }
}

/// Writes the model of an extraction of `backbone` (in `Format::Onnx`) to the folder `dir`, as [`Extraction::write`] does. Returns
/// bytes of all files.
pub fn write_onnx(
    extraction: &Extraction,
    backbone: &dyn Backbone,
    options: OnnxOptions,
    dir: &Path,
) -> Result<u64> {
    let plain = extraction.plain();
    let size = options.size.unwrap_or(Extent::Fixed(plain.image));
    let mut graph = backbone.graph(extraction.network(), size)?;
    let classes = extraction.classes();
    if let Some(head) = extraction.head().filter(|_| !classes.is_empty()) {
        let [weight, bias] =
            ["weight", "bias"].map(|part| graph.weight(format!("{head}.{part}"), Arrangement::Same));
        graph.node("Gemm", LOGITS, &[CLS, &weight, &bias], vec![("transB", Attribute::Int(1))]);
        graph.output(LOGITS, vec![Axis::Fixed(classes.len())]);
    }
    let tensors = Tensor::all(&graph, extraction)?;
    let beside = tensors.iter().map(Tensor::bytes).sum::<u64>() > options.within;
    let side = |name| match size {
        Extent::Fixed(n) => Axis::Fixed(n),
        Extent::Dynamic => Axis::Named(name),
    };
    let images = [Axis::Fixed(plain.channels), side("height"), side("width")];
    let description =
        describe(plain, extraction.network(), extraction.format(), extraction.normalization(), classes);
    let mut about = vec![
        ("network", extraction.network().to_string()),
        ("mean", description["mean"].to_string()),
        ("std", description["std"].to_string()),
        ("size", size.to_string()),
        ("crop", json!(CROP).to_string()),
        ("interpolation", "bicubic".into()),
        ("config", description.to_string()),
    ];
    if !classes.is_empty() {
        about.push(("classes", json!(classes).to_string()));
    }
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some(env!("CARGO_PKG_NAME").into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        graph: None,
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        metadata_props: about.into_iter().map(|(key, value)| entry(key, value)).collect(),
    };
    let empty = GraphProto {
        node: graph.nodes.iter().map(node).collect(),
        name: Some(extraction.network().to_string()),
        initializer: Vec::new(),
        input: vec![value(IMAGES, options.batch, &images)],
        output: graph.outputs.iter().map(|output| value(output.name, options.batch, &output.axes)).collect(),
    };
    let card = extraction.card_for(dir);
    let names: Vec<&str> =
        beside.then_some(DATA).into_iter().chain([MODEL]).chain(card.map(|_| CARD)).collect();
    let mut written = 0;
    // an older network's weights must not stand beside this one's model
    write_folder(dir, &names, &[DATA], |dir| {
        let at = |name: &str| partial_of(&dir.join(name));
        let read = |tensor: &Tensor| tensor.read(extraction);
        written = write_model(&at(MODEL), &model, &empty, &tensors, beside, read)?;
        if beside {
            written += write_data(&at(DATA), &tensors, read)?;
        }
        card.map_or(Ok(()), |text| write_text(dir, CARD, text))
    })?;
    Ok(written)
}

/// A file that is written in pieces, and forced to disk at its end.
fn file(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<u64>) -> Result<u64> {
    let failed = |e: std::io::Error| Error::file(path, format!("cannot be written: {e}"));
    let mut file = BufWriter::with_capacity(1 << 20, create_own(path).map_err(failed)?);
    let bytes = write(&mut file)?;
    file.into_inner().map_err(|e| failed(e.into_error()))?.sync_all().map_err(failed)?;
    Ok(bytes)
}

/// The model; its tensors become fields of its graph one by one.
fn write_model(
    path: &Path,
    model: &ModelProto,
    empty: &GraphProto,
    tensors: &[Tensor],
    beside: bool,
    read: impl Fn(&Tensor) -> Result<Vec<u8>>,
) -> Result<u64> {
    let failed = |e: std::io::Error| Error::file(path, format!("cannot be written: {e}"));
    let nodes = empty.encode_to_vec();
    let mut heads = Vec::with_capacity(tensors.len());
    let (mut length, mut offset) = (nodes.len() as u64, 0);
    for tensor in tensors {
        let away = beside && tensor.is_weight();
        let head = head(tensor, away.then_some(offset));
        length += head.len() as u64;
        match away {
            true => offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT),
            false => length += tensor.bytes(),
        }
        heads.push(head);
    }
    let mut front = model.encode_to_vec();
    delimited(&mut front, GRAPH_FIELD, length);
    front.extend(nodes);
    file(path, |file| {
        let mut written = front.len() as u64;
        file.write_all(&front).map_err(failed)?;
        for (tensor, head) in tensors.iter().zip(heads) {
            file.write_all(&head).map_err(failed)?;
            written += head.len() as u64;
            if !(beside && tensor.is_weight()) {
                let values = read(tensor)?;
                file.write_all(&values).map_err(failed)?;
                written += values.len() as u64;
            }
        }
        Ok(written)
    })
}

/// The weights of a model that has none itself.
fn write_data(path: &Path, tensors: &[Tensor], read: impl Fn(&Tensor) -> Result<Vec<u8>>) -> Result<u64> {
    let failed = |e: std::io::Error| Error::file(path, format!("cannot be written: {e}"));
    file(path, |file| {
        let mut written = 0u64;
        for tensor in tensors.iter().filter(|tensor| tensor.is_weight()) {
            let gap = written.next_multiple_of(ALIGNMENT) - written;
            file.write_all(&vec![0; gap as usize]).map_err(failed)?;
            let values = read(tensor)?;
            file.write_all(&values).map_err(failed)?;
            written += gap + values.len() as u64;
        }
        Ok(written)
    })
}

/// What stands before the values of a tensor, which is a field of the graph; or all of it, where the values are in [`DATA`]
/// from `offset` on.
fn head(tensor: &Tensor, offset: Option<u64>) -> Vec<u8> {
    let about = TensorProto {
        dims: tensor.shape.iter().map(|n| *n as i64).collect(),
        data_type: Some(tensor.data_type()),
        name: Some(tensor.name.to_string()),
        raw_data: None,
        external_data: offset.map_or_else(Vec::new, |offset| {
            vec![
                entry("location", DATA.into()),
                entry("offset", offset.to_string()),
                entry("length", tensor.bytes().to_string()),
            ]
        }),
        data_location: offset.map(|_| EXTERNAL),
    };
    let mut inner = about.encode_to_vec();
    let mut length = inner.len() as u64;
    if offset.is_none() {
        delimited(&mut inner, RAW_DATA_FIELD, tensor.bytes());
        length = inner.len() as u64 + tensor.bytes();
    }
    let mut all = Vec::with_capacity(inner.len() + 8);
    delimited(&mut all, INITIALIZER_FIELD, length);
    all.extend(inner);
    all
}

/// The beginning of a field of so many bytes.
fn delimited(to: &mut Vec<u8>, field: u32, bytes: u64) {
    encode_key(field, WireType::LengthDelimited, to);
    encode_varint(bytes, to);
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.into()), value: Some(value) }
}

fn node(node: &Node) -> NodeProto {
    NodeProto {
        input: node.inputs.clone(),
        output: node.outputs.clone(),
        name: Some(node.name.clone()),
        op_type: Some(node.op.into()),
        attribute: node.attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
    }
}

fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let named = AttributeProto { name: Some(name.into()), ..Default::default() };
    match value {
        Attribute::Float(f) => AttributeProto { f: Some(*f), r#type: Some(1), ..named },
        Attribute::Int(i) => AttributeProto { i: Some(*i), r#type: Some(2), ..named },
        Attribute::Ints(ints) => AttributeProto { ints: ints.clone(), r#type: Some(7), ..named },
    }
}

/// An input or output, whose first axis counts images.
fn value(name: &str, batch: Extent, axes: &[Axis]) -> ValueInfoProto {
    let batch = match batch {
        Extent::Fixed(n) => Axis::Fixed(n),
        Extent::Dynamic => Axis::Named("batch"),
    };
    let length = |axis: &Axis| match axis {
        Axis::Fixed(n) => Length::Value(*n as i64),
        Axis::Named(name) => Length::Name((*name).into()),
    };
    let dim =
        std::iter::once(&batch).chain(axes).map(|axis| Dimension { value: Some(length(axis)) }).collect();
    let tensor_type = TensorType { elem_type: Some(FLOAT), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}
