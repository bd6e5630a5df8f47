//! Parts of a labelled data set, as semi-supervised protocols learn from: a share of every class, or the images that a
//! list names.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::data::source::{Source, Subset, hash};
use crate::error::{Error, Result};
use crate::shown::shown;

/// `share` of the images of every class, rounded, but at least one: those whose names hash lowest with `seed`, the same
/// ones wherever the files lie. Images without a label are left out.
pub fn stratified(source: Arc<dyn Source>, share: f64, seed: u64) -> Arc<dyn Source> {
    let mut by_class: BTreeMap<u32, Vec<(u64, u32)>> = BTreeMap::new();
    for i in 0..source.len() {
        if let Some(class) = source.label(i) {
            let place = hash(&format!("{seed}/{}", source.name(i)));
            by_class.entry(class).or_default().push((place, i as u32));
        }
    }
    let mut indices = Vec::new();
    for images in by_class.values_mut() {
        let count = ((images.len() as f64 * share).round() as usize).max(1);
        images.sort_unstable();
        indices.extend(images.iter().take(count).map(|(_, i)| *i));
    }
    indices.sort_unstable();
    Arc::new(Subset { source, indices })
}

/// The images that the lines of a text file name, by the name that the source has for them or by the last part of it, as
/// `n01440764_10026.JPEG`. A line without an image is an error that names it; empty lines and those that begin with `#` are
/// passed over.
pub fn listed(source: Arc<dyn Source>, list: &Path) -> Result<Arc<dyn Source>> {
    let text =
        std::fs::read_to_string(list).map_err(|e| Error::file(list, format!("cannot be read: {e}")))?;
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let wanted: HashSet<&str> = lines().collect();
    if wanted.is_empty() {
        return Err(Error::file(list, "names no image; write one file name a line"));
    }
    let (mut indices, mut found) = (Vec::new(), HashSet::new());
    for i in 0..source.len() {
        let name = source.name(i);
        let last = name.rsplit(['/', '\\']).next().unwrap_or(&name);
        if let Some(line) = wanted.get(name.as_str()).or_else(|| wanted.get(last)) {
            found.insert(*line);
            indices.push(i as u32);
        }
    }
    match lines().enumerate().find(|(_, line)| !found.contains(line)) {
        None => Ok(Arc::new(Subset { source, indices })),
        Some((at, line)) => Err(Error::file(
            list,
            format!(
                "names `{}` ({} of its images are not in {}, this is number {}); give paths as they lie in the data set, or \
                 file names",
                shown(line),
                wanted.len() - found.len(),
                source.describe(),
                at + 1
            ),
        )),
    }
}
