//! The keys of section `student` that several families of backbones share.

use crate::checks::{Problems, settings};
use crate::data::pixels::MOST_CHANNELS;
use crate::ops::attention::MAX_HEAD;

settings! {
    /// What every elastic backbone has.
    pub struct Elastic {
        /// Channels of the images: 3 for colours, 1 for grey values; other numbers need a data set that has as many.
        pub in_chans: usize = 3,
        /// Side of a square patch, in pixels.
        pub patch_size: usize = 16,
        /// Step between elastic widths, in heads (ResNet: in groups of a group norm).
        pub width_interval: usize = 1,
        /// Step between elastic depths, in blocks.
        pub depth_interval: usize = 1,
        /// How many times more often the smallest width (or depth) is drawn than the largest.
        pub net_select_scale: f64 = 3.0,
        /// Whether a narrower network's layers multiply their inputs by α, the largest number of inputs over their own;
        /// false leaves α out (the paper's Table 16).
        pub input_scale: bool = true,
        /// The one sub-network to use in every step, as `WIDTHxDEPTH` (for benchmarks), or smallest, middle, intact; empty
        /// draws from the grid. With dino.branches = "alone" it is the network that is trained, and empty is the intact one.
        pub fixed_network: String = String::new(),
    }
}

settings! {
    /// What backbones of attention blocks have: ViT and Swin.
    pub struct Attention {
        /// Width of the narrowest sub-network, in channels (Swin: of its first stage).
        pub min_embed_dim: usize = 384,
        /// Width of the intact network, in channels (Swin: of its first stage).
        pub max_embed_dim: usize = 1024,
        /// Channels of an attention head; the same at every width.
        pub head_dim: usize = 64,
        /// Width of the hidden layer of a block's perceptron, in multiples of the block's width.
        pub mlp_ratio: usize = 4,
        /// Probability that a residual branch skips a sample (students only).
        pub drop_path_rate: f64 = 0.2,
        /// Whether the query, key and value projection has a bias; only true can be trained.
        pub qkv_bias: bool = true,
        /// Whether the attention's output projection has a bias; only true can be trained.
        pub proj_bias: bool = true,
        /// Whether the two layers of the perceptron have biases; only true can be trained.
        pub ffn_bias: bool = true,
    }
}

/// Whether the smallest of some sizes is 1 or more and no more than the largest. Which of both was given is not known
/// here, so both are named.
pub fn ordered(problems: &mut Problems, low: (&str, usize), high: (&str, usize)) -> bool {
    problems.demand((1..=high.1).contains(&low.1), low.0, || match low.1 {
        0 => format!("is 0; it must be 1 to {}, for example {}", high.1, high.1),
        _ => format!("is {}, more than {} = {}; lower the one or raise the other", low.1, high.0, high.1),
    })
}

impl Elastic {
    /// Checks every range; whether relations of these keys to others can be checked.
    pub fn check(&self, problems: &mut Problems) -> bool {
        problems.within("student.net_select_scale", self.net_select_scale, 1.0..=100.0, 3.0);
        let mut right = problems.within("student.in_chans", self.in_chans, 1..=MOST_CHANNELS, 3);
        right &= problems.within("student.patch_size", self.patch_size, 1..=256, 16);
        right &= problems.within("student.width_interval", self.width_interval, 1..=1024, 1);
        right & problems.within("student.depth_interval", self.depth_interval, 1..=1024, 1)
    }
}

impl Attention {
    /// Checks every range, and that steps of so many heads lead from the narrowest to the widest network.
    pub fn check(&self, elastic: &Elastic, widest: usize, problems: &mut Problems) {
        problems.within("student.mlp_ratio", self.mlp_ratio, 1..=64, 4);
        problems.within("student.drop_path_rate", self.drop_path_rate, 0.0..=0.95, 0.2);
        for (key, bias) in [
            ("student.qkv_bias", self.qkv_bias),
            ("student.proj_bias", self.proj_bias),
            ("student.ffn_bias", self.ffn_bias),
        ] {
            problems.demand(bias, key, || {
                "is false, and layers without bias cannot be trained yet; it must be true".into()
            });
        }
        let (head, low, high) = (self.head_dim, self.min_embed_dim, self.max_embed_dim);
        let mut right = problems.demand((1..=MAX_HEAD).contains(&head), "student.head_dim", || {
            format!("is {head}; attention has kernels for heads of 1 to {MAX_HEAD} channels, for example 64")
        });
        right &= problems.within("student.max_embed_dim", high, 1..=widest, widest.min(1024));
        right = right && ordered(problems, ("student.min_embed_dim", low), ("student.max_embed_dim", high));
        if !right {
            return;
        }
        // one is enough: where head_dim is what is wrong, neither fits it
        for (key, width) in [("student.min_embed_dim", low), ("student.max_embed_dim", high)] {
            right = right
                && problems.demand(width.is_multiple_of(head), key, || {
                    let example = width.next_multiple_of(head);
                    format!("is {width}, not a multiple of student.head_dim = {head}, for example {example}")
                });
        }
        let (step, span) = (head * elastic.width_interval, high - low);
        problems.demand(!right || span.is_multiple_of(step), "student.max_embed_dim", || {
            format!(
                "is {high}; from student.min_embed_dim = {low} steps of head_dim · width_interval = {step} do not \
                 reach it, for example {}",
                low + span.next_multiple_of(step)
            )
        });
    }
}
