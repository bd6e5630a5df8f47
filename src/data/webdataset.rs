//! Images in tar shards, as the WebDataset library writes them: consecutive members with the same key (the
//! path up to the first dot of the file name) are a sample, `KEY.jpg` (or another image extension) its image,
//! `KEY.cls` its class. Images are read in any order, straight from their place in the shard.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::data::bad_samples::{BadSample, Fault};
use crate::data::braces::expand;
use crate::data::decode::decode;
use crate::data::labels::Labels;
use crate::data::pixels::Image;
use crate::data::reading::Reading;
use crate::data::shard::{Sample, ShardIndex};
use crate::data::source::{Source, check_count};
use crate::error::{Error, Result};

/// The images of some shards, in the order of the pattern and of the shards.
pub struct WebDataset {
    pattern: String,
    shards: Vec<Shard>,
    /// 24 bytes an image.
    samples: Vec<Sample>,
    /// Empty without labels.
    classes: Vec<String>,
    reading: Reading,
}

/// A tar file.
struct Shard {
    path: PathBuf,
    /// What it is called in messages: its path within the folder that holds all shards.
    name: String,
    /// The number of its first image.
    first: usize,
}

impl WebDataset {
    /// Indexes the shards that `pattern` names: paths with braces, several of them with `::` between.
    pub fn open(pattern: &str, reading: &Reading) -> Result<Self> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for part in pattern.split("::").filter(|part| !part.is_empty()) {
            let names =
                expand(part).map_err(|e| Error::Usage(format!("data set `webdataset:{pattern}` {e}")))?;
            paths.extend(names.into_iter().map(PathBuf::from));
        }
        let numbered = paths.par_iter().enumerate();
        let indexes =
            numbered.map(|(i, path)| ShardIndex::read(path, i as u32)).collect::<Result<Vec<_>>>()?;
        check_labels(&paths, &indexes)?;

        let (mut shards, mut labels) = (Vec::new(), Labels::default());
        let mut samples = Vec::with_capacity(indexes.iter().map(|index| index.samples.len()).sum());
        let root = common_folder(&paths);
        for (path, index) in paths.iter().zip(indexes) {
            let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
            shards.push(Shard { path: path.clone(), name, first: samples.len() });
            let class_of: Vec<u32> =
                index.labels.into_texts().iter().map(|text| labels.number(text)).collect();
            let numbered = index.samples.into_iter();
            samples.extend(
                numbered.map(|s| Sample { class: *class_of.get(s.class as usize).unwrap_or(&0), ..s }),
            );
        }
        if samples.is_empty() {
            return Err(Error::file(
                pattern,
                "holds no images; the members of a shard must end in .jpg, .png, ...",
            ));
        }
        check_count(samples.len(), Path::new(pattern))?;
        let (classes, class_of) = labels.into_classes();
        if !classes.is_empty() {
            samples.iter_mut().for_each(|sample| sample.class = class_of[sample.class as usize]);
        }
        Ok(Self { pattern: pattern.into(), shards, samples, classes, reading: *reading })
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

/// Checks that all samples have labels or none.
fn check_labels(paths: &[PathBuf], indexes: &[ShardIndex]) -> Result<()> {
    let without =
        paths.iter().zip(indexes).find_map(|(path, index)| Some((path, index.unlabelled.as_ref()?)));
    match without {
        Some((path, key)) if indexes.iter().any(|index| !index.labels.is_empty()) => Err(Error::file(
            path,
            format!("sample `{key}` has no `.cls`, but others have; label all samples or none"),
        )),
        _ => Ok(()),
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
        let bytes = self.read(i).map_err(Fault::from);
        let image = bytes.and_then(|bytes| decode(&bytes, &self.reading));
        image.map(Image::from).map_err(|fault| fault.of(self.name(i)))
    }
    fn label(&self, i: usize) -> Option<u32> {
        (!self.classes.is_empty()).then(|| self.samples[i].class)
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    /// The shard and the number of the image in it, from 0.
    fn name(&self, i: usize) -> String {
        let shard = &self.shards[self.samples[i].shard as usize];
        format!("{}#{}", shard.name, i - shard.first)
    }
    fn describe(&self) -> String {
        format!("webdataset:{}", self.pattern)
    }
}
