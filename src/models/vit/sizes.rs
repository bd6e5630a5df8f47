//! Sizes of a ViT and the parameters that follow from them.

use crate::models::vit::settings::Settings;
use crate::nn::parameters::{Init, ParameterSpec};

/// ε of every LayerNorm.
pub const NORM_EPS: f32 = 1e-6;

/// Sizes of the intact network.
#[derive(Clone, Debug, PartialEq)]
pub struct VitSizes {
    /// Channels of the images.
    pub channels: usize,
    /// Pixels of a patch's side.
    pub patch: usize,
    /// Pixels of the side of the images that the position embedding is for (the global crops).
    pub image: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the intact network.
    pub width: usize,
    /// Blocks of the intact network.
    pub depth: usize,
    /// Hidden width of the MLP over the width.
    pub mlp_ratio: usize,
    /// Initial LayerScale.
    pub layerscale: f32,
    /// Standard deviation of the first weights, as [`Init::linear`] takes it.
    pub init_std: f64,
    /// Share of samples a residual branch leaves out in training.
    pub drop_path_rate: f64,
    /// Whether the rate is the same in all blocks, instead of growing linearly to it.
    pub drop_path_uniform: bool,
}

impl VitSizes {
    /// The sizes that settings ask for, for global crops of `image` pixels a side.
    pub fn from_settings(s: &Settings, image: usize) -> Self {
        Self {
            channels: s.elastic.in_chans,
            patch: s.elastic.patch_size,
            image,
            head_dim: s.attention.head_dim,
            width: s.attention.max_embed_dim,
            depth: s.max_depth,
            mlp_ratio: s.attention.mlp_ratio,
            layerscale: s.layerscale as f32,
            init_std: s.init_std,
            drop_path_rate: s.attention.drop_path_rate,
            drop_path_uniform: s.drop_path_uniform,
        }
    }

    /// Patches along a side of `pixels`.
    pub fn grid(&self, pixels: usize) -> usize {
        pixels / self.patch
    }
}

/// All parameters of a ViT of these sizes under their official names.
pub fn vit_specs(s: &VitSizes) -> Vec<ParameterSpec> {
    let (w, hidden, patches) = (s.width, s.width * s.mlp_ratio, s.grid(s.image).pow(2));
    let weights = |inputs: usize| Init::linear(s.init_std, inputs);
    let fan_in = s.channels * s.patch * s.patch;
    // PyTorch's Conv2d default: uniform in ± 1/√fan_in for weight and bias
    let convolution = Init::Uniform(1.0 / (fan_in as f32).sqrt());
    let mut all = vec![
        ParameterSpec::new("backbone.cls_token", &[1, 1, w], Init::Normal(1e-6)),
        ParameterSpec::new("backbone.pos_embed", &[1, 1 + patches, w], Init::TruncatedNormal(0.02)),
        ParameterSpec::new("backbone.mask_token", &[1, w], Init::Constant(0.0)),
        ParameterSpec::new(
            "backbone.patch_embed.proj.weight",
            &[w, s.channels, s.patch, s.patch],
            convolution,
        ),
        ParameterSpec::new("backbone.patch_embed.proj.bias", &[w], convolution),
    ];
    for k in 0..s.depth {
        let mut add = |part: &str, shape: &[usize], init: Init| {
            all.push(ParameterSpec::new(format!("backbone.blocks.{k}.{part}"), shape, init));
        };
        let (one, zero) = (Init::Constant(1.0), Init::Constant(0.0));
        add("norm1.norm.weight", &[w], one);
        add("norm1.norm.bias", &[w], zero);
        add("attn.qkv.linear.weight", &[3 * w, w], weights(w));
        add("attn.qkv.linear.bias", &[3 * w], zero);
        add("attn.proj.linear.weight", &[w, w], weights(w));
        add("attn.proj.linear.bias", &[w], zero);
        add("ls1.gamma", &[w], Init::Constant(s.layerscale));
        add("norm2.norm.weight", &[w], one);
        add("norm2.norm.bias", &[w], zero);
        add("mlp.fc1.linear.weight", &[hidden, w], weights(w));
        add("mlp.fc1.linear.bias", &[hidden], zero);
        add("mlp.fc2.linear.weight", &[w, hidden], weights(hidden));
        add("mlp.fc2.linear.bias", &[w], zero);
        add("ls2.gamma", &[w], Init::Constant(s.layerscale));
    }
    all.push(ParameterSpec::new("backbone.norm.norm.weight", &[w], Init::Constant(1.0)));
    all.push(ParameterSpec::new("backbone.norm.norm.bias", &[w], Init::Constant(0.0)));
    all
}
