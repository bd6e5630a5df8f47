//! Images in tar shards, as the WebDataset library writes them: consecutive members with the same key (the
//! path up to the first dot of the file name) are a sample, `KEY.jpg` (or another image extension) its image,
//! `KEY.cls` its class, as a number or a name. Other members are passed over. Images are read in any order,
//! straight from their place in the shard.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::data::bad_samples::{BadSample, Fault};
use crate::data::braces::expand;
use crate::data::decode::{check_bytes, decode};
use crate::data::labels::{Labels, unlabelled_remark};
use crate::data::pixels::Image;
use crate::data::reading::Reading;
use crate::data::shard::{LeftOut, Sample, ShardIndex, UNLABELLED};
use crate::data::source::{Source, check_count};
use crate::error::{Error, Result};
use crate::shown::shown;

/// Remarks on single shards that are told, at most.
const MOST_REMARKS: usize = 5;

/// The images of some shards, in the order of the pattern and of the shards.
pub struct WebDataset {
    pattern: String,
    shards: Vec<Shard>,
    /// 32 bytes an image.
    samples: Vec<Sample>,
    /// Empty without labels.
    classes: Vec<String>,
    remarks: Vec<String>,
    reading: Reading,
}

/// A tar file.
struct Shard {
    path: PathBuf,
    /// What it is called in messages: its path within the folder that holds all shards.
    name: String,
    /// The number of its first image.
    first: usize,
    /// The keys of its images, one after the other.
    keys: String,
}

impl WebDataset {
    /// Indexes the shards that `pattern` names: paths with braces, several of them with `::` between. What the
    /// braces stand for becomes a path by `path_of`.
    pub fn open(pattern: &str, path_of: fn(&str) -> Result<PathBuf>, reading: &Reading) -> Result<Self> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for part in pattern.split("::").filter(|part| !part.is_empty()) {
            let names =
                expand(part).map_err(|e| Error::Usage(format!("data set `webdataset:{pattern}` {e}")))?;
            for name in names {
                let path = path_of(&name)?;
                // a pattern may stand for a million names: one that means nothing is told at its first
                if paths.is_empty() && !path.exists() {
                    ShardIndex::read(&path, 0)?;
                }
                paths.push(path);
            }
        }
        let numbered = paths.par_iter().enumerate();
        let indexes =
            numbered.map(|(i, path)| ShardIndex::read(path, i as u32)).collect::<Result<Vec<_>>>()?;

        let (mut left_out, mut remarks, mut unlabelled) = (LeftOut::default(), Vec::new(), Vec::new());
        let (mut shards, mut labels) = (Vec::new(), Labels::default());
        let mut samples = Vec::with_capacity(indexes.iter().map(|index| index.samples.len()).sum());
        let root = common_folder(&paths);
        for (path, index) in paths.iter().zip(indexes) {
            let name = shown(path.strip_prefix(root).unwrap_or(path)).into_owned();
            left_out.extend(index.left_out);
            remarks.extend(index.remarks);
            unlabelled.extend(index.unlabelled.iter().map(|key| format!("{name}/{}", shown(key))));
            shards.push(Shard { path: path.clone(), name, first: samples.len(), keys: index.keys });
            let class_of: Vec<u32> =
                index.labels.into_texts().iter().map(|text| labels.number(text)).collect();
            let numbered = index.samples.into_iter();
            samples.extend(
                numbered
                    .map(|s| Sample { class: *class_of.get(s.class as usize).unwrap_or(&UNLABELLED), ..s }),
            );
        }
        let left_out = left_out.told().map(|told| format!("members of shards that are left out: {told}"));
        if samples.is_empty() {
            let told = left_out.map(|told| format!(" ({told})")).unwrap_or_default();
            return Err(Error::file(
                pattern,
                format!(
                    "holds no images{told}; the members of a shard must be called KEY.jpg, KEY.png, ..., with no dot in KEY"
                ),
            ));
        }
        check_count(samples.len(), Path::new(pattern))?;
        let (classes, class_of) = labels.into_classes();
        let mut without = 0;
        for sample in &mut samples {
            match class_of.get(sample.class as usize) {
                Some(class) => sample.class = *class,
                None => without += 1,
            }
        }
        if remarks.len() > MOST_REMARKS {
            let more = remarks.len() - MOST_REMARKS;
            remarks.truncate(MOST_REMARKS);
            remarks.push(format!("and {more} more such shards"));
        }
        unlabelled.truncate(3);
        remarks.extend(left_out);
        remarks.extend(unlabelled_remark(without, samples.len(), &unlabelled));
        Ok(Self { pattern: pattern.into(), shards, samples, classes, remarks, reading: *reading })
    }

    /// The bytes of image `i`. The shard is opened anew: threads share no position, and no handles pile up.
    fn read(&self, i: usize) -> std::io::Result<Vec<u8>> {
        let sample = &self.samples[i];
        let mut file = File::open(&self.shards[sample.shard as usize].path)?;
        file.seek(SeekFrom::Start(sample.offset))?;
        let mut bytes = vec![0; sample.size as usize];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// The innermost folder that holds all paths.
fn common_folder(paths: &[PathBuf]) -> &Path {
    let mut root = paths.first().and_then(|path| path.parent()).unwrap_or(Path::new(""));
    while !paths.iter().all(|path| path.starts_with(root)) {
        root = root.parent().unwrap_or(Path::new(""));
    }
    root
}

impl Source for WebDataset {
    fn len(&self) -> usize {
        self.samples.len()
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        let fits = check_bytes(self.samples[i].size, &self.reading);
        let bytes = fits.and_then(|()| self.read(i).map_err(Fault::from));
        let image = bytes.and_then(|bytes| decode(&bytes, &self.reading));
        image.map(Image::from).map_err(|fault| fault.of(self.name(i)))
    }
    fn label(&self, i: usize) -> Option<u32> {
        Some(self.samples[i].class).filter(|class| *class != UNLABELLED)
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    /// The shard and the key of the image in it.
    fn name(&self, i: usize) -> String {
        let sample = &self.samples[i];
        let shard = &self.shards[sample.shard as usize];
        let start = if i > shard.first { self.samples[i - 1].key_end } else { 0 };
        format!("{}/{}", shard.name, shown(&shard.keys[start..sample.key_end]))
    }
    fn describe(&self) -> String {
        format!("webdataset:{}", shown(&self.pattern))
    }
    fn remarks(&self) -> Vec<String> {
        self.remarks.clone()
    }
}
