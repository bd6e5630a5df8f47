//! `poa-gpu visualize`: pictures of what a sub-network sees.

mod correspondence;
mod prototypes;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use clap::Args;
use image::RgbImage;
use image::imageops::{FilterType, resize};

use crate::checks::unknown;
use crate::cli::signals::Signals;
use crate::cli::subject::{Subject, SubjectArgs, data_spec};
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
  poa-gpu visualize --checkpoint runs/photos --kind correspondence cat.jpg other-cat.jpg
  poa-gpu visualize --checkpoint runs/photos --kind correspondence --views cat.jpg dog.jpg
  poa-gpu visualize --checkpoint runs/photos --kind prototypes --data folder:photos --prototypes 10
Writes NAME.attention.png (the input, the class token's attention in the last block head by head, and their mean) and
NAME.pca.png (the input, and its patch tokens' first three principal components as red, green and blue). Of a Swin or
ResNet, which have no class token's attention, NAME.pca.png alone. NAME is the image's path with - for /. Small inputs are
enlarged to 256 pixels or more. correspondence joins patches of two images, or with --views of two crops of one, by their
tokens' dot product, and writes NAME.correspondence.png or NAME.views.png. prototypes writes prototype-RANK-NUMBER.png for
those that most images choose, with the images (--patch-tokens: the patches) of the highest logits, and prototypes.json.")]
pub struct VisualizeArgs {
    /// What sees them
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// Where the pictures go [default: the folder pictures of the run, or beside a checkpoint without one]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What is drawn: attention, pca, correspondence, prototypes; several separated by spaces or commas
    #[arg(long, value_name = "KIND", num_args = 1, action = clap::ArgAction::Append, default_values = ["attention,pca"])]
    pub kind: Vec<String>,
    /// Of correspondence: two random crops of each image, in place of pairs of images; says how many matches are right
    #[arg(long)]
    pub views: bool,
    /// Of correspondence: patches that are joined, those with the most attention of the class token (without one: with the
    /// largest products)
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 12)]
    pub lines: usize,
    /// Of prototypes: the images, as in `poa-gpu train --data`
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub data: Option<String>,
    /// Of prototypes: at most that many images of --data, the first ones; 0 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub most: usize,
    /// Of prototypes: the head, from 0 [default: the one with the most prototypes]
    #[arg(long, value_name = "HEAD", allow_negative_numbers = true)]
    pub head: Option<usize>,
    /// Of prototypes: how many are drawn
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 20)]
    pub prototypes: usize,
    /// Of prototypes: images of each, at most
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 64)]
    pub tiles: usize,
    /// Of prototypes: the best patch of every image, in place of the image
    #[arg(long)]
    pub patch_tokens: bool,
    /// Start of every random sequence
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub seed: u64,
    /// The images; colours mean the same in all of them
    #[arg(value_name = "IMAGE", required_unless_present = "data")]
    pub images: Vec<PathBuf>,
}

/// Kinds of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Attention,
    Pca,
    Correspondence,
    Prototypes,
}

impl Kind {
    const ALL: [(Self, &str); 4] = [
        (Self::Attention, "attention"),
        (Self::Pca, "pca"),
        (Self::Correspondence, "correspondence"),
        (Self::Prototypes, "prototypes"),
    ];

    /// Those that are asked for, with what they need.
    fn all(args: &VisualizeArgs) -> Result<Vec<Self>> {
        let words = args.kind.iter().flat_map(|text| text.split([',', ' '])).filter(|word| !word.is_empty());
        let kind = |word: &str| {
            let found = Self::ALL.iter().find(|(_, name)| *name == word);
            found
                .map(|(kind, _)| *kind)
                .ok_or_else(|| Error::Usage(unknown("--kind", word, &Self::ALL.map(|(_, name)| name))))
        };
        let kinds = words.map(kind).collect::<Result<Vec<_>>>()?;
        let usage = |problem: &str| Err(Error::Usage(problem.into()));
        if kinds.is_empty() {
            return usage(
                "--kind names no kind of pictures; give attention, pca, correspondence or prototypes",
            );
        }
        if kinds.contains(&Self::Prototypes) && args.data.is_none() {
            return usage("--kind prototypes needs images to choose prototypes: give --data SPEC");
        }
        if kinds.iter().any(|kind| *kind != Self::Prototypes) && args.images.is_empty() {
            return usage("the pictures need images; give some, or --kind prototypes");
        }
        let pairs = kinds.contains(&Self::Correspondence) && !args.views;
        if pairs && !args.images.len().is_multiple_of(2) {
            return usage(
                "--kind correspondence joins two images each: give an even number of them, or --views",
            );
        }
        for (name, value) in
            [("--lines", args.lines), ("--prototypes", args.prototypes), ("--tiles", args.tiles)]
        {
            if value == 0 {
                return Err(Error::Usage(format!("{name} must be at least 1")));
            }
        }
        Ok(kinds)
    }
}

/// Pixels a side that every picture has at least.
const LEGIBLE: u32 = 256;

pub(super) fn run(args: &VisualizeArgs, signals: &Signals) -> Result<()> {
    let kinds = Kind::all(args)?;
    let subject = args.subject.open()?;
    let out = args.out.clone().unwrap_or_else(|| beside_run(&subject.teacher.dir));
    let places = places(&args.images, &out)?;
    std::fs::create_dir_all(&out)
        .map_err(|e| Error::file(&out, format!("cannot be created ({e}); give --out another folder")))?;
    if kinds.contains(&Kind::Attention) || kinds.contains(&Kind::Pca) {
        of_images(&subject, &places, &kinds)?;
    }
    if kinds.contains(&Kind::Correspondence) {
        correspondence::draw(&subject, &places, args, &out)?;
    }
    if kinds.contains(&Kind::Prototypes) {
        prototypes::draw(&subject, args, &out, signals.orderly())?;
    }
    Ok(())
}

/// Pixels a side of a picture of an image of `size`: small ones by a whole factor, so that a pixel stays a square.
fn legible(size: usize) -> u32 {
    size as u32 * LEGIBLE.div_ceil(size as u32)
}

/// Attention and principal components.
fn of_images(subject: &Subject, places: &[(&Path, Place)], kinds: &[Kind]) -> Result<()> {
    let Subject { teacher, network, size, device } = subject;
    let (network, size) = (*network, *size);
    let encoder = teacher.encoder();
    let view = teacher.config.evaluation_view(size)?;
    let [channels, ..] = view.shape();
    let side = legible(size);
    let (mut pictures, mut tokens, mut attends) = (Vec::new(), Vec::new(), false);
    for (path, place) in places {
        let pixels = view.of(&loaded(path, subject, channels)?);
        let images = Tensor::from_slice(device, &[1, channels, size, size], &pixels)?;
        let input = resize(&picture(&pixels, &view), side, side, FilterType::Nearest);
        if kinds.contains(&Kind::Attention)
            && let Some(attention) = encoder.class_attention(network, &images)?
        {
            let heads = attention.len() / encoder.backbone.cells(size).pow(2);
            let to = place.with("attention");
            write_png(&to, &attention_panel(&input, &attention, heads)?)?;
            say!("{}", shown(&to));
            attends = true;
        }
        if kinds.contains(&Kind::Pca) {
            let (_, patches) = encoder.features(network, &images, true)?;
            tokens.push(patches.expect("asked for").to_vec::<f32>()?);
            pictures.push(input);
        }
    }
    if !attends && kinds.contains(&Kind::Attention) {
        info(format_args!(
            "{} networks have no class token whose attention could be drawn: only NAME.pca.png is written",
            teacher.config.student.name()
        ));
    }
    if pictures.is_empty() {
        return Ok(());
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

/// An image file with the network's channels.
fn loaded(path: &Path, subject: &Subject, channels: usize) -> Result<Image> {
    let reading = subject.teacher.config.data.reading();
    let image = decode_file(path, &reading).map_err(|fault| Error::file(path, fault.reason))?;
    let image = Image::from(image).in_channels(channels);
    image.ok_or_else(|| Error::file(path, format!("has 3 channels, and the network takes {channels}")))
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
