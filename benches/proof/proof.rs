//! What the proof needs of the program beside its commands: its generated images as files, for other trainers, and
//! curves over the seeds of several runs.
//!
//! ```text
//! cargo run --release --example proof -- images shapes:20000 DIR        DIR/train/CLASS/N.png, DIR/val/CLASS/N.png
//! cargo run --release --example proof -- batches RECIPE SPEC SEED                 what every step sees, as f32
//! cargo run --release --example proof -- network RECIPE smallest|middle|intact      its sizes, as 96x3
//! cargo run --release --example proof -- operations RECIPE [SETTING..]              of a step, the mean over its sub-networks
//! cargo run --release --example proof -- last knn.48x2.20 RUN RUN..                 mean and deviation of a run's last value
//! cargo run --release --example proof -- curves knn.96x3.20 STEM NAME=RUN,RUN.. NAME=RUN..
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use poa_gpu::data::batch::{GLOBAL, LOCAL};
use poa_gpu::data::{self, CropGroup, HeldOut, Loader, Reading, Source, split};
use poa_gpu::gpu::Caps;
use poa_gpu::poa::forecast::Rehearsal;
use poa_gpu::recipes::Config;
use poa_gpu::share::Share;
use poa_gpu::tensor::Device;
use poa_gpu::train::metrics::history;
use poa_gpu::{Error, Result, plot};

const USAGE: &str = "usage: proof images SPEC DIR | proof batches RECIPE SPEC SEED | proof network RECIPE NAME | proof operations RECIPE [SETTING..] | proof last KEY RUN.. | proof curves KEY STEM NAME=RUN,RUN.. [NAME=RUN..]..";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["images", spec, dir] => images(spec, Path::new(dir)),
        ["network", recipe, name] => network(recipe, name),
        ["operations", recipe, ref settings @ ..] => operations(recipe, settings),
        ["last", key, ref runs @ ..] if !runs.is_empty() => last(key, runs),
        ["batches", recipe, spec, seed] => batches(recipe, spec, seed),
        ["curves", key, stem, ref groups @ ..] if !groups.is_empty() => curves(key, Path::new(stem), groups),
        _ => Err(Error::Usage(USAGE.into())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the images of a source and those it holds out as PNG files.
fn images(spec: &str, dir: &Path) -> Result<()> {
    let source = data::open(spec, &Reading::default())?;
    let (train, val) = split(source, HeldOut { fraction: 0.1, at_most: 10_000 });
    write_images(&*train, &dir.join("train"))?;
    val.map_or(Ok(()), |val| write_images(&*val, &dir.join("val")))
}

fn write_images(source: &dyn Source, dir: &Path) -> Result<()> {
    for i in 0..source.len() {
        let image =
            source.load(i).map_err(|e| Error::file(source.name(i), format!("cannot be read: {e:?}")))?;
        let class = source.label(i).map_or("unlabelled", |label| &source.classes()[label as usize]);
        let path = dir.join(class).join(format!("{i:06}.png"));
        std::fs::create_dir_all(dir.join(class)).map_err(|e| Error::file(dir, e.to_string()))?;
        let pixels = image::RgbImage::from_raw(image.width(), image.height(), image.values().to_vec());
        let pixels = pixels
            .ok_or_else(|| Error::file(&path, "cannot be written: it has other than three channels"))?;
        plot::write_png(&path, &pixels)?;
    }
    println!("{}: {} images of {} classes", poa_gpu::shown::shown(dir), source.len(), source.classes().len());
    Ok(())
}

/// Writes what every step of a run sees to standard output, as little-endian f32: the global crops `[2·B, C, S, S]`, the
/// local ones, and the masks of the global ones, 1 where a patch is hidden.
fn batches(recipe: &str, spec: &str, seed: &str) -> Result<()> {
    let mut settings = Config::load(recipe, &[format!("train.seed={seed}")])?;
    settings.resolve(1)?;
    let source = data::open(spec, &Reading::default())?;
    let (train, _) = split(source, HeldOut { fraction: 0.1, at_most: 10_000 });
    let mut loader = Loader::new(train, settings.loader()?)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for _ in 0..settings.total_steps() {
        let batch = loader.next()?;
        let global = batch.group(GLOBAL)?;
        let local = batch.find(LOCAL).map_or(Cow::default(), CropGroup::normalised);
        let masks = global.masks.as_ref().map_or(&[][..], |masks| &masks.values);
        let masks: Vec<f32> = masks.iter().copied().map(f32::from).collect();
        for values in [&global.normalised(), &local, &masks[..]] {
            out.write_all(bytemuck::cast_slice(values))
                .map_err(|e| Error::file("standard output", e.to_string()))?;
        }
    }
    Ok(())
}

/// Prints the sizes of a sub-network of a recipe.
fn network(recipe: &str, name: &str) -> Result<()> {
    let config = Config::load(recipe, &[])?;
    let network = config.backbone()?.grid().named(name).map_err(Error::Usage)?;
    println!("{network}");
    Ok(())
}

/// Prints the floating-point operations of a training step, counted by rehearsing the steps of one cycle of sub-networks;
/// numbers of prototypes must be given.
fn operations(recipe: &str, settings: &[&str]) -> Result<()> {
    let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
    let mut config = Config::load(recipe, &settings)?;
    config.resolve(1)?;
    let caps = Caps { max_binding_bytes: 1 << 40, ..Caps::minimal() };
    let mut rehearsal = Rehearsal::of_share(&config, &Device::rehearsal(&caps), Share::ALL)?;
    rehearsal.tally();
    let steps = rehearsal.draws().cycle();
    for step in 0..steps {
        let network = rehearsal.draws().at(step);
        rehearsal.step(step, network)?;
    }
    println!("{:.6e}", rehearsal.tally().work.flops / steps as f64);
    Ok(())
}

/// Prints mean and standard deviation over runs of the last value of a key, in percent, and how many runs there are.
fn last(key: &str, runs: &[&str]) -> Result<()> {
    let mut values = Vec::new();
    for run in runs {
        let known = history(Path::new(run).join("metrics.jsonl"), key);
        let last = known.into_iter().rfind(|(_, name, _)| name == key);
        let (.., value) = last.ok_or_else(|| Error::file(*run, format!("has no value of {key}")))?;
        values.push(100.0 * value);
    }
    let (mean, deviation) = mean_and_deviation(&values);
    println!("{mean:.1} {deviation:.1} {}", values.len());
    Ok(())
}

/// Draws a value over the steps and over the processor's seconds, the mean of the runs of each group, and prints mean
/// and standard deviation at every step that all of a group have. Where a run's folder has a file `ended`, that holds the
/// seconds that the run took; they are taken to be spread evenly over its steps.
fn curves(key: &str, stem: &Path, groups: &[&str]) -> Result<()> {
    let (mut over_steps, mut over_seconds) = (Vec::new(), Vec::new());
    let mut text = String::new();
    for group in groups {
        let (name, runs) = group.split_once('=').ok_or_else(|| Error::Usage(USAGE.into()))?;
        let mut steps: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        let runs: Vec<&Path> = runs.split(',').map(Path::new).collect();
        let mut a_step = 0.0;
        for run in &runs {
            let metrics = run.join("metrics.jsonl");
            let found: Vec<_> =
                history(&metrics, key).into_iter().filter(|(_, name, _)| name == key).collect();
            let last = found.iter().map(|(step, ..)| *step).max();
            let last = last.ok_or_else(|| Error::file(&metrics, format!("has no `{key}`")))?;
            a_step += seconds(run).unwrap_or(f64::NAN) / (last.max(1) * runs.len()) as f64;
            found.into_iter().for_each(|(step, _, value)| steps.entry(step).or_default().push(value));
        }
        let (mut by_step, mut by_second) = (Vec::new(), Vec::new());
        for (step, values) in steps.iter().filter(|(_, values)| values.len() == runs.len()) {
            let (mean, deviation) = mean_and_deviation(values);
            let x = *step as f64;
            let _ = writeln!(
                text,
                "{name}\t{step}\t{:.0}\t{mean:.4}\t{deviation:.4}\t{}",
                x * a_step,
                values.len()
            );
            by_step.push((x, mean));
            by_second.push((x * a_step, mean));
        }
        over_steps.push((name.to_string(), by_step));
        over_seconds.push((name.to_string(), by_second));
    }
    print!("name\tstep\tseconds\tmean\tdeviation\truns\n{text}");
    let (title, value) = shown(key);
    plot::lines(&over_steps, &title, "step", value, stem)?;
    if over_seconds.iter().flat_map(|(_, points)| points).all(|(x, _)| x.is_finite()) {
        let mut stem = stem.as_os_str().to_owned();
        stem.push("-seconds");
        plot::lines(&over_seconds, &title, "processor's seconds", value, Path::new(&stem))?;
    }
    Ok(())
}

/// Mean and standard deviation of a sample.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let spread = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, spread.sqrt())
}

/// What a chart of a value is called, and what the value is.
fn shown(key: &str) -> (String, &str) {
    match key.split('.').collect::<Vec<_>>()[..] {
        ["knn", network, k] => (format!("k-NN of {network} (k = {k})"), "accuracy"),
        _ => (key.into(), key),
    }
}

/// The processor's seconds that a run took, as its file `ended` has them.
fn seconds(run: &Path) -> Option<f64> {
    std::fs::read_to_string(run.join("ended")).ok()?.trim().parse().ok()
}
