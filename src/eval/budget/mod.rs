//! What sub-networks cost where they are to be used, and the most accurate that a budget allows: limits, latency measured
//! here or elsewhere, a model of what was not measured, accuracies, and the front of both.

mod choice;
mod fit;
mod front;
mod limits;
mod price;
mod prices;
mod scores;
mod stopwatch;
mod table;
mod work;

pub use choice::{Choice, choose};
pub use fit::Fitted;
pub use front::front;
pub use limits::Limits;
pub use price::{Latency, Price};
pub use prices::Prices;
pub use scores::Scores;
pub use stopwatch::Stopwatch;
pub use table::LatencyTable;
pub use work::{ForwardWork, rehearse};
