//! Which rows of features a step compares, with which rows of targets, and how much each counts.
//!
//! The feature rows of a student are its global cls tokens (2B: view a, view b), its local cls tokens (L·B,
//! crop by crop) and its masked patch tokens (M). Target rows are the teacher's cls tokens with the views
//! exchanged, so that row i of the students meets row i, and its masked patch tokens.

use crate::error::Result;
use crate::ops::cross_entropy::NO_TARGET;
use crate::ops::prototype_loss::{LossRow, LossRows};
use crate::poa::branches::Branches;
use crate::poa::settings::{KoleoMix, Settings};
use crate::tensor::Device;

/// Weights of the losses.
#[derive(Clone, Debug, PartialEq)]
pub struct LossWeights {
    /// The first student's share of the view and masked-patch losses: λ beside another, else all.
    pub first: f64,
    /// The second student's share of the view losses; 0 without that loss.
    pub second: f64,
    /// Its share of the masked-patch loss.
    pub second_masked: f64,
    /// Of its distillation from the first; 0 without that loss.
    pub distill: f64,
    /// Of its view losses against the second teacher; 0 where there is none.
    pub second_teacher: f64,
    /// Of the view losses and the distillation.
    pub dino: f64,
    /// Of the masked-patch loss.
    pub ibot: f64,
    /// Of KoLeo, once the mean over the two students is taken where that is configured.
    pub koleo: f64,
}

impl LossWeights {
    /// The weights that settings say.
    pub fn of(settings: &Settings) -> Self {
        let dino = &settings.dino;
        let rest = if dino.branches.shares() { 1.0 - dino.lambda_ie } else { 0.0 };
        let when = |on: bool| if on { rest } else { 0.0 };
        let mut weights = Self {
            first: if dino.branches.shares() { dino.lambda_ie } else { 1.0 },
            second: when(dino.elastic_cross_view),
            second_masked: rest,
            distill: when(dino.elastic_same_view),
            second_teacher: when(dino.branches == Branches::V3),
            dino: dino.loss_weight,
            ibot: settings.ibot.loss_weight,
            koleo: dino.koleo_loss_weight,
        };
        if dino.koleo == KoleoMix::Half && dino.branches.shares() {
            weights.koleo *= 0.5;
        }
        weights
    }
}

/// How many rows of each kind a step has.
#[derive(Clone, Debug, PartialEq)]
pub struct RowCounts {
    /// Images B.
    pub images: usize,
    /// Local crops L.
    pub locals: usize,
    /// 1 / (masked patches of the row's image), for every masked patch in order.
    pub masked_weights: Vec<f32>,
}

impl RowCounts {
    /// Global cls rows, 2B.
    pub fn global(&self) -> usize {
        2 * self.images
    }

    /// All cls rows, (2 + L)·B.
    pub fn cls(&self) -> usize {
        (2 + self.locals) * self.images
    }

    /// Masked patch rows, M.
    pub fn masked(&self) -> usize {
        self.masked_weights.len()
    }

    /// Number of view terms T = 2 + 2L.
    pub(super) fn terms(&self) -> f64 {
        (2 + 2 * self.locals) as f64
    }

    /// The cls rows of one of `heads` heads.
    pub fn cls_rows(&self, w: &LossWeights, heads: usize) -> Vec<LossRow> {
        let b = self.images as f64;
        // the mean over B of each of the T terms; the global term counts its 2B rows twice
        let view = w.dino / (b * self.terms() * heads as f64);
        let distill = |rows: usize| w.dino * w.distill / (rows as f64 * heads as f64);
        let row = |targets, distill: f64| LossRow {
            targets,
            intact: (w.first * view) as f32,
            elastic: (w.second * view) as f32,
            distill: distill as f32,
        };
        let n = self.images as u32;
        let global = (0..2 * n).map(|i| row([i, NO_TARGET], distill(2 * self.images)));
        let local =
            (0..self.locals as u32 * n).map(|i| row([i % n, n + i % n], distill(self.locals * self.images)));
        global.chain(local).collect()
    }

    /// The rows of one of `heads` heads that sees `masked` rows too, for the second student against the second teacher:
    /// cls rows alone have targets.
    fn second_teacher_rows(&self, w: &LossWeights, heads: usize, masked: usize) -> Vec<LossRow> {
        let own = LossWeights { first: w.second_teacher, second: 0.0, distill: 0.0, ..w.clone() };
        let unseen = LossRow { targets: [NO_TARGET; 2], intact: 0.0, elastic: 0.0, distill: 0.0 };
        self.cls_rows(&own, heads).into_iter().chain(std::iter::repeat_n(unseen, masked)).collect()
    }

    /// The masked rows of one of `heads` heads.
    pub fn masked_rows(&self, w: &LossWeights, heads: usize) -> Vec<LossRow> {
        let scale = w.ibot / (2.0 * self.images as f64 * heads as f64);
        self.masked_weights
            .iter()
            .enumerate()
            .map(|(i, &weight)| LossRow {
                targets: [i as u32, NO_TARGET],
                intact: (w.first * scale * weight as f64) as f32,
                elastic: (w.second_masked * scale * weight as f64) as f32,
                distill: 0.0,
            })
            .collect()
    }
}

/// Which rows a head sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Cls and masked patch rows.
    All,
    /// Cls rows.
    Cls,
    /// Masked patch rows.
    Masked,
}

impl Part {
    /// Whether cls rows are among them.
    pub fn has_cls(self) -> bool {
        self != Self::Masked
    }

    /// Whether masked patch rows are among them.
    pub fn has_masked(self) -> bool {
        self != Self::Cls
    }

    /// The rows' tables.
    pub fn rows(
        self,
        device: &Device,
        counts: &RowCounts,
        w: &LossWeights,
        heads: usize,
    ) -> Result<PartRows> {
        let mut rows = Vec::new();
        if self.has_cls() {
            rows.extend(counts.cls_rows(w, heads));
        }
        if self.has_masked() {
            rows.extend(counts.masked_rows(w, heads));
        }
        let second_teacher = match self.has_cls() && w.second_teacher > 0.0 {
            true => {
                let masked = if self.has_masked() { counts.masked() } else { 0 };
                Some(LossRows::new(device, counts.second_teacher_rows(w, heads, masked))?)
            }
            false => None,
        };
        Ok(PartRows { all: LossRows::new(device, rows)?, second_teacher })
    }
}

/// The tables of a head's rows.
pub struct PartRows {
    /// Of the students against the teacher.
    pub all: LossRows,
    /// Of the second student against the second teacher, where there is one.
    pub second_teacher: Option<LossRows>,
}
