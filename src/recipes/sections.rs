//! How the settings of the floors make up the sections of a recipe.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::checks::{Key, Settings};
use crate::data::settings::{Crops, Data, Loading};
use crate::error::{Error, Result};
use crate::eval::settings::Evaluation;
use crate::models::Student;
use crate::optim::settings::Optim;
use crate::poa::Settings as Config;
use crate::poa::settings::{Activation, Dino, Ibot, Step, Teacher};
use crate::train::settings::Train;

/// A recipe as it is written: a table a section.
#[derive(Serialize, Deserialize)]
pub(super) struct Sections {
    student: Student,
    crops: Crops,
    dino: Dino,
    ibot: Ibot,
    teacher: Teacher,
    optim: Joined<Optim, Activation>,
    train: Joined<Train, Joined<Loading, Step>>,
    data: Data,
    evaluation: Evaluation,
}

/// A section whose keys belong to two floors.
#[derive(Serialize, Deserialize)]
struct Joined<A, B> {
    #[serde(flatten)]
    first: A,
    #[serde(flatten)]
    second: B,
}

/// A section, and what its keys mean.
pub(super) struct Description {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Its keys; of `student` those of the default family, but for `arch`.
    pub keys: Vec<Key>,
}

impl Sections {
    /// The sections of a configuration.
    pub fn of(config: &Config) -> Self {
        let c = config.clone();
        Self {
            student: c.student,
            crops: c.crops,
            dino: c.dino,
            ibot: c.ibot,
            teacher: c.teacher,
            optim: Joined { first: c.optim, second: c.activation },
            train: Joined { first: c.train, second: Joined { first: c.loading, second: c.step } },
            data: c.data,
            evaluation: c.evaluation,
        }
    }

    /// The configuration that they are the sections of.
    pub fn config(self) -> Config {
        let Joined { first: optim, second: activation } = self.optim;
        let Joined { first: train, second: Joined { first: loading, second: step } } = self.train;
        Config {
            student: self.student,
            crops: self.crops,
            dino: self.dino,
            ibot: self.ibot,
            teacher: self.teacher,
            optim,
            activation,
            train,
            loading,
            step,
            data: self.data,
            evaluation: self.evaluation,
        }
    }

    /// The configuration that a table of sections says.
    pub fn read(table: Table) -> Result<Config, toml::de::Error> {
        Self::deserialize(table).map(Self::config)
    }

    /// What is wrong with the values of one section of a table, other than `student`, which [`check_student`] looks at.
    /// The others are right.
    pub fn check(table: &Table, section: &str) -> Result<(), toml::de::Error> {
        fn read<T: for<'de> Deserialize<'de>>(values: &Value) -> Result<(), toml::de::Error> {
            T::deserialize(values.clone()).map(|_| ())
        }
        match (section, table.get(section)) {
            ("crops", Some(values)) => read::<Crops>(values),
            ("dino", Some(values)) => read::<Dino>(values),
            ("ibot", Some(values)) => read::<Ibot>(values),
            ("teacher", Some(values)) => read::<Teacher>(values),
            ("optim", Some(values)) => read::<Joined<Optim, Activation>>(values),
            ("train", Some(values)) => read::<Joined<Train, Joined<Loading, Step>>>(values),
            ("data", Some(values)) => read::<Data>(values),
            ("evaluation", Some(values)) => read::<Evaluation>(values),
            _ => Self::read(table.clone()).map(|_| ()),
        }
    }

    /// The same as a table.
    pub fn table(&self) -> Result<Table> {
        Table::try_from(self).map_err(|e| Error::config("(all)", e.to_string()))
    }

    /// All sections in order, with what their keys mean.
    pub fn describe() -> Vec<Description> {
        let section = |name, about, keys| Description { name, about, keys };
        let join = |mut first: Vec<Key>, second: Vec<Key>| {
            first.extend(second);
            first
        };
        vec![
            section("student", "The elastic backbone.", Student::default().keys()),
            section("crops", "Crops and augmentation.", Crops::keys()),
            section("dino", "Projection heads, the losses on the class token, KoLeo.", Dino::keys()),
            section("ibot", "The masked-patch loss.", Ibot::keys()),
            section(
                "teacher",
                "The moving average of the student and the temperature of its targets.",
                Teacher::keys(),
            ),
            section(
                "optim",
                "AdamW, its schedules, and the length of the run in epochs.",
                join(Optim::keys(), Activation::keys()),
            ),
            section(
                "train",
                "Batch, length of an epoch, checkpoints, reports.",
                join(Train::keys(), join(Loading::keys(), Step::keys())),
            ),
            section("data", "Where the images come from.", Data::keys()),
            section("evaluation", "k-nearest-neighbour classification during a run.", Evaluation::keys()),
        ]
    }
}

/// Section `student` with the keys of every family: those of `table`, and the others with their defaults.
pub(super) fn all_families(table: &mut Table) -> Result<()> {
    for family in Student::families() {
        let defaults = Table::try_from(&family).map_err(|e| Error::config("student", e.to_string()))?;
        for (key, value) in defaults {
            table.entry(key).or_insert(value);
        }
    }
    Ok(())
}

/// What is wrong with section `student` under the eyes of every family that has a key.
pub(super) fn check_student(table: &Table, key: &str) -> Result<(), toml::de::Error> {
    if key == "arch" {
        return Student::deserialize(table.clone()).map(|_| ());
    }
    for family in Student::families() {
        if family.keys().iter().any(|known| known.name == key) {
            let mut table = table.clone();
            table.insert("arch".into(), Value::String(family.name().into()));
            Student::deserialize(table)?;
        }
    }
    Ok(())
}
