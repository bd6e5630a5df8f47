//! What `eval robustness` is told.

use std::path::PathBuf;

use clap::Args;

use crate::cli::subject::data_spec;
use crate::gpu::DeviceChoice;

/// Arguments of `eval robustness`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu eval robustness --model runs/tuned --data folder:in/val --out results
  poa-gpu eval robustness --model runs/tuned-s runs/tuned-b --data folder:in/val --kind random,shuffle --shared-by 1024
  poa-gpu eval robustness --checkpoint runs/demo-1 --train shapes:2000 --network all --out results
  poa-gpu eval robustness --checkpoint runs/photos --train folder:in/train --data folder:in/val --classifier linear
  poa-gpu eval robustness --model runs/tuned --backgrounds bg_challenge --class-map in_to_in9.json --challenge
A classifier is a network that `finetune` has left behind (--model), or of sub-networks of a checkpoint their nearest
neighbours or their best linear probe, of --train. Covered cells are 0 after images are normalised. random covers a share
of the cells; salient those with the most attention of the class token, which have that share of it, non-salient those with
the least. BG-Gap is mixed_same less mixed_rand; the challenge counts the objects that some background hides.")]
pub struct RobustnessArgs {
    /// Networks with their classifiers: runs of `finetune`, or their folders best
    #[arg(long, value_name = "DIR", num_args = 1.., required_unless_present = "checkpoint")]
    pub model: Vec<PathBuf>,
    /// A pre-trained run's folder, a checkpoint's or an extracted ViT's, whose sub-networks get a classifier from --train
    #[arg(long, value_name = "DIR", requires = "train")]
    pub checkpoint: Option<PathBuf>,
    /// Sub-networks of --checkpoint: WIDTHxDEPTH, smallest, middle, intact, all, or the paper's small, base, ...
    #[arg(long, value_name = "NETWORK", num_args = 1.., default_value = "intact")]
    pub network: Vec<String>,
    /// Pixels a side of the images of --checkpoint [default: the global crops']
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true)]
    pub size: Option<usize>,
    /// The classifier of sub-networks: their nearest neighbours, or the best of linear probes, which are trained first
    #[arg(long, value_name = "KIND", default_value = "knn", value_parser = ["knn", "linear"])]
    pub classifier: String,
    /// Labelled images that the classifier of sub-networks is made of, as in `poa-gpu train --data`
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub train: Option<String>,
    /// At most that many images of --train, random ones; 0 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub train_images: usize,
    /// Neighbours that vote
    #[arg(long, value_name = "K", allow_negative_numbers = true, default_value_t = 20)]
    pub k: usize,
    /// Steps of the linear probes
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 12_500)]
    pub probe_steps: usize,
    /// Labelled images to be changed and classified [default: those that are held out of --train]
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub data: Option<String>,
    /// At most that many of them, random ones; 0 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub images: usize,
    /// What is done to them: random, salient, non-salient, shuffle; several separated by spaces or commas [default: all that
    /// the networks can do]
    #[arg(long, value_name = "KIND", num_args = 1..)]
    pub kind: Vec<String>,
    /// Shares, 0 to 1, of what is covered; several separated by spaces or commas
    #[arg(long, value_name = "SHARE", num_args = 1.., default_value = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9")]
    pub ratio: Vec<String>,
    /// Rows and columns of the pieces that are shuffled, as 4x4; several separated by spaces or commas [default: those of the
    /// official code that divide the images' side]
    #[arg(long, value_name = "RxC", num_args = 1..)]
    pub pieces: Vec<String>,
    /// Cells a side of the grid that random cells are of [default: a cell a patch]
    #[arg(long, value_name = "CELLS", allow_negative_numbers = true)]
    pub grid: Option<usize>,
    /// Pixels that this grid is moved to the right and down
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true, default_value_t = 0)]
    pub offset: usize,
    /// So many images in a row are changed alike; the official code: 1024
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1)]
    pub shared_by: usize,
    /// A pre-trained run or checkpoint whose attention says what is salient [default: each network's own]
    #[arg(long, value_name = "DIR")]
    pub salience_of: Option<PathBuf>,
    /// The sub-network of --salience-of
    #[arg(long, value_name = "NETWORK", default_value = "intact")]
    pub salience_network: String,
    /// The head of the last block that says it, from 0, or their mean
    #[arg(long, value_name = "HEAD", default_value = "mean")]
    pub salience_head: String,
    /// The folder of the backgrounds challenge: variants of images, as mixed_same/val/CLASS
    #[arg(long, value_name = "DIR")]
    pub backgrounds: Option<PathBuf>,
    /// A JSON file that maps the classifier's classes to those of the backgrounds (in_to_in9.json) [default: by their names]
    #[arg(long, value_name = "FILE", requires = "backgrounds")]
    pub class_map: Option<PathBuf>,
    /// Puts every object before every background too: the masks of fg_mask on images of original, only_bg_t behind
    #[arg(long, requires = "backgrounds")]
    pub challenge: bool,
    /// Start of every random sequence
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub seed: u64,
    /// Folder for the results: CSV, JSON and pictures [default: none are written]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// auto, cpu, gpu, the number of a device in `poa-gpu devices`, or part of its name
    #[arg(long, value_name = "DEVICE", allow_negative_numbers = true, default_value = "auto")]
    pub device: DeviceChoice,
}
