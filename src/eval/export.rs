//! Features of the images of a data set, written to a safetensors file as they are computed.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use rayon::prelude::*;

use crate::autograd::{Tape, Var};
use crate::cpu::no_thread;
use crate::data::channels::in_channels;
use crate::data::{BadSample, EvaluationView, Source};
use crate::error::{Error, Result};
use crate::eval::Progress;
use crate::files::tensor_writer::{RowWriter, TensorSpec};
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::ops::segment_mean::segment_mean;
use crate::shown::shown;
use crate::tensor::Tensor;

/// Bytes of the images that go through the network together, at most (but one image).
const BATCH_BYTES: usize = 32 << 20;

/// What is written beside names, labels and cls features.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportOptions {
    /// How images are shown to the network.
    pub view: EvaluationView,
    /// Patch tokens too.
    pub patches: bool,
    /// The images too, as the network sees them.
    pub images: bool,
    /// At most that many images, the first ones; 0 for all.
    pub most: usize,
}

/// Writes the features of a source's images to `path`. The file has
/// - `cls [n, width]` and `mean [n, width]`: the normed class token, and the mean of the normed patch tokens;
/// - `patches [n, patches, width]` and `images [n, channels, size, size]` where asked for;
/// - `labels` (i64 `[n]`) where the source has them;
/// - `readable` (u8 `[n]`): 0 for an image that could not be read, whose rows are zero;
/// - `names` (u8): what the images are called, in UTF-8, a line each; control characters are written out.
///
/// Returns the images that could not be read.
pub fn export_features(
    encoder: Encoder<'_>,
    network: Network,
    source: Arc<dyn Source>,
    options: &ExportOptions,
    path: &Path,
    progress: Progress<'_>,
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
    let at_once = encoder.images_at_once(network, size).min((BATCH_BYTES / (4 * one)).max(1));
    let decode = |first: usize| -> Vec<Result<Vec<f32>, BadSample>> {
        let all = (first..(first + at_once).min(n)).into_par_iter();
        all.map(|i| source.load(i).map(|image| options.view.of(&image))).collect()
    };
    let mut bad = Vec::new();
    // the next images are decoded while the device is busy with these
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(1);
        let decoder = std::thread::Builder::new().spawn_scoped(scope, move || {
            for first in (0..n).step_by(at_once) {
                if sender.send((first, decode(first))).is_err() {
                    return; // the other side has failed
                }
            }
        });
        let decoder = decoder.map_err(|e| no_thread(&e))?;
        let written = receiver.into_iter().try_for_each(|(first, decoded)| {
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
            if options.images {
                rows("images", pixels)?;
            }
            if labelled {
                let labels: Vec<i64> =
                    (first..first + count).map(|i| source.label(i).map_or(-1, i64::from)).collect();
                file.write("labels", first, bytemuck::cast_slice(&labels))?;
            }
            file.write("readable", first, &readable)?;
            progress("features", first + count, n);
            Ok(())
        });
        match decoder.join() {
            Ok(()) => written,
            Err(_) => {
                Err(Error::file(source.describe(), "decoding stopped on an internal error (see above)"))
            }
        }
    })?;
    file.finish()?;
    Ok(bad)
}
