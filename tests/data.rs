//! Data: augmentation, decoding, sources, masks, and the loader's promises.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{DynamicImage, RgbImage};
use poa_gpu::data::{Reading, Source};

#[path = "data/augment.rs"]
mod augment;
#[path = "data/batch.rs"]
mod batch;
#[path = "data/channels.rs"]
mod channels;
#[path = "data/classify.rs"]
mod classify;
#[path = "data/images.rs"]
mod images;
#[path = "data/loader.rs"]
mod loader;
#[path = "data/masks.rs"]
mod masks;
#[path = "data/mixing.rs"]
mod mixing;
#[path = "data/odd_images.rs"]
mod odd_images;
#[path = "data/rand_augment.rs"]
mod rand_augment;
#[path = "data/ranks.rs"]
mod ranks;
#[path = "data/shards.rs"]
mod shards;
#[path = "data/sources.rs"]
mod sources;

/// An empty folder for one test.
fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("data").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Opens a data set with the default way of reading.
fn open(spec: &str) -> poa_gpu::Result<Arc<dyn Source>> {
    poa_gpu::data::open(spec, &Reading::default())
}

fn spec(dir: &Path) -> String {
    format!("folder:{}", dir.display())
}

/// A picture that differs from others and from its own mirror images.
fn picture(width: u32, height: u32, seed: u8) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 7) as u8, (y * 5) as u8, seed]))
}

fn save(dir: &Path, name: &str, image: impl Into<DynamicImage>) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.into().save(path).unwrap();
}

/// The names of all images of a source.
fn names(source: &Arc<dyn Source>) -> Vec<String> {
    (0..source.len()).map(|i| source.name(i)).collect()
}

/// The class names of all images of a source.
fn labels(source: &Arc<dyn Source>) -> Vec<&str> {
    (0..source.len()).map(|i| source.classes()[source.label(i).unwrap() as usize].as_str()).collect()
}
