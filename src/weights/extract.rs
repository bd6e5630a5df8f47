//! A sub-network as a plain network (poa-facts: extraction): the slices it uses, α folded into the weights, blocks
//! numbered anew. Tensors are read and written one at a time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};
use crate::models::grid::{Network, block_ids};
use crate::models::vit::{VitSizes, vit_specs};
use crate::train::tensor_file::TensorFile;
use crate::train::tensor_writer::{TensorSpec, write_tensors_with};
use crate::weights::describe::describe;
use crate::weights::names::{Catalog, Format};

/// File of the tensors in the folder of an extracted network.
pub const MODEL: &str = "model.safetensors";
/// File of the sizes in the folder of an extracted network.
pub const CONFIG: &str = "config.json";

/// A sub-network of a teacher, ready to be written as a plain network.
#[derive(Debug)]
pub struct Extraction<'a> {
    teacher: &'a TensorFile,
    /// Sizes of the plain network.
    plain: VitSizes,
    parts: Vec<Part>,
}

/// A parameter of the plain network and where it comes from.
#[derive(Debug)]
struct Part {
    /// Official name within the plain network.
    name: String,
    shape: Vec<usize>,
    /// What the teacher's file calls the tensor it is cut from.
    source: String,
    source_shape: Vec<usize>,
}

impl<'a> Extraction<'a> {
    /// Prepares `network` of the ViT whose intact `sizes` and tensors `teacher` has; nothing is read yet. A network
    /// that does not fit the sizes, or a tensor that is missing or of another shape, is an error.
    pub fn new(teacher: &'a TensorFile, sizes: &VitSizes, network: Network) -> Result<Self> {
        let Network { width, depth, .. } = network;
        let fits = (1..=sizes.width).contains(&width) && (1..=sizes.depth).contains(&depth);
        if !fits || !width.is_multiple_of(sizes.head_dim) {
            return Err(Error::Usage(format!(
                "there is no sub-network {network} in a ViT of {}x{}; widths are multiples of {}",
                sizes.width, sizes.depth, sizes.head_dim
            )));
        }
        let catalog = Catalog::of(teacher);
        let specs = vit_specs(sizes);
        let intact: HashMap<&str, &[usize]> = specs.iter().map(|s| (s.name.as_str(), &s.shape[..])).collect();
        let blocks = block_ids(sizes.depth, depth);
        let plain = sizes.plain(network);
        let mut parts = Vec::new();
        for spec in vit_specs(&plain) {
            let official = original_block(&spec.name, &blocks);
            let source = catalog.find(&official).unwrap_or(&official);
            let source_shape = intact.get(official.as_str()).copied().unwrap_or_default();
            teacher.expect_shape(source, source_shape)?;
            parts.push(Part {
                source: source.to_string(),
                source_shape: source_shape.to_vec(),
                name: spec.name,
                shape: spec.shape,
            });
        }
        Ok(Self { teacher, plain, parts })
    }

    /// Sizes of the plain network.
    pub fn sizes(&self) -> &VitSizes {
        &self.plain
    }

    /// Names and shapes of the plain network's tensors.
    pub fn tensors(&self, format: Format) -> Vec<TensorSpec> {
        let plain = self.parts.iter().filter_map(|p| Some((format.plain_name(&p.name)?, &p.shape)));
        plain.map(|(name, shape)| TensorSpec::f32(name, shape)).collect()
    }

    /// Values, row by row, of the tensor that the plain network has under this name in `format`.
    pub fn read(&self, format: Format, name: &str) -> Result<Vec<f32>> {
        let part = self.parts.iter().find(|p| format.plain_name(&p.name).as_deref() == Some(name));
        let part = part.ok_or_else(|| {
            Error::Usage(format!("a plain network in the format {format} has no tensor `{name}`"))
        })?;
        let values = self.teacher.read_f32_as(&part.source, &part.source_shape)?;
        Ok(part.cut(&values))
    }

    /// Writes `model.safetensors` and `config.json` to the folder `dir`, which is made where it is missing. A file
    /// appears under its name when it is complete, the config last.
    pub fn write(&self, dir: &Path, format: Format) -> Result<()> {
        fs::create_dir_all(dir).map_err(|e| Error::file(dir, format!("cannot be created: {e}")))?;
        // An older network's config must not stand beside this one's tensors.
        let config = dir.join(CONFIG);
        if config.exists() {
            fs::remove_file(&config).map_err(|e| Error::file(&config, format!("cannot be replaced: {e}")))?;
        }
        put(&dir.join(MODEL), |partial| {
            let specs = self.tensors(format);
            write_tensors_with(partial, &specs, &[("format", "pt")], |name| self.read(format, name))
                .map(|_| ())
        })?;
        let text = format!("{:#}\n", describe(format, &self.plain));
        put(&config, |partial| {
            File::create(partial)
                .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
                .map_err(|e| Error::file(partial, format!("cannot be written: {e}")))
        })
    }
}

impl Part {
    fn cut(&self, values: &[f32]) -> Vec<f32> {
        let (mut from, mut to) = (self.source_shape.clone(), self.shape.clone());
        let alpha = match (from.last(), to.last()) {
            (Some(&most), Some(&input)) if self.name.ends_with(".linear.weight") => {
                most as f32 / input as f32
            }
            _ => 1.0,
        };
        if self.name.contains(".attn.qkv.") {
            // queries, keys and values are each cut
            for shape in [&mut from, &mut to] {
                shape[0] /= 3;
                shape.insert(0, 3);
            }
        }
        let mut out = Vec::with_capacity(to.iter().product());
        corner(values, &from, &to, &mut out);
        if alpha != 1.0 {
            out.iter_mut().for_each(|x| *x *= alpha);
        }
        out
    }
}

/// Appends the first `to` entries along every axis of a tensor of shape `from`.
fn corner(values: &[f32], from: &[usize], to: &[usize], out: &mut Vec<f32>) {
    if from == to {
        return out.extend_from_slice(values);
    }
    if let [_, inner_from @ ..] = from
        && let [count, inner_to @ ..] = to
    {
        let inner = inner_from.iter().product::<usize>();
        for part in values.chunks_exact(inner).take(*count) {
            corner(part, inner_from, inner_to, out);
        }
    }
}

/// The official name in the intact network of a plain network's parameter; block k was `blocks[k]`.
fn original_block(name: &str, blocks: &[usize]) -> String {
    const PREFIX: &str = "backbone.blocks.";
    let moved = || {
        let (block, part) = name.strip_prefix(PREFIX)?.split_once('.')?;
        Some(format!("{PREFIX}{}.{part}", blocks.get(block.parse::<usize>().ok()?)?))
    };
    moved().unwrap_or_else(|| name.to_string())
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
