//! What the loader is told.

use std::sync::Arc;

use crate::data::recipe::Recipe;
use crate::share::{Place, Share};

/// What the loader makes.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Images a batch of one rank, B.
    pub batch: usize,
    /// The seed of order, crops and masks.
    pub seed: u64,
    /// Worker threads; 0 makes every batch in `Loader::next` itself.
    pub threads: usize,
    /// Batches made ahead.
    pub prefetch: usize,
    /// What is made of every image.
    pub recipe: Arc<dyn Recipe>,
    /// The first step to make: where a resumed run goes on.
    pub start_step: u64,
    /// Where in the images that step begins; `None` where all steps before it were such batches on as many ranks.
    pub start: Option<Place>,
    /// Which rank's part of each batch of `ranks`·B images is made: rank r's are those from r·B on, or where the
    /// recipe repeats images every `ranks`-th from r on.
    pub share: Share,
}
