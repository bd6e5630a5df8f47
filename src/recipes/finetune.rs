//! Recipes of fine-tuning.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::checks::Problems;
use crate::data::classify::ClassifyAugment;
use crate::error::{Error, Result};
use crate::models::Student;
use crate::recipes::layers::Layered;
use crate::recipes::preset::Recipes;
use crate::tasks::finetune::{Finetune, FinetuneSource, FinetuneTrain, Settings};

impl Recipes for Settings {
    const SECTION: &'static str = "finetune";
    const COMMAND: &'static str = "finetune";
    const PRESETS: &'static [(&'static str, &'static str)] = &[
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
}

/// All sections.
#[derive(Serialize, Deserialize)]
struct Sections {
    student: Student,
    finetune: Finetune,
    augment: ClassifyAugment,
    train: FinetuneTrain,
    data: FinetuneSource,
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
