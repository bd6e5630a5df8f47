//! Tensors into safetensors files: whole tensors one at a time, so that a model larger than memory's spare
//! room can be saved, or rows as they come, so that the features of millions of images can.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::durable::{FileSum, Summed};
use super::own::create_own;
use super::tensor_file::StoredType;
use super::tensor_header::METADATA;
use super::whole::{destination, partial_of, put_in_place};
use crate::error::{Error, Result};

/// Values of a tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Stored as F32.
    F32(Vec<f32>),
    /// Stored as U8.
    U8(Vec<u8>),
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Self::F32(values)
    }
}

impl From<Vec<u8>> for Values {
    fn from(values: Vec<u8>) -> Self {
        Self::U8(values)
    }
}

/// Name, shape and type of a tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// The tensor's name, unique in its file.
    pub name: String,
    /// The tensor's shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub stored: StoredType,
}

impl TensorSpec {
    /// A tensor of 32-bit floats.
    pub fn f32(name: impl Into<String>, shape: &[usize]) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), stored: StoredType::F32 }
    }

    /// A tensor of bytes.
    pub fn u8(name: impl Into<String>, shape: &[usize]) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), stored: StoredType::U8 }
    }

    /// A tensor of 64-bit whole numbers; for [`RowWriter`].
    pub fn i64(name: impl Into<String>, shape: &[usize]) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), stored: StoredType::I64 }
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self) -> usize {
        self.elements() * self.stored.size()
    }
}

/// The tensors in the order of the file, and what stands before their data.
fn lay_out<'a>(
    path: &Path,
    specs: &'a [TensorSpec],
    metadata: &[(&str, &str)],
) -> Result<(Vec<&'a TensorSpec>, Vec<u8>)> {
    // Larger elements first, so that each tensor starts at a multiple of its element's size.
    let mut specs: Vec<&TensorSpec> = specs.iter().collect();
    specs.sort_by_key(|spec| std::cmp::Reverse(spec.stored.size()));
    let mut header = Map::new();
    if !metadata.is_empty() {
        let entries: Map<String, Value> = metadata.iter().map(|(k, v)| (k.to_string(), json!(v))).collect();
        header.insert(METADATA.into(), entries.into());
    }
    let mut offset = 0;
    for spec in &specs {
        let end = offset + spec.bytes();
        let entry = json!({ "dtype": spec.stored, "shape": spec.shape, "data_offsets": [offset, end] });
        if header.insert(spec.name.clone(), entry).is_some() {
            return Err(Error::file(path, format!("two tensors are called `{}`", spec.name)));
        }
        offset = end;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    Ok((specs, bytes))
}

/// Writes a safetensors file and forces it to disk. `read` is called once for each tensor, by name, floats
/// first; only one tensor is in memory at a time. The tensors are F32 or U8. Returns the file's size and
/// checksum.
pub fn write_tensors<V: Into<Values>>(
    path: &Path,
    specs: &[TensorSpec],
    read: impl FnMut(&str) -> Result<V>,
) -> Result<FileSum> {
    write_tensors_with(path, specs, &[], read)
}

/// As [`write_tensors`], with entries for the header's `__metadata__`, such as `("format", "pt")`, by which
/// other programs know the framework.
pub fn write_tensors_with<V: Into<Values>>(
    path: &Path,
    specs: &[TensorSpec],
    metadata: &[(&str, &str)],
    mut read: impl FnMut(&str) -> Result<V>,
) -> Result<FileSum> {
    let failed = |e: std::io::Error| Error::file(path, format!("cannot be written: {e}"));
    let (specs, header) = lay_out(path, specs, metadata)?;
    let mut file = BufWriter::with_capacity(1 << 20, Summed::new(create_own(path).map_err(failed)?));
    file.write_all(&header).map_err(failed)?;
    for spec in &specs {
        let values = read(&spec.name)?.into();
        let (count, stored) = match &values {
            Values::F32(v) => (v.len(), StoredType::F32),
            Values::U8(v) => (v.len(), StoredType::U8),
        };
        if count != spec.elements() || stored != spec.stored {
            return Err(Error::file(
                path,
                format!(
                    "tensor `{}` was announced as {:?} {:?} and came as {count} values of {stored:?}",
                    spec.name, spec.stored, spec.shape
                ),
            ));
        }
        match values {
            Values::F32(v) if cfg!(target_endian = "little") => file.write_all(bytemuck::cast_slice(&v)),
            Values::F32(v) => v.iter().try_for_each(|x| file.write_all(&x.to_le_bytes())),
            Values::U8(v) => file.write_all(&v),
        }
        .map_err(failed)?;
    }
    let (file, sum) = file.into_inner().map_err(|e| failed(e.into_error()))?.into_parts();
    file.sync_all().map_err(failed)?;
    Ok(sum)
}

/// A safetensors file that is filled row by row; it appears under its name when it is finished.
#[derive(Debug)]
pub struct RowWriter {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    /// Start of the data and bytes of a row, by name.
    places: HashMap<String, (u64, usize)>,
}

impl RowWriter {
    /// Starts a file of these tensors, all zeros. Rows are what the first axis counts.
    pub fn create(path: impl AsRef<Path>, specs: &[TensorSpec], metadata: &[(&str, &str)]) -> Result<Self> {
        let path = destination(path.as_ref())?;
        let partial = partial_of(&path);
        let failed = |e: std::io::Error| Error::file(partial_of(&path), format!("cannot be written: {e}"));
        let (specs, header) = lay_out(&path, specs, metadata)?;
        let file = create_own(&partial).map_err(failed)?;
        // from here on it is removed where something fails
        let mut all = Self { path: path.clone(), partial, file, places: HashMap::new() };
        all.file.write_all(&header).map_err(failed)?;
        let mut at = header.len() as u64;
        for spec in specs {
            let rows = spec.shape.first().copied().unwrap_or(1).max(1);
            all.places.insert(spec.name.clone(), (at, spec.bytes() / rows));
            at += spec.bytes() as u64;
        }
        all.file.set_len(at).map_err(failed)?;
        Ok(all)
    }

    /// Writes rows of a tensor, the first of them row `first`, as little-endian bytes.
    pub fn write(&mut self, name: &str, first: usize, rows: &[u8]) -> Result<()> {
        let failed = |e: std::io::Error| Error::file(&self.partial, format!("cannot be written: {e}"));
        let &(start, row) = self
            .places
            .get(name)
            .ok_or_else(|| Error::file(&self.path, format!("has no tensor `{name}`")))?;
        self.file.seek(SeekFrom::Start(start + (first * row) as u64)).map_err(failed)?;
        self.file.write_all(rows).map_err(failed)
    }

    /// Forces the file to disk and gives it its name.
    pub fn finish(self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::file(&self.path, format!("cannot be written: {e}")))?;
        put_in_place(&self.partial, &self.path)
    }
}

impl Drop for RowWriter {
    fn drop(&mut self) {
        // after `finish` there is nothing under this name; what cannot be removed is overwritten the next
        // time
        let _ = std::fs::remove_file(&self.partial);
    }
}
