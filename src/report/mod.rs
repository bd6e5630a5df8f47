//! A run as a page: its numbers, its recipe, what it warned of, and pictures, in one file or served while it goes on.
//!
//! Nothing of a run is written. Whatever its files hold is text of others: it is bounded, and escaped where it stands in
//! the page.

mod curve;
mod html;
mod lines;
mod log;
mod meaning;
mod numbers;
mod pictures;
mod request;
mod run;
mod serve;
mod state;
mod sweeps;

pub use curve::Curve;
pub use html::{embedded, page};
pub use lines::{Follower, News};
pub use numbers::Numbers;
pub use pictures::pictures;
pub use request::{Asked, asked};
pub use run::Run;
pub use serve::{Server, serve};
pub use sweeps::{named as named_tables, table};
