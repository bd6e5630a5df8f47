//! A file's tensors under the names of timm and DINOv2, whoever wrote it. One that others have in pieces is put together as it is read.

use std::collections::BTreeMap;
use std::path::Path;

use super::clip::CLIP;
use super::dialect::Dialect;
use super::dinov3::DINOV3;
use super::hub;
use super::open_clip::OPEN_CLIP;
use super::vit::VIT;
use crate::error::{Error, Result};
use crate::files::tensor_file::TensorFile;

const DIALECTS: [&Dialect; 4] = [&VIT, &DINOV3, &CLIP, &OPEN_CLIP];

/// Rows of a tensor, one after the other.
#[derive(Clone, Debug, PartialEq)]
enum Piece {
    /// All of a tensor of the file.
    Whole(String),
    /// A third of the rows of a tensor of the file.
    Third(String, usize),
    /// So many zeros.
    Zeros(usize),
}

/// A tensor that may be in pieces.
#[derive(Clone, Debug, PartialEq)]
struct Joined {
    shape: Vec<usize>,
    pieces: Vec<Piece>,
}

/// The tensors of a file under names that are known.
#[derive(Debug)]
pub struct Tensors {
    file: TensorFile,
    tensors: BTreeMap<String, Joined>,
    notes: Vec<String>,
}

impl Tensors {
    /// The tensors of a file. Names that no library's are stay as they are.
    pub fn new(file: TensorFile) -> Result<Self> {
        let spoken = DIALECTS.iter().max_by_key(|dialect| dialect.known(file.names()));
        let spoken = spoken.filter(|dialect| dialect.known(file.names()) > 0);
        let (mut tensors, mut thirds) = (BTreeMap::new(), BTreeMap::<String, [Option<String>; 3]>::new());
        for source in file.names() {
            let meaning = spoken.and_then(|dialect| dialect.meaning(source));
            let (name, third) = match meaning {
                Some(meaning) => (meaning.name, meaning.third),
                None => hub_meaning(source),
            };
            match third {
                Some(third) => thirds.entry(name).or_default()[third] = Some(source.to_string()),
                None => {
                    let joined = whole(&file, source, &name)?;
                    tensors.insert(name, joined);
                }
            }
        }
        for (name, sources) in thirds {
            let joined = of_thirds(&file, &name, &sources, &tensors)?;
            tensors.insert(name, joined);
        }
        let mut notes = Vec::new();
        if let Some(dialect) = spoken {
            notes.push(format!("its names are those of {}", dialect.whose));
            notes.extend(dialect.notes(file.names()).into_iter().map(String::from));
        }
        let dropped = |(theirs, _): &&(&str, &str)| file.names().any(|name| name.ends_with(theirs));
        notes.extend(hub::DROPPED.iter().filter(dropped).map(|(_, note)| note.to_string()));
        Ok(Self { file, tensors, notes })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What is to be said of the file.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's shape.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        match self.tensors.get(name) {
            Some(joined) => Ok(&joined.shape),
            None => self.file.shape(name),
        }
    }

    /// A tensor's values, row by row.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let Some(joined) = self.tensors.get(name) else { return self.file.read_f32(name) };
        let mut values = Vec::new();
        for piece in &joined.pieces {
            match piece {
                Piece::Whole(source) => values.extend(self.file.read_f32(source)?),
                Piece::Third(source, third) => {
                    let all = self.file.read_f32(source)?;
                    let length = all.len() / 3;
                    values.extend_from_slice(&all[third * length..][..length]);
                }
                Piece::Zeros(count) => values.resize(values.len() + count, 0.0),
            }
        }
        Ok(values)
    }

    /// What the file calls the tensors that this one is made of.
    pub fn sources<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        let Some(joined) = self.tensors.get(name) else { return vec![name] };
        let source = |piece: &'a Piece| match piece {
            Piece::Whole(source) | Piece::Third(source, _) => Some(source.as_str()),
            Piece::Zeros(_) => None,
        };
        let mut sources: Vec<&str> = joined.pieces.iter().filter_map(source).collect();
        sources.dedup();
        sources
    }
}

/// What a tensor is among names that are timm's or DINOv2's.
fn hub_meaning(source: &str) -> (String, Option<usize>) {
    for (theirs, ours) in hub::OUTSIDE {
        if let Some(prefix) = source.strip_suffix(theirs).filter(|prefix| ends_level(prefix)) {
            return (format!("{prefix}{ours}"), None);
        }
    }
    for (theirs, third) in hub::HALVES {
        if let Some(prefix) = source.strip_suffix(theirs).filter(|prefix| ends_level(prefix)) {
            return (format!("{prefix}attn.qkv.bias"), Some(third));
        }
    }
    (source.to_string(), None)
}

fn ends_level(prefix: &str) -> bool {
    prefix.is_empty() || prefix.ends_with('.')
}

/// A tensor of the file as it is, but for a row of positions that is none of a batch, and for what a mask takes out of a bias.
fn whole(file: &TensorFile, source: &str, name: &str) -> Result<Joined> {
    let mut shape = file.shape(source)?.to_vec();
    if name.ends_with("pos_embed") && shape.len() == 2 {
        shape.insert(0, 1);
    }
    let masked = name.ends_with("qkv.bias") && file.contains(&format!("{source}{}", hub::MASK));
    let pieces = match masked && shape.iter().product::<usize>().is_multiple_of(3) {
        true => {
            let third = |third| Piece::Third(source.to_string(), third);
            vec![third(0), Piece::Zeros(shape.iter().product::<usize>() / 3), third(2)]
        }
        false => vec![Piece::Whole(source.to_string())],
    };
    Ok(Joined { shape, pieces })
}

/// Queries, keys and values as one; a bias that one of them lacks is zero.
fn of_thirds(
    file: &TensorFile,
    name: &str,
    sources: &[Option<String>; 3],
    tensors: &BTreeMap<String, Joined>,
) -> Result<Joined> {
    let mut shape: Option<Vec<usize>> = None;
    for source in sources.iter().flatten() {
        let found = file.shape(source)?;
        match &shape {
            Some(shape) if shape != found => {
                return Err(Error::file(
                    file.path(),
                    format!(
                        "tensor `{source}` is {found:?}, where that of the queries is {shape:?}; give a file of a network whose queries, \
                             keys and values are alike"
                    ),
                ));
            }
            _ => shape = Some(found.to_vec()),
        }
    }
    let mut shape = shape.unwrap_or_default();
    let length: usize = shape.iter().product();
    if let [None, ..] | [_, None, _] | [.., None] = sources
        && (shape.len() != 1 || tensors.contains_key(name))
    {
        let there: Vec<&str> = sources.iter().flatten().map(String::as_str).collect();
        return Err(Error::file(
            file.path(),
            format!(
                "has `{}` without the queries, keys or values that belong to it; give a whole file",
                there.join("`, `")
            ),
        ));
    }
    if let Some(rows) = shape.first_mut() {
        *rows *= 3;
    }
    let piece = |source: &Option<String>| source.clone().map_or(Piece::Zeros(length), Piece::Whole);
    Ok(Joined { shape, pieces: sources.iter().map(piece).collect() })
}
