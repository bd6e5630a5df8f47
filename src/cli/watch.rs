//! `poa-gpu watch`: a run as a page that follows it.

use std::path::PathBuf;

use clap::Args;

use crate::cli::signals::Signals;
use crate::error::Result;
use crate::report::{Run, Server, serve};
use crate::shown::shown;

/// Arguments of `watch`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu watch runs/demo-1                  the page is at http://127.0.0.1:6160/
  poa-gpu watch runs/demo-1 --port 0         at any port that is free
  ssh -L 6160:127.0.0.1:6160 gpu-host        on your machine, to see a run on another one
The page is for this machine alone and has no pictures of images, which `poa-gpu report` draws. The run may begin, end or
start anew meanwhile, and its folder need not be there yet. Ctrl-C ends it; the run does not notice.")]
pub struct WatchArgs {
    /// Folder of a run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Where on this machine the page is; 0 for any port that is free
    #[arg(long, value_name = "PORT", default_value_t = 6160)]
    pub port: u16,
}

pub(super) fn run(args: &WatchArgs, signals: &Signals) -> Result<()> {
    let server = Server::open(args.port)?;
    let run = Run::expected(&args.run);
    let stop = signals.orderly();
    say!("{}  {}", server.address(), shown(&args.run));
    mention!("Ctrl-C ends it");
    serve(&server, run, stop)
}
