//! Settings of a run, as its folder and its ranks have them.

use std::path::Path;

use crate::error::Result;

/// Settings that a run stores.
pub trait Stored: Sized {
    /// What [`Stored::to_toml`] wrote, of this version or an earlier one; `path` is what an error calls it.
    fn from_stored(text: &str, path: &Path) -> Result<Self>;

    /// As TOML that loads to the same.
    fn to_toml(&self) -> Result<String>;

    /// Key, value here and value in `other` of all that differs.
    fn differences(&self, other: &Self) -> Result<Vec<(String, String, String)>>;
}
