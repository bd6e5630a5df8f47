//! `poa-gpu visualize`: pictures of what a sub-network sees.

use std::path::{Path, PathBuf};

use clap::Args;
use image::RgbImage;

use crate::cli::subject::{Subject, SubjectArgs};
use crate::data::decode::decode_file;
use crate::data::{EvaluationView, Image};
use crate::error::{Error, Result};
use crate::eval::visualize::{attention_panel, tiled, token_pictures};
use crate::plot::write_png;
use crate::shown::shown;
use crate::tensor::Tensor;

/// Arguments of `visualize`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu visualize --checkpoint runs/photos cat.jpg
  poa-gpu visualize --checkpoint runs/photos --network small --size 448 --out pictures a.jpg b.jpg
Writes NAME.attention.png (the image, the class token's attention in the last block head by head, and their mean) and
NAME.pca.png (the image, and its patch tokens' first three principal components as red, green and blue).")]
pub struct VisualizeArgs {
    /// What sees them
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// Where the pictures go [default: beside each image]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The images; colours mean the same in all of them
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
}

pub(super) fn run(args: &VisualizeArgs) -> Result<()> {
    let Subject { teacher, network, size, device } = args.subject.open()?;
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).map_err(|e| Error::file(out, format!("cannot be created: {e}")))?;
    }
    let encoder = teacher.encoder();
    let view = teacher.config.evaluation_view(size)?;
    let [channels, ..] = view.shape();
    let (mut views, mut tokens) = (Vec::new(), Vec::new());
    for path in &args.images {
        let image = decode_file(path, &teacher.config.data.reading())
            .map_err(|fault| Error::file(path, fault.reason))?;
        let image = Image::from(image)
            .in_channels(channels)
            .ok_or_else(|| Error::file(path, format!("has 3 channels, and the network takes {channels}")))?;
        let pixels = view.of(&image);
        let images = Tensor::from_slice(&device, &[1, channels, size, size], &pixels)?;
        let seen = picture(&pixels, &view);
        if let Some(attention) = encoder.class_attention(network, &images)? {
            let heads = attention.len() / encoder.backbone.cells(size).pow(2);
            let to = beside(path, args.out.as_deref(), "attention");
            write_png(&to, &attention_panel(&seen, &attention, heads)?)?;
            say!("{}", shown(&to));
        }
        let (_, patches) = encoder.features(network, &images, true)?;
        tokens.push(patches.expect("asked for").to_vec::<f32>()?);
        views.push(seen);
    }
    let matrices: Vec<&[f32]> = tokens.iter().map(Vec::as_slice).collect();
    let pictures = token_pictures(&matrices, encoder.backbone.feature_width(network), size as u32)?;
    for ((path, view), colours) in args.images.iter().zip(views).zip(pictures) {
        let to = beside(path, args.out.as_deref(), "pca");
        write_png(&to, &tiled(&[view, colours], 2)?)?;
        say!("{}", shown(&to));
    }
    Ok(())
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

/// `NAME.WHAT.png` beside the image, or in `out`.
fn beside(image: &Path, out: Option<&Path>, what: &str) -> PathBuf {
    let name = format!("{}.{what}.png", image.file_stem().unwrap_or_default().to_string_lossy());
    out.map_or_else(|| image.with_file_name(&name), |out| out.join(&name))
}
