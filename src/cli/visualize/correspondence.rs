//! Patches of two images, or of two crops of one, that are most like each other.

use std::path::Path;

use image::imageops::{FilterType, resize};
use serde_json::json;

use crate::cli::subject::Subject;
use crate::cli::visualize::arguments::VisualizeArgs;
use crate::cli::visualize::images::{Place, loaded};
use crate::data::augment::{Choices, apply, draw as draw_crop};
use crate::data::{BlurProbabilities, Crop, CropConfig, EvaluationView, Image, View};
use crate::error::Result;
use crate::eval::correspondence::{joined, largest, matches, same_places};
use crate::eval::visualize::{legible, picture};
use crate::files::durable::replace_file;
use crate::plot::write_png;
use crate::rng::{Purpose, stream};
use crate::shown::shown;
use crate::tensor::Tensor;

/// Range of the share of an image's area that a view covers.
const VIEW_SCALE: (f64, f64) = (0.4, 1.0);

/// Joins each two images, or each image's two views, and says how often views are matched rightly.
pub(super) fn draw(
    subject: &Subject,
    places: &[(&Path, Place)],
    args: &VisualizeArgs,
    out: &Path,
) -> Result<()> {
    let view = subject.teacher.config.evaluation_view(subject.size)?;
    let channels = view.shape()[0];
    let mut all = Vec::new();
    if !args.views {
        for pair in places.chunks_exact(2) {
            let of = |(path, _): &(&Path, Place)| Ok(view.of(&loaded(path, subject, channels)?));
            let pixels: Vec<Vec<f32>> = pair.iter().map(of).collect::<Result<_>>()?;
            let matched = Matched::of(subject, [&pixels[0], &pixels[1]], args)?;
            matched.write(&view, [&pixels[0], &pixels[1]], &pair[0].1.with("correspondence"))?;
        }
        return Ok(());
    }
    for (number, (path, place)) in places.iter().enumerate() {
        let image = loaded(path, subject, channels)?;
        let [(first, a), (second, b)] = views(&image, &view, args.seed, number);
        let mut matched = Matched::of(subject, [&a, &b], args)?;
        let same = same_places(&first, &second, matched.grid);
        let shared = same.iter().filter(|place| place.is_some()).count();
        let right = matched.best.iter().zip(&same).filter(|((best, _), same)| **same == Some(*best)).count();
        // lines where the views overlap alone
        matched.lines = matched.order.iter().copied().filter(|patch| same[*patch].is_some()).collect();
        matched.lines.truncate(args.lines);
        matched.write(&view, [&a, &b], &place.with("views"))?;
        let share =
            if shared > 0 { format!("{:.1}%", 100.0 * right as f64 / shared as f64) } else { "-".into() };
        say!("{}: {right} of {shared} patches in both views are matched rightly ({share})", shown(path));
        all.push(json!({ "image": path, "shared": shared, "right": right }));
    }
    let sum = |key: &str| all.iter().filter_map(|one| one[key].as_u64()).sum::<u64>();
    let (right, shared) = (sum("right"), sum("shared"));
    let share = (shared > 0).then(|| right as f64 / shared as f64);
    if let Some(share) = share.filter(|_| all.len() > 1) {
        say!("all: {right} of {shared} ({:.1}%)", 100.0 * share);
    }
    let about = json!({
        "checkpoint": subject.teacher.dir, "network": subject.network.to_string(), "seed": args.seed, "right": right,
        "shared": shared, "accuracy": share, "images": all,
    });
    replace_file(&out.join("views.json"), format!("{about:#}\n").as_bytes())
}

/// Two views of an image, as the official code draws them: what was drawn, and the normalised pixels.
fn views(image: &Image, view: &EvaluationView, seed: u64, number: usize) -> [(Choices, Vec<f32>); 2] {
    let config = CropConfig {
        global: Crop { size: view.size, scale: VIEW_SCALE },
        flip: 0.5,
        jitter: 0.8,
        jitter_strength: [0.4, 0.4, 0.2, 0.1],
        grayscale: 0.2,
        blur: BlurProbabilities { a: 0.0, b: 0.0, local: 0.0 },
        solarize: 0.0,
        ..CropConfig::default()
    };
    // in other numbers of channels there are no colours to change
    let config = config.in_channels(image.channels());
    [0, 1].map(|which| {
        let mut rng = stream(seed, Purpose::MatchedViews, which, number as u64);
        let choices = draw_crop(&mut rng, &config, View::GlobalA, image.width(), image.height());
        let pixels = apply(image, &choices, &view.normalization);
        (choices, pixels)
    })
}

/// The patches of a first image and their matches in a second one.
struct Matched {
    grid: usize,
    /// The match of every patch, and the product.
    best: Vec<(usize, f32)>,
    /// Patches by what makes them worth showing.
    order: Vec<usize>,
    /// Those that are shown.
    lines: Vec<usize>,
}

impl Matched {
    fn of(subject: &Subject, pixels: [&[f32]; 2], args: &VisualizeArgs) -> Result<Self> {
        let Subject { teacher, network, size, device } = subject;
        let encoder = teacher.encoder();
        let channels = pixels[0].len() / (size * size);
        let images = Tensor::from_slice(device, &[2, channels, *size, *size], &pixels.concat())?;
        let (_, patches) = encoder.features(*network, &images, true)?;
        let tokens = patches.expect("asked for").to_vec::<f32>()?;
        let (first, second) = tokens.split_at(tokens.len() / 2);
        let best = matches(first, second, encoder.backbone.feature_width(*network));
        let one = images.slice(0, 0..1)?;
        let worth = match encoder.class_attention(*network, &one)? {
            Some(attention) => {
                let sum = |patch: usize| attention.iter().skip(patch).step_by(best.len()).sum();
                (0..best.len()).map(sum).collect()
            }
            None => best.iter().map(|(_, product)| *product).collect::<Vec<f32>>(),
        };
        let order = largest(&worth, best.len());
        let lines = order.iter().copied().take(args.lines).collect();
        Ok(Self { grid: encoder.backbone.cells(*size), best, order, lines })
    }

    fn write(&self, view: &EvaluationView, pixels: [&[f32]; 2], to: &Path) -> Result<()> {
        let side = legible(view.size);
        let [a, b] = pixels.map(|pixels| resize(&picture(pixels, view), side, side, FilterType::Nearest));
        let pairs: Vec<(usize, usize)> =
            self.lines.iter().map(|patch| (*patch, self.best[*patch].0)).collect();
        write_png(to, &joined([&a, &b], self.grid, &pairs)?)?;
        say!("{}", shown(to));
        Ok(())
    }
}
