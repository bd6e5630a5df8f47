//! The settings of a ViT.

use crate::checks::{Problems, settings};
use crate::models::grid::Network;
use crate::models::settings::{Attention, Elastic, ordered};
use crate::models::vit::ffn::Ffn;

settings! {
    /// Section `student` of an elastic ViT.
    pub struct Settings: elastic: Elastic, attention: Attention {
        /// Number of blocks of the shallowest sub-network.
        pub min_depth: usize = 12,
        /// Number of blocks of the intact network.
        pub max_depth: usize = 24,
        /// Whether every block has `drop_path_rate`; otherwise it grows linearly from 0 at the first block.
        pub drop_path_uniform: bool = true,
        /// First value of the per-channel scale of each residual branch.
        pub layerscale: f64 = 1e-5,
        /// Standard deviation of the first weights of linear layers; 0 takes 1/√inputs for each, which suits
        /// networks much narrower than 1,000 channels.
        pub init_std: f64 = 0.02,
        /// What a block's perceptron computes: mlp, two layers with GELU between them, or swiglufused (also called
        /// swiglu), w3(silu(x1) · x2) of [x1 x2] = w12(x), as in DINOv2's giant.
        pub ffn_layer: Ffn = Ffn::Mlp,
        /// Hidden width of SwiGLU in the intact network; 0 takes two thirds of `mlp_ratio` times its width, up to a
        /// multiple of eight, as DINOv2 does.
        pub swiglu_hidden: usize = 0,
        /// Register tokens between class token and patches, which no loss and no feature reads; DINOv2 has 4 where it has
        /// some.
        pub num_register_tokens: usize = 0,
    }
}

/// Most register tokens.
const MOST_REGISTERS: usize = 256;

impl Settings {
    /// Settings of which a network is the only one.
    pub fn only(mut self, network: Network) -> Self {
        (self.attention.min_embed_dim, self.attention.max_embed_dim) = (network.width, network.width);
        (self.min_depth, self.max_depth) = (network.depth, network.depth);
        self
    }

    /// Checks every range and relation.
    pub fn check(&self, problems: &mut Problems) {
        let steps = self.elastic.check(problems);
        problems.positive("student.layerscale", self.layerscale, 1e-5);
        problems.within("student.init_std", self.init_std, 0.0..=2.0, 0.02);
        problems.within("student.num_register_tokens", self.num_register_tokens, 0..=MOST_REGISTERS, 4);
        problems.within("student.swiglu_hidden", self.swiglu_hidden, 0..=65536, 0);
        let gated = self.ffn_layer == Ffn::SwiGlu;
        problems.demand(gated || self.swiglu_hidden == 0, "student.swiglu_hidden", || {
            format!(
                "is {}, which student.ffn_layer = {} does not have; set it to 0, or ffn_layer to {}",
                self.swiglu_hidden,
                self.ffn_layer,
                Ffn::SwiGlu
            )
        });
        if steps {
            self.attention.check(&self.elastic, 16384, problems);
        }
        let (low, high, step) = (self.min_depth, self.max_depth, self.elastic.depth_interval);
        let right = problems.within("student.max_depth", high, 1..=1024, 24)
            && ordered(problems, ("student.min_depth", low), ("student.max_depth", high));
        if !steps || !right {
            return;
        }
        let span = high - low;
        problems.demand(span.is_multiple_of(step), "student.max_depth", || {
            format!(
                "is {high}; from student.min_depth = {low} steps of depth_interval = {step} do not reach it, for \
                 example {}",
                low + span.next_multiple_of(step)
            )
        });
    }
}
