//! Training recipes: TOML laid over defaults, then over that what the command line says.
//!
//! Every floor owns its settings; here they become the sections of a file (`sections.rs`), are laid over each
//! other key by key (`layers.rs`), are checked against each other (`relations.rs`), and are printed with what
//! they mean (`print.rs`). Sections and keys carry the names of the official POA recipe, and every default is
//! that of its ViT recipe. A key that does not exist, has the wrong type or contradicts another is an error
//! that names the key and a value that would work; all that is wrong is named at once. `Config::to_toml`
//! writes a recipe from which the same configuration loads again. The recipes of other tasks (`finetune.rs`, `segment.rs`) are
//! laid in the same way, from presets of their own (`preset.rs`).

mod distill;
pub(crate) mod file;
mod finetune;
mod layers;
pub mod preset;
mod print;
mod relations;
mod sections;
mod segment;
mod stored;
pub mod teacher;

use std::path::Path;

use toml::Table;

use crate::checks::{Problems, nearest};
use crate::error::{Error, Result};
use crate::poa::branches::Branches;
use crate::shown::shown;
use layers::{Layered, Layers, Origin};
use sections::Sections;

pub use preset::Preset;
pub use stored::Stored;

/// The subcommand whose run has stored a configuration, where that is not pre-training, and where the network is that it has
/// made.
fn command_of(text: &str) -> Option<(&'static str, &'static str)> {
    fn of<T: Preset>(text: &str) -> Option<(&'static str, &'static str)> {
        preset::holds(text, T::SECTION).then_some((T::COMMAND, T::MADE))
    }
    of::<crate::tasks::finetune::Settings>(text)
        .or_else(|| of::<crate::tasks::segment::Settings>(text))
        .or_else(|| of::<crate::tasks::distill::Settings>(text))
}

/// What a recipe says.
pub use crate::poa::Settings as Config;

/// The recipes that are part of the program, by name.
const RECIPES: &[(&str, &str)] = &[
    ("demo", include_str!("../../configs/demo.toml")),
    ("small", include_str!("../../configs/small.toml")),
    ("cifar10", include_str!("../../configs/cifar10.toml")),
    ("cifar10_swin", include_str!("../../configs/cifar10_swin.toml")),
    ("cifar10_resnet", include_str!("../../configs/cifar10_resnet.toml")),
    ("demo_resnet", include_str!("../../configs/demo_resnet.toml")),
    ("resnet_ee2400", include_str!("../../configs/resnet_ee2400.toml")),
    ("vit_ee1200", include_str!("../../configs/vit_ee1200.toml")),
    ("swin_ee1200", include_str!("../../configs/swin_ee1200.toml")),
    ("demo_swin", include_str!("../../configs/demo_swin.toml")),
    ("dinov2_baseline", include_str!("../../configs/dinov2_baseline.toml")),
    ("ibot_baseline", include_str!("../../configs/ibot_baseline.toml")),
    ("variant_one_head", include_str!("../../configs/variants/one_head.toml")),
    ("variant_cross_view_only", include_str!("../../configs/variants/cross_view_only.toml")),
    ("variant_same_view_only", include_str!("../../configs/variants/same_view_only.toml")),
    ("variant_v1", include_str!("../../configs/variants/v1.toml")),
    ("variant_v2", include_str!("../../configs/variants/v2.toml")),
    ("variant_v3", include_str!("../../configs/variants/v3.toml")),
    ("variant_without_alpha", include_str!("../../configs/variants/without_alpha.toml")),
    ("variant_lambda_06", include_str!("../../configs/variants/lambda_06.toml")),
    ("variant_lambda_07", include_str!("../../configs/variants/lambda_07.toml")),
    ("variant_lambda_09", include_str!("../../configs/variants/lambda_09.toml")),
    ("variant_scale_1", include_str!("../../configs/variants/scale_1.toml")),
    ("variant_scale_2", include_str!("../../configs/variants/scale_2.toml")),
    ("variant_networks_42", include_str!("../../configs/variants/networks_42.toml")),
    ("bench_tiny", include_str!("../../configs/bench_tiny.toml")),
    ("bench_vit_s", include_str!("../../configs/bench_vit_s.toml")),
    ("bench_vit_l", include_str!("../../configs/bench_vit_l.toml")),
];

impl Config {
    /// Names of the recipes that are part of the program.
    pub fn recipe_names() -> impl Iterator<Item = &'static str> {
        RECIPES.iter().map(|(name, _)| *name)
    }

    /// A recipe that is part of the program.
    pub fn recipe(name: &str) -> Result<Self> {
        let (_, text) =
            RECIPES.iter().find(|(known, _)| *known == name).ok_or_else(|| unknown_recipe(name))?;
        Self::from_toml(text, Path::new(name))
    }

    /// A recipe given as text; `path` is what an error calls it.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self> {
        Self::lay(text, path, &[], Origin::Given)
    }

    /// A configuration that [`Config::to_toml`] wrote, of this version or an earlier one, which listed the
    /// keys of every family of backbones: those of other families are passed over.
    pub fn from_stored(text: &str, path: &Path) -> Result<Self> {
        if let Some((command, made)) = command_of(text) {
            return Err(Error::file(
                path,
                format!(
                    "is of a run of `poa-gpu {command}`; the network it has made is in its folder's {made}, and it goes on \
                     with `poa-gpu {command} --out DIR --resume`"
                ),
            ));
        }
        let mut config = Self::lay(text, path, &[], Origin::Stored)?;
        // what earlier versions called the training of the whole network alone
        if config.dino.branches == Branches::Poa && config.dino.lambda_ie == 1.0 {
            config.apply(&["dino.branches=alone", "student.fixed_network="])?;
            config.dino.lambda_ie = Self::default().dino.lambda_ie;
        }
        Ok(config)
    }

    /// The recipe of that name, or else the file at that path, under `overrides` of the form
    /// `section.key=value`. The result is not validated yet.
    pub fn load(source: &str, overrides: &[String]) -> Result<Self> {
        let path = Path::new(source);
        if let Some((_, text)) = RECIPES.iter().find(|(name, _)| *name == source) {
            return Self::lay(text, path, overrides, Origin::Given);
        }
        if !path.exists() && !source.contains(['/', '\\', '.']) {
            return Err(unknown_recipe(source));
        }
        let text = file::read(path)?;
        Self::lay(&text, path, overrides, Origin::Given)
    }

    fn lay(text: &str, path: &Path, overrides: &[String], origin: Origin) -> Result<Self> {
        let mut layers = Layers::over(&Self::default())?;
        layers.lay_file(text, path, origin)?;
        for text in overrides {
            layers.lay_override(text)?;
        }
        layers.config(origin)
    }

    /// Lays overrides of the form `section.key=value` over this configuration; the value is TOML, or else
    /// plain text.
    pub fn apply<S: AsRef<str>>(&mut self, overrides: &[S]) -> Result<()> {
        let mut layers = Layers::over(self)?;
        for text in overrides {
            layers.lay_override(text.as_ref())?;
        }
        *self = layers.config(Origin::Given)?;
        Ok(())
    }

    /// Checks every range and relation, then fills in what follows from the rest: the learning rate of a run
    /// on `ranks` devices, unless one is given.
    pub fn resolve(&mut self, ranks: usize) -> Result<()> {
        self.problems(ranks)?.result()?;
        self.optim.lr = self.learning_rate(ranks);
        Ok(())
    }

    /// The learning rate after the warm-up on `ranks` devices: the one that is given, or else what follows. Of steps
    /// without images none follows; that these are wrong is told by itself.
    fn learning_rate(&self, ranks: usize) -> f64 {
        match self.optim.lr {
            0.0 if self.images_per_step() == 0 => f64::NAN,
            0.0 => self.optim.scaled_lr(self.images_per_step().saturating_mul(ranks)),
            given => given,
        }
    }

    /// The settings that differ from another configuration's, as (key, here, there).
    pub fn differences(&self, other: &Self) -> Result<Vec<(String, String, String)>> {
        let (here, there) = (Layers::over(self)?, Layers::over(other)?);
        Ok(here.differences(&there))
    }

    /// This configuration as TOML that loads to the same configuration.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(&Sections::of(self))
            .map_err(|e| Error::config("(all)", format!("cannot be written as TOML: {e}")))
    }
}

impl Stored for Config {
    fn from_stored(text: &str, path: &Path) -> Result<Self> {
        Self::from_stored(text, path)
    }

    fn to_toml(&self) -> Result<String> {
        Self::to_toml(self)
    }

    fn differences(&self, other: &Self) -> Result<Vec<(String, String, String)>> {
        Self::differences(self, other)
    }
}

impl Layered for Config {
    fn table(&self) -> Result<Table> {
        Sections::of(self).table()
    }

    fn read(table: Table) -> Result<Self, toml::de::Error> {
        Sections::read(table)
    }

    fn check(table: &Table, section: &str) -> Result<(), toml::de::Error> {
        Sections::check(table, section)
    }

    fn problems(&self) -> Result<Problems> {
        Self::problems(self, 1)
    }
}

/// What a run with this recipe is called: the name of a recipe of the program, or a file's name without its
/// extension.
pub fn recipe_name(source: &str) -> String {
    Path::new(source).file_stem().map_or_else(|| "run".into(), |stem| stem.to_string_lossy().into_owned())
}

fn unknown_recipe(name: &str) -> Error {
    let names: Vec<&str> = Config::recipe_names().collect();
    let nearest = nearest(name, names.iter().copied()).map(|n| format!(" Did you mean `{n}`?"));
    Error::Usage(format!(
        "there is no recipe `{}` and no file of that name.{} The recipes are {}; a file is given by its path, \
         as in ./my.toml.",
        shown(name),
        nearest.unwrap_or_default(),
        names.join(", ")
    ))
}
