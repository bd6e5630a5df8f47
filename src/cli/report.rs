//! `poa-gpu report`: a run as one page.

use std::path::PathBuf;

use clap::Args;

use crate::error::{Error, Result};
use crate::files::durable::replace_file;
use crate::gpu::DeviceChoice;
use crate::report::{Run, named_tables, page, pictures};
use crate::shown::shown;

/// Arguments of `report`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu report runs/demo-1                        writes demo-1.html
  poa-gpu report runs/demo-1 --sweep results --out report.html
                                                    with the tables of `eval knn --network all --out results`
  poa-gpu report runs/demo-1 --no-images            without crops, attention and principal components
The file needs nothing else: it opens without a network and can be sent to somebody. Runs of every kind will do, also
while they are on; `poa-gpu watch` follows one.")]
pub struct ReportArgs {
    /// Folder of a run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The page [default: NAME.html, where NAME is the folder's]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Results of `poa-gpu eval --network all --out`: CSV files, or folders of some; those in the run's folder are found
    #[arg(long, value_name = "FILE|DIR")]
    pub sweep: Vec<PathBuf>,
    /// Leaves out crops, attention and principal components, for which the images and the newest checkpoint are opened
    #[arg(long)]
    pub no_images: bool,
    /// What pictures are made on: auto, cpu, gpu, the number of a device in `poa-gpu devices`, or part of its name
    #[arg(long, value_name = "DEVICE", allow_negative_numbers = true, default_value = "auto")]
    pub device: DeviceChoice,
}

pub(super) fn run(args: &ReportArgs) -> Result<()> {
    let run = Run::open(&args.run)?;
    let mut data = run.to_json(named_tables(&args.sweep)?);
    let name = data["head"]["name"].as_str().unwrap_or("run").to_string();
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.html")));
    if out.is_dir() {
        return Err(Error::file(&out, "is a folder; --out takes the file that is to be written"));
    }
    if !args.no_images {
        data["pictures"] = pictures(run.dir(), &args.device);
    }
    replace_file(&out, page(&format!("{name} · poa-gpu"), &data).as_bytes())?;
    say!("{}", shown(&out));
    Ok(())
}
