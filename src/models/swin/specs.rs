//! Sizes of an elastic Swin and the parameters that follow from them.

use crate::error::{Error, Result};
use crate::models::grid::{Network, block_ids};
use crate::models::swin::settings::Settings;
use crate::nn::elastic::InputScale;
use crate::nn::parameters::{Init, ParameterSpec};

/// ε of every LayerNorm.
pub const NORM_EPS: f32 = 1e-5;

/// Sizes of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct SwinShape {
    /// Channels of the images.
    pub channels: usize,
    /// Pixels of a patch's side.
    pub patch: usize,
    /// Pixels of the side of the global crops.
    pub image: usize,
    /// Side of a window, in cells.
    pub window: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Channels of the patch embedding and its norm, of which the first stage takes as many as it is wide:
    /// more than that in a network that was cut out of a wider one.
    pub embedding: usize,
    /// Width of the first stage; every following stage is twice as wide.
    pub width: usize,
    /// Blocks of every stage.
    pub depths: [usize; 4],
    /// Which blocks of every stage shift their windows: every second one, but where some were left out.
    pub shifted: [Vec<bool>; 4],
    /// Hidden width of an MLP over the width.
    pub mlp_ratio: usize,
    /// Whether elastic layers have their α.
    pub input_scale: InputScale,
    /// Share of samples that the last block's branches leave out in training; it grows linearly from the
    /// first block.
    pub drop_path_rate: f64,
    /// Patch tokens along the side of a cell of the last map.
    pub cells_per_side: usize,
}

impl SwinShape {
    /// The sizes that settings ask for, for global crops of `image` pixels a side.
    pub fn from_settings(s: &Settings, image: usize) -> Self {
        Self {
            channels: s.elastic.in_chans,
            patch: s.elastic.patch_size,
            image,
            window: s.window_size,
            head_dim: s.attention.head_dim,
            embedding: s.attention.max_embed_dim,
            width: s.attention.max_embed_dim,
            depths: s.max_depths,
            shifted: s.max_depths.map(|depth| (0..depth).map(|block| block % 2 == 1).collect()),
            mlp_ratio: s.attention.mlp_ratio,
            input_scale: InputScale(s.elastic.input_scale),
            drop_path_rate: s.attention.drop_path_rate,
            cells_per_side: s.ibot_scale_factor,
        }
    }

    /// Blocks of all stages.
    pub fn blocks(&self) -> usize {
        self.depths.iter().sum()
    }

    /// Cells along the side of a stage's map.
    pub fn side(&self, stage: usize) -> usize {
        (0..stage).fold(self.image / self.patch, |side, _| side.div_ceil(2))
    }

    /// Attention heads of every stage.
    pub fn heads(&self) -> [usize; 4] {
        [0, 1, 2, 3].map(|stage| (self.width << stage) / self.head_dim)
    }

    /// Why no constructor of others builds a network of this shape, if none does.
    pub fn irregularity(&self) -> Option<String> {
        let alternates = |shifted: &[bool]| shifted.iter().enumerate().all(|(k, s)| *s == (k % 2 == 1));
        if self.embedding != self.width {
            return Some(format!(
                "patches are normed over {} channels, of which the first stage takes {}",
                self.embedding, self.width
            ));
        }
        match self.shifted.iter().all(|shifted| alternates(shifted)) {
            true => None,
            false => {
                Some("plain and shifted windows do not alternate in the blocks that are left".to_string())
            }
        }
    }

    /// The name of the network that has all of it.
    pub fn network(&self) -> Network {
        Network::new(self.width, self.depths[2])
    }

    /// Refuses a sub-network that this network does not have.
    pub(super) fn demand(&self, network: Network) -> Result<()> {
        let fits = (1..=self.width).contains(&network.width) && network.width.is_multiple_of(self.head_dim);
        if fits && (1..=self.depths[2]).contains(&network.depth) {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "there is no sub-network {network} in a Swin of {}; widths are multiples of {}",
            self.network(),
            self.head_dim
        )))
    }

    /// The blocks of every stage that a sub-network keeps, in order: all but in the third.
    pub fn block_ids(&self, network: Network) -> [Vec<usize>; 4] {
        let depth = |stage: usize| if stage == 2 { network.depth } else { self.depths[stage] };
        [0, 1, 2, 3].map(|stage| block_ids(self.depths[stage], depth(stage)))
    }

    /// The sizes of the plain network that a sub-network is. Its patch embedding keeps all channels, since
    /// its norm comes before the cut, and its blocks their shifts.
    pub fn plain(&self, network: Network) -> Self {
        let kept = self.block_ids(network);
        Self {
            width: network.width,
            depths: [0, 1, 2, 3].map(|stage| kept[stage].len()),
            shifted: [0, 1, 2, 3].map(|stage| kept[stage].iter().map(|k| self.shifted[stage][*k]).collect()),
            ..self.clone()
        }
    }
}

/// All parameters of a Swin of these sizes under their official names. The norms of the first three stages'
/// outputs are part of checkpoints and of the teacher's average, but no loss reaches them.
pub fn swin_specs(s: &SwinShape) -> Vec<ParameterSpec> {
    let fan_in = s.channels * s.patch * s.patch;
    // PyTorch's defaults of Linear and Conv2d: uniform in ± 1/√fan_in for weight and bias
    let uniform = |fan_in: usize| Init::Uniform(1.0 / (fan_in as f32).sqrt());
    let (one, zero) = (Init::Constant(1.0), Init::Constant(0.0));
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[usize], init: Init| {
        all.push(ParameterSpec::new(format!("backbone.{name}"), shape, init));
    };
    add("mask_token".into(), &[1, s.width], zero);
    add("patch_embed.proj.weight".into(), &[s.embedding, s.channels, s.patch, s.patch], uniform(fan_in));
    add("patch_embed.proj.bias".into(), &[s.embedding], uniform(fan_in));
    add("patch_embed.norm.norm.weight".into(), &[s.embedding], one);
    add("patch_embed.norm.norm.bias".into(), &[s.embedding], zero);
    for (stage, depth) in s.depths.iter().enumerate() {
        let w = s.width << stage;
        let hidden = w * s.mlp_ratio;
        for k in 0..*depth {
            let mut add = |part: &str, shape: &[usize], init: Init| {
                add(format!("stages.{stage}.blocks.{k}.{part}"), shape, init);
            };
            let table = [(2 * s.window - 1).pow(2), w / s.head_dim];
            add("norm1.norm.weight", &[w], one);
            add("norm1.norm.bias", &[w], zero);
            add("attn.w_msa.relative_position_bias_table", &table, zero);
            add("attn.w_msa.qkv.linear.weight", &[3 * w, w], uniform(w));
            add("attn.w_msa.qkv.linear.bias", &[3 * w], uniform(w));
            add("attn.w_msa.proj.linear.weight", &[w, w], uniform(w));
            add("attn.w_msa.proj.linear.bias", &[w], uniform(w));
            add("norm2.norm.weight", &[w], one);
            add("norm2.norm.bias", &[w], zero);
            add("ffn.fc1.linear.weight", &[hidden, w], uniform(w));
            add("ffn.fc1.linear.bias", &[hidden], uniform(w));
            add("ffn.fc2.linear.weight", &[w, hidden], uniform(hidden));
            add("ffn.fc2.linear.bias", &[w], uniform(hidden));
        }
        if stage < 3 {
            add(format!("stages.{stage}.downsample.norm.norm.weight"), &[4 * w], one);
            add(format!("stages.{stage}.downsample.norm.norm.bias"), &[4 * w], zero);
            add(
                format!("stages.{stage}.downsample.reduction.linear.weight"),
                &[2 * w, 4 * w],
                uniform(4 * w),
            );
        }
    }
    for stage in 0..4 {
        add(format!("norm{stage}.norm.weight"), &[s.width << stage], one);
        add(format!("norm{stage}.norm.bias"), &[s.width << stage], zero);
    }
    all
}
