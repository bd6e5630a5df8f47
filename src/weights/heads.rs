//! Projection heads beside an extracted network: `heads.safetensors`, in names of plain layers. The first layer is cut to the
//! network's width with α folded in, and the prototypes are the effective weight g·v/‖v‖, so that plain code has the logits:
//!
//! ```python
//! h = load_file("net/heads.safetensors")
//! x = F.gelu(F.linear(cls, h["dino_head.0.mlp.0.weight"], h["dino_head.0.mlp.0.bias"]))
//! x = F.gelu(F.linear(x, h["dino_head.0.mlp.2.weight"], h["dino_head.0.mlp.2.bias"]))
//! x = F.normalize(F.linear(x, h["dino_head.0.mlp.4.weight"], h["dino_head.0.mlp.4.bias"]), dim=-1)
//! logits = x @ h["dino_head.0.prototypes.weight"].T
//! ```

use std::path::Path;

use crate::error::{Error, Result};
use crate::eval::prototypes::{MODULES, heads_in};
use crate::files::tensor_file::TensorFile;
use crate::files::tensor_writer::{TensorSpec, write_tensors_with};
use crate::nn::elastic::InputScale;
use crate::nn::head::ProjectionHead;

/// File of the heads in the folder of an extracted network.
pub const HEADS: &str = "heads.safetensors";

/// A tensor of a plain head.
struct Layer<'a> {
    head: &'a ProjectionHead,
    spec: TensorSpec,
    part: Part,
}

/// What it is made of.
#[derive(Clone, Copy)]
enum Part {
    /// The first layer's weight.
    First,
    /// A layer as it is, by its official name in the head.
    Same(&'static str),
    Prototypes,
}

/// Writes all heads of a teacher for a network whose features are `width` wide to a network's folder; `scale` says whether
/// α is there to be folded in. Returns how many. A teacher without heads, or with narrower ones, is an error.
pub fn write_heads(teacher: &TensorFile, scale: InputScale, width: usize, dir: &Path) -> Result<usize> {
    let mut heads = Vec::new();
    for module in MODULES {
        heads.extend(heads_in(teacher, module)?);
    }
    heads.iter_mut().for_each(|head| head.sizes.input_scale = scale);
    if heads.is_empty() {
        return Err(Error::file(teacher.path(), "has no projection heads to keep; leave --heads out"));
    }
    if let Some(head) = heads.iter().find(|head| head.sizes.input < width) {
        let input = head.sizes.input;
        return Err(Error::file(
            teacher.path(),
            format!("has heads for {input} channels, and the network {width}"),
        ));
    }
    let layers: Vec<Layer> = heads.iter().flat_map(|head| layers(head, width)).collect();
    let specs: Vec<TensorSpec> = layers.iter().map(|layer| layer.spec.clone()).collect();
    write_tensors_with(&dir.join(HEADS), &specs, &[("format", "pt")], |name| {
        let layer = layers.iter().find(|layer| layer.spec.name == name);
        let layer = layer.ok_or_else(|| Error::file(dir, format!("`{name}` is no part of a head")))?;
        read(teacher, layer, width)
    })?;
    Ok(heads.len())
}

fn layers(head: &ProjectionHead, width: usize) -> Vec<Layer<'_>> {
    let s = &head.sizes;
    let name = |part: &str| format!("{}.{}.{part}", head.module, head.index);
    let layer =
        |part: &str, shape: &[usize], of| Layer { head, spec: TensorSpec::f32(name(part), shape), part: of };
    vec![
        layer("mlp.0.weight", &[s.hidden, width], Part::First),
        layer("mlp.0.bias", &[s.hidden], Part::Same("0.linear.bias")),
        layer("mlp.2.weight", &[s.hidden, s.hidden], Part::Same("2.weight")),
        layer("mlp.2.bias", &[s.hidden], Part::Same("2.bias")),
        layer("mlp.4.weight", &[s.bottleneck, s.hidden], Part::Same("4.weight")),
        layer("mlp.4.bias", &[s.bottleneck], Part::Same("4.bias")),
        layer("prototypes.weight", &[s.prototypes, s.bottleneck], Part::Prototypes),
    ]
}

fn read(teacher: &TensorFile, layer: &Layer<'_>, width: usize) -> Result<Vec<f32>> {
    let (head, s) = (layer.head, &layer.head.sizes);
    let mlp = |part: &str| format!("{}.mlp{}.{part}", head.module, head.index);
    Ok(match layer.part {
        Part::Same(part) => teacher.read_f32(&mlp(part))?,
        Part::First => {
            let whole = teacher.read_f32_as(&mlp("0.linear.weight"), &[s.hidden, s.input])?;
            let alpha = s.input_scale.alpha(s.input, width);
            let rows = whole.chunks_exact(s.input);
            rows.flat_map(|row| row[..width].iter().map(move |v| v * alpha)).collect()
        }
        Part::Prototypes => {
            let last = |part: &str, shape: &[usize]| {
                teacher.read_f32_as(&format!("{}.last_layer{}.{part}", head.module, head.index), shape)
            };
            let mut rows = last("weight_v", &[s.prototypes, s.bottleneck])?;
            let lengths = last("weight_g", &[s.prototypes, 1])?;
            for (row, length) in rows.chunks_exact_mut(s.bottleneck).zip(lengths) {
                let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                row.iter_mut().for_each(|v| *v = (f64::from(*v) * f64::from(length) / norm) as f32);
            }
            rows
        }
    })
}
