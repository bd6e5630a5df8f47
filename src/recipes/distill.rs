//! Recipes of distillation: presets of the program or files, over defaults and under the command line, as those of
//! training.

use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::checks::{Problems, nearest};
use crate::data::settings::{Crops, Data};
use crate::error::{Error, Result};
use crate::models::Student;
use crate::recipes::layers::{Layered, Layers, Origin};
use crate::recipes::stored::Stored;
use crate::recipes::{Config, file};
use crate::shown::shown;
use crate::tasks::distill::{Distill, DistillCrops, DistillEvaluation, DistillTrain, Settings};

/// The presets, by name.
const PRESETS: [(&str, &str); 2] = [
    ("demo", include_str!("../../configs/distill/demo.toml")),
    ("seed", include_str!("../../configs/distill/seed.toml")),
];

/// All sections.
#[derive(Serialize, Deserialize)]
struct Sections {
    student: Student,
    distill: Distill,
    crops: DistillCrops,
    train: DistillTrain,
    data: Data,
    evaluation: DistillEvaluation,
}

/// Whether a configuration that was stored is of a run that distils.
pub(super) fn is_of_distillation(text: &str) -> bool {
    text.lines().any(|line| line.trim() == "[distill]")
}

impl Layered for Settings {
    fn table(&self) -> Result<Table> {
        let Self { student, distill, crops, train, data, evaluation } = self.clone();
        Table::try_from(Sections { student, distill, crops, train, data, evaluation })
            .map_err(|e| Error::config("(all)", e.to_string()))
    }

    fn read(table: Table) -> Result<Self, toml::de::Error> {
        let Sections { student, distill, crops, train, data, evaluation } = Sections::deserialize(table)?;
        Ok(Self { student, distill, crops, train, data, evaluation })
    }

    fn check(table: &Table, section: &str) -> Result<(), toml::de::Error> {
        fn read<T: for<'de> Deserialize<'de>>(values: &Value) -> Result<(), toml::de::Error> {
            T::deserialize(values.clone()).map(|_| ())
        }
        match (section, table.get(section)) {
            ("distill", Some(values)) => read::<Distill>(values),
            ("crops", Some(values)) => read::<DistillCrops>(values),
            ("train", Some(values)) => read::<DistillTrain>(values),
            ("data", Some(values)) => read::<Data>(values),
            ("evaluation", Some(values)) => read::<DistillEvaluation>(values),
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

    /// A preset by name or a file by path, over `base`, and overrides `section.key=value` over both; checked. Where they say
    /// another family of backbones than `base` has, its sizes do not count.
    pub fn load(base: &Self, source: &str, overrides: &[String]) -> Result<Self> {
        let preset = PRESETS.iter().find(|(name, _)| *name == source).map(|(_, text)| (*text).to_string());
        let path = Path::new(source);
        let text = match preset {
            Some(text) => text,
            None if !path.exists() && !source.contains(['/', '\\', '.']) => return Err(unknown(source)),
            None => file::read(path)?,
        };
        let mut base = base.clone();
        if let Some(other) = family(&text, overrides).filter(|other| other.name() != base.student.name()) {
            base.student = other;
        }
        let mut layers = Layers::over(&base)?;
        layers.lay_file(&text, path, Origin::Given)?;
        Self::finish(layers, overrides)
    }

    /// What a run was started with, as it was stored.
    pub fn from_stored(text: &str, path: &Path) -> Result<Self> {
        if !is_of_distillation(text) {
            return Err(Error::file(
                path,
                "is not of a run that distils; give it as --teacher, and another folder as --out",
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

    /// What evaluation and extraction go by: a pre-training whose only network is the student.
    pub(super) fn as_pretrained(&self) -> Result<Config> {
        let crops = Crops {
            global_crops_size: self.crops.global_crops_size,
            local_crops_size: self.crops.local_crops_size,
            ..Crops::default()
        };
        Ok(Config { student: self.only()?, crops, data: self.data.clone(), ..Config::default() })
    }
}

/// The family of backbones that a recipe and overrides ask for, with its defaults; `None` where they do not say, or say what
/// there is not.
fn family(text: &str, overrides: &[String]) -> Option<Student> {
    let given = overrides
        .iter()
        .rev()
        .find_map(|text| text.split_once('=').filter(|(key, _)| key.trim() == "student.arch"));
    let name = match given {
        Some((_, name)) => name.trim().trim_matches('"').to_string(),
        None => text.parse::<Table>().ok()?.get("student")?.get("arch")?.as_str()?.to_string(),
    };
    Student::families().into_iter().find(|family| family.name() == name)
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
