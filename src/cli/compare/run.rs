//! What a run has found in its evaluations, over the images it had seen by then.

use std::path::{Path, PathBuf};

use crate::cli::compare::work::Kind;
use crate::error::{Error, Result};
use crate::recipes::file;
use crate::shown::shown;
use crate::train::metrics::history;
use crate::train::run_folder::CONFIG;

/// What accuracies are logged under: `knn.NETWORK.K`, of fine-tuning `eval.top1` and `eval.top5`, of
/// segmentation `eval.miou`, `eval.macc` and `eval.aacc`.
const PREFIXES: [&str; 2] = ["knn.", "eval."];

/// A run that is compared.
pub(super) struct Compared {
    /// Its folder.
    pub dir: PathBuf,
    /// What it is called in tables and charts.
    pub name: String,
    pub kind: Kind,
    /// One for each name that its accuracies have.
    pub curves: Vec<Curve>,
    /// Floating-point operations for an image, or why they are not known.
    pub flops: Result<f64>,
}

/// Accuracies of one name.
pub(super) struct Curve {
    /// As `96x3, k = 20`, or `top-1`.
    pub metric: String,
    pub points: Vec<Point>,
}

/// An accuracy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// Steps done.
    pub step: usize,
    /// Images seen by then, each as often as it was.
    pub images: f64,
    /// 0..1
    pub accuracy: f64,
}

impl Compared {
    /// Reads a run's folder. What is no run, and one without an accuracy whose name holds one of `wanted` (all where that is
    /// empty), is an error.
    pub fn open(dir: &Path, wanted: &[String]) -> Result<Self> {
        let path = dir.join(CONFIG);
        if !path.is_file() {
            let problem = match dir.exists() {
                true => {
                    "holds no run: there is no config.toml in it; give the folder that `run:` names at a run's start"
                }
                false => "no such folder; give the folders of runs",
            };
            return Err(Error::file(dir, problem));
        }
        let kind = Kind::of(&file::read(&path)?, &path)?;
        let metrics = dir.join("metrics.jsonl");
        let seen = seen(&history(&metrics, "images"));
        let mut curves: Vec<Curve> = Vec::new();
        for (step, key, accuracy) in PREFIXES.iter().flat_map(|prefix| history(&metrics, prefix)) {
            let (metric, point) = (named(&key), Point { step, images: at(&seen, step), accuracy });
            match curves.iter_mut().find(|curve| curve.metric == metric) {
                Some(curve) => curve.points.push(point),
                None => curves.push(Curve { metric, points: vec![point] }),
            }
        }
        let all: Vec<String> = curves.iter().map(|curve| curve.metric.clone()).collect();
        if all.is_empty() {
            return Err(Error::file(
                &metrics,
                "has no accuracy: the run was not evaluated; section evaluation of its settings says when, and labels are needed",
            ));
        }
        curves.retain(|curve| {
            wanted.is_empty() || wanted.iter().any(|text| curve.metric.contains(text.as_str()))
        });
        if curves.is_empty() {
            return Err(Error::Usage(format!(
                "--metric {}: {} has none of that name, but {}",
                shown(&wanted.join(" ")),
                shown(dir),
                all.join("; ")
            )));
        }
        let name = dir.file_name().map_or_else(|| dir.to_string_lossy(), |name| name.to_string_lossy());
        let (name, flops) = (shown(&*name).into_owned(), kind.flops_per_image(dir));
        Ok(Self { dir: dir.to_path_buf(), name, kind, curves, flops })
    }

    /// Floating-point operations until a point.
    pub fn flops_until(&self, point: &Point) -> Option<f64> {
        self.flops.as_ref().ok().map(|each| each * point.images)
    }
}

/// What an accuracy's key says.
fn named(key: &str) -> String {
    match key {
        "eval.top1" => "top-1".into(),
        "eval.top5" => "top-5".into(),
        "eval.miou" => "mIoU".into(),
        "eval.macc" => "mean accuracy".into(),
        "eval.aacc" => "pixel accuracy".into(),
        _ => key.split_once('.').map_or(key, |(_, rest)| rest).replacen('.', ", k = ", 1),
    }
}

/// Images seen after so many steps, where that was logged: the line of a step has those after it.
fn seen(logged: &[(usize, String, f64)]) -> Vec<(f64, f64)> {
    let own = logged.iter().filter(|(_, key, _)| key == "images");
    std::iter::once((0.0, 0.0)).chain(own.map(|(step, _, images)| (*step as f64 + 1.0, *images))).collect()
}

/// Images seen after `step` steps: between two that were logged, and beyond the last, in proportion.
fn at(seen: &[(f64, f64)], step: usize) -> f64 {
    let step = step as f64;
    let after = seen.partition_point(|(logged, _)| *logged < step).clamp(1, seen.len().max(2) - 1);
    match (seen.get(after - 1), seen.get(after)) {
        (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (step - a.0) / (b.0 - a.0),
        (Some(only), None) => only.1,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_lie_between_those_that_were_logged() {
        let logged = [(9, "images".to_string(), 80.0), (19, "images".to_string(), 240.0)];
        let seen = seen(&logged);
        let all: Vec<f64> = [0, 5, 10, 15, 20, 30].map(|step| at(&seen, step)).to_vec();
        assert_eq!(all, [0.0, 40.0, 80.0, 160.0, 240.0, 400.0]);
        assert_eq!(at(&[(0.0, 0.0)], 7), 0.0);
    }

    #[test]
    fn keys_say_what_they_are() {
        assert_eq!(named("knn.64x3-4-6-3.20"), "64x3-4-6-3, k = 20");
        assert_eq!(named("eval.top1"), "top-1");
    }
}
