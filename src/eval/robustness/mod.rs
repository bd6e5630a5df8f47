//! How a classifier fares where images are changed: cells covered, pieces shuffled, other backgrounds (official
//! `poa/eval/{occlusion,backgrounds_challenge}`).
//!
//! ```text
//! changes.rs      what is done to an image, as numbers of its pixels
//! salience.rs     which cells are the foreground by a class token's attention
//! heads.rs        classifiers: linear ones, probes, neighbours
//! pass.rs         images through changes, networks and classifiers
//! backgrounds.rs  the backgrounds challenge: variants of images, and foregrounds on all backgrounds
//! ```

pub mod backgrounds;
pub mod changes;
mod heads;
mod pass;
pub mod salience;

pub use changes::{Change, Draws};
pub use heads::Head;
pub use pass::{Robustness, Salience, Score, Subject, accuracies};
