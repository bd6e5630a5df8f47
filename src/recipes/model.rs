//! The sections that describe the networks and the losses: `student`, `dino`, `ibot` and `teacher`.
//!
//! Keys carry the names of the official POA recipe; the defaults are those of its ViT recipe (`vit_ee1200`).

use serde::{Deserialize, Serialize};

/// Section `student`: the elastic backbone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Student {
    /// The backbone family: `vit_dynamic`, `swin_dynamic` or `resnet_dynamic`.
    pub arch: String,
    /// Side of a square patch, in pixels.
    pub patch_size: usize,
    /// Width of the narrowest sub-network, in channels.
    pub min_embed_dim: usize,
    /// Width of the intact network, in channels.
    pub max_embed_dim: usize,
    /// Number of blocks of the shallowest sub-network.
    pub min_depth: usize,
    /// Number of blocks of the intact network.
    pub max_depth: usize,
    /// Channels of an attention head; the same at every width.
    pub head_dim: usize,
    /// Step between elastic widths, in heads.
    pub width_interval: usize,
    /// Step between elastic depths, in blocks.
    pub depth_interval: usize,
    /// How many times more often the smallest width (or depth) is drawn than the largest.
    pub net_select_scale: f64,
    /// The one sub-network to use in every step, as `WIDTHxDEPTH` (for benchmarks); empty draws from the grid.
    pub fixed_network: String,
    /// Width of the hidden layer of a block's perceptron, in multiples of the block's width.
    pub mlp_ratio: usize,
    /// Probability that a residual branch skips a sample (students only).
    pub drop_path_rate: f64,
    /// Whether every block has `drop_path_rate`; otherwise it grows linearly from 0 at the first block.
    pub drop_path_uniform: bool,
    /// First value of the per-channel scale of each residual branch.
    pub layerscale: f64,
    /// Whether the query, key and value projection has a bias.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub proj_bias: bool,
    /// Whether the two layers of the perceptron have biases.
    pub ffn_bias: bool,
    /// Swin: blocks of the third stage of the shallowest sub-network.
    pub min_s3_depth: usize,
    /// ResNet: blocks of each stage of the shallowest sub-network.
    pub min_depths: [usize; 4],
    /// Swin and ResNet: blocks of each stage of the intact network.
    pub max_depths: [usize; 4],
    /// Swin: side of an attention window, in tokens.
    pub window_size: usize,
    /// Swin and ResNet: how many patch tokens (and mask cells) stand along each cell of the last map.
    pub ibot_scale_factor: usize,
    /// ResNet: channels after the first convolution.
    pub stem_channels: usize,
    /// ResNet: middle channels of the first stage of the narrowest sub-network; the widest has twice as many.
    pub base_channels: usize,
    /// ResNet: groups of every group norm.
    pub num_gn_groups: usize,
    /// ResNet: stride of the first block of each stage.
    pub strides: [usize; 4],
}

impl Default for Student {
    fn default() -> Self {
        Self {
            arch: "vit_dynamic".into(),
            patch_size: 16,
            min_embed_dim: 384,
            max_embed_dim: 1024,
            min_depth: 12,
            max_depth: 24,
            head_dim: 64,
            width_interval: 1,
            depth_interval: 1,
            net_select_scale: 3.0,
            fixed_network: String::new(),
            mlp_ratio: 4,
            drop_path_rate: 0.2,
            drop_path_uniform: true,
            layerscale: 1e-5,
            qkv_bias: true,
            proj_bias: true,
            ffn_bias: true,
            min_s3_depth: 6,
            min_depths: [3, 4, 6, 3],
            max_depths: [2, 2, 18, 2],
            window_size: 7,
            ibot_scale_factor: 2,
            stem_channels: 64,
            base_channels: 64,
            num_gn_groups: 32,
            strides: [1, 2, 2, 2],
        }
    }
}

/// How the KoLeo terms of the intact and of the elastic student are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KoleoMix {
    /// Half of their sum, as the official code computes it.
    Half,
    /// Their sum, as the paper writes it.
    Sum,
}

/// Section `dino`: projection heads, the losses on the class token, KoLeo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dino {
    /// Weight of the losses between class tokens.
    pub loss_weight: f64,
    /// Prototypes of each projection head; as many heads as entries.
    pub head_n_prototypes: Vec<usize>,
    /// Width of the normalised layer before the prototypes, in channels.
    pub head_bottleneck_dim: usize,
    /// Linear layers of a head before the prototypes.
    pub head_nlayers: usize,
    /// Width of the hidden layers of a head, in channels.
    pub head_hidden_dim: usize,
    /// Weight of the KoLeo regulariser, which spreads the class tokens of a batch.
    pub koleo_loss_weight: f64,
    /// How the KoLeo terms of the two students are put together.
    pub koleo: KoleoMix,
    /// Weight of the intact student's loss; the elastic student has the rest.
    pub lambda_ie: f64,
    /// Temperature of the students' softmax.
    pub student_temp: f64,
    /// Rounds of the Sinkhorn-Knopp normalisation of the teacher's targets.
    pub sinkhorn_iterations: usize,
}

impl Default for Dino {
    fn default() -> Self {
        Self {
            loss_weight: 1.0,
            head_n_prototypes: vec![8192, 16384, 32768, 65536],
            head_bottleneck_dim: 256,
            head_nlayers: 3,
            head_hidden_dim: 2048,
            koleo_loss_weight: 0.1,
            koleo: KoleoMix::Half,
            lambda_ie: 0.8,
            student_temp: 0.1,
            sinkhorn_iterations: 3,
        }
    }
}

/// Section `ibot`: the masked-patch loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ibot {
    /// Weight of the masked-patch loss.
    pub loss_weight: f64,
    /// Share of the global crops that are masked.
    pub mask_sample_probability: f64,
    /// Smallest and largest share of a masked crop's patches that are hidden.
    pub mask_ratio_min_max: [f64; 2],
    /// Whether patch tokens have projection heads of their own, built from the keys below.
    pub separate_head: bool,
    /// Prototypes of each separate head.
    pub head_n_prototypes: Vec<usize>,
    /// Width of a separate head's bottleneck, in channels.
    pub head_bottleneck_dim: usize,
    /// Linear layers of a separate head before the prototypes.
    pub head_nlayers: usize,
    /// Width of the hidden layers of a separate head, in channels.
    pub head_hidden_dim: usize,
}

impl Default for Ibot {
    fn default() -> Self {
        let dino = Dino::default();
        Self {
            loss_weight: 1.0,
            mask_sample_probability: 0.5,
            mask_ratio_min_max: [0.1, 0.5],
            separate_head: false,
            head_n_prototypes: dino.head_n_prototypes,
            head_bottleneck_dim: dino.head_bottleneck_dim,
            head_nlayers: dino.head_nlayers,
            head_hidden_dim: dino.head_hidden_dim,
        }
    }
}

/// Section `teacher`: the moving average of the student and the temperature of its targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teacher {
    /// Share of the old teacher in the average at the first step.
    pub momentum_teacher: f64,
    /// The same at the end of the cosine.
    pub final_momentum_teacher: f64,
    /// Temperature of the targets at the first step.
    pub warmup_teacher_temp: f64,
    /// Temperature of the targets after the warm-up.
    pub teacher_temp: f64,
    /// Epochs over which the temperature moves from the first to the second.
    pub warmup_teacher_temp_epochs: usize,
}

impl Default for Teacher {
    fn default() -> Self {
        Self {
            momentum_teacher: 0.992,
            final_momentum_teacher: 0.9999,
            warmup_teacher_temp: 0.04,
            teacher_temp: 0.07,
            warmup_teacher_temp_epochs: 30,
        }
    }
}
