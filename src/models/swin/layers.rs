//! How the learning rate falls through a Swin.

use crate::optim::groups::LayerRule;

/// The rule of a Swin with so many blocks a stage: id 0 for what makes the tokens, then one id a block
/// through all stages; a downsampling has the id of the block that follows it.
pub fn layer_rule(depths: [usize; 4]) -> LayerRule {
    let id = move |name: &str| layer_id(name, depths);
    LayerRule { top: depths.iter().sum::<usize>() + 1, id: Box::new(id), patch_embed: Some("patch_embed.") }
}

fn layer_id(name: &str, depths: [usize; 4]) -> Option<usize> {
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
