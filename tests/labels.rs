//! Labels of all kinds of data sets on the command line: which classes are joined, what is evaluated where there
//! are few images, few classes or few labels, and what is said of it.

#[path = "support/program.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

use poa_gpu::data::{Image, Reading, Source, open};
use support::{Folder, printed, program, refused, text};

const QUICK: [&str; 4] =
    ["--device=cpu", "--steps=2", "train.batch_size_per_gpu=4", "evaluation.eval_period_iterations=0"];

/// A short run that all tests share.
fn run() -> &'static str {
    static RUN: OnceLock<(Folder, String)> = OnceLock::new();
    &RUN.get_or_init(|| {
        let folder = Folder::new("labels-run");
        let dir = folder.path("run");
        let few = ["evaluation.train_images=20", "evaluation.val_images=10"];
        printed(&[&["train", "--out", &dir], &QUICK[..], &few].concat());
        (folder, dir)
    })
    .1
}

fn shapes() -> std::sync::Arc<dyn Source> {
    open("shapes:400", &Reading::default()).unwrap()
}

/// Saves pictures of `shapes` under these names.
fn pictures(folder: &Folder, names: &[&str]) {
    let source = shapes();
    for (i, name) in names.iter().enumerate() {
        let path = folder.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let picture: Image = source.load(i).unwrap();
        let (width, height) = picture.dimensions();
        image::RgbImage::from_raw(width, height, picture.values().to_vec()).unwrap().save(path).unwrap();
    }
}

fn eval(kind: &str, train: &str, val: &str, more: &[&str]) -> Output {
    let all = ["eval", kind, "--device=cpu", "--checkpoint", run(), "--train", train, "--val", val];
    program(&[&all, more].concat())
}

fn train(out: &str, data: &str, more: &[&str]) -> Output {
    program(&[&["train", "--out", out, "--data", data], &QUICK[..], more].concat())
}

/// Everything that a successful call says.
#[track_caller]
fn said(out: &Output) -> String {
    let all = text(&out.stdout) + &text(&out.stderr);
    assert!(out.status.success() && !all.contains("panicked") && !all.contains("NaN"), "{all}");
    all
}

#[track_caller]
fn fails(out: &Output, status: i32, words: &[&str]) {
    let error = text(&out.stderr);
    assert_eq!(out.status.code(), Some(status), "{error}");
    assert!(words.iter().all(|words| error.contains(words)), "{words:?} in {error}");
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn eval_joins_classes_by_name() {
    let folder = Folder::new("labels-join");
    pictures(&folder, &["a/cat/0.png", "a/bee/1.png", "a/dog/2.png", "a/dog/3.png", "a/0.png"]);
    pictures(
        &folder,
        &["b/dog/0.png", "b/cat/1.png", "c/cat/0.png", "d/cat/1.png", "d/eel/2.png", "d/fox/1.png"],
    );
    let spec = |name: &str| format!("folder:{}", folder.path(name));
    let (a, out) = (spec("a"), folder.path("results"));
    for kind in ["knn", "linear"] {
        let short = ["--epochs=1", "--epoch-iterations=2", "--batch=16"];
        let own: &[&str] = if kind == "knn" { &["--k=1,7"] } else { &short };
        let shown = said(&eval(kind, &a, &spec("b"), &[own, &["--out", &out]].concat()));
        for words in ["4 images (1 without a label are left out), 3 classes", "2 images, 2 of 3 classes"] {
            assert!(shown.contains(words), "{shown}");
        }
        assert_eq!(
            shown.contains("--k 7 is more than the 4 images that vote: it counts as 4"),
            kind == "knn"
        );
        let json = std::fs::read_to_string(Path::new(&out).join(format!("{kind}.json"))).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["classes"], serde_json::json!(["bee", "cat", "dog"]));
        assert_eq!((&json["train"]["images"], &json["train"]["without_label"]), (&4.into(), &1.into()));
        assert_eq!((&json["val"]["images"], &json["val"]["classes"]), (&2.into(), &2.into()));
        // one image, of one class
        said(&eval(kind, &a, &spec("c"), own));
        fails(
            &eval(kind, &a, &spec("d"), own),
            1,
            &["2 of its 3 classes", "`eel`, `fox`; there they are `bee`"],
        );
        fails(&eval(kind, &spec("c"), &a, own), 1, &["one class alone"]);
        let alone = |train: &str| {
            let all = ["eval", kind, "--device=cpu", "--checkpoint", run(), "--train", train];
            program(&[&all, own].concat())
        };
        fails(&alone(&spec("c")), 1, &["has one class alone, `cat`; give images of two or more"]);
        fails(&alone(&spec("c/cat")), 1, &["has no labels to evaluate with"]);
        fails(&alone(&spec("b")), 1, &["too few labelled images to hold a tenth of them out; give --val"]);
        fails(&eval(kind, &spec("c/cat"), &a, own), 1, &["no labels"]);
    }
    // a class that is to be found and was not picked
    let shown = said(&eval("knn", &a, &spec("b"), &["--k=1", "--train-images=1"]));
    assert!(shown.contains("have no image to learn from among the 1 that were picked"), "{shown}");

    // names and numbers in lists; the classes of a set that is built in
    let list = |name: &str, text: &str| {
        std::fs::write(folder.path(name), text).unwrap();
        format!("list:{}", folder.path(name))
    };
    let numbers = list("numbers.txt", "a/cat/0.png 3\na/bee/1.png 07\na/dog/2.png 10\n");
    let others = list("others.csv", "label,path\n7,b/dog/0.png\n10,b/cat/1.png\n,c/cat/0.png\n");
    let shown = said(&eval("knn", &numbers, &others, &["--k=1"]));
    assert!(shown.contains("1 of 3 images have no label (line 4)"), "{shown}");
    let names = list("names.txt", "a/cat/0.png cat\na/bee/1.png bee\n");
    fails(&eval("knn", &numbers, &names, &["--k=1"]), 1, &["`bee`, `cat`; there they are `3`, `7`, `10`"]);
    let known = shapes();
    let few = list("shapes.txt", &format!("a/cat/0.png {}\n", known.classes()[4]));
    let shown = said(&eval("knn", "shapes:100", &few, &["--k=1"]));
    assert!(shown.contains("1 images, 1 of 10 classes"), "{shown}");
}

#[test]
fn few_images_classes_or_labels_are_said_and_train() {
    let folder = Folder::new("labels-few");
    pictures(&folder, &["one/0.png", "class/cat/0.png", "class/cat/1.png", "two/cat/0.png", "two/dog/1.png"]);
    let spec = |name: &str| format!("folder:{}", folder.path(name));
    for (name, words) in [
        (
            "one",
            &["there are 1 images to train on: a batch has the same image more than once", "no labels"][..],
        ),
        ("class", &["there are 2 images", "one class alone (`cat`): k-NN is left out"]),
        ("two", &["no images are held out of 2 with data.held_out = 0.1"]),
    ] {
        let out = folder.path(&format!("run-{name}"));
        let shown = said(&train(&out, &spec(name), &[]));
        assert!(words.iter().all(|words| shown.contains(words)), "{words:?} in {shown}");
        let metrics = std::fs::read_to_string(Path::new(&out).join("metrics.jsonl")).unwrap();
        assert!(metrics.contains("\"loss\"") && !metrics.contains("null"), "{metrics}");
        assert!(!Path::new(&out).join("knn.png").exists());
    }

    // images of their own to evaluate with: an image a class, one image to classify
    let own = [format!("evaluation.train={}", spec("two")), format!("evaluation.val={}", spec("class"))];
    let out = folder.path("run-own");
    let shown = said(&train(&out, &spec("one"), &[&own[0], &own[1], "evaluation.val_images=1"]));
    for words in [
        "2 images that vote (evaluation.train_images) and 1 to classify",
        "evaluation.k has 20, and 2 images vote",
    ] {
        assert!(shown.contains(words), "{shown}");
    }
    assert!(std::fs::metadata(Path::new(&out).join("knn.png")).unwrap().len() > 1000);

    // nothing is held out of labelled images where others are evaluated on
    pictures(&folder, &["ten/cat/0.png", "ten/cat/1.png", "ten/dog/2.png", "ten/dog/3.png", "ten/dog/4.png"]);
    let ten = folder.path("run-ten");
    let shown = said(&train(
        &ten,
        &spec("ten"),
        &[&own[0], &own[1], "data.held_out=0.4", "dino.head_n_prototypes=[]"],
    ));
    assert!(shown.contains("ten, 5 images\n"), "{shown}");
    // numbers that followed from the images stand in the run
    let config = std::fs::read_to_string(Path::new(&ten).join("config.toml")).unwrap();
    assert!(config.contains("head_n_prototypes = [32, 64]"), "{config}");
    let log = std::fs::read_to_string(Path::new(&ten).join("train.log")).unwrap();
    assert!(log.contains("5 images to train on\n"), "{log}");
    // a baseline of other images is none: those of this run's own are held out from now on
    let other = ["evaluation.train=", "evaluation.val=", "data.held_out=0.4", "--steps=3"];
    let more = [&["train", "--resume", "--out", &ten, "--device=cpu"], &other[..]].concat();
    let shown = said(&program(&more));
    assert!(shown.contains("before the first step other images were classified"), "{shown}");
    assert!(shown.contains("5 images, of which 2 are held out for evaluation"), "{shown}");
    let metrics = std::fs::read_to_string(Path::new(&out).join("metrics.jsonl")).unwrap();
    assert!(metrics.contains("knn.48x2.20") && !metrics.contains("null"), "{metrics}");

    // refused, before anything is trained
    let refusal = |more: &[&str], status: i32, words: &[&str]| {
        let out = folder.path("refused");
        fails(&train(&out, &spec("two"), more), status, words);
        assert!(!Path::new(&out).exists(), "{more:?} left a run behind");
    };
    refusal(&["dino.head_n_prototypes=[1]"], 2, &["dino.head_n_prototypes", "8192"]);
    refusal(&["dino.head_n_prototypes=[8, 1]"], 2, &["dino.head_n_prototypes"]);
    let one = format!("evaluation.train={}", spec("class"));
    refusal(&[&one, &own[1]], 2, &["evaluation.train", "one class alone (`cat`)"]);
    let none = format!("evaluation.train={}", spec("one"));
    refusal(&[&none, &own[1]], 2, &["evaluation.train", "without labels"]);
    pictures(&folder, &["other/eel/0.png", "other/cat/1.png"]);
    let other = format!("evaluation.val={}", spec("other"));
    refusal(&[&own[0], &other], 1, &["evaluation.val", "1 of its 2 classes", "`eel`"]);
}

#[test]
fn a_partly_labelled_set_trains_and_evaluates_on_what_has_labels() {
    let folder = Folder::new("labels-partly");
    let names: Vec<String> = (0..60).map(|i| format!("{i}.png")).collect();
    pictures(&folder, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let line = |i: usize| match i {
        0..40 => format!("{i}.png,{}\n", ["dog", "cat"][i % 2]),
        40..50 => format!("{i}.png,\n"),
        _ => format!("{i}.png,-1\n"),
    };
    let list = "filename,class\n".to_string() + &(0..60).map(line).collect::<String>();
    std::fs::write(folder.path("list.csv"), list).unwrap();
    let (data, out) = (format!("list:{}", folder.path("list.csv")), folder.path("run"));
    let shown = said(&train(&out, &data, &["evaluation.k=[5]", "data.held_out=0.25"]));
    for words in [
        "20 of 60 images have no label (line 42, line 43, line 44, ...): training takes them too",
        "60 images, of which 10 are held out for evaluation (data.held_out)",
        "30 images that vote (evaluation.train_images) and 10 to classify",
    ] {
        assert!(shown.contains(words), "{shown}");
    }
    let log = std::fs::read_to_string(Path::new(&out).join("train.log")).unwrap();
    assert!(log.contains("50 images to train on") && log.contains("20 of 60 images have no label"), "{log}");

    let features = folder.path("f.safetensors");
    printed(&["features", "--device=cpu", "--checkpoint", &out, "--data", &data, "--out", &features]);
    let file = std::fs::read(&features).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let labels: Vec<i64> = tensors
        .tensor("labels")
        .unwrap()
        .data()
        .chunks_exact(8)
        .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!((&labels[..3], labels[39], &labels[40..]), (&[1, 0, 1][..], 0, &[-1; 20][..]));
}

/// A data set whose path is no text: in the configuration it stands with escapes, with which a run is resumed.
#[cfg(target_os = "linux")]
#[test]
fn a_path_that_is_no_text_is_trained_on_and_resumed() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let folder = Folder::new("labels-bytes");
    pictures(&folder, &["images/cat/0.png", "images/dog/1.png"]);
    let odd = folder.0.join(OsString::from_vec(b"caf\xe9 100%".to_vec()));
    std::fs::rename(folder.0.join("images"), &odd).unwrap();
    let mut data = OsString::from("folder:");
    data.push(&odd);
    let out = folder.path("run");
    let call = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poa-gpu"));
        command.args(["train", "--out", &out, "--device=cpu", "train.batch_size_per_gpu=4"]).args(more);
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
        command
    };
    let shown = said(&call(&["--steps=1"]).arg("--data").arg(&data).output().unwrap());
    assert!(shown.contains("/caf\\xE9 100%, 2 images"), "{shown}");
    let config = std::fs::read_to_string(Path::new(&out).join("config.toml")).unwrap();
    assert!(config.contains("/caf%E9 100%25\"") && config.contains("\"escaped:folder:"), "{config}");
    said(&call(&["--resume", "--steps=2"]).output().unwrap());
    let metrics = std::fs::read_to_string(Path::new(&out).join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().filter(|line| line.contains("\"loss\"")).count(), 2, "{metrics}");
    let mut spec = data.clone();
    spec.push("/nowhere");
    let out = call(&[]).arg("--data").arg(spec).output().unwrap();
    assert!(text(&out.stderr).contains("caf"), "{}", text(&out.stderr));
}

#[test]
fn what_is_no_list_or_shard_is_refused_in_a_line() {
    let folder = Folder::new("labels-bad");
    let path = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path(name), bytes).unwrap();
        folder.path(name)
    };
    let gone = format!("list:{}", path("gone.txt", b"a.jpg 1\nb.jpg 2\n"));
    refused(&["train", "--device=cpu", "--data", &gone], 1, &["gone.txt", "none of the 2 images"]);
    let wide = format!("list:{}", path("wide.txt", b"\xff\xfea\0"));
    refused(&["train", "--device=cpu", "--data", &wide], 1, &["wide.txt", "UTF-16"]);
    let packed = format!("webdataset:{}", path("a.tar", b"\x1f\x8b\x08"));
    refused(&["train", "--device=cpu", "--data", &packed], 1, &["a.tar", "gunzip"]);
}

/// Rows of features are found again by the keys of the samples.
#[test]
fn features_of_shards_are_named_by_their_keys() {
    let folder = Folder::new("labels-keys");
    pictures(&folder, &["0.png", "1.png", "2.png"]);
    let mut tar = tar::Builder::new(std::fs::File::create(folder.path("sh-0000.tar")).unwrap());
    for (i, key) in ["n01/img_7", "n01/img_9", "other"].iter().enumerate() {
        tar.append_path_with_name(folder.path(&format!("{i}.png")), format!("{key}.png")).unwrap();
    }
    tar.finish().unwrap();
    let data = format!("webdataset:{}", folder.path("sh-{0000..0000}.tar"));
    let features = folder.path("f.safetensors");
    let told = printed(&[
        "-q",
        "features",
        "--device=cpu",
        "--checkpoint",
        run(),
        "--data",
        &data,
        "--out",
        &features,
    ]);
    assert!(told.contains(&features), "-q leaves results: {told}");
    let file = std::fs::read(&features).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let names = text(tensors.tensor("names").unwrap().data());
    assert_eq!(names, "sh-0000.tar/n01/img_7\nsh-0000.tar/n01/img_9\nsh-0000.tar/other\n");
}
