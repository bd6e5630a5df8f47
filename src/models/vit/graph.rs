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

/// As the network does it itself (`ops::position`), for a grid that is known when the graph runs: one matrix an axis. ONNX's
/// Resize could do it too, but not every runtime has its bicubic mode.
fn resampled(g: &mut Graph, home: usize, width: usize, maps: &str) -> String {
    let positions = g.weight("pos_embed", Arrangement::Same);
    // the border is repeated, so that all four neighbours are there
    let border = (0..home + 4).map(|i| i.saturating_sub(2).min(home - 1) as i64).collect();
    let border = g.ints("pos_embed.border", border);
    let [rows, columns] =
        [("rows", 2), ("columns", 3)].map(|(name, axis)| bicubic(g, name, home, maps, axis));
    let (home, width) = (home as i64, width as i64);
    let x = g.reshape("pos_embed.lines", &positions, &[home, home * width]);
    let x = g.gather("pos_embed.lines.bordered", &x, &border, 0);
    let x = g.node("MatMul", "pos_embed.lines.resampled", &[&rows, &x], vec![]);
    let x = g.reshape("pos_embed.cells", &x, &[-1, home, width]);
    let x = g.gather("pos_embed.cells.bordered", &x, &border, 1);
    let x = g.node("MatMul", "pos_embed.cells.resampled", &[&columns, &x], vec![]);
    g.reshape("pos_embed.resampled", &x, &[1, -1, width])
}

/// The weights of `home` + 4 places, two of them before the first, for each of as many as the axis of `maps` has, `[to, home + 4]`:
/// Keys' cubic kernel with a = −0.75 of the distance, at the factor (to + 0.1) / home, or 1 for `home` itself.
fn bicubic(g: &mut Graph, axis: &str, home: usize, maps: &str, at: i64) -> String {
    let name = |part: &str| format!("pos_embed.{axis}.{part}");
    let number = |g: &mut Graph, x: f32| g.float(&format!("number_{x}"), x);
    let with = |g: &mut Graph, op, part: &str, x: &str, y: f32| {
        let y = number(g, y);
        g.node(op, name(part), &[x, &y], vec![])
    };
    let ends = vec![("start", Attribute::Int(at)), ("end", Attribute::Int(at + 1))];
    let to = g.node("Shape", name("shape"), &[maps], ends);
    // 1 is a float
    let to = g.node("Cast", name("float"), &[&to], vec![("to", Attribute::Int(1))]);
    let zero = g.int("zero", 0);
    let to = g.gather(name("to"), &to, &zero, 0);
    let same = with(g, "Equal", "same", &to, home as f32);
    let wanted = with(g, "Add", "wanted", &to, OFFSET as f32);
    let factor = with(g, "Div", "factor", &wanted, home as f32);
    let [none, one] = [0.0, 1.0].map(|x| number(g, x));
    let factor = g.node("Where", name("chosen"), &[&same, &one, &factor], vec![]);
    let x = g.node("Range", name("range"), &[&none, &to, &one], vec![]);
    let x = with(g, "Add", "centres", &x, 0.5);
    let x = g.node("Div", name("scaled"), &[&x, &factor], vec![]);
    // a half back, and two for the border
    let x = with(g, "Add", "places", &x, 1.5);
    let x = g.reshape(name("column"), &x, &[-1, 1]);
    let from = g.floats("pos_embed.places", &[1, home + 4], (0..home + 4).map(|i| i as f32).collect());
    let d = g.node("Sub", name("difference"), &[&x, &from], vec![]);
    let d = g.node("Abs", name("distance"), &[&d], vec![]);
    // ((a + 2)·d − (a + 3))·d² + 1 up to 1, ((a·d − 5a)·d + 8a)·d − 4a up to 2
    let y = with(g, "Mul", "near.1", &d, 1.25);
    let y = with(g, "Add", "near.2", &y, -2.25);
    let y = g.node("Mul", name("near.3"), &[&y, &d], vec![]);
    let y = g.node("Mul", name("near.4"), &[&y, &d], vec![]);
    let near = with(g, "Add", "near", &y, 1.0);
    let y = with(g, "Mul", "far.1", &d, -0.75);
    let y = with(g, "Add", "far.2", &y, 3.75);
    let y = g.node("Mul", name("far.3"), &[&y, &d], vec![]);
    let y = with(g, "Add", "far.4", &y, -6.0);
    let y = g.node("Mul", name("far.5"), &[&y, &d], vec![]);
    let far = with(g, "Add", "far", &y, 3.0);
    let is_far = with(g, "Less", "is_far", &d, 2.0);
    let y = g.node("Where", name("beyond"), &[&is_far, &far, &none], vec![]);
    let is_near = with(g, "Less", "is_near", &d, 1.0);
    g.node("Where", name("weights"), &[&is_near, &near, &y], vec![])
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
    let y = g.attention(&format!("{name}.attn"), &qkv, &[0, 0], heads, &[]);
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
