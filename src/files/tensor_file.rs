//! Tensors from safetensors files, read one at a time. Files of others are read too, with floats of any
//! width.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The longest header that is accepted, in bytes, as in the safetensors crate.
const MAX_HEADER: u64 = 100_000_000;
/// The header's one entry that is no tensor.
pub(super) const METADATA: &str = "__metadata__";

/// How the elements of a stored tensor are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoredType {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// The upper half of 32-bit floats.
    BF16,
    /// 64-bit whole numbers.
    I64,
    /// 32-bit whole numbers.
    I32,
    /// Bytes.
    U8,
    /// Truth values, a byte each.
    BOOL,
}

impl StoredType {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::U8 | Self::BOOL => 1,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Entry {
    dtype: StoredType,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// A safetensors file, read one tensor at a time.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: Mutex<Box<dyn Stream>>,
    /// Where the data starts in the file, in bytes.
    data: u64,
    entries: BTreeMap<String, Entry>,
}

/// What tensors are read from.
trait Stream: Read + Seek + Send {}

impl std::fmt::Debug for dyn Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl<T: Read + Seek + Send> Stream for T {}

impl TensorFile {
    /// Opens a file and checks that it is whole.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
        Self::from_stream(path, Box::new(file))
    }

    /// Reads tensors that are built into the program; `name` stands for them in errors.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self> {
        Self::from_stream(Path::new(name), Box::new(std::io::Cursor::new(bytes)))
    }

    fn from_stream(path: &Path, mut file: Box<dyn Stream>) -> Result<Self> {
        let failed = |e: std::io::Error| Error::file(path, format!("cannot be read: {e}"));
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let foreign = |why: &str| {
            Error::file(
                path,
                format!("is not a safetensors file, or its start is damaged ({why}); copy it again"),
            )
        };
        let mut size = [0; 8];
        if length < 8 {
            return Err(foreign("it is shorter than a header"));
        }
        file.read_exact(&mut size).map_err(failed)?;
        let size = u64::from_le_bytes(size);
        if size > MAX_HEADER {
            return Err(foreign("the length of its header makes no sense"));
        }
        if size > length - 8 {
            return Err(foreign("it ends within its header"));
        }
        let mut header = vec![0; size as usize];
        file.read_exact(&mut header).map_err(failed)?;
        let header: Map<String, Value> =
            serde_json::from_slice(&header).map_err(|e| foreign(&format!("header: {e}")))?;
        let data = 8 + size;
        let mut entries = BTreeMap::new();
        for (name, value) in header {
            if name == METADATA {
                continue;
            }
            let entry: Entry = serde_json::from_value(value)
                .map_err(|e| Error::file(path, format!("tensor `{name}` cannot be read: {e}")))?;
            let [begin, end] = entry.data_offsets;
            let bytes = entry
                .shape
                .iter()
                .try_fold(entry.dtype.size() as u64, |bytes, &n| bytes.checked_mul(u64::try_from(n).ok()?));
            if bytes.is_none() || end.checked_sub(begin) != bytes {
                return Err(Error::file(
                    path,
                    format!("tensor `{name}` has shape {:?} but {begin}..{end} for its bytes", entry.shape),
                ));
            }
            if end > length - data {
                return Err(Error::file(
                    path,
                    format!(
                        "is cut off: tensor `{name}` ends at byte {} of {length}; copy the file again, or use an \
                         earlier checkpoint",
                        data.saturating_add(end)
                    ),
                ));
            }
            entries.insert(name, entry);
        }
        Ok(Self { path: path.to_path_buf(), file: Mutex::new(file), data, entries })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether the file holds a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.entry(name)?.shape)
    }

    /// How a tensor is stored.
    pub fn stored(&self, name: &str) -> Result<StoredType> {
        Ok(self.entry(name)?.dtype)
    }

    /// A tensor of floats of any width, as 32-bit ones, row by row.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        use half::{bf16, f16};
        let (stored, bytes) = self.bytes(name)?;
        let values = match stored {
            StoredType::F32 => each(&bytes, f32::from_le_bytes),
            StoredType::F64 => each(&bytes, |b| f64::from_le_bytes(b) as f32),
            StoredType::F16 => each(&bytes, |b| f16::from_le_bytes(b).to_f32()),
            StoredType::BF16 => each(&bytes, |b| bf16::from_le_bytes(b).to_f32()),
            other => return Err(self.problem(name, format!("is stored as {other:?}, expected floats"))),
        };
        Ok(values)
    }

    /// A tensor of floats that must have this shape.
    pub fn read_f32_as(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.expect_shape(name, shape)?;
        self.read_f32(name)
    }

    /// A tensor of bytes or truth values, row by row.
    pub fn read_u8(&self, name: &str) -> Result<Vec<u8>> {
        match self.bytes(name)? {
            (StoredType::U8 | StoredType::BOOL, bytes) => Ok(bytes),
            (other, _) => Err(self.problem(name, format!("is stored as {other:?}, expected bytes"))),
        }
    }

    /// A tensor of whole numbers of any width, row by row.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>> {
        let (stored, bytes) = self.bytes(name)?;
        match stored {
            StoredType::I64 => Ok(each(&bytes, i64::from_le_bytes)),
            StoredType::I32 => Ok(each(&bytes, |b| i32::from_le_bytes(b).into())),
            StoredType::U8 | StoredType::BOOL => Ok(bytes.into_iter().map(i64::from).collect()),
            other => Err(self.problem(name, format!("is stored as {other:?}, expected whole numbers"))),
        }
    }

    /// Checks that a tensor has this shape.
    pub fn expect_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        let found = self.shape(name)?;
        if found != shape {
            let problem = format!(
                "has shape {found:?}, expected {shape:?}; the file belongs to a network of other sizes, so give the \
                 configuration it was made with"
            );
            return Err(self.problem(name, problem));
        }
        Ok(())
    }

    fn problem(&self, name: &str, problem: String) -> Error {
        Error::file(&self.path, format!("tensor `{name}` {problem}"))
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let near = self
                .names()
                .map(|n| (strsim::normalized_damerau_levenshtein(n, name), n))
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = near.map_or_else(
                || "it holds no tensor at all".to_string(),
                |(_, n)| format!("the nearest of its {} is `{n}`", self.entries.len()),
            );
            self.problem(name, format!("is missing; {hint}"))
        })
    }

    fn bytes(&self, name: &str) -> Result<(StoredType, Vec<u8>)> {
        let entry = self.entry(name)?;
        let [begin, end] = entry.data_offsets;
        let mut bytes = vec![0; (end - begin) as usize];
        // A thread that panicked while reading leaves nothing behind but the file's position.
        let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        file.seek(SeekFrom::Start(self.data + begin))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|e| self.problem(name, format!("cannot be read: {e}")))?;
        Ok((entry.dtype, bytes))
    }
}

fn each<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| value(*chunk)).collect()
}
