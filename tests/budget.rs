//! Networks for a budget: `extract --fits` and `eval pareto`.

#[path = "support/program.rs"]
mod support;

use std::fs;
use std::sync::OnceLock;

use serde_json::Value;
use support::{Folder, printed, program, refused, text};

/// A short run that all tests share: eight networks.
fn run() -> &'static str {
    static RUN: OnceLock<(Folder, String)> = OnceLock::new();
    let (_, run) = RUN.get_or_init(|| {
        let folder = Folder::new("budget");
        let run = folder.path("run");
        printed(&[
            "train",
            "--out",
            &run,
            "--device=cpu",
            "--steps=4",
            "train.batch_size_per_gpu=4",
            "evaluation.train_images=60",
            "evaluation.val_images=30",
            "data.spec=shapes:600",
        ]);
        (folder, run)
    });
    run
}

const NETWORKS: [&str; 8] = ["48x2", "48x3", "64x2", "64x3", "80x2", "80x3", "96x2", "96x3"];

/// Accuracies that fall with the size but for one, so that size does not tell who is best.
fn sweep(folder: &Folder) -> String {
    let path = folder.path("sweep.csv");
    let lines = NETWORKS.iter().enumerate().map(|(i, n)| match i {
        5 => format!("{n},0.2,0.95\n"),
        _ => format!("{n},{},{}\n", 0.1 + i as f64 / 100.0, 0.9 - i as f64 / 100.0),
    });
    fs::write(&path, format!("network,k=10,k=20\n{}", lines.collect::<String>())).unwrap();
    path
}

/// The rows of a table by the names of its columns.
fn table(path: &str) -> Vec<std::collections::HashMap<String, String>> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    reader.deserialize().map(|row| row.unwrap()).collect()
}

fn network_in(dir: &str) -> String {
    let config: Value = serde_json::from_slice(&fs::read(format!("{dir}/config.json")).unwrap()).unwrap();
    config["poa_network"].as_str().unwrap().to_string()
}

#[test]
fn the_most_accurate_network_within_counted_limits_is_taken() {
    let folder = Folder::new("budget-counted");
    let (sweep, out) = (sweep(&folder), folder.path("net"));
    let fits = |limits: &[&str]| {
        let args = [
            &["extract", "--checkpoint", run(), "--device=cpu", "--sweep", &sweep, "--out", &out, "--fits"],
            limits,
        ];
        printed(&args.concat());
        network_in(&out)
    };
    // all fit: the best of all
    assert_eq!(fits(&["1M"]), "80x3");
    // 80x3 has 251,040 parameters: of those below the smallest is best
    assert_eq!(fits(&["251k"]), "48x2");
    assert_eq!(fits(&["251.04k"]), "80x3");
    assert_eq!(fits(&["1M", "0.0086gflops"]), "48x2");
    assert_eq!(fits(&["1M,0.0087gflops,1GiB"]), "80x3");
    // another column, by which the largest of those below 80x3 is best
    let args =
        ["extract", "--checkpoint", run(), "--device=cpu", "--sweep", &sweep, "--by", "k=10", "--out", &out];
    printed(&[&args[..], &["--fits", "251k"]].concat());
    assert_eq!(network_in(&out), "96x2");
}

#[test]
fn latencies_of_elsewhere_decide_and_fill_in_what_they_lack() {
    let folder = Folder::new("budget-elsewhere");
    let (sweep, out, phone) = (sweep(&folder), folder.path("net"), folder.path("phone.csv"));
    let args = [
        "extract",
        "--checkpoint",
        run(),
        "--device=cpu",
        "--sweep",
        &sweep,
        "--latency",
        &phone,
        "--out",
        &out,
    ];
    let fits = |limit: &str| printed(&[&args[..], &["--fits", limit]].concat());
    // the best takes 9 ms there, the smallest is slow there
    fs::write(
        &phone,
        "model,us\n48x2,8000\n48x3,3000\n64x2,4000\n64x3,5000\n80x2,6000\n80x3,9000\n96x2,7000\n96x3,10000\n",
    )
    .unwrap();
    let said = fits("9ms");
    assert_eq!(network_in(&out), "80x3");
    assert!(said.contains("8 networks in ") && said.contains("9.00 ms measured"), "{said}");
    fits("6.5ms");
    assert_eq!(network_in(&out), "48x3");
    // of two networks nothing follows for the others
    fs::write(&phone, "network,latency_ms\n64x3,5\n96x3,8\n").unwrap();
    let said = fits("6ms");
    assert_eq!(network_in(&out), "64x3");
    assert!(said.contains("6 are not known"), "{said}");
    // of six, which follow their size, much does
    let parameters = |n: &str| {
        table(&pareto(&folder, &sweep)).into_iter().find(|r| r["network"] == n).unwrap()["flops"]
            .parse::<f64>()
            .unwrap()
    };
    let known =
        ["48x2", "48x3", "64x2", "80x2", "96x2", "96x3"].map(|n| format!("{n},{}\n", parameters(n) / 1e6));
    fs::write(&phone, format!("network,latency_ms\n{}", known.concat())).unwrap();
    let said = fits("8.8ms");
    assert_eq!(network_in(&out), "80x3", "{said}");
    assert!(said.contains("2 predicted, with an error of") && said.contains("ms predicted"), "{said}");
    for (content, problem) in [
        ("network,latency_ms\n47x2,5\n", "no sub-network `47x2`"),
        ("network,latency_ms\n48x2,5\n48x2,6\n", "line 3: 48x2 is there twice"),
        ("network,latency_ms\n48x2,fast\n", "line 2: `fast` is no latency"),
        ("network,latency_ms\n48x2,-1\n", "`-1` is no latency"),
        ("network,minutes\n48x2,1\n", "has to name the columns `network` and `latency_ms`"),
        ("network,latency_ms\n48x2,1,2,3\n", "cannot be read as a table"),
        ("network,latency_ms\n", "has no latency in it"),
        ("", "has to name the columns"),
    ] {
        fs::write(&phone, content).unwrap();
        refused(&[&args[..], &["--fits", "6ms"]].concat(), 1, &["phone.csv", problem]);
    }
    fs::remove_file(&phone).unwrap();
    refused(&[&args[..], &["--fits", "6ms"]].concat(), 1, &["phone.csv", "cannot be read"]);
}

/// Runs `eval pareto` and returns its table's path.
fn pareto(folder: &Folder, sweep: &str) -> String {
    let out = folder.path("pareto");
    let args = [
        "eval",
        "pareto",
        "--checkpoint",
        run(),
        "--network=all",
        "--device=cpu",
        "--sweep",
        sweep,
        "--out",
        &out,
    ];
    printed(&args);
    format!("{out}/pareto.csv")
}

#[test]
fn the_front_is_told_drawn_and_taken_again() {
    let folder = Folder::new("budget-front");
    let sweep = sweep(&folder);
    let path = pareto(&folder, &sweep);
    let rows = table(&path);
    assert_eq!(rows.iter().map(|r| r["network"].as_str()).collect::<Vec<_>>(), NETWORKS);
    for row in &rows {
        let ms: f64 = row["latency_ms"].parse().unwrap();
        let (memory, parameters): (u64, u64) =
            (row["memory"].parse().unwrap(), row["parameters"].parse().unwrap());
        assert!(ms > 0.0 && ms < 1000.0 && row["measured"] == "1", "{row:?}");
        // weights and more
        assert!(memory > 4 * parameters && memory < 100 << 20, "{row:?}");
    }
    // by construction the smallest and the best are all of it
    for front in ["front_parameters", "front_flops"] {
        let on: Vec<&str> = rows.iter().filter(|r| r[front] == "1").map(|r| r["network"].as_str()).collect();
        assert_eq!(on, ["48x2", "80x3"], "{front}");
    }
    for name in ["latency", "parameters", "flops"] {
        let dir = folder.path("pareto");
        let svg = fs::read_to_string(format!("{dir}/pareto-{name}.svg")).unwrap();
        assert!(svg.contains("80x3") && svg.contains("<svg") && !svg.contains("NaN"), "{name}");
        assert!(image::open(format!("{dir}/pareto-{name}.png")).is_ok(), "{name}");
    }
    let json: Value = serde_json::from_slice(&fs::read(folder.path("pareto/pareto.json")).unwrap()).unwrap();
    assert_eq!(
        (&json["evaluation"], &json["accuracy"], &json["images_a_pass"]),
        (&"pareto".into(), &"k=20".into(), &1.into())
    );
    // what it wrote is read again, as accuracies and as latencies
    let out = folder.path("net");
    let said = printed(&[
        "extract",
        "--checkpoint",
        run(),
        "--device=cpu",
        "--sweep",
        &path,
        "--latency",
        &path,
        "--fits",
        "10s",
        "--out",
        &out,
    ]);
    assert!(said.contains("80x3 fits 10000 ms: accuracy (k=20) 95.0%"), "{said}");
}

#[test]
fn a_run_finds_accuracies_itself_once() {
    let folder = Folder::new("budget-own");
    let (copy, out) = (folder.path("run"), folder.path("net"));
    // a copy, whose folder of sweeps no other test looks into
    let copied = std::process::Command::new("cp").args(["-r", run(), &copy]).status().unwrap();
    assert!(copied.success());
    let args = ["extract", "--checkpoint", &copy, "--device=cpu", "--fits", "100k", "--out", &out];
    let first = program(&args);
    let told = text(&first.stderr);
    assert!(
        first.status.success()
            && told.contains("k-NN of 8 sub-networks on the run's own images: 60 vote, 30 are"),
        "{told}"
    );
    let kept = folder.path("run/sweeps/step-00000004.csv");
    let rows = table(&kept);
    assert_eq!(rows.iter().map(|r| r["network"].as_str()).collect::<Vec<_>>(), NETWORKS);
    // what is kept is what `eval knn` finds on these images
    let again = program(&args);
    let told = text(&again.stderr);
    assert!(again.status.success() && told.contains("step-00000004.csv") && !told.contains("vote"), "{told}");
    assert_eq!(first.stdout, again.stdout);
}

#[test]
fn without_labels_the_way_to_accuracies_is_told() {
    let folder = Folder::new("budget-unlabelled");
    let (images, run, out) = (folder.path("images"), folder.path("run"), folder.path("net"));
    fs::create_dir(&images).unwrap();
    for i in 0..8 {
        image::RgbImage::from_pixel(32, 32, image::Rgb([i * 30, 90, 10]))
            .save(format!("{images}/{i}.png"))
            .unwrap();
    }
    let data = format!("data.spec=folder:{images}");
    printed(&["train", "--out", &run, "--device=cpu", "--steps=2", "train.batch_size_per_gpu=4", &data]);
    let args = ["extract", "--checkpoint", &run, "--device=cpu", "--out", &out, "--fits=251k"];
    refused(&args, 2, &["no labelled images", "eval knn --network all", "--by flops"]);
    // the one with the most operations of those that fit
    printed(&[&args[..], &["--by=flops"]].concat());
    assert_eq!(network_in(&out), "96x2");
}

#[test]
fn a_latency_is_measured_and_the_budget_kept() {
    let folder = Folder::new("budget-measured");
    let (sweep, out) = (sweep(&folder), folder.path("net"));
    let said = printed(&[
        "extract",
        "--checkpoint",
        run(),
        "--device=cpu",
        "--sweep",
        &sweep,
        "--fits",
        "10s",
        "--out",
        &out,
    ]);
    assert!(said.contains("8 networks measured on cpu"), "{said}");
    assert_eq!(network_in(&out), "80x3");
    // five are measured, the others predicted, and the best is measured before it is taken
    let said = printed(&[
        "extract",
        "--checkpoint",
        run(),
        "--device=cpu",
        "--sweep",
        &sweep,
        "--measure=5",
        "--fits",
        "10s",
        "--out",
        &out,
    ]);
    assert!(
        said.contains("5 networks measured on cpu") && said.contains("3 predicted, with an error of"),
        "{said}"
    );
    assert!(said.lines().any(|l| l.starts_with("80x3 fits") && l.contains("ms measured")), "{said}");
}

#[test]
fn budgets_that_nothing_fits_and_what_is_no_budget_are_refused() {
    let folder = Folder::new("budget-refused");
    let (sweep, out) = (sweep(&folder), folder.path("net"));
    let args = ["extract", "--checkpoint", run(), "--device=cpu", "--sweep", &sweep, "--out", &out];
    fn with<'a>(args: &[&'a str], limits: &[&'a str]) -> Vec<&'a str> {
        [args, &["--fits"], limits].concat()
    }
    let fits = |limits: &[&'static str]| with(&args, limits);
    refused(
        &fits(&["60k"]),
        2,
        &["no sub-network fits 0.060", "the nearest is 48x2 with", "0.0670M parameters"],
    );
    refused(
        &fits(&["1us"]),
        2,
        &["no sub-network fits 0.00100 ms", "the nearest is 48x2 with", "ms measured"],
    );
    refused(&fits(&["5parsecs"]), 2, &["--fits", "`parsecs`, which is not known", "5ms", "1.5GiB"]);
    refused(&fits(&["20m"]), 2, &["20M parameters"]);
    refused(&fits(&["5ms", "--per-pass=0"]), 2, &["--per-pass 0"]);
    refused(&fits(&["5ms", "--measure=2"]), 2, &["--measure 2 must be 5 or more"]);
    refused(
        &fits(&["5M", "--by=k=5"]),
        1,
        &["sweep.csv", "no accuracies called `k=5`; there are k=10, k=20"],
    );
    let both = program(&[&args[..], &["--fits=5M", "--network=48x2"]].concat());
    assert!(!both.status.success() && text(&both.stderr).contains("cannot be used with"));
    for (content, problem) in [
        ("network,k=20\n48x2,83\n", "line 2: `83` is no accuracy; give numbers of 0 to 1"),
        ("network,k=20\n48x2,0.5\n48x2,0.5\n", "is there twice"),
        ("name,top\n48x2,0.5\n", "is no table of accuracies"),
        ("network,k=20\n", "has no network in it"),
        ("network,k=20\nx,0.5\n", "no sub-network `x`"),
    ] {
        fs::write(&sweep, content).unwrap();
        refused(&fits(&["5M"]), 1, &["sweep.csv", problem]);
    }
}
