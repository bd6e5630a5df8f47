//! `poa-gpu features`: features of images to a file.

use std::path::PathBuf;

use clap::Args;

use crate::cli::progress::bar;
use crate::data;
use crate::error::{Error, Result};
use crate::eval::export::{ExportOptions, export_features};
use crate::tensor::{Device, DeviceChoice};
use crate::train::save::Teacher;
use crate::weights::networks::choose;

/// Arguments of `features`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu features --checkpoint runs/photos --data folder:photos --out photos.safetensors
  poa-gpu features --checkpoint runs/photos --network small --data list:some.txt --patches --out f.safetensors
The file has cls and mean [images, width], with --patches patches [images, patches, width], labels where there are
any, and the images' names (UTF-8, a line each).")]
pub struct FeaturesArgs {
    /// A run's folder (its newest checkpoint is taken) or a checkpoint's
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// WIDTHxDEPTH, smallest, middle, intact, small, base or large
    #[arg(long, value_name = "NETWORK", default_value = "intact")]
    pub network: String,
    /// Where the images come from, as in `poa-gpu train --data`
    #[arg(long, value_name = "SPEC")]
    pub data: String,
    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Writes patch tokens too
    #[arg(long)]
    pub patches: bool,
    /// Writes the images too, as the network sees them: normalised, [images, 3, size, size]
    #[arg(long)]
    pub images: bool,
    /// At most that many images, the first ones; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub most: usize,
    /// Pixels a side that images are brought to, a multiple of the patch size [default: the global crops']
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<usize>,
    /// auto, cpu, gpu, the number of a device in `poa-gpu devices`, or part of its name
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Shows warnings and errors alone
    #[arg(long, short)]
    pub quiet: bool,
}

pub(super) fn run(args: &FeaturesArgs) -> Result<()> {
    let source = data::open(&args.data)?;
    let device = Device::open(&args.device)?;
    let teacher = Teacher::open(&args.checkpoint, &device)?;
    let networks = choose(&teacher.grid, &[&args.network])?;
    let [network] = networks[..] else {
        return Err(Error::Usage(format!("`{}` is more than one sub-network; give one", args.network)));
    };
    let size = image_size(args.size, &teacher)?;
    let options = ExportOptions { size, patches: args.patches, images: args.images, most: args.most };
    let mut bar = bar(args.quiet);
    let bad = export_features(teacher.encoder(), network, &*source, &options, &args.out, &mut bar)?;
    for sample in bad.iter().take(10) {
        eprintln!("{} cannot be used, its rows are zero: {}", sample.name, sample.reason);
    }
    if bad.len() > 10 {
        eprintln!("and {} more; `readable` in the file marks them", bad.len() - 10);
    }
    if !args.quiet {
        say!("features of {network} at {size} pixels: {}", args.out.display());
    }
    Ok(())
}

/// The images' side that was asked for, or the one the teacher was trained with.
pub(super) fn image_size(asked: Option<usize>, teacher: &Teacher) -> Result<usize> {
    let patch = teacher.config.student.patch_size;
    let size = asked.unwrap_or(teacher.config.crops.global_crops_size);
    match size >= patch && size.is_multiple_of(patch) && size <= 4096 {
        true => Ok(size),
        false => Err(Error::Usage(format!(
            "--size {size} is no multiple of the patch size {patch} up to 4096, for example {}",
            size.clamp(patch, 4096).next_multiple_of(patch)
        ))),
    }
}
