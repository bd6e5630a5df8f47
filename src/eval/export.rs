//! Features of the images of a data set, written to a safetensors file as they are computed.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use crate::autograd::{Tape, Var};
use crate::data::channels::in_channels;
use crate::data::{BadSample, EvaluationView, Source};
use crate::error::Result;
use crate::eval::ahead::ahead;
use crate::eval::pass::{Progress, images_at_once};
use crate::eval::prototypes::Prototypes;
use crate::files::tensor_writer::{RowWriter, TensorSpec};
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::ops::segment_mean::segment_mean;
use crate::shown::shown;
use crate::stop::Stop;
use crate::tensor::Tensor;

/// Bytes of the images that go through the network together, at most (but one image).
const BATCH_BYTES: usize = 32 << 20;

/// What is written beside names, labels and cls features.
pub struct ExportOptions {
    /// How images are shown to the network.
    pub view: EvaluationView,
    /// Patch tokens too.
    pub patches: bool,
    /// The images too, as the network sees them.
    pub images: bool,
    /// At most that many images, the first ones; 0 for all.
    pub most: usize,
    /// Prototypes and their logits too.
    pub logits: Option<Logits>,
}

/// Which logits are written.
pub struct Logits {
    /// Of which head.
    pub prototypes: Prototypes,
    /// So many of the largest; none for all.
    pub most: Option<usize>,
}

/// Writes the features of a source's images to `path`. The file has
/// - `cls [n, width]` and `mean [n, width]`: the normed class token, and the mean of the normed patch tokens;
/// - `patches [n, patches, width]` and `images [n, channels, size, size]` where asked for;
/// - of class tokens `prototypes` (i64 `[n, k]`) and `prototype_logits [n, k]`, the largest first, or these of all prototypes,
///   where asked for;
/// - `labels` (i64 `[n]`) where the source has them;
/// - `readable` (u8 `[n]`): 0 for an image that could not be read, whose rows are zero;
/// - `names` (u8): what the images are called, in UTF-8, a line each; control characters are written out.
///
/// Returns the images that could not be read. Where `stop` wishes for the end, there is no file.
pub fn export_features(
    encoder: Encoder<'_>,
    network: Network,
    source: Arc<dyn Source>,
    options: &ExportOptions,
    path: &Path,
    progress: Progress<'_>,
    stop: &Stop,
) -> Result<Vec<BadSample>> {
    let [channels, size, _] = options.view.shape();
    let source = in_channels(source, channels)?;
    let n = if options.most == 0 { source.len() } else { options.most.min(source.len()) };
    let width = encoder.backbone.feature_width(network);
    let tokens = encoder.backbone.cells(size).pow(2);
    let names: String = (0..n).map(|i| source.name(i) + "\n").collect();
    let mut specs = vec![
        TensorSpec::f32("cls", &[n, width]),
        TensorSpec::f32("mean", &[n, width]),
        TensorSpec::u8("readable", &[n]),
        TensorSpec::u8("names", &[names.len()]),
    ];
    if options.patches {
        specs.push(TensorSpec::f32("patches", &[n, tokens, width]));
    }
    if options.images {
        specs.push(TensorSpec::f32("images", &[n, channels, size, size]));
    }
    if let Some(Logits { prototypes, most }) = &options.logits {
        specs.push(TensorSpec::f32("prototype_logits", &[n, most.unwrap_or(prototypes.count())]));
        specs.extend(most.map(|most| TensorSpec::i64("prototypes", &[n, most])));
    }
    let labelled = !source.classes().is_empty();
    if labelled {
        specs.push(TensorSpec::i64("labels", &[n]));
    }
    let classes: Vec<_> = source.classes().iter().map(|class| shown(class)).collect();
    let classes = classes.join("\n");
    let about = [("network", network.to_string()), ("source", source.describe()), ("classes", classes)];
    let about: Vec<(&str, &str)> = about.iter().map(|(key, text)| (*key, text.as_str())).collect();
    let mut file = RowWriter::create(path, &specs, &about)?;
    file.write("names", 0, names.as_bytes())?;

    let one = channels * size * size;
    let at_once = images_at_once(encoder, network, size).min((BATCH_BYTES / (4 * one)).max(1));
    let (images, view, stopped) = (source.clone(), options.view.clone(), stop.clone());
    // nothing where the end came in between
    let decode = move |part: usize| -> Option<Vec<Result<Vec<f32>, BadSample>>> {
        let all = (part * at_once..n.min((part + 1) * at_once)).into_par_iter();
        let decoded = all.map(|i| {
            stopped.check().ok()?;
            Some(images.load(i).map(|image| view.of(&image)))
        });
        decoded.collect()
    };
    let mut bad = Vec::new();
    let mut first = 0;
    ahead((n.div_ceil(at_once), 1), stop, &source.describe(), decode, |decoded| {
        let Some(decoded) = decoded else { return Ok(()) };
        let readable: Vec<u8> = decoded.iter().map(|image| image.is_ok().into()).collect();
        let mut pixels = vec![0.0; decoded.len() * one];
        for (to, image) in pixels.chunks_exact_mut(one).zip(decoded) {
            match image {
                Ok(image) => to.copy_from_slice(&image),
                Err(sample) => bad.push(sample),
            }
        }
        let count = readable.len();
        let images = Tensor::from_slice(encoder.device, &[count, channels, size, size], &pixels)?;
        let (cls, patches) = encoder.features(network, &images, true)?;
        let patches = patches.expect("asked for");
        let mean = segment_mean(&Tape::no_grad(), &Var::constant(patches.clone()), count)?;
        let mut numbers = None;
        let mut rows = |name: &str, values: Vec<f32>| {
            let mut values = values;
            let row = values.len() / count;
            for (row, _) in
                values.chunks_exact_mut(row).zip(&readable).filter(|(_, readable)| **readable == 0)
            {
                row.fill(0.0);
            }
            file.write(name, first, bytemuck::cast_slice(&values))
        };
        rows("cls", cls.to_vec()?)?;
        rows("mean", mean.value().to_vec()?)?;
        if options.patches {
            rows("patches", patches.to_vec()?)?;
        }
        if let Some(Logits { prototypes, most }) = &options.logits {
            let chosen = match most {
                None => {
                    rows("prototype_logits", prototypes.logits(&cls)?.to_vec()?)?;
                    None
                }
                Some(most) => {
                    let nearest = prototypes.nearest(&cls, *most)?;
                    let all = || nearest.iter().flatten();
                    rows("prototype_logits", all().map(|one| one.score).collect())?;
                    Some(all().map(|one| i64::from(one.column)).collect::<Vec<_>>())
                }
            };
            numbers = chosen;
        }
        if options.images {
            rows("images", pixels)?;
        }
        if let Some(mut numbers) = numbers {
            let k = numbers.len() / count;
            let of_none = numbers.chunks_exact_mut(k).zip(&readable).filter(|(_, readable)| **readable == 0);
            of_none.for_each(|(row, _)| row.fill(-1));
            file.write("prototypes", first, bytemuck::cast_slice(&numbers))?;
        }
        if labelled {
            let labels: Vec<i64> =
                (first..first + count).map(|i| source.label(i).map_or(-1, i64::from)).collect();
            file.write("labels", first, bytemuck::cast_slice(&labels))?;
        }
        file.write("readable", first, &readable)?;
        first += count;
        progress("features", first, n);
        Ok(())
    })?;
    file.finish()?;
    Ok(bad)
}
