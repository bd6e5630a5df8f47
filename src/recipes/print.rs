//! A recipe with every key and what it means, as a file to start one's own from.

use std::fmt::Write;

use toml::{Table, Value};

use crate::checks::Key;
use crate::error::Result;
use crate::models::Student;
use crate::poa::Settings as Config;
use crate::recipes::sections::{Sections, all_families};

const HEAD: &str = "\
# Every setting with its default, which is that of the paper's ViT recipe: ViT-L with 143 sub-networks from 384 x 12
# (ViT-S) to 1024 x 24, for 32 devices of 50 images each. A recipe need only say what differs.
";

impl Config {
    /// The defaults as a recipe: every key, each with what it means. Keys of other backbones than the default one are
    /// comments.
    pub fn default_recipe() -> Result<String> {
        let config = Self::default();
        let values = Sections::of(&config).table()?;
        let mut text = HEAD.to_string();
        for section in Sections::describe() {
            let _ = write!(text, "\n# {}\n[{}]\n", section.about, section.name);
            let Some(Value::Table(values)) = values.get(section.name) else { continue };
            if section.name == "student" {
                student(&mut text, &config.student, values, &section.keys)?;
            } else {
                section.keys.iter().for_each(|key| write_key(&mut text, key, values, ""));
            }
        }
        Ok(text)
    }
}

/// The keys of the default backbone, then those of the others as comments.
fn student(text: &mut String, default: &Student, values: &Table, all: &[Key]) -> Result<()> {
    let names: Vec<&str> = Student::names().collect();
    let _ = writeln!(text, "# The family: {}.\narch = \"{}\"", names.join(", "), default.name());
    let own = default.keys();
    own.iter().for_each(|key| write_key(text, key, values, ""));
    let mut values = Table::new();
    all_families(&mut values)?;
    for family in Student::families() {
        let keys = family.keys();
        let others = keys.iter().filter(|key| !own.iter().any(|known| known.name == key.name));
        for (i, key) in others.enumerate() {
            if i == 0 {
                let _ = writeln!(text, "\n# With arch = \"{}\" also:", family.name());
            }
            // the meaning in this family
            write_key(text, key, &values, "# ");
        }
    }
    debug_assert!(all.iter().all(|key| text.contains(key.name)));
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
