//! Training recipes: TOML laid over defaults, then over that what the command line says.
//!
//! Sections and keys carry the names of the official POA recipe, and every default is that of its ViT recipe. A key
//! that does not exist, has the wrong type or contradicts another is an error that names the key and a value that
//! would work. `Config::to_toml` writes a recipe from which the same configuration loads again.

mod merge;
mod model;
mod run;
pub(crate) mod validate;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use merge::Layers;
pub use model::{Dino, Ibot, KoleoMix, Student, Teacher};
pub use run::{Blur, Centering, Crops, Data, Evaluation, Optim, Precision, ScalingRule, Train};

/// The recipes that are part of the program, by name.
const RECIPES: &[(&str, &str)] = &[
    ("demo", include_str!("../../configs/demo.toml")),
    ("small", include_str!("../../configs/small.toml")),
    ("demo_resnet", include_str!("../../configs/demo_resnet.toml")),
    ("resnet_ee2400", include_str!("../../configs/resnet_ee2400.toml")),
    ("vit_ee1200", include_str!("../../configs/vit_ee1200.toml")),
    ("swin_ee1200", include_str!("../../configs/swin_ee1200.toml")),
    ("demo_swin", include_str!("../../configs/demo_swin.toml")),
    ("bench_tiny", include_str!("../../configs/bench_tiny.toml")),
    ("bench_vit_s", include_str!("../../configs/bench_vit_s.toml")),
    ("bench_vit_l", include_str!("../../configs/bench_vit_l.toml")),
];

/// Everything that decides what a training run computes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The elastic backbone.
    pub student: Student,
    /// Crops and augmentation.
    pub crops: Crops,
    /// Projection heads and the losses on the class token.
    pub dino: Dino,
    /// The masked-patch loss.
    pub ibot: Ibot,
    /// The moving average of the student.
    pub teacher: Teacher,
    /// AdamW and its schedules.
    pub optim: Optim,
    /// Batch, epochs, checkpoints, reports.
    pub train: Train,
    /// The images.
    pub data: Data,
    /// Evaluation during the run.
    pub evaluation: Evaluation,
}

impl Config {
    /// Names of the recipes that are part of the program.
    pub fn recipe_names() -> impl Iterator<Item = &'static str> {
        RECIPES.iter().map(|(name, _)| *name)
    }

    /// The text of the recipe whose values are the defaults: every key, with comments.
    pub fn default_recipe() -> &'static str {
        include_str!("../../configs/vit_ee1200.toml")
    }

    /// A recipe that is part of the program.
    pub fn recipe(name: &str) -> Result<Self> {
        let (_, text) =
            RECIPES.iter().find(|(known, _)| *known == name).ok_or_else(|| unknown_recipe(name))?;
        Self::from_toml(text, Path::new(name))
    }

    /// A recipe given as text; `origin` is what an error calls it.
    pub fn from_toml(text: &str, origin: &Path) -> Result<Self> {
        let mut layers = Layers::over(&Self::default())?;
        layers.lay_file(text, origin)?;
        layers.config()
    }

    /// The recipe of that name, or else the file at that path, under `overrides` of the form `section.key=value`.
    /// The result is not validated yet.
    pub fn load(source: &str, overrides: &[String]) -> Result<Self> {
        let mut config = match RECIPES.iter().any(|(name, _)| *name == source) {
            true => Self::recipe(source)?,
            false => {
                let path = Path::new(source);
                if !path.exists() && !source.contains(['/', '\\', '.']) {
                    return Err(unknown_recipe(source));
                }
                let text = std::fs::read_to_string(path)
                    .map_err(|e| Error::file(path, format!("cannot read this recipe: {e}")))?;
                Self::from_toml(&text, path)?
            }
        };
        config.apply(overrides)?;
        Ok(config)
    }

    /// Lays overrides of the form `section.key=value` over this configuration; the value is TOML, or else plain
    /// text.
    pub fn apply<S: AsRef<str>>(&mut self, overrides: &[S]) -> Result<()> {
        let mut layers = Layers::over(self)?;
        for text in overrides {
            layers.lay_override(text.as_ref())?;
        }
        *self = layers.config()?;
        Ok(())
    }

    /// Checks every range and relation, then fills in what follows from the rest: the learning rate of a run on
    /// `ranks` devices, unless one is given.
    pub fn resolve(&mut self, ranks: usize) -> Result<()> {
        self.validate()?;
        if self.optim.lr == 0.0 {
            self.optim.lr = self.scaled_lr(ranks);
        }
        if self.optim.lr < self.optim.min_lr {
            let (lr, min) = (self.optim.lr, self.optim.min_lr);
            return Err(Error::config(
                "optim.min_lr",
                format!("is {min}, more than the learning rate {lr:.3e}; for example {:.1e}", lr / 100.0),
            ));
        }
        Ok(())
    }

    /// The learning rate after warm-up that `optim.base_lr` and `optim.scaling_rule` give on `ranks` devices.
    pub fn scaled_lr(&self, ranks: usize) -> f64 {
        let images = (self.images_per_step() * ranks) as f64;
        self.optim.base_lr
            * match self.optim.scaling_rule {
                ScalingRule::Sqrt => (images / 1024.0).sqrt(),
                ScalingRule::Linear => images / 1024.0,
                ScalingRule::None => 1.0,
            }
    }

    /// Images of a step on one device.
    pub fn images_per_step(&self) -> usize {
        self.train.batch_size_per_gpu * self.train.accumulation_steps
    }

    /// Effective epochs of a pass over the images, as the paper counts them: the pixels of all crops in units of one
    /// global crop. 346 epochs of 2 crops of 224 and 8 of 96 pixels are 1,200.
    pub fn effective_epochs_per_epoch(&self) -> f64 {
        let c = &self.crops;
        let local = c.local_crops_size as f64 / c.global_crops_size as f64;
        2.0 + c.local_crops_number as f64 * local * local
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> usize {
        match self.train.total_steps {
            0 => self.optim.epochs.saturating_mul(self.train.epoch_length),
            steps => steps,
        }
    }

    /// Steps that so many epochs take. An epoch has `train.OFFICIAL_EPOCH_LENGTH` steps, or with
    /// `train.total_steps` its share of them.
    pub fn steps_of_epochs(&self, epochs: usize) -> usize {
        match self.train.total_steps {
            0 => epochs.saturating_mul(self.train.epoch_length),
            total => {
                let steps = epochs as u128 * total as u128 / self.optim.epochs.max(1) as u128;
                usize::try_from(steps).unwrap_or(usize::MAX)
            }
        }
    }

    /// The first step in which the masked-patch loss counts.
    pub fn ibot_start_step(&self) -> usize {
        self.steps_of_epochs(self.optim.ibot_activate_epochs)
    }

    /// Steps between checkpoints.
    pub fn checkpoint_period(&self) -> usize {
        self.steps_of_epochs(self.train.saveckp_freq).max(1)
    }

    /// The settings that differ from another configuration's, as (key, here, there).
    pub fn differences(&self, other: &Self) -> Result<Vec<(String, String, String)>> {
        let (here, there) = (merge::Layers::over(self)?, merge::Layers::over(other)?);
        Ok(here.differences(&there))
    }

    /// This configuration as TOML that loads to the same configuration.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::config("(all)", format!("cannot be written as TOML: {e}")))
    }
}

/// What a run with this recipe is called: the name of a recipe of the program, or a file's name without its ending.
pub fn recipe_name(source: &str) -> String {
    Path::new(source).file_stem().map_or_else(|| "run".into(), |stem| stem.to_string_lossy().into_owned())
}

fn unknown_recipe(name: &str) -> Error {
    let names: Vec<&str> = Config::recipe_names().collect();
    let nearest = merge::nearest(name, names.iter().copied()).map(|n| format!(" Did you mean `{n}`?"));
    Error::Usage(format!(
        "there is no recipe `{name}` and no file of that name.{} The recipes are {}; a file is given by its path, \
         as in ./my.toml.",
        nearest.unwrap_or_default(),
        names.join(", ")
    ))
}
