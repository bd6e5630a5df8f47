//! A recipe with every key and what it means, as a file to start one's own from.

use std::fmt::Write;

use toml::{Table, Value};

use crate::checks::Key;
use crate::error::Result;
use crate::models::Student;
use crate::poa::Settings as Config;
use crate::recipes::sections::{Sections, all_families};

const HEAD: &str = "\
# Every setting with its default, which is that of the paper's ViT recipe: ViT-L with 143 sub-networks from
# 384 x 12 (ViT-S) to 1024 x 24, for 32 devices of 50 images each. A recipe need only say what differs.
";

impl Config {
    /// The defaults as a recipe: every key, each with what it means. Keys of other backbones than the default
    /// one are comments.
    pub fn default_recipe() -> Result<String> {
        let config = Self::default();
        let values = Sections::of(&config).table()?;
        let mut text = HEAD.to_string();
        for section in Sections::describe() {
            let _ = write!(text, "\n# {}\n[{}]\n", section.about, section.name);
            let Some(Value::Table(values)) = values.get(section.name) else { continue };
            let student = section.name == "student";
            if student {
                let names: Vec<&str> = Student::names().collect();
                let arch = config.student.name();
                let _ = writeln!(text, "# The family: {}.\narch = \"{arch}\"", names.join(", "));
            }
            section.keys.iter().for_each(|key| write_key(&mut text, key, values, ""));
            if student {
                other_families(&mut text, &section.keys)?;
            }
        }
        Ok(text)
    }
}

/// The keys of section `student` that other families than the default one have beside its own, as comments.
fn other_families(text: &mut String, own: &[Key]) -> Result<()> {
    let mut values = Table::new();
    all_families(&mut values)?;
    for family in Student::families() {
        let keys = family.keys();
        let others: Vec<&Key> =
            keys.iter().filter(|key| !own.iter().any(|known| known.name == key.name)).collect();
        if !others.is_empty() {
            let _ = writeln!(text, "\n# With arch = \"{}\" also:", family.name());
        }
        others.into_iter().for_each(|key| write_key(text, key, &values, "# "));
    }
    Ok(())
}

fn write_key(text: &mut String, key: &Key, values: &Table, comment: &str) {
    for line in key.comment {
        let _ = writeln!(text, "{comment}#{line}");
    }
    if let Some(value) = values.get(key.name) {
        let _ = writeln!(text, "{comment}{} = {value}", key.name);
    }
}
