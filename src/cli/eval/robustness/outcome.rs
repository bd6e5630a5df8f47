//! What was found, as tables, CSV, JSON and pictures.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::eval::results::{columns, described, percent, write};
use crate::cli::eval::robustness::arguments::RobustnessArgs;
use crate::cli::eval::robustness::asked::Kind;
use crate::cli::eval::robustness::subjects::Family;
use crate::cli::network_table::identity;
use crate::error::Result;
use crate::eval::LabelledImages;
use crate::eval::robustness::{Change, Score};
use crate::models::backbone::Cost;
use crate::models::grid::Network;
use crate::plot;
use crate::shown::shown;

/// On the variants of the backgrounds challenge.
#[derive(Default)]
pub(super) struct Backgrounds {
    /// Accuracy by variant.
    pub variants: BTreeMap<String, f64>,
    /// Share of the objects that some background hides.
    pub vulnerable: Option<f64>,
}

impl Backgrounds {
    /// What the background of the own class brings before a random one.
    fn gap(&self) -> Option<f64> {
        Some(self.variants.get("mixed_same")? - self.variants.get("mixed_rand")?)
    }
}

/// Of one network with its classifier.
struct Found {
    family: String,
    /// By itself where there is one family.
    name: String,
    network: Network,
    cost: Cost,
    kinds: Vec<Kind>,
    scores: Vec<(Change, Score)>,
    backgrounds: Backgrounds,
}

/// Of all of them.
#[derive(Default)]
pub(super) struct Outcome(Vec<Found>);

/// A point of a curve: its mark, what the change is called, and the score.
type Point = (f64, String, Score);

impl Found {
    fn curve(&self, kind: Kind) -> Vec<Point> {
        let point = |(change, score): &(Change, Score)| match (kind, change) {
            (Kind::Random, Change::Random(r))
            | (Kind::Salient, Change::Salient(r))
            | (Kind::NonSalient, Change::NonSalient(r)) => Some((score.covered, r.to_string(), *score)),
            (Kind::Shuffle, Change::Shuffle([r, c])) => {
                Some((((r * c) as f64).log2(), format!("{r}x{c}"), *score))
            }
            _ => None,
        };
        self.scores.iter().filter_map(point).collect()
    }

    fn clean(&self) -> Option<f64> {
        self.scores.iter().find(|(change, _)| *change == Change::Clean).map(|(_, score)| score.top1)
    }
}

impl Outcome {
    /// Takes in what a family's networks made of changes and backgrounds.
    pub(super) fn add(
        &mut self,
        family: &Family,
        (kinds, changes): (&[Kind], &[Change]),
        scores: Vec<Vec<Score>>,
        backgrounds: Vec<Backgrounds>,
    ) {
        let mut backgrounds = backgrounds.into_iter();
        for (network, scores) in family.networks.iter().zip(scores) {
            self.0.push(Found {
                family: family.name.clone(),
                name: network.to_string(),
                network: *network,
                cost: family.encoder().backbone.cost(*network),
                kinds: kinds.to_vec(),
                scores: changes.iter().copied().zip(scores).collect(),
                backgrounds: backgrounds.next().unwrap_or_default(),
            });
        }
        let several = self.0.iter().any(|found| found.family != self.0[0].family);
        for found in self.0.iter_mut().filter(|_| several) {
            found.name = format!("{} {}", last_names(&found.family), found.network);
        }
    }

    fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = Vec::new();
        self.0.iter().flat_map(|found| &found.kinds).for_each(|kind| {
            if !kinds.contains(kind) {
                kinds.push(*kind);
            }
        });
        kinds
    }

    /// Tables to read.
    pub(super) fn tell(&self) {
        let wide = self.0.iter().map(|found| found.name.chars().count()).max().unwrap_or(0).max(10);
        for kind in self.kinds() {
            let curves =
                || self.0.iter().map(|found| (found, found.curve(kind))).filter(|(_, c)| !c.is_empty());
            let Some((_, first)) = curves().next() else { continue };
            let heads: Vec<String> = first.iter().map(|(_, head, _)| head.clone()).collect();
            let what = if kind == Kind::Shuffle { "pieces" } else { "share that is covered" };
            say!("\n{} ({what})", kind.name());
            say!("{:<wide$} {:>8}{}", "network", "clean", columns(&heads));
            for (found, curve) in curves() {
                let cells: Vec<String> = curve.iter().map(|(.., score)| percent(score.top1)).collect();
                let clean = found.clean().map(percent).unwrap_or_default();
                say!("{:<wide$} {clean:>8}{}", found.name, columns(&cells));
                if kind.by_attention() {
                    let cells: Vec<String> = curve.iter().map(|(.., score)| percent(score.covered)).collect();
                    say!("{:<wide$} {:>8}{}", "  cells", "", columns(&cells));
                }
            }
        }
        if self.0.iter().all(|found| found.backgrounds.variants.is_empty()) {
            return;
        }
        say!("\nbackgrounds");
        for found in &self.0 {
            for (variant, top1) in &found.backgrounds.variants {
                say!("{:<wide$} {variant:<20} {:>8}", found.name, percent(*top1));
            }
            if let Some(gap) = found.backgrounds.gap() {
                say!("{:<wide$} {:<20} {:>8}", found.name, "BG-Gap", percent(gap));
            }
            if let Some(share) = found.backgrounds.vulnerable {
                say!("{:<wide$} {:<20} {:>8}", found.name, "vulnerable objects", percent(share));
            }
        }
    }

    /// `robustness.csv`, `robustness.json`, and a picture a kind, with a curve for every network.
    pub(super) fn write(
        &self,
        out: &Path,
        args: &RobustnessArgs,
        tested: &[Option<LabelledImages>],
    ) -> Result<()> {
        let mut table =
            vec!["subject,network,width,depth,parameters,flops,kind,change,covered,top1".to_string()];
        let mut results = Vec::new();
        for found in &self.0 {
            let family = format!("\"{}\"", found.family.replace('"', "\"\""));
            let mut line = |kind: &str, change: &str, covered: f64, top1: f64| {
                let identity = identity(found.network, found.cost);
                table.push(format!("{family},{identity},{kind},{change},{covered},{top1}"));
            };
            let mut more = json!({ "subject": found.family });
            if let Some(clean) = found.clean() {
                line("clean", "", 0.0, clean);
                more["clean"] = json!(clean);
            }
            for kind in &found.kinds {
                let curve = found.curve(*kind);
                curve.iter().for_each(|(_, head, score)| line(kind.name(), head, score.covered, score.top1));
                let entry = |(_, head, score): &Point| match kind {
                    Kind::Shuffle => json!({ "pieces": head, "top1": score.top1 }),
                    _ => json!({
                        "ratio": head.parse::<f64>().unwrap_or(f64::NAN), "covered": score.covered, "top1": score.top1
                    }),
                };
                if !curve.is_empty() {
                    more[kind.name()] = curve.iter().map(entry).collect();
                }
            }
            let b = &found.backgrounds;
            b.variants.iter().for_each(|(variant, top1)| line("backgrounds", variant, 0.0, *top1));
            if !b.variants.is_empty() {
                more["backgrounds"] =
                    json!({ "top1": b.variants, "bg_gap": b.gap(), "vulnerable": b.vulnerable });
            }
            results.push(described(found.network, found.cost, more));
        }
        write(out, "robustness", &table, about(args, tested), results)?;
        for kind in self.kinds() {
            self.draw(kind, out)?;
        }
        say!("\nresults: {}", shown(out));
        Ok(())
    }

    fn draw(&self, kind: Kind, out: &Path) -> Result<()> {
        let points = |found: &Found| -> Vec<(f64, f64)> {
            let along = |x: f64| if kind == Kind::Shuffle { x } else { 100.0 * x };
            found.curve(kind).iter().map(|(x, _, score)| (along(*x), 100.0 * score.top1)).collect()
        };
        let series: Vec<(&str, Vec<(f64, f64)>)> = self
            .0
            .iter()
            .map(|found| (found.name.as_str(), points(found)))
            .filter(|(_, p)| !p.is_empty())
            .collect();
        if series.is_empty() {
            return Ok(());
        }
        let (title, x) = match kind {
            Kind::Random => ("random cells covered", "cells covered (%)"),
            Kind::Salient => ("salient cells covered", "cells covered (%)"),
            Kind::NonSalient => ("non-salient cells covered", "cells covered (%)"),
            Kind::Shuffle => ("shuffled pieces", "log2 of the number of pieces"),
        };
        plot::lines(&series, title, x, "top-1 (%)", &out.join(format!("robustness-{}", kind.name())))
    }
}

/// The last two names of a path: a run, or a run's folder.
fn last_names(path: &str) -> String {
    let names: Vec<&str> = path.split(['/', '\\']).filter(|name| !name.is_empty()).collect();
    names[names.len().saturating_sub(2)..].join("/")
}

/// What the results are of.
fn about(args: &RobustnessArgs, tested: &[Option<LabelledImages>]) -> Value {
    let mut about = json!({
        "evaluation": "robustness", "seed": args.seed, "shared_by": args.shared_by, "grid": args.grid,
        "offset": args.offset, "salience_head": args.salience_head, "salience_of": args.salience_of,
        "backgrounds": args.backgrounds,
    });
    if args.checkpoint.is_some() {
        about["classifier"] = json!(args.classifier);
        about["train"] = json!(args.train);
    }
    if let Some(images) = tested.iter().flatten().next() {
        about["data"] = json!({
            "source": images.describe(), "images": images.len(), "without_label": images.unlabelled(),
            "classes": images.present().len(),
        });
        about["size"] = json!(images.size());
    }
    about
}
