//! Which networks run in a step, and which of them are compared (the paper's Figures 2 and 6, Tables 3 and 5). a and b are the
//! two views, T the teacher, S the intact and ES the elastic student, ET the teacher at the elastic student's size:
//!
//! | branches | students | class tokens are compared | masked patches are guessed |
//! |---|---|---|---|
//! | poa | S, ES | λ·CE(S(b), T(a)) + (1−λ)·(CE(ES(b), T(a)) + CE(ES(a), S(a))) | λ by S, 1−λ by ES, of T |
//! | alone | S | CE(S(b), T(a)) | by S, of T |
//! | v1 | ES | CE(ES(b), ET(a)) | by ES, of ET |
//! | v2 | ES | CE(ES(b), T(a)) | by ES, of T |
//! | v3 | S, ES | those of poa + (1−λ)·CE(ES(b), ET(a)) | as poa |
//!
//! Each is done with the views exchanged too. KoLeo is of every student: half the sum of two (`dino.koleo`), all of one. In all
//! of them the teacher is the average of all parameters of the students.

use serde::{Deserialize, Serialize};

use crate::models::grid::Network;

/// The branches of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Branches {
    /// POA's three.
    Poa,
    /// One network and its teacher: DINOv2 and iBOT.
    Alone,
    /// POA-V1.
    V1,
    /// POA-V2.
    V2,
    /// POA-V3.
    V3,
}

impl Branches {
    /// As it is written in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Poa => "poa",
            Self::Alone => "alone",
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
        }
    }

    /// The students of a step in which the elastic one is `drawn`, in the order in which they run.
    pub fn students(self, intact: Network, drawn: Network) -> Vec<Network> {
        match self {
            Self::Poa | Self::V3 => vec![intact, drawn],
            Self::Alone => vec![intact],
            Self::V1 | Self::V2 => vec![drawn],
        }
    }

    /// The teacher that all students are compared with.
    pub fn teacher(self, intact: Network, drawn: Network) -> Network {
        if self == Self::V1 { drawn } else { intact }
    }

    /// The teacher that the elastic student alone is compared with beside that one.
    pub fn second_teacher(self, drawn: Network) -> Option<Network> {
        (self == Self::V3).then_some(drawn)
    }

    /// Whether a sub-network takes part in a step.
    pub fn draws(self) -> bool {
        self != Self::Alone
    }

    /// Whether there are two students, which share the losses by λ.
    pub fn shares(self) -> bool {
        matches!(self, Self::Poa | Self::V3)
    }
}
