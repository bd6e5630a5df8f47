//! A sub-network as a plain network (poa-facts: extraction): the slices it uses, α folded into the weights,
//! blocks numbered anew. Which those are is what the backbone says; tensors are read and written one at a
//! time.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::data::Normalization;
use crate::error::{Error, Result};
use crate::files::own::create_own;
use crate::files::tensor_file::TensorFile;
use crate::files::tensor_writer::{TensorSpec, write_tensors_with};
use crate::models::backbone::Backbone;
use crate::models::grid::Network;
use crate::models::plain::{Format, PlainNetwork};
use crate::weights::describe::describe;
use crate::weights::names::Catalog;

/// File of the tensors in the folder of an extracted network.
pub const MODEL: &str = "model.safetensors";
/// File of the sizes in the folder of an extracted network.
pub const CONFIG: &str = "config.json";

/// A sub-network of a teacher, ready to be written as a plain network.
#[derive(Debug)]
pub struct Extraction<'a> {
    teacher: &'a TensorFile,
    network: Network,
    format: Format,
    plain: PlainNetwork,
    normalization: Normalization,
    /// What the teacher's file calls the source of each part.
    sources: Vec<String>,
}

impl<'a> Extraction<'a> {
    /// Prepares `network` of the backbone whose tensors `teacher` has; nothing is read yet. A network that
    /// the backbone does not have, one that the format cannot express, and a tensor that is missing or of
    /// another shape are errors.
    pub fn new(
        teacher: &'a TensorFile,
        backbone: &dyn Backbone,
        network: Network,
        format: Format,
    ) -> Result<Self> {
        let plain = backbone.plain(network, format)?;
        let catalog = Catalog::of(teacher);
        let mut sources = Vec::with_capacity(plain.parts.len());
        for part in &plain.parts {
            let source = catalog.find(&part.source).unwrap_or(&part.source).to_string();
            teacher.expect_shape(&source, &part.source_shape)?;
            sources.push(source);
        }
        let normalization = Normalization::imagenet(plain.channels);
        Ok(Self { teacher, network, format, plain, normalization, sources })
    }

    /// The same network, trained on images that were normalised so, instead of by
    /// [`Normalization::imagenet`].
    pub fn normalized(self, normalization: Normalization) -> Self {
        Self { normalization, ..self }
    }

    /// Names and shapes of the plain network's tensors.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        self.plain.parts.iter().map(|part| TensorSpec::f32(&part.name, &part.shape)).collect()
    }

    /// Values, row by row, of the plain network's tensor of this name.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let part = self.plain.parts.iter().zip(&self.sources).find(|(part, _)| part.name == name);
        let (part, source) = part.ok_or_else(|| {
            Error::Usage(format!("a plain network in the format {} has no tensor `{name}`", self.format))
        })?;
        Ok(part.cut(&self.teacher.read_f32_as(source, &part.source_shape)?))
    }

    /// Writes `model.safetensors` and `config.json` to the folder `dir`, which is made where it is missing. A
    /// file appears under its name when it is complete, the config last.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(|e| Error::file(dir, format!("cannot be created: {e}")))?;
        // An older network's config must not stand beside this one's tensors.
        let config = dir.join(CONFIG);
        if config.exists() {
            fs::remove_file(&config).map_err(|e| Error::file(&config, format!("cannot be replaced: {e}")))?;
        }
        put(&dir.join(MODEL), |partial| {
            write_tensors_with(partial, &self.tensors(), &[("format", "pt")], |name| self.read(name))
                .map(|_| ())
        })?;
        let text = format!("{:#}\n", describe(&self.plain, self.network, self.format, &self.normalization));
        put(&config, |partial| {
            create_own(partial)
                .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
                .map_err(|e| Error::file(partial, format!("cannot be written: {e}")))
        })
    }
}

/// Writes a file under a temporary name and renames it when it is complete.
fn put(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut partial = path.as_os_str().to_os_string();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let done = write(partial).and_then(|()| {
        fs::rename(partial, path).map_err(|e| Error::file(path, format!("cannot be put in place: {e}")))
    });
    if done.is_err() {
        // What cannot be removed is overwritten the next time.
        let _ = fs::remove_file(partial);
    }
    done
}
