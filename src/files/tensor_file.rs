//! Tensors from safetensors files, read one at a time. Files of others are read too, with floats of any
//! width.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::foreign;
use super::regular::open_regular;
pub use super::tensor_header::StoredType;
use super::tensor_header::{self, Entry, Fault, MAX_HEADER, shown};
use crate::error::{Error, Result};

/// Tensors and letters of their names that are looked through for one that was meant.
const LOOKED_THROUGH: [usize; 2] = [10_000, 200];

/// A safetensors file, read one tensor at a time.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: Mutex<Box<dyn Stream>>,
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
    /// Opens a file and checks that it is whole. What is no regular file, and what is no safetensors file, is
    /// an error that says what it is.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = open_regular(path)?;
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
        let size = match length {
            0..8 => None,
            _ => {
                let mut size = [0; 8];
                file.read_exact(&mut size).map_err(failed)?;
                Some(u64::from_le_bytes(size))
            }
        };
        let problem = match size {
            None => "it is shorter than a header".into(),
            Some(size) if size > MAX_HEADER => "the length of its header makes no sense".into(),
            Some(size) if size > length - 8 => "it ends within its header".into(),
            Some(size) => {
                let mut header = vec![0; size as usize];
                file.read_exact(&mut header).map_err(failed)?;
                match tensor_header::entries(&header, 8 + size, length) {
                    Ok(entries) => {
                        return Ok(Self { path: path.to_path_buf(), file: Mutex::new(file), entries });
                    }
                    Err(Fault::Tensor(problem)) => {
                        return Err(Error::file(path, format!("{problem}; get the file again")));
                    }
                    Err(Fault::Short(problem)) => {
                        let problem = format!("{problem}; copy the file again, or use an earlier checkpoint");
                        return Err(Error::file(path, problem));
                    }
                    Err(Fault::Foreign(problem)) => problem,
                }
            }
        };
        file.rewind().map_err(failed)?;
        Err(foreign::error(path, &mut file, length, &problem))
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

    /// How a tensor is stored; a way that is not read is an error.
    pub fn stored(&self, name: &str) -> Result<StoredType> {
        let entry = self.entry(name)?;
        entry.stored().ok_or_else(|| {
            self.problem(name, format!("is stored as {}, which is not read", shown(&entry.dtype)))
        })
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
        Error::file(&self.path, format!("tensor `{}` {problem}", shown(name)))
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let [tensors, letters] = LOOKED_THROUGH;
            let near = self
                .names()
                .filter(|n| n.len() <= letters)
                .take(tensors)
                .map(|n| (strsim::normalized_damerau_levenshtein(n, name), n))
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = near.map_or_else(
                || "it holds no tensor at all".to_string(),
                |(_, n)| format!("the nearest of its {} is `{}`", self.entries.len(), shown(n)),
            );
            self.problem(name, format!("is missing; {hint}"))
        })
    }

    fn bytes(&self, name: &str) -> Result<(StoredType, Vec<u8>)> {
        let stored = self.stored(name)?;
        let [begin, end] = self.entry(name)?.place;
        let mut bytes = Vec::new();
        // a file with holes can be larger than memory
        let room = usize::try_from(end - begin).is_ok_and(|n| bytes.try_reserve_exact(n).is_ok());
        if !room {
            return Err(self.problem(name, format!("has {} bytes, more than memory holds", end - begin)));
        }
        // A thread that panicked while reading leaves nothing behind but the file's position.
        let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let read = file
            .seek(SeekFrom::Start(begin))
            .and_then(|_| Read::by_ref(&mut *file).take(end - begin).read_to_end(&mut bytes))
            .map_err(|e| self.problem(name, format!("cannot be read: {e}")))?;
        match read as u64 == end - begin {
            true => Ok((stored, bytes)),
            false => Err(self.problem(name, "cannot be read: the file has become shorter".into())),
        }
    }
}

fn each<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| value(*chunk)).collect()
}
