//! UPerNet (arXiv 1807.10221): pyramid pooling on the coarsest map, a feature pyramid down to the finest, all joined there; and
//! an auxiliary head of one convolution on the third map, which is there for its gradient alone.

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::models::maps::{FeatureMap, MapPlace};
use crate::nn::parameters::{ParameterSpec, Parameters};
use crate::ops::maps::{add, concat_columns};
use crate::ops::resample::{Resampling, resample};
use crate::tasks::segment::heads::head::{Head, HeadSizes, Logits};
use crate::tasks::segment::heads::layers::{ConvNorm, Mode, Running, pixel_layer, pixel_specs, resized};
use crate::tasks::segment::heads::neck::Neck;

/// Bins a side of the pyramid's poolings.
const BINS: [usize; 4] = [1, 2, 3, 6];
/// Which of the maps the auxiliary head sees.
const AUXILIARY: usize = 2;

/// The head.
pub struct Upernet {
    sizes: HeadSizes,
    neck: Option<Neck>,
    poolings: Vec<ConvNorm>,
    bottleneck: ConvNorm,
    laterals: Vec<ConvNorm>,
    levels: Vec<ConvNorm>,
    joined: ConvNorm,
    auxiliary: ConvNorm,
}

impl Upernet {
    /// For maps of these places, of which there must be four.
    pub fn new(sizes: HeadSizes, places: &[MapPlace]) -> Result<Self> {
        let Ok(places) = <[MapPlace; 4]>::try_from(places) else {
            return Err(Error::config(
                "segment.places",
                format!(
                    "gives {} maps; UPerNet takes four, for example [3, 5, 7, 11] of a ViT of twelve blocks",
                    places.len()
                ),
            ));
        };
        let even = places.iter().all(|place| place.stride == places[0].stride);
        let neck = even.then_some(Neck { width: places[0].width });
        let c = sizes.channels;
        let conv = |name: String, inputs: usize, outputs: usize, kernel: usize| ConvNorm {
            name,
            inputs,
            outputs,
            kernel,
        };
        let name = |part: &str| format!("decode_head.{part}");
        let last = places[3].width;
        Ok(Self {
            sizes,
            neck,
            poolings: (0..BINS.len())
                .map(|i| conv(name(&format!("psp_modules.{i}.1")), last, c, 1))
                .collect(),
            bottleneck: conv(name("bottleneck"), last + BINS.len() * c, c, 3),
            laterals: (0..3)
                .map(|i| conv(name(&format!("lateral_convs.{i}")), places[i].width, c, 1))
                .collect(),
            levels: (0..3).map(|i| conv(name(&format!("fpn_convs.{i}")), c, c, 3)).collect(),
            joined: conv(name("fpn_bottleneck"), 4 * c, c, 3),
            auxiliary: conv(
                "auxiliary_head.convs.0".into(),
                places[AUXILIARY].width,
                sizes.auxiliary_channels,
                3,
            ),
        })
    }

    fn convs(&self) -> impl Iterator<Item = &ConvNorm> {
        let several = self.poolings.iter().chain(&self.laterals).chain(&self.levels);
        several.chain([&self.bottleneck, &self.joined, &self.auxiliary])
    }

    /// The coarsest map with its means over bins of four sizes.
    fn pooled(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        running: &Running,
        x: &FeatureMap,
        mode: &Mode<'_>,
    ) -> Result<FeatureMap> {
        let mut all = vec![x.rows.clone()];
        for (conv, bins) in self.poolings.iter().zip(BINS) {
            let size = [x.shape.height, x.shape.width];
            let by = Resampling::pooling(x.rows.value().device(), size, bins)?;
            let (rows, shape) = resample(tape, &x.rows, x.shape, &by)?;
            let y = conv.forward(tape, parameters, running, &FeatureMap { rows, shape }, mode)?;
            all.push(resized(tape, &y, x)?.rows);
        }
        let rows = concat_columns(tape, &all.iter().collect::<Vec<&Var>>())?;
        self.bottleneck.forward(tape, parameters, running, &FeatureMap { rows, shape: x.shape }, mode)
    }
}

impl Head for Upernet {
    fn specs(&self) -> Vec<ParameterSpec> {
        let mut specs: Vec<ParameterSpec> = self.neck.iter().flat_map(Neck::specs).collect();
        specs.extend(self.convs().flat_map(ConvNorm::specs));
        specs.extend(pixel_specs("decode_head.conv_seg", self.sizes.channels, self.sizes.classes));
        let auxiliary = self.sizes.auxiliary_channels;
        specs.extend(pixel_specs("auxiliary_head.conv_seg", auxiliary, self.sizes.classes));
        specs
    }

    fn norms(&self) -> Vec<(String, usize)> {
        let own = self.convs().map(|conv| (conv.norm(), conv.outputs));
        self.neck.iter().flat_map(Neck::norms).chain(own).collect()
    }

    fn dropouts(&self) -> Vec<usize> {
        vec![self.sizes.channels, self.sizes.auxiliary_channels]
    }

    fn forward(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        running: &Running,
        maps: &[FeatureMap],
        mode: &Mode<'_>,
    ) -> Result<Logits> {
        let [a, b, c, d] = maps else {
            return Err(Error::shape("upernet", format!("{} maps", maps.len())));
        };
        let maps = match &self.neck {
            Some(neck) => neck.forward(tape, parameters, running, [a, b, c, d], mode)?,
            None => [a.clone(), b.clone(), c.clone(), d.clone()],
        };
        let mut levels = Vec::new();
        for (conv, map) in self.laterals.iter().zip(&maps) {
            levels.push(conv.forward(tape, parameters, running, map, mode)?);
        }
        levels.push(self.pooled(tape, parameters, running, &maps[3], mode)?);
        for i in (0..3).rev() {
            let above = resized(tape, &levels[i + 1], &levels[i])?;
            levels[i].rows = add(tape, &levels[i].rows, &above.rows)?;
        }
        let mut all = Vec::new();
        for (i, level) in levels.iter().enumerate() {
            let level = match self.levels.get(i) {
                Some(conv) => conv.forward(tape, parameters, running, level, mode)?,
                None => level.clone(),
            };
            all.push(resized(tape, &level, &levels[0])?.rows);
        }
        let rows = concat_columns(tape, &all.iter().collect::<Vec<&Var>>())?;
        let joined = FeatureMap { rows, shape: levels[0].shape };
        let joined = self.joined.forward(tape, parameters, running, &joined, mode)?;
        let x = mode.dropout(tape, 0, &joined.rows)?;
        let main = (pixel_layer(tape, parameters, "decode_head.conv_seg", &x)?, joined.shape);
        let auxiliary = match mode {
            Mode::Judging => None,
            Mode::Training(_) => {
                let y = self.auxiliary.forward(tape, parameters, running, &maps[AUXILIARY], mode)?;
                let x = mode.dropout(tape, 1, &y.rows)?;
                Some((pixel_layer(tape, parameters, "auxiliary_head.conv_seg", &x)?, y.shape))
            }
        };
        Ok(Logits { main, auxiliary })
    }
}
