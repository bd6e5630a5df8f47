//! Runs beside each other: accuracies of every kind of run over the images it has seen and over what it computed, and what is
//! said of folders that cannot be compared.

#[path = "support/program.rs"]
mod support;

use std::path::Path;

use poa_gpu::recipes::Config;
use support::{Folder, SMALL, printed, program, refused, text};

#[track_caller]
fn done(args: &[&str]) {
    let out = program(args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
}

/// A run of pre-training with so many images a step.
fn pretrained(folder: &Folder, name: &str, batch: usize, more: &[&str]) -> String {
    let out = folder.path(name);
    let batch = format!("train.batch_size_per_gpu={batch}");
    let mut args =
        vec!["-q", "train", "--device=cpu", "--steps=4", "--out", &out, "data.spec=shapes:40", &batch];
    args.extend([
        "evaluation.train_images=30",
        "evaluation.val_images=20",
        "evaluation.k=[5]",
        "train.log_every=1",
    ]);
    args.extend(["evaluation.eval_period_iterations=2"]);
    args.extend(SMALL);
    args.extend(more);
    done(&args);
    out
}

/// Rows of the CSV: run, kind, accuracy of, step, images, operations, accuracy.
fn rows(out: &str) -> Vec<(String, String, String, [f64; 4])> {
    let table = std::fs::read_to_string(Path::new(out).join("comparison.csv")).unwrap();
    let mut lines = table.lines();
    assert_eq!(lines.next(), Some("run,kind,accuracy_of,step,images,flops,accuracy"));
    lines
        .map(|line| {
            let parts: Vec<&str> = line.split('"').collect();
            let numbers: Vec<f64> =
                parts[4].split(',').skip(1).map(|n| n.parse().unwrap_or(f64::NAN)).collect();
            let kind = parts[2].trim_matches(',').to_string();
            (parts[1].into(), kind, parts[3].into(), numbers.try_into().unwrap())
        })
        .collect()
}

#[test]
fn runs_of_every_kind_lie_side_by_side() {
    let folder = Folder::new("compare-kinds");
    let first = pretrained(&folder, "first", 4, &[]);
    let alone = pretrained(&folder, "alone", 8, &["dino.branches=alone"]);
    let [tuned, student] = ["tuned", "student"].map(|name| folder.path(name));
    let short = ["--device=cpu", "--steps=3", "train.batch_size_per_gpu=8", "train.log_every=2"];
    done(&[&["-q", "finetune", "--init", &first, "--train=shapes:40", "--out", &tuned][..], &short].concat());
    let maps = folder.path("maps");
    done(&[&["-q", "segment", "--init", &first, "--train=shapes:16", "--out", &maps][..], &short].concat());
    let more =
        ["distill.queue=50", "evaluation.train_images=30", "evaluation.val_images=20", "evaluation.k=[5]"];
    done(
        &[&["-q", "distill", "--teacher", &first, "--data=shapes:40", "--out", &student][..], &short, &more]
            .concat(),
    );
    let out = folder.path("results");
    let shown = printed(&["compare", &first, &alone, &tuned, &student, &maps, "--out", &out]);
    for words in ["pre-training", "fine-tuning", "distillation", "32x3, k = 5", "16x1, k = 5", "top-1"] {
        assert!(shown.contains(words), "`{words}` is not in: {shown}");
    }
    let rows = rows(&out);
    let of = |run: &str, metric: &str| -> Vec<[f64; 4]> {
        rows.iter().filter(|row| row.0 == run && row.2 == metric).map(|row| row.3).collect()
    };
    // before the first step, after two and after four
    let found = of("first", "32x3, k = 5");
    assert_eq!(
        found.iter().map(|row| [row[0], row[1]]).collect::<Vec<_>>(),
        [[0.0, 0.0], [2.0, 8.0], [4.0, 16.0]]
    );
    let metrics = std::fs::read_to_string(Path::new(&first).join("metrics.jsonl")).unwrap();
    let last = metrics
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["knn.32x3.5"].as_f64());
    assert_eq!(Some(found[2][3]), last, "the accuracy is that of the log");
    assert_eq!(of("student", "16x1, k = 5").last().unwrap()[1], 24.0);
    assert_eq!(of("tuned", "top-1").last().unwrap()[1], 24.0);
    let segmented = rows.iter().rfind(|row| row.0 == "maps").unwrap();
    assert!(segmented.1 == "segmentation" && segmented.3[1] == 24.0 && segmented.3[2] > 0.0, "{segmented:?}");
    // operations grow with the images, and an image costs most where two students learn from a teacher with many crops
    let each = |run: &str, metric: &str| {
        let all = of(run, metric);
        let last = all[all.len() - 1];
        assert_eq!(all[0][2], 0.0, "{run}");
        last[2] / last[1]
    };
    let (poa, single) = (each("first", "32x3, k = 5"), each("alone", "32x3, k = 5"));
    let (distil, tune) = (each("student", "16x1, k = 5"), each("tuned", "top-1"));
    assert!(poa > 1.1 * single && single > tune && poa > 3.0 * distil, "{poa} {single} {tune} {distil}");
    // forward and backward are three forward passes; of the last block the class token alone is computed, and nothing below
    // the patches has a gradient
    let config = std::fs::read_to_string(Path::new(&first).join("config.toml")).unwrap();
    let backbone = Config::from_stored(&config, first.as_ref()).unwrap().backbone().unwrap();
    let forward = backbone.cost(backbone.grid().intact()).flops as f64;
    assert!((2.0..3.2).contains(&(tune / forward)), "{tune} and {forward}");
    for picture in ["accuracy-images.png", "accuracy-images.svg", "accuracy-flops.png", "accuracy-flops.svg"]
    {
        assert!(Path::new(&out).join(picture).is_file(), "{picture}");
    }
    // without its teacher a distillation's operations are not known, and all else is shown
    std::fs::rename(&first, folder.path("gone")).unwrap();
    let args = ["compare", &student, &tuned, "--metric=k = 5", "--metric=top-1"];
    let all = program(&args);
    assert!(all.status.success());
    assert!(text(&all.stderr).contains("operations are not known"), "{}", text(&all.stderr));
    assert!(
        text(&all.stdout).contains("16x1") && !text(&all.stdout).contains("top-5"),
        "{}",
        text(&all.stdout)
    );
}

#[test]
fn what_cannot_be_compared_is_named() {
    let folder = Folder::new("compare-refused");
    let run = pretrained(&folder, "run", 4, &[]);
    let empty = folder.path("empty");
    std::fs::create_dir_all(&empty).unwrap();
    refused(&["compare", &run, &empty], 1, &["empty", "holds no run"]);
    refused(&["compare", &folder.path("nowhere")], 1, &["nowhere", "no such folder"]);
    refused(&["compare", &run, &format!("{run}/.")], 2, &["named twice"]);
    refused(&["compare", &run, "--metric=99x9"], 2, &["99x9", "32x3, k = 5"]);
    let dark = pretrained(&folder, "dark", 4, &["data.held_out=0.5"]);
    let metrics = Path::new(&dark).join("metrics.jsonl");
    let kept: Vec<String> = std::fs::read_to_string(&metrics)
        .unwrap()
        .lines()
        .filter(|line| !line.contains("knn."))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(&metrics, kept.concat()).unwrap();
    refused(&["compare", &run, &dark], 1, &["dark", "has no accuracy"]);
}
