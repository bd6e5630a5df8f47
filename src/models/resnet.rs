//! The elastic ResNet (poa-facts: elastic ResNet).

use crate::config::Config;
use crate::error::{Error, Result};
use crate::models::vit::Vit;

/// Not there yet.
pub struct ResNet;

impl ResNet {
    /// Refused.
    pub fn from_config(_: &Config) -> Result<Vit> {
        Err(Error::config("student.arch", "this backbone cannot be trained yet; take \"vit_dynamic\""))
    }
}

/// Checks the sizes that a config asks for.
pub fn validate(_: &Config) -> Result<()> {
    Ok(())
}
