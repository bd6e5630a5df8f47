//! Parts of a labelled data set, as semi-supervised protocols learn from: a share of every class, or the images that a
//! list names.

use std::collections::{BTreeMap, HashMap};
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
/// `n01440764_10026.JPEG`. A line without an image, or with several, is an error that names it; empty lines and those that begin with `#` are
/// passed over.
pub fn listed(source: Arc<dyn Source>, list: &Path) -> Result<Arc<dyn Source>> {
    let text =
        std::fs::read_to_string(list).map_err(|e| Error::file(list, format!("cannot be read: {e}")))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = || {
        let all = text.lines().map(str::trim).enumerate();
        all.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    };
    // how many images each line has named
    let mut wanted: HashMap<&str, usize> = lines().map(|(_, line)| (line, 0)).collect();
    if wanted.is_empty() {
        return Err(Error::file(list, "names no image; write one file name a line"));
    }
    let mut indices = Vec::new();
    for i in 0..source.len() {
        let name = source.name(i);
        let last = name.rsplit(['/', '\\']).next().unwrap_or(&name);
        let named = if wanted.contains_key(name.as_str()) { name.as_str() } else { last };
        if let Some(images) = wanted.get_mut(named) {
            *images += 1;
            indices.push(i as u32);
        }
    }
    let missing = wanted.values().filter(|images| **images == 0).count();
    for (at, line) in lines() {
        let problem = match wanted.get(line) {
            Some(0) | None => format!(
                "and {} has no such image ({missing} of the names are not there); give paths as they lie in the data set, \
                 or file names",
                source.describe()
            ),
            Some(1) => continue,
            Some(images) => {
                format!("which {images} images of {} are called; give its path", source.describe())
            }
        };
        return Err(Error::file(list, format!("line {}: `{}`, {problem}", at + 1, shown(line))));
    }
    Ok(Arc::new(Subset { source, indices }))
}
