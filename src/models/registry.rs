//! The families of backbones. A new one is a folder with its settings and what implements [`Backbone`], and
//! its arms here.

use serde::{Deserialize, Serialize};

use crate::checks::{Key, Problems, Settings};
use crate::error::Result;
use crate::models::backbone::Backbone;
use crate::models::grid::Network;
use crate::models::settings::Elastic;
use crate::models::{resnet, swin, vit};

/// Section `student`: the elastic backbone, of the family that `student.arch` says, with that family's own
/// keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "arch")]
pub enum Student {
    /// The elastic Vision Transformer.
    #[serde(rename = "vit_dynamic")]
    Vit(vit::Settings),
    /// The elastic Swin Transformer.
    #[serde(rename = "swin_dynamic")]
    Swin(swin::Settings),
    /// The elastic ResNet.
    #[serde(rename = "resnet_dynamic")]
    ResNet(resnet::Settings),
}

impl Default for Student {
    fn default() -> Self {
        Self::Vit(Default::default())
    }
}

impl Student {
    /// Every family with its defaults; that of the default backbone first.
    pub fn families() -> [Self; 3] {
        [Self::Vit(Default::default()), Self::Swin(Default::default()), Self::ResNet(Default::default())]
    }

    /// What `student.arch` can be.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::families().into_iter().map(|family| family.name())
    }

    /// The family's name as `student.arch`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vit(_) => "vit_dynamic",
            Self::Swin(_) => "swin_dynamic",
            Self::ResNet(_) => "resnet_dynamic",
        }
    }

    /// The family's keys, but for `arch`.
    pub fn keys(&self) -> Vec<Key> {
        match self {
            Self::Vit(_) => vit::Settings::keys(),
            Self::Swin(_) => swin::Settings::keys(),
            Self::ResNet(_) => resnet::Settings::keys(),
        }
    }

    /// What all families have.
    pub fn elastic(&self) -> &Elastic {
        match self {
            Self::Vit(s) => &s.elastic,
            Self::Swin(s) => &s.elastic,
            Self::ResNet(s) => &s.elastic,
        }
    }

    /// The same with this rate of stochastic depth, which grows from 0 at the first block; a ResNet has none.
    pub fn with_drop_path(mut self, rate: f64) -> Self {
        match &mut self {
            Self::Vit(s) => (s.attention.drop_path_rate, s.drop_path_uniform) = (rate, false),
            Self::Swin(s) => s.attention.drop_path_rate = rate,
            Self::ResNet(_) => {}
        }
        self
    }

    /// Settings of which one of its sub-networks is the only network.
    pub fn only(self, network: Network) -> Self {
        let mut only = match self {
            Self::Vit(s) => Self::Vit(s.only(network)),
            Self::Swin(s) => Self::Swin(s.only(network)),
            Self::ResNet(s) => Self::ResNet(s.only(network)),
        };
        let elastic = match &mut only {
            Self::Vit(s) => &mut s.elastic,
            Self::Swin(s) => &mut s.elastic,
            Self::ResNet(s) => &mut s.elastic,
        };
        elastic.fixed_network.clear();
        only
    }

    /// Checks every range and relation, for global crops of `image` pixels a side.
    pub fn check(&self, image: usize, problems: &mut Problems) {
        match self {
            Self::Vit(s) => s.check(problems),
            Self::Swin(s) => s.check(image, problems),
            Self::ResNet(s) => s.check(image, problems),
        }
    }

    /// The backbone, for global crops of `image` pixels a side.
    pub fn open(&self, image: usize) -> Result<Box<dyn Backbone>> {
        Ok(match self {
            Self::Vit(s) => Box::new(vit::Vit::from_settings(s, image)?),
            Self::Swin(s) => Box::new(swin::Swin::from_settings(s, image)?),
            Self::ResNet(s) => Box::new(resnet::ResNet::from_settings(s, image)?),
        })
    }
}
