//! CIFAR-10 and CIFAR-100 in their binary versions, as <https://www.cs.toronto.edu/~kriz/cifar.html> gives
//! them out.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use image::{Rgb, RgbImage};

use crate::data::bad_samples::BadSample;
use crate::data::pixels::Image;
use crate::data::source::{Source, check_count};
use crate::error::{Error, Result};
use crate::shown::shown;

/// Pixels a side.
const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// Which of the two data sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 10 classes, one label byte a picture.
    Cifar10,
    /// 100 classes, a coarse and a fine label byte a picture; the fine one is used.
    Cifar100,
}

/// What the files of a version are called and how they are laid out.
struct Layout {
    kind: &'static str,
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    names: &'static str,
    classes: usize,
    /// Label bytes before the pixels; the last is the class.
    label_bytes: usize,
}

impl Version {
    fn layout(self) -> Layout {
        match self {
            Self::Cifar10 => Layout {
                kind: "cifar10",
                folder: "cifar-10-batches-bin",
                train: &[
                    "data_batch_1.bin",
                    "data_batch_2.bin",
                    "data_batch_3.bin",
                    "data_batch_4.bin",
                    "data_batch_5.bin",
                ],
                test: "test_batch.bin",
                names: "batches.meta.txt",
                classes: 10,
                label_bytes: 1,
            },
            Self::Cifar100 => Layout {
                kind: "cifar100",
                folder: "cifar-100-binary",
                train: &["train.bin"],
                test: "test.bin",
                names: "fine_label_names.txt",
                classes: 100,
                label_bytes: 2,
            },
        }
    }
}

/// One part of CIFAR, in memory: 3 KiB a picture.
pub struct Cifar {
    /// The data set as it was named.
    spec: String,
    part: &'static str,
    records: Vec<u8>,
    label_bytes: usize,
    classes: Vec<String>,
    held_out: Option<Arc<dyn Source>>,
}

impl Cifar {
    /// Reads the train part, and the test part as the one held out, from `dir` or from the folder in it that
    /// the official archive makes.
    pub fn open(dir: impl AsRef<Path>, version: Version) -> Result<Self> {
        let (dir, layout) = (dir.as_ref(), version.layout());
        let inner = dir.join(layout.folder);
        let root = if inner.is_dir() { &inner } else { dir };
        let names = String::from_utf8_lossy(&read(root, layout.names)?).into_owned();
        let classes: Vec<String> =
            names.lines().map(str::trim).filter(|l| !l.is_empty()).map(Into::into).collect();
        if classes.len() != layout.classes {
            let problem =
                format!("has {} class names, not {}; download it again", classes.len(), layout.classes);
            return Err(Error::file(root.join(layout.names), problem));
        }
        let open = |part, files: &[&str], held_out| -> Result<Self> {
            let spec = format!("{}:{}", layout.kind, shown(dir));
            let records = read_records(root, files, &layout)?;
            let label_bytes = layout.label_bytes;
            Ok(Self { spec, part, records, label_bytes, classes: classes.clone(), held_out })
        };
        let test: Arc<dyn Source> = Arc::new(open("test", &[layout.test], None)?);
        open("train", layout.train, Some(test))
    }

    fn record(&self, i: usize) -> &[u8] {
        let length = self.label_bytes + 3 * PLANE;
        &self.records[i * length..][..length]
    }
}

fn read(root: &Path, name: &str) -> Result<Vec<u8>> {
    let path = root.join(name);
    if path.metadata().is_ok_and(|about| !about.is_file()) {
        return Err(Error::file(path, "is not a file; give the folder of CIFAR's binary version"));
    }
    std::fs::read(&path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::file(path, "no such file; give the folder of CIFAR's binary version"),
        _ => Error::file(path, format!("cannot be read: {e}; check its permissions")),
    })
}

/// The records of some files one after the other.
fn read_records(root: &Path, files: &[&str], layout: &Layout) -> Result<Vec<u8>> {
    let length = layout.label_bytes + 3 * PLANE;
    let mut records = Vec::new();
    for name in files {
        let bytes = read(root, name)?;
        let fail = |problem| Err(Error::file(root.join(name), problem));
        if bytes.is_empty() || !bytes.len().is_multiple_of(length) {
            let have = bytes.len();
            return fail(format!(
                "has {have} bytes, not a whole number of {length}-byte records; download it again"
            ));
        }
        let wrong = |record: &&[u8]| usize::from(record[layout.label_bytes - 1]) >= layout.classes;
        if let Some(record) = bytes.chunks_exact(length).find(wrong) {
            let (label, most) = (record[layout.label_bytes - 1], layout.classes - 1);
            return fail(format!(
                "has a label {label}, over {most}; give the binary version of {}",
                layout.kind
            ));
        }
        records.extend_from_slice(&bytes);
    }
    records.shrink_to_fit();
    check_count(records.len() / length, root)?;
    Ok(records)
}

impl Source for Cifar {
    fn len(&self) -> usize {
        self.records.len() / (self.label_bytes + 3 * PLANE)
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        let pixels = &self.record(i)[self.label_bytes..];
        Ok(Image::from(RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
            let at = y as usize * SIDE + x as usize;
            Rgb([pixels[at], pixels[PLANE + at], pixels[2 * PLANE + at]])
        })))
    }
    fn label(&self, i: usize) -> Option<u32> {
        Some(u32::from(self.record(i)[self.label_bytes - 1]))
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn name(&self, i: usize) -> String {
        format!("{}/{i}", self.part)
    }
    fn describe(&self) -> String {
        self.spec.clone()
    }
    fn own_held_out(&self) -> Option<Arc<dyn Source>> {
        self.held_out.clone()
    }
}
