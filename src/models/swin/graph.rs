//! A sub-network of a Swin as a graph. Which token stands in which window, or beside which others, is a table of rows that
//! depends on the size of the images; rows beyond the map are one of zeros, after the others.

use crate::error::{Error, Result};
use crate::models::graph::{Arrangement, CLS, Extent, Graph, IMAGES, PATCH_TOKENS, cell_index};
use crate::models::grid::Network;
use crate::models::swin::{NORM_EPS, SwinShape};
use crate::ops::window_attention::window_tokens;

/// What is added to scores between regions.
const APART: f32 = -100.0;

/// The graph of a sub-network of a Swin of this shape, for images of `size` pixels.
pub(super) fn graph(shape: &SwinShape, network: Network, size: Extent) -> Result<Graph> {
    shape.demand(network)?;
    let Extent::Fixed(size) = size else {
        return Err(Error::Usage(
            "--size dynamic: windows and padding of a Swin follow from the size of its images; give a number"
                .into(),
        ));
    };
    let cells = size / shape.patch / 8 * shape.cells_per_side;
    if cells == 0 {
        return Err(Error::Usage(format!(
            "--size {size} leaves a Swin no patch token; take {} or more",
            8 * shape.patch
        )));
    }
    let s = &SwinShape { image: size, ..shape.plain(network) };
    let mut g = Graph::default();
    let x = g.convolution("patch_embed.proj", IMAGES, [s.patch, s.patch, 0], true);
    let x = g.reshape("patch_embed.pixels", &x, &[0, 0, -1]);
    let x = g.transpose("patch_embed.tokens", &x, &[0, 2, 1]);
    let mut x = g.layer_norm("patch_embed.norm", &x, NORM_EPS);
    if s.width < s.embedding {
        x = g.slice("patch_embed", &x, [0, s.width as i64], 2);
    }
    for stage in 0..4 {
        if stage > 0 {
            x = merge(&mut g, s, stage, &x);
        }
        for k in 0..s.depths[stage] {
            x = block(&mut g, s, [stage, k], &x);
        }
    }
    let x = g.layer_norm("norm", &x, NORM_EPS);
    g.mean(CLS, &x, &[1]);
    match cell_index(cells, [s.side(3); 2]) {
        Some(index) => {
            let index = g.ints("cells", index);
            g.gather(PATCH_TOKENS, &x, &index, 1);
        }
        None => {
            g.node("Identity", PATCH_TOKENS, &[&x], vec![]);
        }
    }
    g.features(Some(cells * cells), s.width << 3);
    Ok(g)
}

/// The rows `index` of x, where none is the row of zeros that x gets then, after `rows` others.
fn rows(g: &mut Graph, name: &str, x: &str, table: &str, index: &[Option<usize>], rows: usize) -> String {
    let padded = index.contains(&None);
    let index = index.iter().map(|row| row.unwrap_or(rows) as i64).collect();
    let index = g.ints(table, index);
    let x = match padded {
        true => {
            let pads = g.ints("row_of_zeros", vec![0, 0, 0, 0, 1, 0]);
            g.node("Pad", format!("{name}.padded"), &[x, &pads], vec![])
        }
        false => x.to_string(),
    };
    g.gather(name, &x, &index, 1)
}

/// The map of the stage before, with four neighbours side by side (column by column) made one.
fn merge(g: &mut Graph, s: &SwinShape, stage: usize, x: &str) -> String {
    let side = s.side(stage - 1);
    let mut index = Vec::new();
    for y in (0..side).step_by(2) {
        for x in (0..side).step_by(2) {
            let places = [(y, x), (y + 1, x), (y, x + 1), (y + 1, x + 1)];
            index.extend(places.map(|(y, x)| (y < side && x < side).then_some(y * side + x)));
        }
    }
    let name = format!("layers.{stage}.downsample");
    let x = rows(g, &format!("{name}.four"), x, &format!("{name}.neighbours"), &index, side * side);
    let shape = [0, s.side(stage).pow(2) as i64, 4 * (s.width << (stage - 1)) as i64];
    let x = g.reshape(format!("{name}.joined"), &x, &shape);
    let x = g.layer_norm(&format!("{name}.norm"), &x, NORM_EPS);
    g.linear(&format!("{name}.reduction"), &x, false)
}

/// What comes out of a block of a stage for the tokens x.
fn block(g: &mut Graph, s: &SwinShape, [stage, k]: [usize; 2], x: &str) -> String {
    let name = &format!("layers.{stage}.blocks.{k}");
    let y = g.layer_norm(&format!("{name}.norm1"), x, NORM_EPS);
    let y = attention(g, s, [stage, k], &format!("{name}.attn"), &y);
    let x = g.node("Add", format!("{name}.sum1"), &[x, &y], vec![]);
    let y = g.layer_norm(&format!("{name}.norm2"), &x, NORM_EPS);
    let y = g.linear(&format!("{name}.mlp.fc1"), &y, true);
    let y = g.gelu(&format!("{name}.mlp.act"), &y);
    let y = g.linear(&format!("{name}.mlp.fc2"), &y, true);
    g.node("Add", format!("{name}.sum2"), &[&x, &y], vec![])
}

/// Attention inside windows.
fn attention(g: &mut Graph, s: &SwinShape, [stage, k]: [usize; 2], name: &str, x: &str) -> String {
    let (side, width, in_window) = (s.side(stage), s.width << stage, s.window.pow(2));
    let shifted = s.shifted[stage][k] && s.window > 1;
    let windows = format!("layers.{stage}.{}", if shifted { "shifted_windows" } else { "windows" });
    let tokens = window_tokens([side, side], s.window, if shifted { s.window / 2 } else { 0 });
    let index: Vec<Option<usize>> = tokens.iter().map(|token| token.row).collect();
    let y = rows(g, &format!("{name}.windows"), x, &windows, &index, side * side);
    let count = tokens.len() / in_window;
    let y = g.reshape(format!("{name}.by_window"), &y, &[0, count as i64, in_window as i64, width as i64]);
    let qkv = g.linear(&format!("{name}.qkv"), &y, true);
    let mut added = vec![position_bias(g, s, name)];
    let regions: Vec<u32> = tokens.iter().map(|token| token.region).collect();
    if regions.iter().any(|region| *region != regions[0]) {
        let apart = |a: u32, b: u32| if a == b { 0.0 } else { APART };
        let mask = regions
            .chunks(in_window)
            .flat_map(|window| window.iter().flat_map(move |a| window.iter().map(move |b| apart(*a, *b))));
        let shape = [count, 1, in_window, in_window];
        added.push(g.floats(format!("{windows}.apart"), &shape, mask.collect()));
    }
    let y = g.attention(
        name,
        &qkv,
        &[0, count as i64, in_window as i64],
        [width / s.head_dim, s.head_dim],
        &added,
    );
    let y = g.reshape(format!("{name}.rows"), &y, &[0, tokens.len() as i64, width as i64]);
    let mut back = vec![0; side * side];
    for (place, token) in tokens.iter().enumerate() {
        if let Some(row) = token.row {
            back[row] = place as i64;
        }
    }
    let back = g.ints(format!("{windows}.back"), back);
    let y = g.gather(format!("{name}.map"), &y, &back, 1);
    g.linear(&format!("{name}.proj"), &y, true)
}

/// The bias of every query and key of a window, `[heads, window², window²]`.
fn position_bias(g: &mut Graph, s: &SwinShape, name: &str) -> String {
    let side = s.window;
    let in_window = side * side;
    let place = |token: usize| (token / side, token % side);
    let mut index = Vec::with_capacity(in_window * in_window);
    for query in 0..in_window {
        for key in 0..in_window {
            let ((y, x), (v, u)) = (place(query), place(key));
            index.push(((y + side - 1 - v) * (2 * side - 1) + x + side - 1 - u) as i64);
        }
    }
    let index = g.ints("relative_position_index", index);
    let table = g.weight(format!("{name}.relative_position_bias_table"), Arrangement::Same);
    let bias = g.gather(format!("{name}.bias.rows"), &table, &index, 0);
    let bias = g.reshape(format!("{name}.bias.pairs"), &bias, &[in_window as i64, in_window as i64, -1]);
    g.transpose(format!("{name}.bias"), &bias, &[2, 0, 1])
}
