//! What each parameter's name says about its optimisation: factors on learning rate and weight decay, whether it is
//! a head's last layer, and with whose gradients it is clipped. Names are those of the official checkpoints.

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

impl LayerRule {
    /// The rule of a ViT of `depth` blocks: id 0 for what makes the tokens, then one id a block.
    pub fn vit(depth: usize) -> Self {
        Self { top: depth + 1, id: Box::new(vit_layer_id), patch_embed: Some("patch_embed.") }
    }

    /// The rule of a ResNet with so many blocks a stage: id 0 for first convolution, first norm and mask token, then one
    /// id a block, counted through the stages; the heads have the last block's.
    pub fn resnet(depths: [usize; 4]) -> Self {
        let id = move |name: &str| resnet_layer_id(name, depths);
        Self { top: depths.iter().sum(), id: Box::new(id), patch_embed: None }
    }

    /// The rule of a Swin with so many blocks a stage: id 0 for what makes the tokens, then one id a block through all
    /// stages; a downsampling has the id of the block that follows it.
    pub fn swin(depths: [usize; 4]) -> Self {
        let id = move |name: &str| swin_layer_id(name, depths);
        Self { top: depths.iter().sum::<usize>() + 1, id: Box::new(id), patch_embed: Some("patch_embed.") }
    }
}

fn vit_layer_id(name: &str) -> Option<usize> {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    match first {
        "patch_embed" | "pos_embed" | "cls_token" | "mask_token" => Some(0),
        "blocks" => rest.split('.').next()?.parse::<usize>().ok().map(|block| block + 1),
        _ => None,
    }
}

fn resnet_layer_id(name: &str, depths: [usize; 4]) -> Option<usize> {
    let mut parts = name.split('.');
    let first = parts.next()?;
    if ["conv1", "norm1", "mask_token"].contains(&first) {
        return Some(0);
    }
    let stage = first.strip_prefix("layer")?.parse::<usize>().ok()?.checked_sub(1)?;
    let block = parts.nth(1)?.parse::<usize>().ok()?;
    Some(depths.get(..stage)?.iter().sum::<usize>() + block + 1)
}

fn swin_layer_id(name: &str, depths: [usize; 4]) -> Option<usize> {
    let mut parts = name.split('.');
    match parts.next()? {
        "patch_embed" | "mask_token" => Some(0),
        "stages" => {
            let stage = parts.next()?.parse::<usize>().ok()?;
            match parts.next()? {
                "blocks" => {
                    let block = parts.next()?.parse::<usize>().ok()?;
                    Some(depths.get(..stage)?.iter().sum::<usize>() + block + 1)
                }
                "downsample" => Some(depths.get(..=stage)?.iter().sum::<usize>() + 1),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The group of a parameter: `layerwise_decay` and `patch_embed_lr_mult` are the settings of that name in section
/// `optim`.
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
