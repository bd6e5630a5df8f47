//! `poa-gpu config`: prints or checks a configuration.

use clap::Args;

use crate::cli::forecast;
use crate::data;
use crate::error::Result;
use crate::gpu::DeviceChoice;
use crate::ops;
use crate::poa::advice::advice;
use crate::poa::settings::Heads;
use crate::recipes::Config;
use crate::shown::shown;

/// Arguments of `config`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu config --print-default > my.toml         the paper's recipe, every key with a comment
  poa-gpu config demo                              every setting of a recipe as it would be used
  poa-gpu config --check my.toml optim.epochs=50   is it valid, and what would it train?")]
pub struct ConfigArgs {
    /// Prints the paper's ViT recipe, whose values are the defaults, with comments
    #[arg(long, conflicts_with_all = ["check", "settings"])]
    pub print_default: bool,
    /// Says whether a TOML file (or recipe) is valid, and what it trains
    #[arg(long, value_name = "FILE|NAME")]
    pub check: Option<String>,
    /// A recipe or TOML file of which every setting is printed [default: demo], and settings that replace its
    /// own
    #[arg(value_name = "RECIPE|SECTION.KEY=VALUE")]
    pub settings: Vec<String>,
    /// With --check: what memory it will need on this device, named as for `train`
    #[arg(long, value_name = "DEVICE", allow_negative_numbers = true, requires = "check")]
    pub device: Option<DeviceChoice>,
}

pub(super) fn run(args: &ConfigArgs) -> Result<()> {
    if args.print_default {
        say!("{}", Config::default_recipe()?.trim_end());
        return Ok(());
    }
    let (source, settings) = match (&args.check, args.settings.split_first()) {
        (Some(file), _) => (file.as_str(), &args.settings[..]),
        (None, Some((first, rest))) if !first.contains('=') => (first.as_str(), rest),
        _ => ("demo", &args.settings[..]),
    };
    let mut config = Config::load(source, settings)?;
    config.resolve(1)?;
    if args.check.is_none() {
        say!("{}", config.to_toml()?.trim_end());
        return Ok(());
    }
    let backbone = config.backbone()?;
    let grid = backbone.grid();
    let c = &config.crops;
    say!("{} is valid", shown(source));
    say!("  sub-networks      {} from {} to {}", grid.entries().len(), grid.smallest(), grid.intact());
    say!("  steps             {} of {} images", config.total_steps(), config.images_per_step());
    say!("  learning rate     {:.3e} after warm-up", config.optim.lr);
    say!(
        "  crops             2 of {} and {} of {} pixels",
        c.global_crops_size,
        c.local_crops_number,
        c.local_crops_size
    );
    let prototypes = |heads: &Heads| match &heads.head_n_prototypes[..] {
        [] => "by the number of images".into(),
        numbers => format!("{numbers:?}"),
    };
    say!("  prototypes        {}", prototypes(&config.dino.heads));
    if config.ibot.separate_head {
        say!("  of patch tokens   {}", prototypes(&config.ibot.heads));
    }
    if config.data.spec.is_empty() {
        say!("  images            none yet: set data.spec, or give train --data SPEC");
    }
    let minutes = match config.train.saveckp_minutes {
        0 => String::new(),
        minutes => format!(", and every {minutes} minutes"),
    };
    say!("  checkpoints       every {} steps{minutes}", config.plan().save_every);
    if let Some(choice) = &args.device {
        // prototypes may follow from their number
        let images = match config.data.spec.is_empty() {
            true => 1 << 20,
            false => data::open_setting("data.spec", &config.data.spec, &config.data.reading())?.len(),
        };
        config.fit(images);
        let device = ops::open(choice)?;
        let (memory, too_much) = forecast::of_memory(&mut config, &device, true, 1)?;
        say!("  device            {}", device.describe());
        say!("  memory            {memory}");
        too_much.iter().for_each(|text| say!("  note              {text}"));
    }
    // how many images there are is not known here
    advice(&config, None, 1).iter().for_each(|text| say!("  note              {text}"));
    Ok(())
}
