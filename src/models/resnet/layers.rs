//! How the learning rate falls through a ResNet.

use crate::optim::groups::LayerRule;

/// The rule of a ResNet with so many blocks a stage: id 0 for first convolution, first norm and mask token,
/// then one id a block, counted through the stages; the heads have the last block's.
pub fn layer_rule(depths: [usize; 4]) -> LayerRule {
    let id = move |name: &str| layer_id(name, depths);
    LayerRule { top: depths.iter().sum(), id: Box::new(id), patch_embed: None }
}

fn layer_id(name: &str, depths: [usize; 4]) -> Option<usize> {
    let mut parts = name.split('.');
    let first = parts.next()?;
    if ["conv1", "norm1", "mask_token"].contains(&first) {
        return Some(0);
    }
    let stage = first.strip_prefix("layer")?.parse::<usize>().ok()?.checked_sub(1)?;
    let block = parts.nth(1)?.parse::<usize>().ok()?;
    Some(depths.get(..stage)?.iter().sum::<usize>() + block + 1)
}
