//! `poa-gpu visualize`: pictures of what a sub-network sees.

mod arguments;
mod correspondence;
mod images;
mod prototypes;

use std::path::{Path, PathBuf};

use image::imageops::{FilterType, resize};

use crate::cli::signals::Signals;
use crate::cli::subject::Subject;
use crate::error::{Error, Result};
use crate::eval::visualize::{attention_panel, legible, picture, token_pictures};
use crate::logging::info;
use crate::plot::{panel, write_png};
use crate::shown::shown;
use crate::tensor::Tensor;

use arguments::Kind;
pub use arguments::VisualizeArgs;
use images::{Place, loaded, places};

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

/// The folder `pictures` of the run that a checkpoint belongs to, or beside a checkpoint that has none.
fn beside_run(checkpoint: &Path) -> PathBuf {
    let parent =
        checkpoint.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match parent.file_name().is_some_and(|name| name == "checkpoints") {
        true => parent.parent().unwrap_or(parent).join("pictures"),
        false => parent.join("pictures"),
    }
}
