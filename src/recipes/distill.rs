//! Recipes of distillation.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::checks::Problems;
use crate::data::settings::{Crops, Data};
use crate::error::{Error, Result};
use crate::models::Student;
use crate::recipes::Config;
use crate::recipes::layers::Layered;
use crate::recipes::preset::Recipes;
use crate::tasks::distill::{Distill, DistillCrops, DistillEvaluation, DistillTrain, Settings};

impl Recipes for Settings {
    const SECTION: &'static str = "distill";
    const COMMAND: &'static str = "distill";
    const START: &'static str = "--teacher";
    const MADE: &'static str = "student/";
    const PRESETS: &'static [(&'static str, &'static str)] = &[
        ("demo", include_str!("../../configs/distill/demo.toml")),
        ("seed", include_str!("../../configs/distill/seed.toml")),
    ];

    /// Where the recipe or an override says another family of backbones than `base` has, its sizes do not count.
    fn under(base: &Self, text: &str, overrides: &[String]) -> Self {
        let mut base = base.clone();
        if let Some(other) = family(text, overrides).filter(|other| other.name() != base.student.name()) {
            base.student = other;
        }
        base
    }
}

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
