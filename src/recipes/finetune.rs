//! Recipes of fine-tuning: presets of the program or files, over defaults and under the command line, as those of
//! training.

use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::checks::{Problems, nearest};
use crate::data::classify::ClassifyAugment;
use crate::error::{Error, Result};
use crate::models::Student;
use crate::recipes::file;
use crate::recipes::layers::{Layered, Layers, Origin};
use crate::recipes::stored::Stored;
use crate::shown::shown;
use crate::tasks::finetune::{Finetune, FinetuneSource, FinetuneTrain, Settings};

/// The presets, by name.
const PRESETS: [(&str, &str); 10] = [
    ("demo", include_str!("../../configs/finetune/demo.toml")),
    ("imagenet", include_str!("../../configs/finetune/imagenet.toml")),
    ("semi", include_str!("../../configs/finetune/semi.toml")),
    ("cifar10", include_str!("../../configs/finetune/cifar10.toml")),
    ("cifar100", include_str!("../../configs/finetune/cifar100.toml")),
    ("cars", include_str!("../../configs/finetune/cars.toml")),
    ("flowers", include_str!("../../configs/finetune/flowers.toml")),
    ("inat18", include_str!("../../configs/finetune/inat18.toml")),
    ("inat19", include_str!("../../configs/finetune/inat19.toml")),
    ("linear", include_str!("../../configs/finetune/linear.toml")),
];

/// All sections.
#[derive(Serialize, Deserialize)]
struct Sections {
    student: Student,
    finetune: Finetune,
    augment: ClassifyAugment,
    train: FinetuneTrain,
    data: FinetuneSource,
}

/// Whether a configuration that was stored is of a run that fine-tunes.
pub(super) fn is_of_finetuning(text: &str) -> bool {
    text.lines().any(|line| line.trim() == "[finetune]")
}

impl Layered for Settings {
    fn table(&self) -> Result<Table> {
        let Self { student, finetune, augment, train, data } = self.clone();
        Table::try_from(Sections { student, finetune, augment, train, data })
            .map_err(|e| Error::config("(all)", e.to_string()))
    }

    fn read(table: Table) -> Result<Self, toml::de::Error> {
        let Sections { student, finetune, augment, train, data } = Sections::deserialize(table)?;
        Ok(Self { student, finetune, augment, train, data })
    }

    fn check(table: &Table, section: &str) -> Result<(), toml::de::Error> {
        fn read<T: for<'de> Deserialize<'de>>(values: &Value) -> Result<(), toml::de::Error> {
            T::deserialize(values.clone()).map(|_| ())
        }
        match (section, table.get(section)) {
            ("finetune", Some(values)) => read::<Finetune>(values),
            ("augment", Some(values)) => read::<ClassifyAugment>(values),
            ("train", Some(values)) => read::<FinetuneTrain>(values),
            ("data", Some(values)) => read::<FinetuneSource>(values),
            _ => Self::read(table.clone()).map(|_| ()),
        }
    }

    fn problems(&self) -> Result<Problems> {
        Self::problems(self)
    }
}

impl Settings {
    /// Names of the presets.
    pub fn preset_names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, _)| *name)
    }

    /// A preset by name or a file by path, over `base`, and overrides `section.key=value` over both; checked.
    pub fn load(base: &Self, source: &str, overrides: &[String]) -> Result<Self> {
        let preset = PRESETS.iter().find(|(name, _)| *name == source).map(|(_, text)| (*text).to_string());
        let path = Path::new(source);
        let text = match preset {
            Some(text) => text,
            None if !path.exists() && !source.contains(['/', '\\', '.']) => return Err(unknown(source)),
            None => file::read(path)?,
        };
        let mut layers = Layers::over(base)?;
        layers.lay_file(&text, path, Origin::Given)?;
        Self::finish(layers, overrides)
    }

    /// What a run was started with, as it was stored.
    pub fn from_stored(text: &str, path: &Path) -> Result<Self> {
        if !is_of_finetuning(text) {
            return Err(Error::file(
                path,
                "is not of a run that fine-tunes; give it as --init, and another folder as --out",
            ));
        }
        let mut layers = Layers::over(&Self::default())?;
        layers.lay_file(text, path, Origin::Stored)?;
        layers.config(Origin::Stored)
    }

    /// These settings under overrides `section.key=value`; checked.
    pub fn over(&self, overrides: &[String]) -> Result<Self> {
        Self::finish(Layers::over(self)?, overrides)
    }

    fn finish(mut layers: Layers<Self>, overrides: &[String]) -> Result<Self> {
        for text in overrides {
            layers.lay_override(text)?;
        }
        let settings = layers.config(Origin::Given)?;
        Self::problems(&settings)?.result()?;
        Ok(settings)
    }

    /// Key, value here and value in `other` of all that differs.
    pub fn differences(&self, other: &Self) -> Result<Vec<(String, String, String)>> {
        Ok(Layers::over(self)?.differences(&Layers::over(other)?))
    }

    /// These settings as TOML that loads to the same.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(&Layered::table(self)?)
            .map_err(|e| Error::config("(all)", format!("cannot be written as TOML: {e}")))
    }
}

impl Stored for Settings {
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

fn unknown(name: &str) -> Error {
    let names: Vec<&str> = Settings::preset_names().collect();
    let nearest = nearest(name, names.iter().copied()).map(|n| format!(" Did you mean `{n}`?"));
    Error::Usage(format!(
        "there is no preset `{}` and no file of that name.{} The presets are {}; a file is given by its path, as in ./my.toml.",
        shown(name),
        nearest.unwrap_or_default(),
        names.join(", ")
    ))
}
