//! Names that would do something to a terminal or a log: of files, folders, classes, tensors, keys, recipes, runs.
//! Whatever they are, what is printed and logged is plain text, and a line each.
#![cfg(unix)]

#[path = "support/program.rs"]
mod support;

use std::collections::HashMap;
use std::path::Path;

use support::{Folder, program, text};

/// Clears the screen, forges a line, deletes, turns round, and a control character of 8 bits.
const NAME: &str = "a\u{1b}[2J\nWARN forged\u{7f}\u{202e}gpj\u{9b}31m\r";
/// The same as it is shown.
const SHOWN: &str = r"a\u001b[2J\nWARN forged\u007f\u202egpj\u009b31m\r";

/// Two steps of a small network.
const TRAIN: [&str; 9] = [
    "train",
    "--device=cpu",
    "--steps=2",
    "train.batch_size_per_gpu=4",
    "train.log_every=1",
    "evaluation.train_images=20",
    "evaluation.val_images=10",
    "dino.head_n_prototypes=[16, 24]",
    "-v",
];

/// Plain text, whose lines the name has not forged.
#[track_caller]
fn plain(what: &str, said: &str) {
    let harmful = |c: char| {
        c.is_control() && !matches!(c, '\n' | '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!said.contains(harmful), "{what}: {said:?}");
    assert!(
        !said.lines().any(|line| line.contains("WARN forged") && !line.contains("[2J")),
        "{what}: {said:?}"
    );
}

/// What the program says, all of it plain; `texts` are in it.
#[track_caller]
fn says(args: &[&str], status: i32, texts: &[&str]) -> String {
    let out = program(args);
    let said = text(&out.stdout) + &text(&out.stderr);
    assert_eq!(out.status.code(), Some(status), "{args:?}: {said}");
    plain(&format!("{args:?}"), &said);
    for t in texts {
        assert!(said.contains(t), "{args:?}: `{t}` is not in: {said}");
    }
    said
}

#[test]
fn files_classes_and_runs() {
    let folder = Folder::new("names");
    let images = folder.0.join("images");
    for (class, shade) in [(format!("cats{NAME}"), 40), (format!("dogs{NAME}"), 200)] {
        std::fs::create_dir_all(images.join(&class)).unwrap();
        for i in 0..20 {
            let image = image::RgbImage::from_pixel(40, 40, image::Rgb([shade, i, 7 * i]));
            let path = images.join(&class).join(format!("{i}{NAME}.png"));
            match i % 3 {
                0 => std::fs::write(path, b"no image").unwrap(),
                _ => image.save(path).unwrap(),
            }
        }
    }
    let run = folder.path(&format!("run{NAME}"));
    let data = format!("folder:{}", images.display());
    let recipe = folder.path(&format!("recipe{NAME}.toml"));
    std::fs::write(&recipe, program(&["config", "demo"]).stdout).unwrap();
    let more =
        ["--config", &recipe, "--data", &data, "--out", &run, "data.max_bad_fraction=0.9", "optim.lr=0"];
    says(&[&TRAIN[..], &more].concat(), 0, &["run", SHOWN, "unusable"]);
    let read = |name: &str| std::fs::read_to_string(Path::new(&run).join(name)).unwrap();
    let bad = read("bad_samples.txt");
    plain("bad_samples.txt", &bad);
    assert!(
        !bad.is_empty() && bad.lines().all(|line| line.split('\t').count() == 3 && line.contains(SHOWN)),
        "{bad}"
    );
    let log = read("train.log");
    plain("train.log", &log);
    let dated = |line: &str| line.starts_with("20") && line.contains("Z  ");
    assert!(log.lines().all(dated), "{log}");

    // what becomes of the run
    let (net, features, out) =
        (folder.path(&format!("net{NAME}")), folder.path("f.safetensors"), folder.path("out"));
    says(&["eval", "knn", "--checkpoint", &run, "--train", &data, "--k", "3", "--out", &out], 0, &[SHOWN]);
    says(&["extract", "--checkpoint", &run, "--network", "smallest", "--out", &net], 0, &[SHOWN]);
    says(
        &["features", "--checkpoint", &run, "--data", &data, "--device=cpu", "--out", &features],
        0,
        &["cannot be used", SHOWN],
    );
    let file = std::fs::read(&features).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let names = text(tensors.tensor("names").unwrap().data());
    assert_eq!(names.lines().count(), 40);
    plain("names", &names);
    let (_, header) = safetensors::SafeTensors::read_metadata(&file).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["classes"].lines().count(), 2);
}

#[test]
fn tensors_keys_and_arguments() {
    let folder = Folder::new("other-names");
    // a foreign file, whose tensors fit by name or not at all
    let file = folder.path(&format!("weights{NAME}.safetensors"));
    let bytes = [0; 16];
    let view = || safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![4], &bytes).unwrap();
    let write = |tensors: &[&str]| {
        let tensors: HashMap<String, _> = tensors.iter().map(|name| (name.to_string(), view())).collect();
        safetensors::serialize_to_file(&tensors, None, Path::new(&file)).unwrap();
    };
    let run = folder.path("run");
    let init = [&TRAIN[..], &["--data=shapes:40", "--out", &run, "--init", &file]].concat();
    write(&[NAME]);
    let said = text(&program(&init).stderr);
    plain("weights", &said);
    assert!(said.contains(SHOWN), "{said}");

    // a recipe's sections, keys and values
    let recipe = folder.path(&format!("recipe{NAME}.toml"));
    let quoted = |text: &str| toml::Value::String(text.into()).to_string();
    let name = r#""a\u001b[2J\nWARN forged\u007f\u202egpj\u009b31m\r""#;
    assert_eq!(quoted(NAME).parse::<toml::Value>().unwrap(), name.parse::<toml::Value>().unwrap());
    let body = format!("[{name}]\nx = 1\n[optim]\n{name} = 1\nscaling_rule = {name}\nepochs = {name}\n");
    std::fs::write(&recipe, body).unwrap();
    let said = says(&["config", "--check", &recipe], 2, &[SHOWN, "4 settings are wrong"]);
    assert_eq!(said.lines().count(), 5, "{said}");
    std::fs::write(&recipe, format!("a = \u{1b}[2J\n[{name}\n")).unwrap();
    says(&["config", "--check", &recipe], 1, &["is not TOML: line 1", SHOWN]);

    // arguments
    for args in [
        &["config", "--check", NAME][..],
        &["config", NAME],
        &["config", "demo", NAME],
        &["train", "--data", NAME],
        &["train", "--device", NAME],
        &["train", "--resume", "--out", NAME, "--steps", NAME],
        &["bench", "--device=cpu", NAME],
        &["completions", NAME],
        &[NAME],
        &["train", &format!("--{NAME}")],
        &["extract", "--format", NAME],
    ] {
        let out = program(args);
        let said = text(&out.stdout) + &text(&out.stderr);
        plain(&format!("{args:?}"), &said);
        assert!(!out.status.success() && said.contains("WARN forged"), "{args:?}: {said}");
    }
}
