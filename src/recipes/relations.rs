//! The checks of a whole recipe: every floor's own, and the relations between floors. Each names the key and
//! a value that would work.

use crate::checks::Problems;
use crate::error::{Error, Result};
use crate::models::backbone::Backbone;
use crate::poa::branches::Branches;
use crate::poa::settings::{Centering, Settings as Config};

impl Config {
    /// All that is wrong with the ranges of settings and the relations between them, in a run on `ranks`
    /// devices.
    pub(super) fn problems(&self, ranks: usize) -> Result<Problems> {
        let mut problems = Problems::new();
        self.student.check(self.crops.global_crops_size, &mut problems);
        self.crops.check_sizes(&mut problems);
        // a backbone of sizes that are wrong, or for images of such, cannot be asked for anything
        let backbone = match problems.is_empty().then(|| self.backbone()) {
            Some(Err(Error::Config { key, problem })) => {
                problems.add(key, problem);
                None
            }
            opened => opened.transpose()?,
        };
        self.crops.check(&mut problems);
        self.dino.check(&mut problems);
        self.ibot.check(&mut problems);
        self.teacher.check(&mut problems);
        self.optim.check(&mut problems);
        self.train.check(&mut problems);
        self.loading.check(&mut problems);
        self.data.check(&mut problems);
        self.evaluation.check(&mut problems);
        self.crops.check_colours(self.channels(), &mut problems);
        match self.normalization() {
            Err(Error::Config { key, problem }) => problems.add(key, problem),
            other => drop(other?),
        }
        self.check_batch(&mut problems);
        self.check_branches(&mut problems);
        if let Some(backbone) = backbone {
            self.check_against(&*backbone, &mut problems);
        }
        let (lr, min) = (self.learning_rate(ranks), self.optim.min_lr);
        // NaN is told as what it is
        problems.demand(lr >= min || lr.is_nan() || min.is_nan(), "optim.min_lr", || {
            format!("is {min}, more than the learning rate {lr:.3e}; for example {:.1e}", lr / 100.0)
        });
        Ok(problems)
    }

    fn check_branches(&self, problems: &mut Problems) {
        let (branches, centering) = (self.dino.branches, self.step.centering);
        let apart = branches != Branches::V3 || centering == Centering::SinkhornKnopp;
        problems.demand(apart, "train.centering", || {
            "is \"centering\", and the two teachers of dino.branches = \"v3\" would share the centres: take \
             \"sinkhorn_knopp\""
                .into()
        });
        problems.demand(branches.draws() || self.step.network_per_rank, "train.network_per_rank", || {
            "is false, and with dino.branches = \"alone\" no sub-networks are drawn: leave it out".into()
        });
    }

    fn check_batch(&self, problems: &mut Problems) {
        let batch = self.loading.batch_size_per_gpu;
        problems.demand(self.dino.koleo_loss_weight == 0.0 || batch != 1, "train.batch_size_per_gpu", || {
            format!(
                "is {batch}, and KoLeo needs a neighbour in the batch: take 2 or more, or \
                     dino.koleo_loss_weight = 0"
            )
        });
        let (weight, share) = (self.ibot.loss_weight, self.ibot.masking.mask_sample_probability);
        let masked = 2.0 * batch as f64 * share;
        problems.demand(weight == 0.0 || batch == 0 || masked >= 1.0, "ibot.mask_sample_probability", || {
            format!(
                "is {share}, so that none of the {} global crops is masked: take {} or more, or ibot.loss_weight = 0",
                batch.saturating_mul(2),
                0.5 / batch as f64
            )
        });
    }

    fn check_against(&self, backbone: &dyn Backbone, problems: &mut Problems) {
        let (elastic, grid) = (self.student.elastic(), backbone.grid());
        let named = [elastic.fixed_network.as_str()].into_iter().filter(|name| !name.is_empty());
        let named = named.map(|name| ("student.fixed_network", name));
        let evaluated = self.evaluation.networks.iter().map(|name| ("evaluation.networks", name.as_str()));
        for (key, name) in named.chain(evaluated) {
            if let Err(problem) = grid.named(name) {
                problems.add(key, problem);
            }
        }
        let (c, patch) = (&self.crops, elastic.patch_size);
        for (key, size) in
            [("crops.global_crops_size", c.global_crops_size), ("crops.local_crops_size", c.local_crops_size)]
        {
            problems.demand(size > 0 && size.is_multiple_of(patch), key, || {
                let example = size.max(1).next_multiple_of(patch);
                format!("is {size}, not a multiple of student.patch_size = {patch}, for example {example}")
            });
        }
        let cells = backbone.cells(c.global_crops_size).pow(2);
        let most = cells as f64 * self.ibot.masking.mask_ratio_min_max[1];
        problems.demand(
            self.ibot.loss_weight == 0.0 || cells == 0 || most >= 1.0,
            "ibot.mask_ratio_min_max",
            || {
                format!(
                    "hides less than one of the {cells} patches of a global crop: let the second number be {} or more, \
                     or ibot.loss_weight = 0",
                    1.0 / cells as f64
                )
            },
        );
    }
}
