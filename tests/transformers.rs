//! Networks for Hugging Face's transformers: what is written, and by Python, where it is there, that `AutoModel` and
//! `AutoImageProcessor` make the same features and images of it; timm beside it.

#[path = "support/program.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::files::tensor_writer::{TensorSpec, write_tensors_with};
use poa_gpu::models::backbone::Backbone;
use poa_gpu::models::grid::Network;
use poa_gpu::models::plain::Format;
use poa_gpu::recipes::Config;
use poa_gpu::weights::extract::{Classifier, Extraction};
use serde_json::{Value, json};
use support::{Folder, printed, program, text};

/// Settings of a small run of a recipe.
fn settings(recipe: &str) -> Vec<&'static str> {
    let mut all = vec!["dino.head_n_prototypes=[16, 24]", "dino.head_hidden_dim=32"];
    match recipe {
        // as timm has them: windows that divide every map
        "demo_swin" => all.extend(["student.window_size=2"]),
        // as timm's have them
        "demo_resnet" => {
            all.extend(["student.stem_channels=64", "student.base_channels=32", "student.num_gn_groups=32"]);
        }
        _ => {}
    }
    all
}

/// The backbone of a recipe with these settings.
fn backbone(recipe: &str, more: &[&str]) -> Box<dyn Backbone> {
    let mut config = Config::recipe(recipe).unwrap();
    config.apply(more).unwrap();
    config.backbone().unwrap()
}

/// A file of all parameters of a backbone. Every value is another.
fn teacher(folder: &Folder, backbone: &dyn Backbone) -> TensorFile {
    let path = Path::new(&folder.path("teacher.safetensors")).to_path_buf();
    let specs: Vec<TensorSpec> =
        backbone.specs().iter().map(|spec| TensorSpec::f32(&spec.name, &spec.shape)).collect();
    let values = |name: &str| -> poa_gpu::error::Result<Vec<f32>> {
        let spec = specs.iter().find(|spec| spec.name == name).unwrap();
        let (count, seed) = (spec.shape.iter().product::<usize>(), name.len() as f32);
        Ok((0..count).map(|i| (i as f32).mul_add(0.001, seed)).collect::<Vec<f32>>())
    };
    write_tensors_with(&path, &specs, &[], values).unwrap();
    TensorFile::open(&path).unwrap()
}

fn written(dir: &Path) -> (BTreeMap<String, Vec<usize>>, Value) {
    let file = TensorFile::open(dir.join("model.safetensors")).unwrap();
    let shapes = file.names().map(|name| (name.to_string(), file.shape(name).unwrap().to_vec())).collect();
    let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
    (shapes, serde_json::from_str(&text).unwrap())
}

/// Names and shapes that transformers itself wrote for a network, a line each.
fn recorded(kind: &str) -> BTreeMap<String, Vec<usize>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures/names").join(kind);
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let (name, shape) = line.split_once(' ').unwrap();
        (name.to_string(), shape.split(',').map(|n| n.parse().unwrap()).collect())
    };
    text.lines().map(line).collect()
}

#[test]
fn names_and_shapes_are_those_that_transformers_writes() {
    let folder = Folder::new("transformers-names");
    let vit = ["student.min_embed_dim=16", "student.max_embed_dim=32", "student.min_depth=1"];
    let swiglu = ["student.num_register_tokens=4", "student.ffn_layer=swiglufused"];
    for (kind, recipe, more, of) in [
        ("dinov2.txt", "demo", &vit[..], Network::new(16, 2)),
        ("dinov2_with_registers.txt", "demo", &[&vit[..], &swiglu[..]].concat(), Network::new(32, 3)),
        ("swin.txt", "demo_swin", &SWIN, backbone("demo_swin", &SWIN).grid().intact()),
    ] {
        let backbone = backbone(recipe, more);
        let teacher = teacher(&folder, &*backbone);
        let dir = Path::new(&folder.path(kind)).to_path_buf();
        Extraction::new(&teacher, &*backbone, of, Format::Transformers).unwrap().write(&dir).unwrap();
        let (found, _) = written(&dir);
        assert_eq!(found, recorded(kind), "{kind}");
        let images: Value =
            serde_json::from_slice(&std::fs::read(dir.join("preprocessor_config.json")).unwrap()).unwrap();
        let size = images["crop_size"]["height"].as_u64().unwrap();
        assert_eq!(images["size"]["shortest_edge"], size * 256 / 224);
        assert_eq!((&images["resample"], &images["image_std"][2]), (&json!(3), &json!(0.225)));
    }
}

/// Maps of 16, 8, 4 and 2 cells: none is smaller than windows of 2, and the last has one block, which does not shift.
const SWIN: [&str; 2] = ["student.window_size=2", "crops.global_crops_size=64"];

#[test]
fn queries_keys_and_values_are_thirds_of_what_they_are_cut_from() {
    let folder = Folder::new("transformers-thirds");
    let backbone = backbone("demo", &["student.max_embed_dim=32", "student.min_embed_dim=16"]);
    let teacher = teacher(&folder, &*backbone);
    let of = Network::new(16, 3);
    let cut = |format| Extraction::new(&teacher, &*backbone, of, format).unwrap();
    let (theirs, ours) = (cut(Format::Transformers), cut(Format::Dinov2));
    for kind in ["weight", "bias"] {
        let whole = ours.read(&format!("blocks.2.attn.qkv.{kind}")).unwrap();
        let third = whole.len() / 3;
        for (k, name) in ["query", "key", "value"].into_iter().enumerate() {
            let found = theirs.read(&format!("encoder.layer.2.attention.attention.{name}.{kind}")).unwrap();
            assert_eq!(found, whole[k * third..][..third], "{name}.{kind}");
        }
    }
    let first = theirs.read("encoder.layer.0.attention.attention.value.bias").unwrap();
    // the third of 16 rows that begins with row 64 of the source
    let source = teacher.read_f32("backbone.blocks.0.attn.qkv.linear.bias").unwrap();
    assert_eq!(first, source[64..80]);
}

#[test]
fn a_classifier_has_their_names() {
    let folder = Folder::new("transformers-classes");
    let classes: Vec<String> = ["cat", "dog", "emu"].map(String::from).to_vec();
    for (recipe, more, prefix, twice) in
        [("demo", &[][..], "dinov2.", true), ("demo_swin", &SWIN[..], "swin.", false)]
    {
        let backbone = backbone(recipe, more);
        let (teacher, of) = (teacher(&folder, &*backbone), backbone.grid().intact());
        let width = backbone.feature_width(of);
        let weight: Vec<f32> = (0..3 * width).map(|i| i as f32).collect();
        let classifier =
            Classifier { weight: weight.clone(), bias: vec![1.0, 2.0, 3.0], classes: classes.clone() };
        let cut = Extraction::new(&teacher, &*backbone, of, Format::Transformers).unwrap();
        let cut = cut.with_classifier(classifier).unwrap();
        let dir = Path::new(&folder.path(recipe)).to_path_buf();
        cut.write(&dir).unwrap();
        let (shapes, config) = written(&dir);
        assert_eq!(shapes["classifier.weight"], [3, width * (1 + usize::from(twice))]);
        assert!(shapes.keys().all(|name| name.starts_with(prefix) || name.starts_with("classifier.")));
        let found = cut.read("classifier.weight").unwrap();
        let row = found.len() / 3;
        assert_eq!(found[row..row + width], weight[width..2 * width]);
        assert!(found[row + width..2 * row].iter().all(|value| *value == 0.0));
        assert_eq!(config["id2label"], json!({"0": "cat", "1": "dog", "2": "emu"}));
        assert_eq!(config["label2id"]["emu"], 2);
        assert!(config["architectures"][0].as_str().unwrap().ends_with("ForImageClassification"));
    }
}

#[test]
fn what_their_constructors_cannot_build_is_refused_or_goes_to_timm() {
    let folder = Folder::new("transformers-refused");
    let problem = |recipe: &str, more: &[&str], of: Network| {
        let backbone = backbone(recipe, more);
        let teacher = teacher(&folder, &*backbone);
        Extraction::new(&teacher, &*backbone, of, Format::Transformers).map(|_| ()).unwrap_err().to_string()
    };
    // 256 of 96 channels are 128 of 48, and two thirds of a multiple of 48 are multiples of 32
    let odd = ["student.ffn_layer=swiglufused", "student.swiglu_hidden=250"];
    let text = problem("demo", &odd, Network::new(48, 2));
    assert!(text.contains("125 hidden channels") && text.contains("--format timm or poa"), "{text}");
    let swin = backbone("demo_swin", &[]);
    let smallest = swin.grid().smallest();
    let text = problem("demo_swin", &[], smallest);
    assert!(text.contains("patches are normed over") && text.contains("--format poa"), "{text}");
    let text = problem("demo_resnet", &[], backbone("demo_resnet", &[]).grid().intact());
    assert!(text.contains("32 groups") && text.contains("--format poa"), "{text}");
    // GroupNorm, where they have BatchNorm: timm's
    let more = settings("demo_resnet");
    let backbone = backbone("demo_resnet", &more);
    let teacher = teacher(&folder, &*backbone);
    let of = backbone.grid().intact();
    let dir = Path::new(&folder.path("resnet")).to_path_buf();
    Extraction::new(&teacher, &*backbone, of, Format::Transformers).unwrap().write(&dir).unwrap();
    let (shapes, config) = written(&dir);
    assert_eq!(config["architecture"], "resnet50_gn");
    assert!(shapes.contains_key("layer1.0.bn1.weight"));
    assert!(!dir.join("preprocessor_config.json").exists());
}

/// Pictures of several sizes in a folder.
fn pictures(folder: &Folder) -> String {
    let dir = folder.path("pictures");
    std::fs::create_dir_all(&dir).unwrap();
    for (k, (width, height)) in [(120, 90), (90, 140), (64, 64), (201, 100)].into_iter().enumerate() {
        let mut bytes = format!("P6 {width} {height} 255\n").into_bytes();
        for i in 0..width * height {
            let (x, y) = ((i % width) as f64, (i / width) as f64);
            let wave = |scale: f64, phase: f64| 127.0 + 100.0 * ((x + 2.0 * y) / scale + phase).sin();
            bytes.extend([0.0, 1.0, 2.0].map(|c| wave(15.0 + 4.0 * k as f64, c) as u8));
        }
        std::fs::write(Path::new(&dir).join(format!("{k}.ppm")), bytes).unwrap();
    }
    dir
}

/// A script of `docs` by the Python that `POA_PYTHON` names.
#[track_caller]
fn python(script: &str, args: &[&str]) -> String {
    let python = std::env::var("POA_PYTHON").unwrap_or_else(|_| "python3".into());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(script);
    let done = Command::new(&python).arg(&path).args(args).output();
    let done = done.unwrap_or_else(|e| panic!("{python}: {e}; set POA_PYTHON"));
    assert!(done.status.success(), "{script} {args:?}: {}{}", text(&done.stdout), text(&done.stderr));
    text(&done.stdout)
}

/// Extracts and runs all sub-networks of small runs that a format has. Of every run gives the kinds of models that were loaded.
fn compare(format: &str, script: &str, runs: &[(&str, &str, Vec<&str>, usize)]) -> Vec<String> {
    let folder = Folder::new(&format!("python-{format}"));
    let photos = pictures(&folder);
    let data = format!("folder:{photos}");
    let mut told = Vec::new();
    for (name, recipe, more, at_least) in runs {
        let run = folder.path(name);
        let mut args = vec!["-q", "train", "--config", recipe, "--device=cpu", "--steps=2", "--out", &run];
        args.extend(["train.batch_size_per_gpu=4", "data.spec=shapes:40", "evaluation.train_images=20"]);
        args.extend(["evaluation.val_images=10"]);
        args.extend(more);
        let done = program(&args);
        assert!(done.status.success(), "{name}: {}", text(&done.stderr));
        let list = printed(&["extract", "--checkpoint", &run, "--list"]);
        let networks: Vec<&str> = list.lines().skip(1).filter_map(|l| l.split_whitespace().next()).collect();
        let mut pairs = Vec::new();
        for network in &networks {
            let net = folder.path(&format!("{name}-{network}"));
            let of = ["--checkpoint", &run, "--network", network, "--out", &net, "--format", format];
            let done = program(&[&["extract"][..], &of[..]].concat());
            if !done.status.success() {
                let why = text(&done.stderr);
                assert!(why.contains("--format ") && why.contains("poa"), "{why}");
                continue;
            }
            let features = format!("{net}.safetensors");
            let of = ["--checkpoint", &run, "--network", network, "--data", &data, "--out", &features];
            printed(&[&["features", "--device=cpu", "--patches", "--images"][..], &of[..]].concat());
            pairs.extend([net, features]);
        }
        assert!(pairs.len() / 2 >= *at_least, "{name}: {} of {networks:?}", pairs.len() / 2);
        let mut args: Vec<&str> = pairs.iter().map(String::as_str).collect();
        if script == "check_transformers.py" {
            args.push(&photos);
            told.push(python(script, &args));
        } else {
            told.extend(args.chunks(2).map(|pair| python(script, pair)));
        }
    }
    told
}

#[test]
#[ignore = "needs Python with torch, transformers and timm: POA_PYTHON"]
fn transformers_computes_the_same() {
    let vit = |more: &[&'static str]| [&settings("demo")[..], more].concat();
    let runs = [
        ("vit", "demo", vit(&[]), 6),
        ("registers", "demo", vit(&["student.num_register_tokens=4"]), 6),
        ("swiglu", "demo", vit(&["student.ffn_layer=swiglufused"]), 2),
        ("swin", "demo_swin", [&settings("demo_swin")[..], &SWIN[..]].concat(), 1),
        ("swin-small", "demo_swin", settings("demo_swin"), 1),
        ("resnet", "demo_resnet", settings("demo_resnet"), 3),
    ];
    let told = compare("transformers", "check_transformers.py", &runs);
    let classes = ["Dinov2Model", "Dinov2WithRegistersModel", "Dinov2Model", "SwinModel"];
    for (told, class) in told.iter().zip(classes) {
        assert!(told.contains(class), "{told}");
    }
    assert!(told[4..].iter().all(|told| told.contains("TimmWrapperModel")), "{told:?}");
    told.iter().for_each(|told| println!("{told}"));
}

#[test]
#[ignore = "needs Python with torch and timm: POA_PYTHON"]
fn timm_computes_the_same() {
    let runs = [
        ("vit", "demo", settings("demo"), 6),
        ("swin", "demo_swin", settings("demo_swin"), 1),
        ("resnet", "demo_resnet", settings("demo_resnet"), 3),
    ];
    let told = compare("timm", "check_timm.py", &runs);
    let networks: BTreeSet<&String> = told.iter().collect();
    assert!(networks.len() >= 10 && told.iter().all(|told| told.contains("largest difference")));
}
