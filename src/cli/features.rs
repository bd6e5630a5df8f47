//! `poa-gpu features`: features of images to a file.

use std::path::PathBuf;

use clap::Args;

use crate::cli::progress::bar;
use crate::cli::signals::Signals;
use crate::cli::subject::{Subject, SubjectArgs, data_spec, open_head};
use crate::data;
use crate::error::{Error, Result};
use crate::eval::export::{ExportOptions, Logits, export_features};
use crate::eval::prototypes::MODULES;
use crate::logging::{info, warn};
use crate::shown::shown;

/// Arguments of `features`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu features --checkpoint runs/photos --data folder:photos --out photos.safetensors
  poa-gpu features --checkpoint runs/photos --network small --data list:some.txt --patches --out f.safetensors
The file has cls and mean [images, width]; names, what the images are called (UTF-8, a line each); readable [images], 0
for an image that could not be read, whose rows are zero; labels [images] where there are any: the number of the class,
from 0, among the lines of `classes` in the metadata, -1 without a label; with --patches patches [images, patches,
width], with --images images [images, channels, size, size]. With --logits N prototypes [images, N], the numbers of those
with the largest logits of the class token, and prototype_logits [images, N]; with --all-logits all of these.")]
pub struct FeaturesArgs {
    /// What computes them
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// Where the images come from, as in `poa-gpu train --data`
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub data: String,
    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Writes patch tokens too
    #[arg(long)]
    pub patches: bool,
    /// Writes the images too, as the network sees them: normalised, [images, channels, size, size]
    #[arg(long)]
    pub images: bool,
    /// Writes which N prototypes have the largest logits, and these, the largest first
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "all_logits")]
    pub logits: Option<usize>,
    /// Writes the logits of all prototypes, in their order
    #[arg(long)]
    pub all_logits: bool,
    /// The head of the logits, from 0 [default: the one with the most prototypes]
    #[arg(long, value_name = "HEAD", allow_negative_numbers = true)]
    pub head: Option<usize>,
    /// At most that many images, the first ones; 0 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub most: usize,
}

pub(super) fn run(args: &FeaturesArgs, signals: &Signals) -> Result<()> {
    let Subject { teacher, network, size, device } = args.subject.open()?;
    let logits = match (args.logits, args.all_logits) {
        (None, false) => None,
        (most, _) => {
            let prototypes = open_head(&teacher, MODULES[0], args.head, &device)?;
            if let Some(most) = most.filter(|most| !(1..=prototypes.count()).contains(most)) {
                let count = prototypes.count();
                return Err(Error::Usage(format!(
                    "--logits {most} must be 1 to {count}, the head's prototypes"
                )));
            }
            Some(Logits { prototypes, most })
        }
    };
    let source = data::open(&args.data, &teacher.config.data.reading())?;
    let view = teacher.config.evaluation_view(size)?;
    source.remarks().into_iter().for_each(info);
    let options = ExportOptions { view, patches: args.patches, images: args.images, most: args.most, logits };
    let (encoder, stop) = (teacher.encoder(), signals.orderly());
    let bad = export_features(encoder, network, source, &options, &args.out, &mut bar(), stop)?;
    for sample in bad.iter().take(10) {
        warn(format_args!("{} cannot be used, its rows are zero: {}", sample.name, sample.reason));
    }
    if bad.len() > 10 {
        warn(format_args!("and {} more; `readable` in the file marks them", bad.len() - 10));
    }
    say!("features of {network} at {size} pixels: {}", shown(&args.out));
    Ok(())
}
