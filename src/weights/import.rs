//! Parameters of a model from a file: of this program, of official POA, of DINOv2 or of timm, or of what others write
//! ([`crate::weights::foreign`]).

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::checkpoint::{self, Checkpoint};
use crate::files::tensor_file::TensorFile;
use crate::models::backbone::Backbone;
use crate::models::plain::{Format, PlainName, corner};
use crate::nn::parameters::{FlatBuffers, ParameterSpec};
use crate::shown::shown;
use crate::weights::extract;
pub use crate::weights::filling::{Filling, Outcome};
use crate::weights::foreign::Tensors;
use crate::weights::names::Catalog;
use crate::weights::resample::{channels, grid_side, kernels, patch_side, positions, rows_before};
use crate::weights::start;

/// Official names of the weights that see the images: of a ViT's and a Swin's patches, of a ResNet's first
/// convolution.
const FIRST: [&str; 2] = [PATCHES, "backbone.conv1.weight"];
/// The weights of a patch embedding.
const PATCHES: &str = "backbone.patch_embed.proj.weight";

/// A checkpoint's file of the teacher.
const TEACHER: &str = "teacher.safetensors";
/// How many names a summary gives of each kind.
const LISTED: usize = 3;

/// A file as the start of a model.
#[derive(Debug)]
pub struct Import {
    file: Tensors,
    fillings: Vec<Filling>,
    unused: Vec<String>,
    /// What else is to be said.
    notes: Vec<String>,
}

impl Import {
    /// Opens a safetensors file, or the teacher in the folder of a checkpoint, of a run (its newest
    /// checkpoint) or of an extracted network, and finds for every parameter of a model with this backbone
    /// what there is for it, under its official name or that of a plain network. A file in which there is
    /// nothing at all is an error.
    pub fn open(
        path: impl AsRef<Path>,
        backbone: &dyn Backbone,
        parameters: &[ParameterSpec],
    ) -> Result<Self> {
        let file = Tensors::new(tensors(path.as_ref())?)?;
        // the most that any format has
        let plain = |name: &str| backbone.plain_name(name, Format::Poa);
        let named: Vec<(&ParameterSpec, Option<PlainName>)> =
            parameters.iter().map(|spec| (spec, plain(&spec.name))).collect();
        let wanted =
            named.iter().filter(|(spec, _)| spec.name.starts_with("backbone.")).flat_map(|(spec, plain)| {
                std::iter::once(spec.name.as_str()).chain(plain.iter().map(|plain| plain.name.as_str()))
            });
        let catalog = Catalog::of(file.names(), wanted);
        let mut fillings = Vec::with_capacity(parameters.len());
        for (spec, plain) in named {
            let (name, shape) = (spec.name.clone(), spec.shape.clone());
            let official = catalog.find(&name).map(|source| (source, None));
            let plain = || {
                let PlainName { name, pieces } = plain?;
                let source = catalog
                    .find(&name)
                    .or_else(|| start::other_names(&name).iter().find_map(|name| catalog.find(name)))?;
                Some((source, pieces.map(|pieces| pieces.inverse())))
            };
            fillings.push(match official.or_else(plain) {
                Some((source, pieces)) => {
                    let outcome = compare(&name, file.shape(source)?, &shape);
                    Filling { name, shape, source: source.to_string(), pieces, outcome }
                }
                None => {
                    Filling { name, shape, source: String::new(), pieces: None, outcome: Outcome::Missing }
                }
            });
        }
        let gated = parameters.iter().any(|spec| spec.name.ends_with("mlp.w12.linear.weight"));
        start::demand_kind(&file, &catalog, gated)?;
        let mut notes = file.notes().to_vec();
        notes.extend(start::complete(&mut fillings));
        let used: HashSet<&str> = fillings.iter().map(|f| f.source.as_str()).collect();
        let unused = file.names().filter(|name| !used.contains(name)).flat_map(|name| file.sources(name));
        let unused = unused.map(str::to_string).collect();
        notes.extend(start::dropped(&file, &catalog, &used));
        let import = Self { file, fillings, unused, notes };
        match import.fillings.iter().any(Filling::is_from_file) {
            true => Ok(import),
            false => Err(import.nothing(&catalog)),
        }
    }

    /// The file the values come from.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Every parameter of the model, in its order.
    pub fn fillings(&self) -> &[Filling] {
        &self.fillings
    }

    /// Tensors of the file that no parameter has the name of.
    pub fn unused(&self) -> &[String] {
        &self.unused
    }

    /// The values for a parameter, row by row; `None` where the file has none that fit.
    pub fn read(&self, filling: &Filling) -> Result<Option<Vec<f32>>> {
        let read = || {
            let values = self.file.read_f32(&filling.source)?;
            match values.iter().position(|value| !value.is_finite()) {
                None => Ok(values),
                Some(at) => Err(Error::file(
                    self.path(),
                    format!(
                        "tensor `{}` holds {} (value {at}), so nothing can start from it; give another file",
                        self.file.sources(&filling.source).join("`, `"),
                        values[at]
                    ),
                )),
            }
        };
        Ok(match filling.outcome {
            Outcome::Matched => {
                let Filling { shape, pieces, .. } = filling;
                Some(corner(&read()?, shape, shape, pieces.as_ref()))
            }
            Outcome::Resized { from, to } if is_position(&filling.name) => {
                Some(positions(&read()?, filling.shape[2], 1, from, to))
            }
            Outcome::Rows { before, from, to } => {
                Some(positions(&read()?, filling.shape[2], before, from, to))
            }
            Outcome::Constant(value) => Some(vec![value; filling.shape.iter().product()]),
            Outcome::Resized { from, to } => Some(kernels(&read()?, from, to)),
            Outcome::Channels { from, to, sides: [side, wanted] } => {
                let values = channels(&read()?, from, to, side * side);
                Some(if side == wanted { values } else { kernels(&values, side, wanted) })
            }
            Outcome::Missing | Outcome::OtherShape(_) => None,
        })
    }

    /// Writes the values to the parameters of a backbone. One that it computes with and the file does not have is an error, which
    /// names the `place` where its sizes are said.
    pub fn fill_all(&self, backbone: &dyn Backbone, values: &FlatBuffers, place: &str) -> Result<()> {
        // no loss reaches the mask token and what plain networks are without
        let needs = |name: &str| {
            let plain = backbone.plain_name(name, Format::Poa);
            name.starts_with("backbone.") && !name.ends_with("mask_token") && plain.is_some()
        };
        for filling in &self.fillings {
            if let Some(found) = self.read(filling)? {
                values.write(&filling.name, &found)?;
            } else if needs(&filling.name) {
                return Err(Error::file(
                    self.path(),
                    format!(
                        "has no tensor for `{}` {:?} of the network; {place} must say what the file \
                         holds",
                        filling.name, filling.shape
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Hands out name and values of every parameter that the file has something for; one tensor at a time is
    /// in memory.
    pub fn fill(&self, mut write: impl FnMut(&str, &[f32]) -> Result<()>) -> Result<()> {
        for filling in &self.fillings {
            if let Some(values) = self.read(filling)? {
                write(&filling.name, &values)?;
            }
        }
        Ok(())
    }

    /// Demands that this is a start for a whole network: a tensor of another width is an error that names it and
    /// what to set, and so is a file that fills less than half of the backbone. All that is used is read, so that
    /// nothing is wrong with it later. With `partial` only the latter is checked.
    pub fn demand(&self, partial: bool) -> Result<()> {
        if !partial {
            start::demand_most(&self.file, &self.fillings)
                .map_err(|problem| Error::file(self.path(), problem))?;
        }
        self.fill(|_, _| Ok(()))
    }

    /// One line for the user: how many blocks and parameters the file fills, which it does not, and what of it nothing
    /// uses.
    pub fn summary(&self) -> String {
        let (mut matched, mut resized, mut missing) = (0, Vec::new(), Vec::new());
        let mut brought = Vec::new();
        for Filling { name, shape, outcome, .. } in &self.fillings {
            match outcome {
                Outcome::Matched => matched += 1,
                Outcome::Resized { from, to } => resized.push(format!("{name} {from}x{from} → {to}x{to}")),
                Outcome::Channels { from, to, sides: [side, wanted] } => {
                    let how = if *to == 1 { "summed" } else { "repeated" };
                    let resized = if side == wanted {
                        String::new()
                    } else {
                        format!(", {side}x{side} → {wanted}x{wanted}")
                    };
                    brought.push(format!("{name} {how} {from} → {to}{resized}"));
                }
                Outcome::Rows { before, from, to } => {
                    resized.push(format!("{name} {before} + {from}x{from} → 1 + {to}x{to}"));
                }
                Outcome::Constant(_) => {}
                Outcome::Missing => missing.push(name.clone()),
                Outcome::OtherShape(found) => missing.push(format!("{name} is {found:?}, not {shape:?}")),
            }
        }
        let [filled, blocks] = start::blocks(&self.fillings);
        let mut line = format!(
            "init: {filled} of {blocks} blocks, {matched} tensor{} matched",
            if matched == 1 { "" } else { "s" }
        );
        for (kind, names) in [
            ("resized", &resized),
            ("brought to other channels", &brought),
            ("missing", &missing),
            ("unused", &self.unused),
        ] {
            if !names.is_empty() {
                let more = if names.len() > LISTED { ", …" } else { "" };
                let listed = names[..names.len().min(LISTED)].join(", ");
                // writing to a string cannot fail
                let _ = write!(line, ", {} {kind} ({}{more})", names.len(), shown(&listed));
            }
        }
        for note in &self.notes {
            let _ = write!(line, "; {}", shown(note));
        }
        line
    }

    /// The error for a file that fills nothing.
    fn nothing(&self, catalog: &Catalog) -> Error {
        let other = self.fillings.iter().find_map(|f| match &f.outcome {
            Outcome::OtherShape(found) => Some((f, found)),
            _ => None,
        });
        let problem = match (other, self.nearest(catalog)) {
            (Some((filling, found)), _) => format!(
                "none of its tensors has a shape of this model: `{}` is {found:?} and `{}` {:?}; train a model of the \
                 file's sizes (student.max_embed_dim, student.patch_size) or give another file",
                self.file.sources(&filling.source).join("`, `"),
                filling.name,
                filling.shape
            ),
            (None, Some((theirs, ours))) => format!(
                "none of its tensors belongs to this model; the nearest is `{theirs}`, where the model has `{ours}`; \
                 files of this program, of official POA, of DINOv2 and DINOv3, of timm, transformers and OpenCLIP can be used"
            ),
            (None, None) => "it holds no tensor at all; give another file".to_string(),
        };
        Error::file(self.path(), problem)
    }

    /// The tensor of the file whose name is most like a parameter's, and that parameter.
    fn nearest(&self, catalog: &Catalog) -> Option<(String, String)> {
        let mut best = None;
        for (bare, source) in catalog.iter() {
            for Filling { name, .. } in &self.fillings {
                let likeness = strsim::normalized_damerau_levenshtein(&format!("backbone.{bare}"), name);
                if best.as_ref().is_none_or(|(most, _, _)| likeness > *most) {
                    best = Some((likeness, source, name));
                }
            }
        }
        best.map(|(_, source, name)| (source.to_string(), name.clone()))
    }
}

fn is_position(name: &str) -> bool {
    name == "backbone.pos_embed"
}

/// What a tensor of shape `found` is for a parameter of shape `wanted`. Axes of length one do not count,
/// since files differ in them (`mask_token`).
fn compare(name: &str, found: &[usize], wanted: &[usize]) -> Outcome {
    let longer = |shape: &[usize]| shape.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
    if longer(found) == longer(wanted) {
        return Outcome::Matched;
    }
    if FIRST.contains(&name)
        && let (&[width, from, ..], &[ours, to, ..]) = (found, wanted)
        && let Some(sides) = patch_side(found).zip(patch_side(wanted))
        && width == ours
        && from != to
        && (sides.0 == sides.1 || name == PATCHES)
    {
        return Outcome::Channels { from, to, sides: [sides.0, sides.1] };
    }
    if is_position(name)
        && found.last() == wanted.last()
        && grid_side(found, 1).is_none()
        && let Some((before, from)) = rows_before(found)
        && let Some(to) = grid_side(wanted, 1)
    {
        return Outcome::Rows { before, from, to };
    }
    let sides = |side: fn(&[usize]) -> Option<usize>| side(found).zip(side(wanted));
    let resized = match name {
        _ if is_position(name) && found.last() == wanted.last() => sides(|shape| grid_side(shape, 1)),
        PATCHES if found.first() == wanted.first() => sides(patch_side),
        _ => None,
    };
    match resized {
        Some((from, to)) => Outcome::Resized { from, to },
        None => Outcome::OtherShape(found.to_vec()),
    }
}

/// The file of tensors that a path stands for. What is part of a checkpoint is compared with its manifest.
fn tensors(path: &Path) -> Result<TensorFile> {
    if !path.is_dir() {
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some((dir, name)) = path.parent().zip(name)
            && checkpoint::has_manifest(dir)
        {
            let checkpoint = Checkpoint::open(dir)?;
            if checkpoint.contains(name) {
                return checkpoint.tensors(name);
            }
        }
        return TensorFile::open(path);
    }
    if checkpoint::has_manifest(path) {
        return Checkpoint::open(path)?.tensors(TEACHER);
    }
    let files = [TEACHER, extract::MODEL].map(|name| path.join(name));
    if let Some(file) = files.iter().find(|file| file.is_file()) {
        return TensorFile::open(file);
    }
    if let Some(found) = checkpoint::find_in(path)? {
        return found.tensors(TEACHER);
    }
    Err(Error::file(
        path,
        "holds no weights; give a safetensors file, or the folder of a checkpoint, of a run with checkpoints or of \
         an extracted network",
    ))
}
