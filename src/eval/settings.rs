//! The settings of evaluation during a run.

use crate::checks::{Problems, settings};

/// Neighbours that can vote: so many of every image are kept in the device's memory.
pub const MOST_NEIGHBOURS: usize = 10_000;

settings! {
    /// Section `evaluation`: k-nearest-neighbour classification during a run.
    pub struct Evaluation {
        /// Steps between evaluations; 0 evaluates at the end only.
        pub eval_period_iterations: usize = 27680,
        /// Labelled images that vote, such as `folder:imagenet/train`; empty takes the training images, if
        /// they have labels.
        pub train: String = String::new(),
        /// Labelled images that are classified; empty takes those held out of training.
        pub val: String = String::new(),
        // minutes at a time on a GPU, however many images there are
        /// Labelled images that vote; 0 takes all.
        pub train_images: usize = 50_000,
        /// Images that are classified; 0 takes all.
        pub val_images: usize = 10_000,
        /// Numbers of neighbours that vote.
        pub k: Vec<usize> = vec![10, 20, 100, 200],
        /// Temperature of the neighbours' weights.
        pub temperature: f64 = 0.07,
        /// Networks of the teacher that are evaluated: `smallest`, `middle`, `intact` or `WIDTHxDEPTH`.
        pub networks: Vec<String> = vec!["smallest".into(), "middle".into(), "intact".into()],
    }
}

impl Evaluation {
    /// Checks every range and relation.
    pub fn check(&self, problems: &mut Problems) {
        problems.demand(self.train.is_empty() == self.val.is_empty(), "evaluation.val", || {
            "and evaluation.train belong together: give both, or neither to hold some training images out"
                .into()
        });
        problems.demand(!self.k.is_empty(), "evaluation.k", || {
            "is empty; give one number or more, for example [10, 20]".into()
        });
        for &k in &self.k {
            let right = problems.within("evaluation.k", k, 1..=MOST_NEIGHBOURS, 10);
            let enough = !right || self.train_images == 0 || k <= self.train_images;
            problems.demand(enough, "evaluation.k", || {
                let images = self.train_images;
                format!(
                    "holds {k}, more than evaluation.train_images = {images}, for example {}",
                    images.min(10)
                )
            });
        }
        problems.positive("evaluation.temperature", self.temperature, 0.07);
    }
}
