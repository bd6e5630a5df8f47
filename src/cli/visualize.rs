//! `poa-gpu visualize`: pictures of what a sub-network sees.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use clap::Args;
use image::RgbImage;
use image::imageops::{FilterType, resize};

use crate::cli::subject::{Subject, SubjectArgs};
use crate::data::decode::decode_file;
use crate::data::{EvaluationView, Image};
use crate::error::{Error, Result};
use crate::eval::visualize::{attention_panel, token_pictures};
use crate::logging::info;
use crate::plot::{panel, write_png};
use crate::shown::shown;
use crate::tensor::Tensor;

/// Arguments of `visualize`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu visualize --checkpoint runs/photos cat.jpg
  poa-gpu visualize --checkpoint runs/photos --network small --size 448 --out pictures a.jpg b.jpg
Writes NAME.attention.png (the input, the class token's attention in the last block head by head, and their mean) and
NAME.pca.png (the input, and its patch tokens' first three principal components as red, green and blue). Of a Swin or
ResNet, which have no class token's attention, NAME.pca.png alone. NAME is the image's path with - for /. Small inputs are
enlarged to 256 pixels or more.")]
pub struct VisualizeArgs {
    /// What sees them
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// Where the pictures go [default: the folder pictures of the run, or beside a checkpoint without one]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The images; colours mean the same in all of them
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
}

/// Pixels a side that every picture has at least.
const LEGIBLE: u32 = 256;

pub(super) fn run(args: &VisualizeArgs) -> Result<()> {
    let Subject { teacher, network, size, device } = args.subject.open()?;
    let out = args.out.clone().unwrap_or_else(|| beside_run(&teacher.dir));
    let places = places(&args.images, &out)?;
    std::fs::create_dir_all(&out)
        .map_err(|e| Error::file(&out, format!("cannot be created ({e}); give --out another folder")))?;
    let encoder = teacher.encoder();
    let view = teacher.config.evaluation_view(size)?;
    let [channels, ..] = view.shape();
    // small ones by a whole factor, so that a pixel stays a square
    let side = size as u32 * LEGIBLE.div_ceil(size as u32);
    let (mut pictures, mut tokens, mut attends) = (Vec::new(), Vec::new(), false);
    for (path, place) in &places {
        let image = decode_file(path, &teacher.config.data.reading())
            .map_err(|fault| Error::file(path, fault.reason))?;
        let image = Image::from(image)
            .in_channels(channels)
            .ok_or_else(|| Error::file(path, format!("has 3 channels, and the network takes {channels}")))?;
        let pixels = view.of(&image);
        let images = Tensor::from_slice(&device, &[1, channels, size, size], &pixels)?;
        let input = resize(&picture(&pixels, &view), side, side, FilterType::Nearest);
        if let Some(attention) = encoder.class_attention(network, &images)? {
            let heads = attention.len() / encoder.backbone.cells(size).pow(2);
            let to = place.with("attention");
            write_png(&to, &attention_panel(&input, &attention, heads)?)?;
            say!("{}", shown(&to));
            attends = true;
        }
        let (_, patches) = encoder.features(network, &images, true)?;
        tokens.push(patches.expect("asked for").to_vec::<f32>()?);
        pictures.push(input);
    }
    if !attends {
        info(format_args!(
            "{} networks have no class token whose attention could be drawn: only NAME.pca.png is written",
            teacher.config.student.name()
        ));
    }
    let matrices: Vec<&[f32]> = tokens.iter().map(Vec::as_slice).collect();
    let components = token_pictures(&matrices, encoder.backbone.feature_width(network), side)?;
    for (((_, place), input), colours) in places.iter().zip(pictures).zip(components) {
        let to = place.with("pca");
        write_png(&to, &panel(&[("input", input), ("first components as RGB", colours)], 2)?)?;
        say!("{}", shown(&to));
    }
    Ok(())
}

/// The folder `pictures` of the run that a checkpoint belongs to, or beside a checkpoint that has none.
fn beside_run(checkpoint: &Path) -> PathBuf {
    let parent =
        checkpoint.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match parent.file_name().is_some_and(|name| name == "checkpoints") {
        true => parent.parent().unwrap_or(parent).join("pictures"),
        false => parent.join("pictures"),
    }
}

/// What the pictures of an image are called, but for their kind.
struct Place(PathBuf);

impl Place {
    fn with(&self, kind: &str) -> PathBuf {
        let mut path = self.0.clone().into_os_string();
        path.push(format!(".{kind}.png"));
        path.into()
    }
}

/// A place in `out` for every image, each image once: it is called as the image with the folders before it, so that
/// images of one name in several folders do not meet.
fn places<'a>(images: &'a [PathBuf], out: &Path) -> Result<Vec<(&'a Path, Place)>> {
    let mut taken: HashMap<OsString, &Path> = HashMap::new();
    let mut all = Vec::new();
    for image in images {
        let names = image.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            Component::ParentDir => Some(OsStr::new("__")),
            _ => None,
        });
        let name = names.collect::<Vec<_>>().join(OsStr::new("-"));
        match taken.insert(name.clone(), image) {
            None => all.push((image.as_path(), Place(out.join(name)))),
            Some(other) if other == image => {}
            Some(other) => {
                let problem =
                    format!("has the pictures' names of {} too; draw them into two folders", shown(other));
                return Err(Error::file(image, problem));
            }
        }
    }
    Ok(all)
}

/// Normalised values [channels, size, size] as a picture: the first three channels, or the first alone as
/// grey.
fn picture(pixels: &[f32], view: &EvaluationView) -> RgbImage {
    let [channels, size, _] = view.shape();
    let plane = size * size;
    RgbImage::from_fn(size as u32, size as u32, |x, y| {
        let at = y as usize * size + x as usize;
        let value = |channel: usize| view.normalization.value(channel, pixels[channel * plane + at]);
        image::Rgb(if channels < 3 { [value(0); 3] } else { [value(0), value(1), value(2)] })
    })
}
