//! A sub-network of a ViT as a graph.

use crate::error::Result;
use crate::models::graph::{Arrangement, Attribute, CLS, Extent, Graph, IMAGES, PATCH_TOKENS};
use crate::models::grid::Network;
use crate::models::plain::Format;
use crate::models::vit::ffn::Ffn;
use crate::models::vit::plain;
use crate::models::vit::sizes::{NORM_EPS, VitSizes};
use crate::ops::position::OFFSET;

/// The graph of a sub-network of a ViT of these sizes.
pub(super) fn graph(sizes: &VitSizes, network: Network, size: Extent) -> Result<Graph> {
    // refuses what there is not
    plain::network(sizes, network, Format::Onnx)?;
    let s = &sizes.plain(network);
    let mut g = Graph::default();
    let maps = g.convolution("patch_embed.proj", IMAGES, [s.patch, s.patch, 0], true);
    let x = g.reshape("patch_embed.pixels", &maps, &[0, 0, -1]);
    let x = g.transpose("patch_embed", &x, &[0, 2, 1]);
    let positions = positions(&mut g, s, &maps, size);
    let x = g.node("Add", "patches", &[&x, &positions], vec![]);
    let first = first_tokens(&mut g, s);
    let mut x = g.node("Concat", "tokens", &[&first, &x], vec![("axis", Attribute::Int(1))]);
    for k in 0..s.depth {
        x = block(&mut g, s, &format!("blocks.{k}"), &x);
    }
    let x = g.layer_norm("norm", &x, NORM_EPS);
    let zero = g.int("zero", 0);
    g.gather(CLS, &x, &zero, 1);
    g.slice(PATCH_TOKENS, &x, [1 + s.registers as i64, i64::MAX], 1);
    let patches = match size {
        Extent::Fixed(size) => Some(s.grid(size).pow(2)),
        Extent::Dynamic => None,
    };
    g.features(patches, s.width);
    Ok(g)
}

/// The position embedding of the patches of `maps`, `[1, patches, width]`.
fn positions(g: &mut Graph, s: &VitSizes, maps: &str, size: Extent) -> String {
    let home = s.grid(s.image);
    match size {
        Extent::Fixed(size) if s.grid(size) == home => g.weight("pos_embed", Arrangement::Same),
        Extent::Fixed(size) => g.weight("pos_embed", Arrangement::Resampled { from: home, to: s.grid(size) }),
        Extent::Dynamic => resampled(g, home, s.width, maps),
    }
}

/// As the network does it itself (`ops::position`): bicubically with the factor (to + 0.1) / from, and not at all for the
/// grid that it was trained with.
fn resampled(g: &mut Graph, home: usize, width: usize, maps: &str) -> String {
    let positions = g.weight("pos_embed", Arrangement::Same);
    let ends = vec![("start", Attribute::Int(2)), ("end", Attribute::Int(4))];
    let grid = g.node("Shape", "pos_embed.grid", &[maps], ends);
    // 1 is a float
    let grid = g.node("Cast", "pos_embed.sides", &[&grid], vec![("to", Attribute::Int(1))]);
    let [from, offset, one] =
        [("pos_embed.home", home as f32), ("pos_embed.offset", OFFSET as f32), ("one", 1.0)]
            .map(|(name, value)| g.float(name, value));
    let same = g.node("Equal", "pos_embed.same", &[&grid, &from], vec![]);
    let factor = g.node("Add", "pos_embed.wanted", &[&grid, &offset], vec![]);
    let factor = g.node("Div", "pos_embed.factor", &[&factor, &from], vec![]);
    let factor = g.node("Where", "pos_embed.chosen", &[&same, &one, &factor], vec![]);
    let kept = g.floats("pos_embed.kept", &[2], vec![1.0; 2]);
    let scales = g.node("Concat", "pos_embed.scales", &[&kept, &factor], vec![("axis", Attribute::Int(0))]);
    let home = home as i64;
    let x = g.reshape("pos_embed.cells", &positions, &[1, home, home, width as i64]);
    let x = g.transpose("pos_embed.map", &x, &[0, 3, 1, 2]);
    let cubic = vec![
        ("mode", Attribute::Text("cubic")),
        ("coordinate_transformation_mode", Attribute::Text("half_pixel")),
        ("cubic_coeff_a", Attribute::Float(-0.75)),
    ];
    let x = g.node("Resize", "pos_embed.resized", &[&x, "", &scales], cubic);
    let x = g.reshape("pos_embed.pixels", &x, &[0, 0, -1]);
    g.transpose("pos_embed.resampled", &x, &[0, 2, 1])
}

/// Class token and registers of every image, `[batch, 1 + registers, width]`.
fn first_tokens(g: &mut Graph, s: &VitSizes) -> String {
    let mut tokens = g.weight("cls_token", Arrangement::Same);
    if s.registers > 0 {
        let registers = g.weight("reg_token", Arrangement::Same);
        tokens = g.node("Concat", "first_tokens", &[&tokens, &registers], vec![("axis", Attribute::Int(1))]);
    }
    let ends = vec![("start", Attribute::Int(0)), ("end", Attribute::Int(1))];
    let batch = g.node("Shape", "batch", &[IMAGES], ends);
    let ones = g.ints("ones", vec![1, 1]);
    let shape = g.node("Concat", "first_tokens.shape", &[&batch, &ones], vec![("axis", Attribute::Int(0))]);
    g.node("Expand", "first_tokens.of_images", &[&tokens, &shape], vec![])
}

/// What comes out of a block for the tokens x.
fn block(g: &mut Graph, s: &VitSizes, name: &str, x: &str) -> String {
    let y = g.layer_norm(&format!("{name}.norm1"), x, NORM_EPS);
    let qkv = g.linear(&format!("{name}.attn.qkv"), &y, true);
    let heads = [s.width / s.head_dim, s.head_dim];
    let y = g.attention(&format!("{name}.attn"), &qkv, 1, heads, &[]);
    let y = g.linear(&format!("{name}.attn.proj"), &y, true);
    let x = scaled_sum(g, &format!("{name}.ls1"), x, &y);
    let y = g.layer_norm(&format!("{name}.norm2"), &x, NORM_EPS);
    let y = g.linear(&format!("{name}.mlp.fc1"), &y, true);
    let y = match s.ffn {
        Ffn::Mlp => g.gelu(&format!("{name}.mlp.act"), &y),
        Ffn::SwiGlu => {
            let parts = g.split(&format!("{name}.mlp"), &y, &["gate", "value"]);
            let sigmoid = g.node("Sigmoid", format!("{name}.mlp.sigmoid"), &[&parts[0]], vec![]);
            let gate = g.node("Mul", format!("{name}.mlp.silu"), &[&parts[0], &sigmoid], vec![]);
            g.node("Mul", format!("{name}.mlp.act"), &[&gate, &parts[1]], vec![])
        }
    };
    let y = g.linear(&format!("{name}.mlp.fc2"), &y, true);
    scaled_sum(g, &format!("{name}.ls2"), &x, &y)
}

/// x + γ·y
fn scaled_sum(g: &mut Graph, name: &str, x: &str, y: &str) -> String {
    let gamma = g.weight(format!("{name}.gamma"), Arrangement::Same);
    let y = g.node("Mul", name, &[y, &gamma], vec![]);
    g.node("Add", format!("{name}.sum"), &[x, &y], vec![])
}
