//! Official POA names of parameters, and those that plain ViTs have elsewhere.
//!
//! The elastic model has a level more in its names than a plain one: `attn.qkv.linear.weight`, `norm1.norm.weight`.
//! The official extraction drops it with the prefix `backbone.`, which leaves the names of DINOv2; timm has the same
//! but for the mask token.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::train::tensor_file::TensorFile;

/// Under which names, and with which `config.json`, a plain network is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// timm's `VisionTransformer`, as `timm.create_model("local-dir:DIR", pretrained=True)` loads it.
    Timm,
    /// The backbones of DINOv2's hub.
    Dinov2,
    /// What POA's `tools/extract_elastic_net.py` writes (without block chunks); the names are those of DINOv2.
    Poa,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::Timm, Self::Dinov2, Self::Poa];

    /// What the format is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timm => "timm",
            Self::Dinov2 => "dinov2",
            Self::Poa => "poa",
        }
    }

    /// The name in this format of a parameter with an official name; `None` for what a plain backbone in this format
    /// does not have: projection heads, and in timm the mask token.
    pub fn plain_name(self, official: &str) -> Option<String> {
        let name = official.strip_prefix("backbone.")?;
        if self == Self::Timm && name == "mask_token" {
            return None;
        }
        let mut pieces: Vec<&str> = name.split('.').collect();
        if let Some(plain) = resnet_name(&pieces) {
            return Some(plain);
        }
        if let Some(level) = pieces.len().checked_sub(2)
            && (pieces[level] == "linear" || pieces[level] == "norm" && level > 0)
        {
            pieces.remove(level);
        }
        Some(pieces.join("."))
    }
}

/// The name in plain ResNets, torchvision's and timm's: without the levels of elastic layers, norms as `bn`.
fn resnet_name(pieces: &[&str]) -> Option<String> {
    let norm = |name: &str| match name.strip_prefix("norm") {
        Some(number) => format!("bn{number}"),
        None => name.to_string(),
    };
    match pieces {
        ["norm1", part] => Some(format!("bn1.{part}")),
        [stage, "layers", block, layer, rest @ ..] if stage.starts_with("layer") => {
            let rest: Vec<&str> = rest.iter().copied().filter(|piece| *piece != "conv").collect();
            Some(format!("{stage}.{block}.{}.{}", norm(layer), rest.join(".")))
        }
        _ => None,
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
            .ok_or_else(|| Error::Usage(format!("there is no format `{name}`; timm, dinov2 and poa are")))
    }
}

/// What wrappers and checkpoints put before a parameter's name.
const PREFIXES: [&str; 5] = ["module.", "model.", "teacher.", "student.", "backbone."];

/// Modules beside the backbone.
const HEADS: [&str; 2] = ["dino_head.", "ibot_head."];

/// The official name of a tensor that a file calls `name`: without what stands before it, without the level of block
/// chunks (`blocks.0.3.` is the block 3), with the level of elastic layers. Any name gives one; what no model has is
/// found out by looking it up.
pub fn official_name(name: &str) -> String {
    let mut rest = name;
    while let Some(shorter) = PREFIXES.iter().find_map(|p| rest.strip_prefix(p)) {
        rest = shorter;
    }
    if HEADS.iter().any(|head| rest.starts_with(head)) {
        return rest.to_string();
    }
    let mut pieces: Vec<&str> = rest.split('.').collect();
    let number = |piece: &str| !piece.is_empty() && piece.bytes().all(|b| b.is_ascii_digit());
    if let ["blocks", chunk, block, _, ..] = pieces[..]
        && number(chunk)
        && number(block)
    {
        pieces.remove(1);
    }
    let level = match pieces[..] {
        ["norm", _] | ["blocks", _, "norm1" | "norm2", _] => Some("norm"),
        ["blocks", _, "attn", "qkv" | "proj", _] | ["blocks", _, "mlp", "fc1" | "fc2", _] => Some("linear"),
        _ => None,
    };
    if let Some(level) = level {
        pieces.insert(pieces.len() - 1, level);
    }
    format!("backbone.{}", pieces.join("."))
}

/// The tensors of a file by their official names.
#[derive(Debug)]
pub struct Catalog {
    by_official: BTreeMap<String, String>,
}

impl Catalog {
    /// The catalog of a file. Where student and teacher are both in it, the teacher's tensors count.
    pub fn of(file: &TensorFile) -> Self {
        let mut by_official = BTreeMap::new();
        for name in file.names() {
            let place = by_official.entry(official_name(name)).or_insert_with(|| name.to_string());
            if name.contains("teacher.") {
                *place = name.to_string();
            }
        }
        Self { by_official }
    }

    /// What the file calls the parameter of this official name.
    pub fn find(&self, official: &str) -> Option<&str> {
        self.by_official.get(official).map(String::as_str)
    }

    /// All pairs of official name and name in the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.by_official.iter().map(|(official, name)| (official.as_str(), name.as_str()))
    }
}
