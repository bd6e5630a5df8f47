//! `poa-gpu eval robustness`: classifiers on images with covered cells, shuffled pieces and other backgrounds.

mod asked;
mod outcome;
mod subjects;

use std::path::PathBuf;

use clap::Args;

use crate::cli::eval::common::{note_unreadable, tell};
use crate::cli::progress::bar;
use crate::cli::subject::data_spec;
use crate::data;
use crate::error::{Error, Result};
use crate::eval::LabelledImages;
use crate::eval::robustness::backgrounds::{Challenge, class_map, variants};
use crate::eval::robustness::{Change, Draws, Robustness, Salience, Score, Subject, accuracies};
use crate::gpu::DeviceChoice;
use crate::ops;
use crate::ops::matmul::by_timing;

use asked::{Kind, pieces, ratios, salience_head};
use outcome::{Backgrounds, Outcome};
use subjects::Family;

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

pub(super) fn run(args: &RobustnessArgs) -> Result<()> {
    for (name, value) in
        [("--k", args.k), ("--probe-steps", args.probe_steps), ("--shared-by", args.shared_by)]
    {
        if value == 0 {
            return Err(Error::Usage(format!("{name} must be at least 1")));
        }
    }
    if args.data.is_none() && args.train.is_none() && args.backgrounds.is_none() {
        return Err(Error::Usage(
            "there is nothing to classify: give --data SPEC, or --backgrounds DIR".into(),
        ));
    }
    let (ratios, asked_kinds) = (ratios(&args.ratio)?, Kind::all(&args.kind)?);
    let head = salience_head(&args.salience_head)?;
    let device = by_timing(ops::open(&args.device)?)?;
    let mut families = Vec::new();
    for model in &args.model {
        families.push(Family::tuned(model, &device)?);
    }
    if let Some(checkpoint) = &args.checkpoint {
        families.push(Family::pretrained(checkpoint, args, &device)?);
    }
    let salience =
        args.salience_of.as_ref().map(|dir| subjects::attention(dir, args, &device)).transpose()?;
    let views: Vec<_> = families.iter().map(|family| family.view.clone()).collect();
    let mut passes = Vec::new();
    for family in &families {
        let other = salience.as_ref().map(|(teacher, network)| (teacher.encoder(), *network));
        let attends = subjects::attends(other, family)?;
        let kinds = asked_kinds.clone().unwrap_or_else(|| Kind::possible(attends));
        if !attends && kinds.iter().any(|kind| kind.by_attention()) {
            return Err(Error::Usage(format!(
                "{} has no class token whose attention says what is salient; give --salience-of a ViT's run, or --kind \
                 random,shuffle",
                family.name
            )));
        }
        let changes = changes(&kinds, &ratios, &args.pieces, family.view.size)?;
        passes.push((kinds, changes));
    }
    if let Some(grid) = args.grid
        && let Some(view) = views.iter().find(|view| !(1..=view.size).contains(&grid))
    {
        return Err(Error::Usage(format!("--grid {grid} must be 1 to {}, the pixels of a side", view.size)));
    }
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).map_err(|e| Error::file(out, format!("cannot be created: {e}")))?;
    }
    let tested: Vec<Option<LabelledImages>> =
        families.iter().map(|family| family.tested(args)).collect::<Result<_>>()?;
    families.iter_mut().try_for_each(|family| family.learn(args))?;
    let mut outcome = Outcome::default();
    for ((family, images), (kinds, changes)) in families.iter().zip(&tested).zip(&passes) {
        let subjects = family.subjects();
        let salience =
            Salience { of: salience.as_ref().map(|(teacher, network)| (teacher.encoder(), *network)), head };
        let options = Robustness {
            changes,
            draws: Draws { seed: args.seed, shared_by: args.shared_by },
            cells: args.grid.unwrap_or(family.encoder().backbone.cells(family.view.size)),
            offset: args.offset,
            salience,
            classes: None,
        };
        let scores = match images {
            Some(images) => {
                crate::cli::eval::common::count("images:", images);
                let scores = accuracies(family.encoder(), &subjects, images, &options, &mut bar())?;
                note_unreadable("labelled", images);
                scores
            }
            None => vec![Vec::new(); subjects.len()],
        };
        let backgrounds = backgrounds(family, &subjects, &options, args)?;
        outcome.add(family, (kinds, changes), scores, backgrounds);
    }
    outcome.tell();
    match &args.out {
        Some(out) => outcome.write(out, args, &tested),
        None => Ok(()),
    }
}

/// Every change of these kinds; the images as they are first.
fn changes(kinds: &[Kind], ratios: &[f64], asked: &[String], side: usize) -> Result<Vec<Change>> {
    let mut all = vec![Change::Clean];
    for kind in kinds {
        match kind {
            Kind::Random => all.extend(ratios.iter().map(|r| Change::Random(*r))),
            Kind::Salient => all.extend(ratios.iter().map(|r| Change::Salient(*r))),
            Kind::NonSalient => all.extend(ratios.iter().map(|r| Change::NonSalient(*r))),
            Kind::Shuffle => all.extend(pieces(asked, side)?.into_iter().map(Change::Shuffle)),
        }
    }
    Ok(all)
}

/// The accuracy of every subject on every variant of the backgrounds challenge, and which share of objects can be hidden.
fn backgrounds(
    family: &Family,
    subjects: &[Subject<'_>],
    options: &Robustness<'_>,
    args: &RobustnessArgs,
) -> Result<Vec<Backgrounds>> {
    let Some(dir) = &args.backgrounds else { return Ok(Vec::new()) };
    let mut found: Vec<Backgrounds> = subjects.iter().map(|_| Backgrounds::default()).collect();
    let file = args.class_map.as_deref();
    for (name, folder) in variants(dir)? {
        let source = data::open(&format!("folder:{}", data::spec_text(folder.as_os_str())), &family.reading)?;
        tell(&*source);
        let images = LabelledImages::new(&source, 0, &family.view)?;
        let map = class_map(file, family.classes(), images.classes())?;
        let options = Robustness { changes: &[Change::Clean], classes: Some(&map), ..*options };
        let scores: Vec<Vec<Score>> = accuracies(family.encoder(), subjects, &images, &options, &mut bar())?;
        for (found, scores) in found.iter_mut().zip(scores) {
            found.variants.insert(name.clone(), scores[0].top1);
        }
        note_unreadable(&name, &images);
    }
    if args.challenge {
        let challenge = Challenge::open(dir, &family.reading)?;
        let map = class_map(file, family.classes(), &challenge.classes)?;
        let shares = challenge.vulnerable(family.encoder(), subjects, &family.view, &map, &mut bar())?;
        found.iter_mut().zip(shares).for_each(|(found, share)| found.vulnerable = Some(share));
    }
    Ok(found)
}
