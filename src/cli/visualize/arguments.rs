//! What `visualize` is told.

use std::path::PathBuf;

use clap::Args;

use crate::checks::unknown;
use crate::cli::subject::{SubjectArgs, data_spec};
use crate::error::{Error, Result};

/// Arguments of `visualize`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu visualize --checkpoint runs/photos cat.jpg
  poa-gpu visualize --checkpoint runs/photos --network small --size 448 --out pictures a.jpg b.jpg
  poa-gpu visualize --checkpoint runs/photos --kind correspondence cat.jpg other-cat.jpg
  poa-gpu visualize --checkpoint runs/photos --kind correspondence --views cat.jpg dog.jpg
  poa-gpu visualize --checkpoint runs/photos --kind prototypes --data folder:photos --prototypes 10
Writes NAME.attention.png (the input, the class token's attention in the last block head by head, and their mean) and
NAME.pca.png (the input, and its patch tokens' first three principal components as red, green and blue). Of a Swin or
ResNet, which have no class token's attention, NAME.pca.png alone. NAME is the image's path with - for /. Small inputs are
enlarged to 256 pixels or more. correspondence joins patches of two images, or with --views of two crops of one, by their
tokens' dot product, and writes NAME.correspondence.png or NAME.views.png. prototypes writes prototype-RANK-NUMBER.png for
those that most images choose, with the images (--patch-tokens: the patches) of the highest logits, and prototypes.json.")]
pub struct VisualizeArgs {
    /// What sees them
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// Where the pictures go [default: the folder pictures of the run, or beside a checkpoint without one]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What is drawn: attention, pca, correspondence, prototypes; several separated by spaces or commas
    #[arg(long, value_name = "KIND", num_args = 1, action = clap::ArgAction::Append, default_values = ["attention,pca"])]
    pub kind: Vec<String>,
    /// Of correspondence: two random crops of each image, in place of pairs of images; says how many matches are right
    #[arg(long)]
    pub views: bool,
    /// Of correspondence: patches that are joined, those with the most attention of the class token (without one: with the
    /// largest products)
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 12)]
    pub lines: usize,
    /// Of prototypes: the images, as in `poa-gpu train --data`
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub data: Option<String>,
    /// Of prototypes: at most that many images of --data, the first ones; 0 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub most: usize,
    /// Of prototypes: the head, from 0 [default: the one with the most prototypes]
    #[arg(long, value_name = "HEAD", allow_negative_numbers = true)]
    pub head: Option<usize>,
    /// Of prototypes: how many are drawn
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 20)]
    pub prototypes: usize,
    /// Of prototypes: images of each, at most
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 64)]
    pub tiles: usize,
    /// Of prototypes: the best patch of every image, in place of the image
    #[arg(long)]
    pub patch_tokens: bool,
    /// Start of every random sequence
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub seed: u64,
    /// The images; colours mean the same in all of them
    #[arg(value_name = "IMAGE", required_unless_present = "data")]
    pub images: Vec<PathBuf>,
}

/// Kinds of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Attention,
    Pca,
    Correspondence,
    Prototypes,
}

impl Kind {
    const ALL: [(Self, &str); 4] = [
        (Self::Attention, "attention"),
        (Self::Pca, "pca"),
        (Self::Correspondence, "correspondence"),
        (Self::Prototypes, "prototypes"),
    ];

    /// Those that are asked for, with what they need.
    pub(super) fn all(args: &VisualizeArgs) -> Result<Vec<Self>> {
        let words = args.kind.iter().flat_map(|text| text.split([',', ' '])).filter(|word| !word.is_empty());
        let kind = |word: &str| {
            let found = Self::ALL.iter().find(|(_, name)| *name == word);
            found
                .map(|(kind, _)| *kind)
                .ok_or_else(|| Error::Usage(unknown("--kind", word, &Self::ALL.map(|(_, name)| name))))
        };
        let kinds = words.map(kind).collect::<Result<Vec<_>>>()?;
        let usage = |problem: &str| Err(Error::Usage(problem.into()));
        if kinds.is_empty() {
            return usage(
                "--kind names no kind of pictures; give attention, pca, correspondence or prototypes",
            );
        }
        if kinds.contains(&Self::Prototypes) && args.data.is_none() {
            return usage("--kind prototypes needs images to choose prototypes: give --data SPEC");
        }
        if kinds.iter().any(|kind| *kind != Self::Prototypes) && args.images.is_empty() {
            return usage("the pictures need images; give some, or --kind prototypes");
        }
        let pairs = kinds.contains(&Self::Correspondence) && !args.views;
        if pairs && !args.images.len().is_multiple_of(2) {
            return usage(
                "--kind correspondence joins two images each: give an even number of them, or --views",
            );
        }
        for (name, value) in
            [("--lines", args.lines), ("--prototypes", args.prototypes), ("--tiles", args.tiles)]
        {
            if value == 0 {
                return Err(Error::Usage(format!("{name} must be at least 1")));
            }
        }
        Ok(kinds)
    }
}
