//! What a block's perceptron computes.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

/// What a block's perceptron computes of its normed tokens x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ffn {
    /// fc2(gelu(fc1(x))).
    Mlp,
    /// w3(silu(x1) · x2) of \[x1 x2\] = w12(x) (Shazeer 2020, arXiv 2002.05202), as in DINOv2's giant. Both layers have
    /// their factor α; the official code has it too, but for its path through xFormers, which leaves it out.
    #[serde(rename = "swiglufused", alias = "swiglu")]
    SwiGlu,
}

impl Ffn {
    /// As it is written in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::SwiGlu => "swiglufused",
        }
    }

    /// DINOv2's names of its two layers.
    pub fn layers(self) -> [&'static str; 2] {
        match self {
            Self::Mlp => ["fc1", "fc2"],
            Self::SwiGlu => ["w12", "w3"],
        }
    }

    /// Groups of rows of the first layer, each as many as the hidden width.
    pub fn groups(self) -> usize {
        match self {
            Self::Mlp => 1,
            Self::SwiGlu => 2,
        }
    }

    /// Hidden width for this width: `mlp_ratio` times it, of which SwiGLU takes two thirds up to a multiple of eight,
    /// as DINOv2's `SwiGLUFFNFused` does.
    pub fn hidden(self, width: usize, mlp_ratio: usize) -> usize {
        match self {
            Self::Mlp => width * mlp_ratio,
            Self::SwiGlu => (width * mlp_ratio * 2 / 3).next_multiple_of(8),
        }
    }
}

impl Display for Ffn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
