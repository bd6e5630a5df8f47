//! `poa-gpu eval robustness`: classifiers on images with covered cells, shuffled pieces and other backgrounds.

mod arguments;
mod asked;
mod outcome;
mod subjects;

use crate::cli::eval::common::{note_unreadable, tell};
use crate::cli::progress::bar;
use crate::data;
use crate::error::{Error, Result};
use crate::eval::LabelledImages;
use crate::eval::robustness::backgrounds::{Challenge, class_map, variants};
use crate::eval::robustness::{Change, Draws, Robustness, Salience, Score, Subject, accuracies};
use crate::ops;
use crate::ops::matmul::by_timing;

pub use arguments::RobustnessArgs;
use asked::{Kind, pieces, ratios, salience_head};
use outcome::{Backgrounds, Outcome};
use subjects::Family;

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
