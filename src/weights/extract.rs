//! A sub-network as a plain network (poa-facts: extraction): the slices it uses, α folded into the weights, blocks
//! numbered anew. Tensors are read and written one at a time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};
use crate::models::grid::{Network, block_ids};
use crate::models::resnet::{ResNetShape, resnet_specs};
use crate::models::vit::{VitSizes, vit_specs};
use crate::nn::parameters::ParameterSpec;
use crate::train::tensor_file::TensorFile;
use crate::train::tensor_writer::{TensorSpec, write_tensors_with};
use crate::weights::describe::describe;
use crate::weights::describe_resnet::describe_resnet;
use crate::weights::names::{Catalog, Format};

/// File of the tensors in the folder of an extracted network.
pub const MODEL: &str = "model.safetensors";
/// File of the sizes in the folder of an extracted network.
pub const CONFIG: &str = "config.json";

/// A sub-network of a teacher, ready to be written as a plain network.
#[derive(Debug)]
pub struct Extraction<'a> {
    teacher: &'a TensorFile,
    plain: Plain,
    parts: Vec<Part>,
}

/// Sizes of a plain network.
#[derive(Debug)]
enum Plain {
    Vit(VitSizes),
    ResNet(ResNetShape),
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
    /// Factor of its values.
    alpha: f32,
    /// Equal parts along the first axis, each of which is cut: queries, keys and values.
    groups: usize,
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
        let blocks = block_ids(sizes.depth, depth);
        let plain = sizes.plain(network);
        let mut parts = parts(teacher, &vit_specs(sizes), vit_specs(&plain), |name| {
            renumbered(name, "backbone.blocks.", &blocks)
        })?;
        for part in &mut parts {
            if part.name.ends_with(".linear.weight")
                && let (Some(&most), Some(&input)) = (part.source_shape.last(), part.shape.last())
            {
                part.alpha = most as f32 / input as f32;
            }
            part.groups = if part.name.contains(".attn.qkv.") { 3 } else { 1 };
        }
        Ok(Self { teacher, plain: Plain::Vit(plain), parts })
    }

    /// As [`Self::new`], of a ResNet. What timm's ResNet cannot express is an error in that format; DINOv2 has none.
    pub fn of_resnet(
        teacher: &'a TensorFile,
        shape: &ResNetShape,
        network: Network,
        format: Format,
    ) -> Result<Self> {
        shape.demand(network)?;
        let plain = shape.plain(network);
        describe_resnet(format, &plain)?;
        let blocks: Vec<Vec<usize>> =
            shape.depths.iter().zip(network.stages).map(|(most, depth)| block_ids(*most, depth)).collect();
        let mut parts = parts(teacher, &resnet_specs(shape), resnet_specs(&plain), |name| {
            let prefix = |stage: usize| format!("backbone.layer{}.layers.", stage + 1);
            blocks.iter().enumerate().find_map(|(stage, ids)| renumbered(name, &prefix(stage), ids))
        })?;
        for part in &mut parts {
            if part.name.ends_with(".conv2.conv.weight") || part.name.ends_with(".conv3.conv.weight") {
                part.alpha = part.source_shape[1] as f32 / part.shape[1] as f32;
            }
        }
        Ok(Self { teacher, plain: Plain::ResNet(plain), parts })
    }

    /// Sizes of the plain network, if it is a ViT.
    pub fn vit_sizes(&self) -> Option<&VitSizes> {
        match &self.plain {
            Plain::Vit(sizes) => Some(sizes),
            Plain::ResNet(_) => None,
        }
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
        let description = match &self.plain {
            Plain::Vit(sizes) => describe(format, sizes),
            Plain::ResNet(shape) => describe_resnet(format, shape)?,
        };
        let text = format!("{description:#}\n");
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
        if self.groups > 1 {
            for shape in [&mut from, &mut to] {
                shape[0] /= self.groups;
                shape.insert(0, self.groups);
            }
        }
        let mut out = Vec::with_capacity(to.iter().product());
        corner(values, &from, &to, &mut out);
        if self.alpha != 1.0 {
            out.iter_mut().for_each(|x| *x *= self.alpha);
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

/// The parts of a plain network with the parameters `plain`, of an intact one with the parameters `intact`; `original` is
/// the name there of what has another.
fn parts(
    teacher: &TensorFile,
    intact: &[ParameterSpec],
    plain: Vec<ParameterSpec>,
    original: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Part>> {
    let catalog = Catalog::of(teacher);
    let shapes: HashMap<&str, &[usize]> = intact.iter().map(|s| (s.name.as_str(), &s.shape[..])).collect();
    let mut parts = Vec::new();
    for ParameterSpec { name, shape, .. } in plain {
        let official = original(&name).unwrap_or_else(|| name.clone());
        let source = catalog.find(&official).unwrap_or(&official).to_string();
        let source_shape = shapes.get(official.as_str()).copied().unwrap_or_default().to_vec();
        teacher.expect_shape(&source, &source_shape)?;
        parts.push(Part { name, shape, source, source_shape, alpha: 1.0, groups: 1 });
    }
    Ok(parts)
}

/// The name in the intact network of a parameter whose name begins with `prefix` and its block's number; block k was
/// `blocks[k]`.
fn renumbered(name: &str, prefix: &str, blocks: &[usize]) -> Option<String> {
    let (block, part) = name.strip_prefix(prefix)?.split_once('.')?;
    Some(format!("{prefix}{}.{part}", blocks.get(block.parse::<usize>().ok()?)?))
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
