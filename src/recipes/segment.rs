//! Recipes of segmentation.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::checks::Problems;
use crate::data::segmentation::SegmentationAugment;
use crate::error::{Error, Result};
use crate::models::Student;
use crate::recipes::layers::Layered;
use crate::recipes::preset::Recipes;
use crate::tasks::finetune::FinetuneTrain;
use crate::tasks::segment::{Segment, SegmentSource, Settings};

impl Recipes for Settings {
    const SECTION: &'static str = "segment";
    const COMMAND: &'static str = "segment";
    const PRESETS: &'static [(&'static str, &'static str)] = &[
        ("demo", include_str!("../../configs/segment/demo.toml")),
        ("linear", include_str!("../../configs/segment/linear.toml")),
        ("upernet_small", include_str!("../../configs/segment/upernet_small.toml")),
        ("upernet_base", include_str!("../../configs/segment/upernet_base.toml")),
        ("linear_small", include_str!("../../configs/segment/linear_small.toml")),
        ("linear_base", include_str!("../../configs/segment/linear_base.toml")),
        ("linear_large", include_str!("../../configs/segment/linear_large.toml")),
    ];
}

/// All sections.
#[derive(Serialize, Deserialize)]
struct Sections {
    student: Student,
    segment: Segment,
    augment: SegmentationAugment,
    train: FinetuneTrain,
    data: SegmentSource,
}

impl Layered for Settings {
    fn table(&self) -> Result<Table> {
        let Self { student, segment, augment, train, data } = self.clone();
        Table::try_from(Sections { student, segment, augment, train, data })
            .map_err(|e| Error::config("(all)", e.to_string()))
    }

    fn read(table: Table) -> Result<Self, toml::de::Error> {
        let Sections { student, segment, augment, train, data } = Sections::deserialize(table)?;
        Ok(Self { student, segment, augment, train, data })
    }

    fn check(table: &Table, section: &str) -> Result<(), toml::de::Error> {
        fn read<T: for<'de> Deserialize<'de>>(values: &Value) -> Result<(), toml::de::Error> {
            T::deserialize(values.clone()).map(|_| ())
        }
        match (section, table.get(section)) {
            ("segment", Some(values)) => read::<Segment>(values),
            ("augment", Some(values)) => read::<SegmentationAugment>(values),
            ("train", Some(values)) => read::<FinetuneTrain>(values),
            ("data", Some(values)) => read::<SegmentSource>(values),
            _ => Self::read(table.clone()).map(|_| ()),
        }
    }

    fn problems(&self) -> Result<Problems> {
        Self::problems(self)
    }
}
