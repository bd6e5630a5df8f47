//! Recipes of tasks beside pre-training: presets of the program or files, over defaults and under the command line, as those of
//! pre-training.

use std::path::Path;

use crate::checks::nearest;
use crate::error::{Error, Result};
use crate::recipes::file;
use crate::recipes::layers::{Layered, Layers, Origin};
use crate::recipes::stored::Stored;
use crate::shown::shown;

/// What is particular to the recipes of a task.
pub trait Recipes: Clone {
    /// The section that it has alone, by which a stored configuration is known.
    const SECTION: &'static str;
    /// The subcommand.
    const COMMAND: &'static str;
    /// The option that takes what such a run starts from.
    const START: &'static str = "--init";
    /// Where in its folder the network is that it has made.
    const MADE: &'static str = "best/";
    /// The presets, by name.
    const PRESETS: &'static [(&'static str, &'static str)];

    /// What a recipe (`text`) and overrides are laid over, of the settings `base` that a run starts with.
    fn under(base: &Self, _text: &str, _overrides: &[String]) -> Self {
        base.clone()
    }
}

/// Settings of a task with presets.
#[allow(private_bounds)] // how tables become settings is not for others
pub trait Preset: Recipes + Layered + Default + Clone + PartialEq {
    /// Names of the presets.
    fn preset_names() -> impl Iterator<Item = &'static str> {
        Self::PRESETS.iter().map(|(name, _)| *name)
    }

    /// A preset by name or a file by path, over `base`, and overrides `section.key=value` over both; checked.
    fn load(base: &Self, source: &str, overrides: &[String]) -> Result<Self> {
        let preset =
            Self::PRESETS.iter().find(|(name, _)| *name == source).map(|(_, text)| (*text).to_string());
        let path = Path::new(source);
        let text = match preset {
            Some(text) => text,
            None if !path.exists() && !source.contains(['/', '\\', '.']) => {
                return Err(unknown::<Self>(source));
            }
            None => file::read(path)?,
        };
        let mut layers = Layers::over(&Self::under(base, &text, overrides))?;
        layers.lay_file(&text, path, Origin::Given)?;
        finish(layers, overrides)
    }

    /// These settings under overrides `section.key=value`; checked.
    fn over(&self, overrides: &[String]) -> Result<Self> {
        finish(Layers::over(self)?, overrides)
    }
}

impl<T: Recipes + Layered + Default + Clone + PartialEq> Preset for T {}

impl<T: Preset> Stored for T {
    fn from_stored(text: &str, path: &Path) -> Result<Self> {
        if !holds(text, T::SECTION) {
            return Err(Error::file(
                path,
                format!(
                    "is not of a run of `poa-gpu {}`; give it as {}, and another folder as --out",
                    T::COMMAND,
                    T::START
                ),
            ));
        }
        let mut layers = Layers::over(&T::default())?;
        layers.lay_file(text, path, Origin::Stored)?;
        layers.config(Origin::Stored)
    }

    fn to_toml(&self) -> Result<String> {
        toml::to_string(&self.table()?)
            .map_err(|e| Error::config("(all)", format!("cannot be written as TOML: {e}")))
    }

    fn differences(&self, other: &Self) -> Result<Vec<(String, String, String)>> {
        Ok(Layers::over(self)?.differences(&Layers::over(other)?))
    }
}

/// Whether a configuration that was stored has a section.
pub(crate) fn holds(text: &str, section: &str) -> bool {
    text.lines()
        .any(|line| line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) == Some(section))
}

fn finish<T: Layered>(mut layers: Layers<T>, overrides: &[String]) -> Result<T> {
    for text in overrides {
        layers.lay_override(text)?;
    }
    let settings = layers.config(Origin::Given)?;
    settings.problems()?.result()?;
    Ok(settings)
}

fn unknown<T: Preset>(name: &str) -> Error {
    let names: Vec<&str> = T::preset_names().collect();
    let nearest = nearest(name, names.iter().copied()).map(|n| format!(" Did you mean `{n}`?"));
    Error::Usage(format!(
        "there is no preset `{}` and no file of that name.{} The presets are {}; a file is given by its path, as in ./my.toml.",
        shown(name),
        nearest.unwrap_or_default(),
        names.join(", ")
    ))
}
