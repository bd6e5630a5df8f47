//! The best network so far of a run, as a network of its own.

use std::fs;
use std::path::Path;

use crate::data::Normalization;
use crate::error::{Error, Result};
use crate::files::tensor_file::TensorFile;
use crate::files::tensor_writer::{TensorSpec, write_tensors_with};
use crate::models::backbone::Backbone;
use crate::models::plain::Format;
use crate::nn::parameters::FlatBuffers;
use crate::weights::extract::{Classifier, Extraction};

/// Writes the backbone among these parameters to the folder `dir`, with a classifier where there is one: for timm, or where timm
/// has no such network in POA's format. Says in which.
pub(super) fn write_network(
    values: &FlatBuffers,
    backbone: &dyn Backbone,
    dir: &Path,
    normalization: Normalization,
    classifier: Option<Classifier>,
) -> Result<Format> {
    let file = dir.with_extension("official.safetensors");
    let places = values.layout().places();
    let specs: Vec<TensorSpec> =
        places.iter().map(|place| TensorSpec::f32(&place.spec.name, &place.spec.shape)).collect();
    write_tensors_with(&file, &specs, &[], |name| values.read(name))?;
    let network = backbone.grid().intact();
    let timm = backbone.plain(network, Format::Timm).is_ok();
    let format = if timm { Format::Timm } else { Format::Poa };
    let written = TensorFile::open(&file).and_then(|teacher| {
        let plain = Extraction::new(&teacher, backbone, network, format)?.normalized(normalization);
        match classifier {
            Some(classifier) => plain.with_classifier(classifier)?.write(dir),
            None => plain.write(dir),
        }
    });
    let removed = fs::remove_file(&file);
    written?;
    removed.map_err(|e| Error::file(&file, format!("cannot be removed: {e}")))?;
    Ok(format)
}
