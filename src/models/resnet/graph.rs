//! A sub-network of a ResNet as a graph.

use crate::error::{Error, Result};
use crate::models::graph::{
    Arrangement, Attribute, CLS, Extent, Graph, IMAGES, PATCH_TOKENS, cell_index, window,
};
use crate::models::grid::Network;
use crate::models::resnet::settings::STAGES;
use crate::models::resnet::sizes::{NORM_EPS, ResNetShape};

/// The graph of a sub-network of a ResNet of this shape.
pub(super) fn graph(shape: &ResNetShape, network: Network, size: Extent) -> Result<Graph> {
    shape.demand(network)?;
    let s = &shape.plain(network);
    let mut g = Graph::default();
    let x = g.convolution("conv1", IMAGES, [7, 2, 3], false);
    let x = group_norm(&mut g, s, "bn1", &x);
    let x = g.node("Relu", "relu", &[&x], vec![]);
    let mut x = g.node("MaxPool", "maxpool", &[&x], window(3, 2, 1));
    for stage in 0..STAGES {
        for k in 0..s.depths[stage] {
            let stride = if k == 0 { s.strides[stage] } else { 1 };
            x = block(&mut g, s, &format!("layer{}.{k}", stage + 1), &x, stride, k == 0);
        }
    }
    g.mean(CLS, &x, &[2, 3]);
    let patches = patch_tokens(&mut g, s, &x, size)?;
    g.features(patches, s.outputs(STAGES - 1));
    Ok(g)
}

/// The pixels of the last map, each as often as patches stand on it. Gives how many, where that is known.
fn patch_tokens(g: &mut Graph, s: &ResNetShape, x: &str, size: Extent) -> Result<Option<usize>> {
    let (x, patches) = match size {
        Extent::Fixed(size) => {
            let cells = s.cells(size);
            if cells == 0 {
                return Err(Error::Usage(format!(
                    "--size {size} leaves a ResNet no patch token; take 32 or more"
                )));
            }
            let halved = |side: usize| side.div_ceil(2);
            let side = s.strides.iter().fold(halved(halved(size)), |side, stride| side.div_ceil(*stride));
            let x = g.reshape("pixels", x, &[0, 0, -1]);
            let x = match cell_index(cells, [side, side]) {
                Some(index) => {
                    let index = g.ints("cells", index);
                    g.gather("pixels.of_cells", &x, &index, 2)
                }
                None => x,
            };
            (x, Some(cells * cells))
        }
        Extent::Dynamic => {
            let x = along(g, s, x, 2);
            let x = along(g, s, &x, 3);
            (g.reshape("pixels", &x, &[0, 0, -1]), None)
        }
    };
    g.transpose(PATCH_TOKENS, &x, &[0, 2, 1]);
    Ok(patches)
}

/// For every patch token along an axis of the map x the pixel that it stands on; the sides are known when the graph runs.
fn along(g: &mut Graph, s: &ResNetShape, x: &str, axis: i64) -> String {
    let name = |part: &str| format!("cells.{}.{part}", if axis == 2 { "rows" } else { "columns" });
    let scalar = |g: &mut Graph, what: &str, of: &str| {
        let ends = vec![("start", Attribute::Int(axis)), ("end", Attribute::Int(axis + 1))];
        let side = g.node("Shape", name(&format!("{what}.shape")), &[of], ends);
        // 7 is a whole number, which some runtimes tell from a length
        let side = g.node("Cast", name(&format!("{what}.whole")), &[&side], vec![("to", Attribute::Int(7))]);
        let zero = g.int("zero", 0);
        g.gather(name(what), &side, &zero, 0)
    };
    let (pixels, side) = (scalar(g, "image", IMAGES), scalar(g, "map", x));
    let stride = g.int("stride", 4 * s.strides.iter().product::<usize>() as i64);
    let per = g.int("cells_a_pixel", s.patches as i64);
    let whole = g.node("Div", name("whole"), &[&pixels, &stride], vec![]);
    let cells = g.node("Mul", name("count"), &[&whole, &per], vec![]);
    // counted in floats (1), as some runtimes have no other Range; these numbers are whole, and floats have them exactly
    let cast = |g: &mut Graph, part: &str, x: &str, to: i64| {
        g.node("Cast", name(part), &[x], vec![("to", Attribute::Int(to))])
    };
    let cells = cast(g, "count.float", &cells, 1);
    let side = cast(g, "side.float", &side, 1);
    let [none, step] = [("none", 0.0), ("one", 1.0)].map(|(n, v)| g.float(n, v));
    let range = g.node("Range", name("range"), &[&none, &cells, &step], vec![]);
    let scaled = g.node("Mul", name("scaled"), &[&range, &side], vec![]);
    let place = g.node("Div", name("place"), &[&scaled, &cells], vec![]);
    let place = g.node("Floor", name("floor"), &[&place], vec![]);
    let index = cast(g, "index", &place, 7);
    g.gather(name("pixels"), x, &index, axis)
}

/// GroupNorm with the weights of this name. InstanceNormalization of groups would say the same, but not all runtimes keep the
/// images of a batch apart in it.
fn group_norm(g: &mut Graph, s: &ResNetShape, name: &str, x: &str) -> String {
    let shape = g.node("Shape", format!("{name}.shape"), &[x], vec![]);
    let grouped = g.reshape(format!("{name}.groups"), x, &[0, s.groups as i64, -1]);
    let mean = |g: &mut Graph, part: &str, x: &str| {
        let attributes = vec![("axes", Attribute::Ints(vec![2])), ("keepdims", Attribute::Int(1))];
        g.node("ReduceMean", format!("{name}.{part}"), &[x], attributes)
    };
    let average = mean(g, "mean", &grouped);
    let y = g.node("Sub", format!("{name}.centred"), &[&grouped, &average], vec![]);
    let squares = g.node("Mul", format!("{name}.squares"), &[&y, &y], vec![]);
    let variance = mean(g, "variance", &squares);
    let eps = g.float("eps", NORM_EPS);
    let variance = g.node("Add", format!("{name}.eps"), &[&variance, &eps], vec![]);
    let deviation = g.node("Sqrt", format!("{name}.deviation"), &[&variance], vec![]);
    let y = g.node("Div", format!("{name}.normed"), &[&y, &deviation], vec![]);
    let y = g.node("Reshape", format!("{name}.maps"), &[&y, &shape], vec![]);
    let [weight, bias] =
        ["weight", "bias"].map(|part| g.weight(format!("{name}.{part}"), Arrangement::OfMaps));
    let y = g.node("Mul", format!("{name}.scaled"), &[&y, &weight], vec![]);
    g.node("Add", name, &[&y, &bias], vec![])
}

/// What comes out of a block for the maps x.
fn block(g: &mut Graph, s: &ResNetShape, name: &str, x: &str, stride: usize, first: bool) -> String {
    let mut y = x.to_string();
    for (i, [kernel, stride]) in [[1, 1], [3, stride], [1, 1]].into_iter().enumerate() {
        let i = i + 1;
        y = g.convolution(&format!("{name}.conv{i}"), &y, [kernel, stride, kernel / 2], false);
        y = group_norm(g, s, &format!("{name}.bn{i}"), &y);
        if i < 3 {
            y = g.node("Relu", format!("{name}.act{i}"), &[&y], vec![]);
        }
    }
    let shortcut = match first {
        true => {
            let y = g.convolution(&format!("{name}.downsample.0"), x, [1, stride, 0], false);
            group_norm(g, s, &format!("{name}.downsample.1"), &y)
        }
        false => x.to_string(),
    };
    let y = g.node("Add", format!("{name}.sum"), &[&y, &shortcut], vec![]);
    g.node("Relu", format!("{name}.act3"), &[&y], vec![])
}
