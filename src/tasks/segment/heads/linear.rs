//! One linear layer on maps that are brought to the size of the finest (official `linear` configs: four maps of one size side
//! by side, one 1×1 convolution). The layer comes before the change of size, which commutes with it and has far less to do
//! then.

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::models::maps::{FeatureMap, MapPlace};
use crate::nn::parameters::{ParameterSpec, Parameters};
use crate::ops::linear::{LinearWeights, linear};
use crate::ops::maps::add;
use crate::tasks::segment::heads::head::{Head, HeadSizes, Logits};
use crate::tasks::segment::heads::layers::{Mode, Running, norm, norm_specs, part, pixel_specs, resized};

const CLASSIFIER: &str = "decode_head.conv_seg";

/// The head.
pub struct Linear {
    sizes: HeadSizes,
    widths: Vec<usize>,
}

impl Linear {
    /// For maps of these places.
    pub fn new(sizes: HeadSizes, places: &[MapPlace]) -> Self {
        Self { sizes, widths: places.iter().map(|place| place.width).collect() }
    }

    fn norm_name(i: usize) -> String {
        format!("decode_head.norms.{i}")
    }
}

impl Head for Linear {
    fn specs(&self) -> Vec<ParameterSpec> {
        let mut specs = pixel_specs(CLASSIFIER, self.widths.iter().sum(), self.sizes.classes).to_vec();
        if self.sizes.norm {
            let norms = self.widths.iter().enumerate();
            specs.extend(norms.flat_map(|(i, width)| norm_specs(&Self::norm_name(i), *width)));
        }
        specs
    }

    fn norms(&self) -> Vec<(String, usize)> {
        let all = self.widths.iter().enumerate().filter(|_| self.sizes.norm);
        all.map(|(i, width)| (Self::norm_name(i), *width)).collect()
    }

    fn dropouts(&self) -> Vec<usize> {
        self.widths.clone()
    }

    fn forward(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        running: &Running,
        maps: &[FeatureMap],
        mode: &Mode<'_>,
    ) -> Result<Logits> {
        let (finest, weight) = match maps.iter().max_by_key(|map| map.shape.height) {
            Some(finest) if maps.len() == self.widths.len() => {
                (finest, part(parameters, CLASSIFIER, "weight")?)
            }
            _ => return Err(Error::shape("linear head", format!("{} maps", maps.len()))),
        };
        let (mut sum, mut first): (Option<Var>, usize) = (None, 0);
        for (i, (map, width)) in maps.iter().zip(&self.widths).enumerate() {
            let mut x = map.rows.clone();
            if self.sizes.norm {
                x = norm(tape, parameters, running, &Self::norm_name(i), &x, false, mode)?;
            }
            let x = mode.dropout(tape, i, &x)?;
            let bias = (i == 0).then(|| part(parameters, CLASSIFIER, "bias")).transpose()?;
            let columns = first..first + width;
            let layer =
                LinearWeights { weight: weight.view(|w| w.slice(1, columns.clone()))?, bias, alpha: 1.0 };
            let logits = FeatureMap { rows: linear(tape, &x, &layer)?, shape: map.shape };
            let logits = resized(tape, &logits, finest)?.rows;
            sum = Some(match &sum {
                Some(sum) => add(tape, sum, &logits)?,
                None => logits,
            });
            first += width;
        }
        let main = sum.ok_or_else(|| Error::shape("linear head", "no maps"))?;
        Ok(Logits { main: (main, finest.shape), auxiliary: None })
    }
}
