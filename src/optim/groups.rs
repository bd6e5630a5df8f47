//! What each parameter's name says about its optimisation: factors on learning rate and weight decay, whether
//! it is a head's last layer, and with whose gradients it is clipped. Names are those of the official
//! checkpoints.

/// How one parameter is optimised.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamGroup {
    /// Factor on the learning rate.
    pub lr_multiplier: f64,
    /// Factor on the weight decay: 0 or 1.
    pub wd_multiplier: f64,
    /// Whether it belongs to a head's prototypes, which are frozen at first.
    pub is_last_layer: bool,
    /// The top module it is clipped with: `backbone`, `dino_head` or `ibot_head`.
    pub module: String,
}

/// From a parameter's name to its id.
pub type LayerId = Box<dyn Fn(&str) -> Option<usize>>;

/// How deep in the network a parameter is, for the layer-wise decay of the learning rate.
pub struct LayerRule {
    /// The id of the heads, which learn at the full rate.
    pub top: usize,
    /// The id of a backbone parameter, from its name without `backbone.`; `None` for whatever is beside the
    /// blocks, which learns at the full rate.
    pub id: LayerId,
    /// Start of the names (without `backbone.`) that learn slower by `optim.patch_embed_lr_mult`.
    pub patch_embed: Option<&'static str>,
}

/// The group of a parameter: `layerwise_decay` and `patch_embed_lr_mult` are the settings of that name in
/// section `optim`.
pub fn param_group(
    name: &str,
    rule: &LayerRule,
    layerwise_decay: f64,
    patch_embed_lr_mult: f64,
) -> ParamGroup {
    let (module, rest) = name.split_once('.').unwrap_or((name, ""));
    let in_backbone = module == "backbone";
    let id = if in_backbone { (rule.id)(rest) } else { None };
    let below_top = rule.top.saturating_sub(id.unwrap_or(rule.top));
    let mut lr_multiplier = layerwise_decay.powi(i32::try_from(below_top).unwrap_or(i32::MAX));
    if in_backbone && rule.patch_embed.is_some_and(|start| rest.starts_with(start)) {
        lr_multiplier *= patch_embed_lr_mult;
    }
    let decays = !(name.ends_with(".bias") || name.contains("norm") || name.contains("gamma"));
    ParamGroup {
        lr_multiplier,
        wd_multiplier: if decays { 1.0 } else { 0.0 },
        is_last_layer: !in_backbone && rest.starts_with("last_layer"),
        module: module.to_string(),
    }
}
