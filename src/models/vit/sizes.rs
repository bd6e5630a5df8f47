//! Sizes of a ViT and the parameters that follow from them.

use crate::models::vit::ffn::Ffn;
use crate::models::vit::settings::Settings;
use crate::nn::elastic::InputScale;
use crate::nn::parameters::{Init, ParameterSpec};

/// ε of every LayerNorm.
pub const NORM_EPS: f32 = 1e-6;
/// Official name of the registers.
pub const REGISTERS: &str = "backbone.register_tokens";

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
    /// Hidden width of the MLP over the width; SwiGLU has a part of it, see [`Ffn::hidden`].
    pub mlp_ratio: usize,
    /// What the MLP computes.
    pub ffn: Ffn,
    /// Hidden width of the intact network's SwiGLU; 0 for what [`Ffn::hidden`] says.
    pub swiglu_hidden: usize,
    /// Registers: tokens between the class token and the patches that nobody reads.
    pub registers: usize,
    /// Whether elastic layers have their α.
    pub input_scale: InputScale,
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
            ffn: s.ffn_layer,
            swiglu_hidden: s.swiglu_hidden,
            registers: s.num_register_tokens,
            input_scale: InputScale(s.elastic.input_scale),
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

    /// Tokens of an image of `side` pixels: class token, registers, patches.
    pub fn tokens(&self, side: usize) -> usize {
        1 + self.registers + self.grid(side).pow(2)
    }

    /// Hidden width of a block's MLP in a sub-network of this width: the intact network's in proportion, rounded down,
    /// as the official elastic layer has it. For SwiGLU this need not be the hidden width that DINOv2 gives a network
    /// of this width: of 1024 channels with 2736 hidden, 384 channels have 1026, where that would be 1024.
    pub fn hidden(&self, width: usize) -> usize {
        match (self.ffn, self.swiglu_hidden) {
            (Ffn::Mlp, _) => width * self.mlp_ratio,
            (Ffn::SwiGlu, own) => {
                let most = if own > 0 { own } else { self.ffn.hidden(self.width, self.mlp_ratio) };
                // in the order and precision of the official code
                (width as f64 / self.width as f64 * most as f64) as usize
            }
        }
    }

    /// Columns of the first layer's product in a sub-network of this width.
    pub fn hidden_columns(&self, width: usize) -> usize {
        self.ffn.groups() * self.hidden(width)
    }
}

/// All parameters of a ViT of these sizes under their official names.
pub fn vit_specs(s: &VitSizes) -> Vec<ParameterSpec> {
    let (w, hidden, patches) = (s.width, s.hidden(s.width), s.grid(s.image).pow(2));
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
    if s.registers > 0 {
        let registers = ParameterSpec::new(REGISTERS, &[1, s.registers, w], Init::Normal(1e-6));
        all.insert(2, registers);
    }
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
        let [first, second] = s.ffn.layers();
        let columns = s.hidden_columns(w);
        add(&format!("mlp.{first}.linear.weight"), &[columns, w], weights(w));
        add(&format!("mlp.{first}.linear.bias"), &[columns], zero);
        add(&format!("mlp.{second}.linear.weight"), &[w, hidden], weights(hidden));
        add(&format!("mlp.{second}.linear.bias"), &[w], zero);
        add("ls2.gamma", &[w], Init::Constant(s.layerscale));
    }
    all.push(ParameterSpec::new("backbone.norm.norm.weight", &[w], Init::Constant(1.0)));
    all.push(ParameterSpec::new("backbone.norm.norm.bias", &[w], Init::Constant(0.0)));
    all
}
