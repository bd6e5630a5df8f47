//! Where the cells of a set of crops lie in every stage: windows, neighbours, rows of samples. Made once for
//! crops of the same number and size.

use crate::error::Result;
use crate::models::swin::SwinShape;
use crate::ops::patch_merge::Neighbours;
use crate::ops::row_subset::{RowSubset, RowTable};
use crate::ops::window_attention::{MapGroup, Windows};
use crate::tensor::{Device, Tensor};

/// The maps of a stage.
pub(super) struct Stage {
    /// One group a size of crops.
    pub maps: Vec<MapGroup>,
    /// Windows of plain and of shifting blocks.
    pub windows: [Windows; 2],
    /// What becomes a cell of the next stage, where there is one.
    pub neighbours: Option<Neighbours>,
    /// All rows in order, with factors of one.
    pub every_row: RowSubset,
    /// Ones, as many as the stage is wide at most: branches have no LayerScale.
    pub ones: Tensor,
}

/// The maps of all stages.
pub(super) struct Geometry {
    pub stages: [Stage; 4],
}

impl Geometry {
    /// The geometry of maps that enter the first stage.
    pub fn new(device: &Device, maps: Vec<MapGroup>, shape: &SwinShape) -> Result<Self> {
        let mut all = vec![maps];
        for _ in 1..4 {
            all.push(all[all.len() - 1].iter().map(MapGroup::halved).collect());
        }
        let stage = |i: usize| -> Result<Stage> {
            let maps = all[i].clone();
            let rows: usize = maps.iter().map(MapGroup::rows).sum();
            let windows = |shift: usize| Windows::new(device, &maps, shape.window, shift);
            let every_row = RowTable::of_samples(&[rows], &[true], 1.0);
            let width = shape.width << i;
            Ok(Stage {
                windows: [windows(0)?, windows(shape.window / 2)?],
                neighbours: if i < 3 { Some(Neighbours::new(device, &maps)?) } else { None },
                every_row: RowSubset::all(device, &[&every_row])?.remove(0),
                ones: Tensor::from_slice(device, &[width], &vec![1.0f32; width])?,
                maps,
            })
        };
        Ok(Self { stages: [stage(0)?, stage(1)?, stage(2)?, stage(3)?] })
    }
}
