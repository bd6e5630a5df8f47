//! What the network in a file is without, what of it a model cannot take, and whether it is enough to start
//! from.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::error::{Error, Result};
use crate::weights::filling::{Filling, Outcome};
use crate::weights::foreign::Tensors;
use crate::weights::names::Catalog;

/// What else a parameter of a plain network is called: the last norm of networks that average their tokens, LayerScale
/// in BEiT's and DeiT's code, registers and SwiGLU in timm's.
pub(super) fn other_names(plain: &str) -> Vec<String> {
    if let Some(part) = plain.strip_prefix("norm.") {
        return vec![format!("fc_norm.{part}")];
    }
    if plain == "register_tokens" {
        return vec!["reg_token".into()];
    }
    for (layer, theirs) in [(".mlp.w12.", ".mlp.fc1."), (".mlp.w3.", ".mlp.fc2.")] {
        if plain.contains(layer) {
            return vec![plain.replace(layer, theirs)];
        }
    }
    ["ls1.gamma", "ls2.gamma"]
        .iter()
        .filter_map(|end| Some(format!("{}gamma_{}", plain.strip_suffix(end)?, &end[2..3])))
        .collect()
}

/// The block that a name belongs to.
fn block_of(name: &str) -> Option<&str> {
    ["blocks.", "layers."].iter().find_map(|word| {
        let start =
            name.match_indices(word).find(|(at, _)| *at == 0 || name[..*at].ends_with('.'))?.0 + word.len();
        let end = start + name[start..].find('.')?;
        name[start..end].bytes().all(|b| b.is_ascii_digit()).then_some(&name[..end])
    })
}

/// Official name of a ViT's registers.
const REGISTERS: &str = "backbone.register_tokens";

/// Blocks whose every parameter is filled, of all.
pub(super) fn blocks(fillings: &[Filling]) -> [usize; 2] {
    let mut blocks: BTreeMap<&str, bool> = BTreeMap::new();
    for filling in fillings {
        if let Some(block) = block_of(&filling.name) {
            *blocks.entry(block).or_insert(true) &= filling.is_filled();
        }
    }
    [blocks.values().filter(|filled| **filled).count(), blocks.len()]
}

/// Gives parameters that the file's network does not have what makes no difference to it: LayerScale of one, biases
/// of zero. Only beside weights that the file has. Says so, and what else it is without.
pub(super) fn complete(fillings: &mut [Filling]) -> Vec<String> {
    let from_file: HashSet<String> =
        fillings.iter().filter(|f| f.is_from_file()).map(|f| f.name.clone()).collect();
    let blocks: HashSet<&str> =
        from_file.iter().filter(|name| name.ends_with(".weight")).filter_map(|name| block_of(name)).collect();
    let (mut gammas, mut biases, mut positions, mut registers) = (0, BTreeSet::new(), false, 0);
    for filling in fillings.iter_mut().filter(|f| f.outcome == Outcome::Missing) {
        let name = &filling.name;
        if name.ends_with(".gamma") && block_of(name).is_some_and(|block| blocks.contains(block)) {
            gammas += 1;
            filling.outcome = Outcome::Constant(1.0);
        } else if let Some(layer) = name.strip_suffix(".bias")
            && from_file.contains(&format!("{layer}.weight"))
        {
            let kind = block_of(layer).map_or(layer, |block| &layer[block.len() + 1..]);
            biases.insert(kind.trim_end_matches(".linear").to_string());
            filling.outcome = Outcome::Constant(0.0);
        } else if name == "backbone.pos_embed" {
            positions = true;
        } else if name == REGISTERS {
            registers = filling.shape[1];
        }
    }
    let mut notes = Vec::new();
    if gammas > 0 {
        notes.push(format!("the file has no LayerScale, so {gammas} are 1"));
    }
    if !biases.is_empty() {
        let layers: Vec<String> = biases.into_iter().collect();
        notes.push(format!("the file has no biases of {}, so they are 0", layers.join(", ")));
    }
    if positions && !from_file.is_empty() {
        notes.push(
            "the file has no pos_embed (its network may use rotary positions), so positions start at random"
                .into(),
        );
    }
    if registers > 0 && !from_file.is_empty() {
        notes.push(format!("the file has no registers, so {registers} start at random"));
    }
    for filling in fillings.iter() {
        match filling.outcome {
            Outcome::Rows { before: 0, .. } => {
                notes.push("its pos_embed has no row for the class token, which is 0 then".into());
            }
            Outcome::Rows { before, .. } => {
                notes.push(format!("of its pos_embed {} rows of other tokens are dropped", before - 1));
            }
            _ => {}
        }
        if filling.source.ends_with("fc_norm.weight") {
            notes.push("its fc_norm is taken for the last norm".into());
        }
    }
    notes
}

/// What of the file is dropped that matters to the network in it, and which of several networks is taken.
pub(super) fn dropped(file: &Tensors, catalog: &Catalog, used: &HashSet<&str>) -> Vec<String> {
    let mut notes = Vec::new();
    if !catalog.others().is_empty() {
        let name = |prefix: &str| if prefix.is_empty() { "no prefix".into() } else { format!("`{prefix}`") };
        let others: Vec<String> = catalog.others().iter().map(|prefix| name(prefix)).collect();
        notes.push(format!(
            "tensors under {} are taken, not under {}",
            name(catalog.prefix()),
            others.join(", ")
        ));
    }
    let unused = || catalog.iter().filter(|(_, source)| !used.contains(source));
    let mut blocks = BTreeSet::new();
    for (name, source) in unused() {
        match name {
            "dist_token" => notes.push("its distillation token is dropped".into()),
            "reg_token" | "register_tokens" => {
                let count =
                    file.shape(source).map_or(0, |shape| shape.iter().rev().nth(1).copied().unwrap_or(1));
                notes.push(format!(
                    "its {count} register tokens are dropped (student.num_register_tokens={count} takes them)"
                ));
            }
            _ => {}
        }
        let under = source.starts_with(catalog.prefix());
        blocks.extend(block_of(name).filter(|_| under && name.starts_with("blocks.")));
    }
    let taken: HashSet<&str> = catalog
        .iter()
        .filter(|(_, source)| used.contains(source))
        .filter_map(|(name, _)| block_of(name))
        .collect();
    let more = blocks.iter().filter(|block| !taken.contains(*block)).count();
    if more > 0 && !taken.is_empty() {
        notes.push(format!("{more} more blocks of the file are dropped"));
    }
    notes
}

/// MLPs with a gate (SwiGLU) and without compute different things: those of the file must be of the model's kind, whose
/// are `gated` or not. Of those with a gate DINOv2's (w12 and w3) and timm's packed ones (fc1 and fc2) can be taken.
pub(super) fn demand_kind(file: &Tensors, catalog: &Catalog, gated: bool) -> Result<()> {
    /// One layer of gate and value.
    const JOINT: [&str; 2] = ["mlp.w12.weight", "mlp.w12.linear.weight"];
    /// A layer each, or a norm between the layers.
    const OTHER: [&str; 4] = ["mlp.w1.weight", "mlp.fc1_g.weight", "mlp.gate_proj.weight", "mlp.norm.weight"];
    const PLAIN: [&str; 2] = ["mlp.fc1.weight", "mlp.fc1.linear.weight"];
    // both halves in one layer, twice what the second takes
    let packed = |name: &str| {
        let second = catalog.find(&name.replace(".mlp.fc1.", ".mlp.fc2."))?;
        let (&[rows, _], &[_, columns]) = (file.shape(catalog.find(name)?).ok()?, file.shape(second).ok()?)
        else {
            return None;
        };
        Some(rows == 2 * columns)
    };
    let of = |ends: &[&str], which: &dyn Fn(&str) -> bool| {
        let is = |name: &str| {
            block_of(name).is_some() && ends.iter().any(|end| name.ends_with(end)) && which(name)
        };
        catalog.iter().find(|(name, _)| is(name)).map(|(_, source)| file.sources(source).join("`, `"))
    };
    let joint = of(&JOINT, &|_| true).or_else(|| of(&PLAIN, &|name| packed(name) == Some(true)));
    let other = of(&OTHER, &|_| true);
    let plain = of(&PLAIN, &|name| packed(name) != Some(true));
    let problem = match (gated, joint, other, plain) {
        (true, _, Some(source), _) => format!(
            "has MLPs with a gate whose layers are others (`{source}`) than DINOv2's (w12 and w3) and timm's packed ones \
             (fc1 and fc2), so its blocks cannot be taken; give a file of one of these"
        ),
        (true, None, _, Some(source)) => format!(
            "has MLPs without a gate (`{source}`), where this model's have one; set student.ffn_layer=mlp, or give a \
             file of a network with SwiGLU"
        ),
        (false, Some(source), ..) => format!(
            "has MLPs with a gate (SwiGLU, `{source}`), which this model's are not (two layers with GELU between them), \
             so its blocks cannot be taken; set student.ffn_layer=swiglufused, or give a file of a network without"
        ),
        (false, None, Some(source), _) => format!(
            "has MLPs with a gate or a norm (`{source}`), which this model's are not (two layers with GELU between \
             them), so its blocks cannot be taken; give a file of a network without"
        ),
        _ => return Ok(()),
    };
    Err(Error::file(file.path(), problem))
}

/// What is wrong with a start for a whole backbone.
pub(super) fn demand_most(file: &Tensors, fillings: &[Filling]) -> Result<(), String> {
    let backbone = || fillings.iter().filter(|f| f.name.starts_with("backbone."));
    let other = backbone().find_map(|f| match &f.outcome {
        Outcome::OtherShape(found) => Some((f, found)),
        _ => None,
    });
    if let Some((filling, found)) = other {
        return Err(format!(
            "tensor `{}` is {found:?}, where the model's `{}` is {:?}; {} to train a model of the file's sizes, give \
             another file, or give --init-partial to start without the tensors that do not fit",
            file.sources(&filling.source).join("`, `"),
            filling.name,
            filling.shape,
            setting(&filling.name, &filling.shape, found)
        ));
    }
    let elements = |filling: &Filling| filling.shape.iter().product::<usize>() as f64;
    let all: f64 = backbone().map(elements).sum();
    let filled: f64 = backbone().filter(|f| f.is_from_file()).map(elements).sum();
    if filled < 0.5 * all {
        let [whole, blocks] = blocks(fillings);
        return Err(format!(
            "fills {whole} of {blocks} blocks and {:.0}% of the backbone's parameters, less than half; train a model of \
             the file's depth (student.max_depth), give another file, or give --init-partial to start the rest at random",
            100.0 * filled / all
        ));
    }
    Ok(())
}

/// What to set for a tensor of another shape.
fn setting(name: &str, wanted: &[usize], found: &[usize]) -> String {
    let all = "set student.max_embed_dim, student.head_dim, student.mlp_ratio and student.patch_size";
    let (Some(width), Some(ours)) = (found.last(), wanted.last()) else { return all.to_string() };
    match name {
        "backbone.cls_token" | "backbone.pos_embed" if width != ours => {
            format!("set student.max_embed_dim={width}")
        }
        REGISTERS if width == ours => {
            format!("set student.num_register_tokens={}", found.iter().rev().nth(1).unwrap_or(&1))
        }
        _ if name.ends_with("mlp.w12.linear.weight") && width == ours => {
            format!("set student.swiglu_hidden={}", found[0] / 2)
        }
        _ if name.ends_with("mlp.fc1.linear.weight") && width == ours => {
            format!("set student.mlp_ratio={}", found[0] / (*width).max(1))
        }
        _ => all.to_string(),
    }
}
