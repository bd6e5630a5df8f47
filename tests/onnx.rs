//! ONNX models: what is in the files, without anything that runs them; and, where there is something (`kernels-tests/formats`),
//! features from onnxruntime and tract beside ours.

#[path = "support/program.rs"]
mod support;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::files::tensor_writer::{TensorSpec, write_tensors};
use poa_gpu::models::backbone::Backbone;
use poa_gpu::models::graph::Extent;
use poa_gpu::models::grid::{ElasticGrid, Network};
use poa_gpu::models::plain::Format;
use poa_gpu::models::vit::{self, Vit, VitSizes};
use poa_gpu::verify::Fixture;
use poa_gpu::weights::extract::{Classifier, Extraction};
use poa_gpu::weights::onnx::schema::{FLOAT, GraphProto, Length, ModelProto, TensorProto};
use poa_gpu::weights::onnx::{OnnxOptions, write_onnx};
use prost::Message;
use support::{Folder, SMALL, printed, program, refused, text};

fn decoded(dir: &Path) -> ModelProto {
    ModelProto::decode(&std::fs::read(dir.join("model.onnx")).unwrap()[..]).unwrap()
}

fn about(model: &ModelProto) -> HashMap<String, String> {
    let pair = |p: &poa_gpu::weights::onnx::schema::StringStringEntryProto| {
        (p.key.clone().unwrap(), p.value.clone().unwrap())
    };
    model.metadata_props.iter().map(pair).collect()
}

fn elements(tensor: &TensorProto) -> usize {
    tensor.dims.iter().product::<i64>() as usize
}

fn size_of(tensor: &TensorProto) -> usize {
    if tensor.data_type == Some(FLOAT) { 4 } else { 8 }
}

/// Every input is there before it is taken, every name is there once, everything is used, and all values are whole.
#[track_caller]
fn sound(graph: &GraphProto) {
    let mut known: HashSet<&str> = HashSet::from([""]);
    for tensor in &graph.initializer {
        assert!(known.insert(tensor.name()), "{} twice", tensor.name());
        if tensor.data_location.is_none() {
            let bytes = tensor.raw_data.as_ref().unwrap().len();
            assert_eq!(bytes, elements(tensor) * size_of(tensor), "{}", tensor.name());
        }
    }
    graph.input.iter().for_each(|input| assert!(known.insert(input.name())));
    let mut used = HashSet::new();
    for node in &graph.node {
        for input in &node.input {
            assert!(known.contains(&input[..]), "{}: {input} is not there", node.name());
            used.insert(&input[..]);
        }
        node.output.iter().for_each(|output| assert!(known.insert(output), "{output} twice"));
    }
    graph.output.iter().for_each(|output| assert!(known.contains(output.name()), "{}", output.name()));
    let idle: Vec<&str> =
        graph.initializer.iter().map(|t| t.name()).filter(|name| !used.contains(name)).collect();
    assert!(idle.is_empty(), "used by no node: {idle:?}");
}

fn dims(graph: &GraphProto, name: &str) -> Vec<String> {
    let value = graph.input.iter().chain(&graph.output).find(|value| value.name() == name).unwrap();
    let shape = value.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap().shape.as_ref().unwrap();
    let length = |length: &Length| match length {
        Length::Value(n) => n.to_string(),
        Length::Name(name) => name.clone(),
    };
    shape.dim.iter().map(|dim| length(dim.value.as_ref().unwrap())).collect()
}

/// Backbone and teacher of a recorded run.
fn recorded(kind: &str) -> (Box<dyn Backbone>, TensorFile) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures").join(kind);
    let backbone = Fixture::open(&dir).unwrap().config().unwrap().backbone().unwrap();
    (backbone, TensorFile::open(dir.join("teacher.safetensors")).unwrap())
}

#[test]
fn every_network_of_every_family_is_sound() {
    let folder = Folder::new("onnx-sound");
    for kind in ["vit", "swin", "resnet"] {
        let (backbone, teacher) = recorded(kind);
        let mut count = 0;
        for (network, _) in backbone.grid().entries() {
            let extraction = Extraction::new(&teacher, &*backbone, *network, Format::Onnx).unwrap();
            let out = folder.0.join(format!("{kind}-{network}"));
            let bytes = write_onnx(&extraction, &*backbone, OnnxOptions::default(), &out).unwrap();
            assert_eq!(bytes, std::fs::metadata(out.join("model.onnx")).unwrap().len());
            let model = decoded(&out);
            assert_eq!((model.ir_version, model.opset_import[0].version), (Some(8), Some(17)));
            let graph = model.graph.as_ref().unwrap();
            sound(graph);
            let image = extraction.plain().image.to_string();
            assert_eq!(dims(graph, "images"), ["batch", "3", &image, &image], "{kind} {network}");
            let width = backbone.feature_width(*network).to_string();
            let patches = backbone.cells(extraction.plain().image).pow(2).to_string();
            assert_eq!(dims(graph, "patch_tokens"), ["batch", &patches, &width]);
            assert_eq!(dims(graph, "cls"), ["batch", &width]);
            let told = about(&model);
            assert_eq!(told["network"], network.to_string());
            assert_eq!((&told["size"], &told["mean"][..7]), (&image, "[0.485,"));
            // all weights, and each as it was cut
            let parts: HashMap<String, Vec<usize>> =
                extraction.tensors().into_iter().map(|spec| (spec.name, spec.shape)).collect();
            let weights: Vec<_> = graph.initializer.iter().filter(|t| parts.contains_key(t.name())).collect();
            assert_eq!(weights.len(), parts.len(), "{kind} {network}");
            for tensor in weights {
                let mut found: Vec<f32> = bytemuck::pod_collect_to_vec(tensor.raw_data.as_ref().unwrap());
                let mut want = extraction.read(tensor.name()).unwrap();
                if let [rows, columns] = parts[tensor.name()][..]
                    && !tensor.name().ends_with("table")
                {
                    assert_eq!(tensor.dims, [columns as i64, rows as i64]);
                    let (row, column) = (rows / 2, columns / 3);
                    assert_eq!(found[column * rows + row], want[row * columns + column], "{}", tensor.name());
                }
                [&mut found, &mut want].into_iter().for_each(|values| values.sort_by(f32::total_cmp));
                assert_eq!(found, want, "{}", tensor.name());
            }
            count += 1;
        }
        assert!(count > 1, "{kind}: {count} networks");
    }
}

#[test]
fn classifier_batch_and_size_are_as_asked() {
    let folder = Folder::new("onnx-asked");
    let (backbone, teacher) = recorded("vit");
    let network = backbone.grid().smallest();
    let width = network.width;
    let classifier = Classifier {
        weight: (0..2 * width).map(|i| i as f32).collect(),
        bias: vec![0.5, -0.5],
        classes: vec!["cat".into(), "dog \"x\"".into()],
    };
    let extraction = Extraction::new(&teacher, &*backbone, network, Format::Onnx).unwrap();
    let extraction = extraction.with_classifier(classifier).unwrap();
    let out = folder.0.join("net");
    let options =
        OnnxOptions { batch: Extent::Fixed(3), size: Some(Extent::Fixed(64)), ..OnnxOptions::default() };
    write_onnx(&extraction, &*backbone, options, &out).unwrap();
    let model = decoded(&out);
    let graph = model.graph.as_ref().unwrap();
    sound(graph);
    assert_eq!(dims(graph, "images"), ["3", "3", "64", "64"]);
    assert_eq!(dims(graph, "logits"), ["3", "2"]);
    assert_eq!(about(&model)["classes"], r#"["cat","dog \"x\""]"#);
    // the position embedding is that of 8 by 8 patches of 8 pixels
    let positions = graph.initializer.iter().find(|t| t.name() == "pos_embed").unwrap();
    assert_eq!(positions.dims, [1, 64, width as i64]);
    // and of any number
    let options = OnnxOptions { size: Some(Extent::Dynamic), ..options };
    write_onnx(&extraction, &*backbone, options, &out).unwrap();
    let model = decoded(&out);
    sound(model.graph.as_ref().unwrap());
    assert_eq!(dims(model.graph.as_ref().unwrap(), "images"), ["3", "3", "height", "width"]);
    assert_eq!(dims(model.graph.as_ref().unwrap(), "patch_tokens"), ["3", "patches", &width.to_string()]);
}

#[test]
fn weights_beside_the_model_are_those_in_it() {
    let folder = Folder::new("onnx-beside");
    let (backbone, teacher) = recorded("vit");
    let extraction = Extraction::new(&teacher, &*backbone, backbone.grid().intact(), Format::Onnx).unwrap();
    let out = folder.0.join("net");
    let own = OnnxOptions::default();
    write_onnx(&extraction, &*backbone, own, &out).unwrap();
    let inside = decoded(&out);
    let bytes = write_onnx(&extraction, &*backbone, OnnxOptions { within: 1000, ..own }, &out).unwrap();
    let outside = decoded(&out);
    let data = std::fs::read(out.join("model.onnx.data")).unwrap();
    assert_eq!(bytes, std::fs::metadata(out.join("model.onnx")).unwrap().len() + data.len() as u64);
    sound(outside.graph.as_ref().unwrap());
    let mut end = 0;
    for (a, b) in inside.graph.unwrap().initializer.iter().zip(&outside.graph.unwrap().initializer) {
        assert_eq!((&a.name, &a.dims), (&b.name, &b.dims));
        if !extraction.tensors().iter().any(|spec| spec.name == b.name()) {
            // shapes are needed to read the model
            assert_eq!(a, b);
            continue;
        }
        assert_eq!(b.data_location, Some(1));
        let place: HashMap<_, _> = b.external_data.iter().map(|e| (e.key(), e.value())).collect();
        let [offset, length] = ["offset", "length"].map(|key| place[key].parse::<usize>().unwrap());
        assert_eq!((place["location"], offset % 4096), ("model.onnx.data", 0));
        assert!(a.raw_data.as_ref().unwrap()[..] == data[offset..offset + length], "{}", a.name());
        end = offset + length;
    }
    assert_eq!(end, data.len());
    // the model that has its weights itself leaves none of another beside it
    write_onnx(&extraction, &*backbone, own, &out).unwrap();
    let names: Vec<_> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["model.onnx"]);
}

#[test]
fn a_model_that_cannot_be_written_leaves_the_old_one() {
    let folder = Folder::new("onnx-failed");
    let (backbone, teacher) = recorded("vit");
    let write = |network, dir: &Path| {
        let extraction = Extraction::new(&teacher, &*backbone, network, Format::Onnx)?;
        write_onnx(&extraction, &*backbone, OnnxOptions { within: 0, ..OnnxOptions::default() }, dir)
    };
    let (out, files) = (folder.0.join("net"), ["model.onnx", "model.onnx.data"]);
    write(backbone.grid().smallest(), &out).unwrap();
    let before = files.map(|name| std::fs::read(out.join(name)).unwrap());
    // where the new weights belong there is something else
    std::fs::create_dir_all(out.join("model.onnx.data.partial/x")).unwrap();
    let error = write(backbone.grid().intact(), &out).unwrap_err().to_string();
    assert!(error.contains("model.onnx.data.partial") && error.contains("cannot be written"), "{error}");
    assert!(files.map(|name| std::fs::read(out.join(name)).unwrap()) == before);
    assert!(!out.join("model.onnx.partial").exists());
    // the plain formats' writer does not write this one
    let extraction = Extraction::new(&teacher, &*backbone, backbone.grid().intact(), Format::Onnx).unwrap();
    assert!(extraction.write(&folder.0.join("other")).unwrap_err().to_string().contains("write_onnx"));
    assert!(!folder.0.join("other").exists());
}

#[test]
fn what_cannot_be_had_is_refused_in_a_line() {
    let folder = Folder::new("onnx-refused");
    let run = trained(&folder, "demo_swin", &["student.window_size=2"]);
    let out = folder.path("net");
    let extract = |more: &[&str], texts: &[&str]| {
        refused(&[&["extract", "--checkpoint", &run, "--out", &out], more].concat(), 2, texts);
        assert!(!Path::new(&out).exists());
    };
    extract(&["--size", "64"], &["--size is for ONNX models", "--format onnx"]);
    extract(&["--format=poa", "--batch=dynamic"], &["--batch is for ONNX models"]);
    extract(&["--format=onnx", "--size=dynamic"], &["Swin", "give a number"]);
    extract(&["--format=onnx", "--size=33"], &["--size 33", "multiple of the patch size"]);
    extract(&["--format=onnx", "--size=4"], &["--size 4", "no patch token", "or more"]);
    let wrong = program(&["extract", "--checkpoint", &run, "--out", &out, "--format=onnx", "--batch=0"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("neither a number from 1 to 1048576 nor `dynamic`"));
    // a folder that is a file
    std::fs::write(&out, "x").unwrap();
    refused(&["extract", "--checkpoint", &run, "--out", &out, "--format=onnx"], 1, &["is no folder"]);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "x");
}

/// A run of two steps.
#[track_caller]
fn trained(folder: &Folder, recipe: &str, more: &[&str]) -> String {
    let run = folder.path("run");
    let mut args = vec!["-q", "train", "--config", recipe, "--device=cpu", "--steps=2", "--out", &run];
    args.extend(["train.batch_size_per_gpu=4", "evaluation.train_images=20", "evaluation.val_images=10"]);
    args.extend(["dino.head_n_prototypes=[16, 24]", "dino.head_hidden_dim=32"]);
    if !more.iter().any(|m| m.starts_with("data.spec")) {
        args.push("data.spec=shapes:40");
    }
    args.extend(more);
    let done = program(&args);
    assert!(done.status.success(), "{recipe}: {}", text(&done.stderr));
    run
}

/// What is compared: a recipe and its settings, the images, and the sizes with the ways to ask for them.
type Case = (&'static str, Vec<&'static str>, &'static str, Vec<(&'static str, &'static [&'static str])>);

fn cases() -> Vec<Case> {
    let grey =
        ["crops.color_jitter_probability=0", "crops.grayscale_probability=0", "crops.solarize_probability=0"];
    let (one, four) = ("student.in_chans=1", "student.in_chans=4");
    let swiglu = ["student.num_register_tokens=4", "student.ffn_layer=swiglufused"];
    vec![
        (
            "demo",
            SMALL.to_vec(),
            "shapes:6",
            vec![
                ("32", &[][..]),
                ("48", &["--size=48"]),
                ("16", &["--size=dynamic"]),
                ("32", &["--size=dynamic"]),
                ("56", &["--size=dynamic"]),
            ],
        ),
        (
            "demo",
            [&swiglu[..], &grey, &[one, "data.spec=shapes:40x32x1"]].concat(),
            "shapes:6x32x1",
            vec![("32", &[]), ("64", &["--size=dynamic", "--batch=6"])],
        ),
        ("demo_swin", vec!["student.window_size=2"], "shapes:6", vec![("32", &[]), ("96", &["--size=96"])]),
        // windows that do not divide the maps, odd maps, more than three channels
        (
            "demo_swin",
            [&grey[..], &["student.window_size=3", four, "data.spec=shapes:40x32x4"]].concat(),
            "shapes:6x32x4",
            vec![("32", &[]), ("72", &["--size=72"]), ("40", &["--size=40", "--batch=6"])],
        ),
        (
            "demo_resnet",
            [&grey[..], &[four, "data.spec=shapes:40x64x4"]].concat(),
            "shapes:6x64x4",
            vec![("64", &[]), ("68", &["--size=68"]), ("100", &["--size=dynamic"])],
        ),
    ]
}

/// Calls `run` with every model of the cases and the features that ours gives.
fn compare(name: &str, run: impl Fn(&Path, &str) -> f64) {
    for (i, (recipe, settings, data, sizes)) in cases().into_iter().enumerate() {
        let folder = Folder::new(&format!("onnx-{name}-{i}"));
        let checkpoint = trained(&folder, recipe, &settings);
        let (out, features) = (folder.path("net"), folder.path("features.safetensors"));
        for network in ["smallest", "middle", "intact"] {
            for (size, options) in &sizes {
                let which = ["--checkpoint", &checkpoint, "--network", network];
                printed(&[&["extract"], &which[..], &["--format=onnx", "--out", &out], options].concat());
                let how = [
                    "--data",
                    data,
                    "--size",
                    size,
                    "--device=cpu",
                    "--patches",
                    "--images",
                    "--out",
                    &features,
                ];
                printed(&[&["features"], &which[..], &how].concat());
                let worst = run(&PathBuf::from(&out).join("model.onnx"), &features);
                println!("{recipe} {settings:?} {network} {size} {options:?}: {worst:.1e}");
                assert!(worst <= 1e-4, "{recipe} {network} {size} {options:?}: {worst:e}");
            }
        }
    }
}

fn worst_of(lines: &str) -> f64 {
    let value = |line: &str| Some(line.split_once(' ')?.1.parse::<f64>().unwrap());
    let all: Vec<f64> = lines.lines().filter_map(value).collect();
    assert_eq!(all.len(), 3, "{lines}");
    all.into_iter().fold(0.0, f64::max)
}

/// What a program says of a model and a file of features.
#[track_caller]
fn told(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(done.status.success(), "{command:?}: {}", text(&done.stderr));
    text(&done.stdout)
}

fn onnxruntime(model: &Path, features: &str, batches: &[&str]) -> String {
    let python = std::env::var("POA_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/run_onnx.py");
    told(Command::new(python).arg(script).arg(model).arg(features).args(batches))
}

#[test]
#[ignore = "needs Python with onnxruntime, numpy and safetensors: kernels-tests/formats"]
fn onnxruntime_has_our_features() {
    compare("ort", |model, features| {
        let graph = decoded(model.parent().unwrap()).graph.unwrap();
        let batches: &[&str] = match &dims(&graph, "images")[0][..] {
            "batch" => &["1", "3", "6"],
            _ => &["6"],
        };
        worst_of(&onnxruntime(model, features, batches))
    });
}

#[test]
#[ignore = "needs kernels-tests/tract, built, in POA_TRACT: kernels-tests/formats"]
fn tract_has_our_features() {
    let tract = std::env::var("POA_TRACT").expect("POA_TRACT says where kernels-tests/tract was built");
    compare("tract", |model, features| worst_of(&told(Command::new(&tract).arg(model).arg(features))));
}

#[test]
#[ignore = "needs Python with onnxruntime, numpy and safetensors: kernels-tests/formats"]
fn onnxruntime_reads_weights_beside_and_classifies() {
    let folder = Folder::new("onnx-logits");
    let (backbone, teacher) = recorded("vit");
    let network = backbone.grid().smallest();
    let width = network.width;
    let weight: Vec<f32> = (0..3 * width).map(|i| (i * 37 % 101) as f32 / 101.0 - 0.5).collect();
    let bias = vec![0.25, -1.0, 3.0];
    let classes = ["a", "b", "c"].map(String::from).to_vec();
    let classifier = Classifier { weight: weight.clone(), bias: bias.clone(), classes };
    let extraction = Extraction::new(&teacher, &*backbone, network, Format::Onnx).unwrap();
    let image = extraction.plain().image;
    let pixels: Vec<f32> = (0..2 * 3 * image * image).map(|i| (i * 31 % 997) as f32 / 499.0 - 1.0).collect();
    // what onnxruntime says without a classifier is what it is given
    let script = "import sys, numpy as np, onnxruntime as ort\n\
                  s = ort.InferenceSession(sys.argv[1])\n\
                  x = np.fromfile(sys.argv[2], np.float32).reshape(2, 3, int(sys.argv[3]), -1)\n\
                  s.run([sys.argv[4]], {'images': x})[0].tofile(sys.argv[5])";
    std::fs::write(folder.0.join("x"), bytemuck::cast_slice::<f32, u8>(&pixels)).unwrap();
    let python = std::env::var("POA_PYTHON").unwrap_or_else(|_| "python3".into());
    let run = |dir: &str, output: &str| -> Vec<f32> {
        let model = folder.path(dir) + "/model.onnx";
        let args = [model, folder.path("x"), image.to_string(), output.into(), folder.path("y")];
        told(Command::new(&python).args(["-c", script]).args(args));
        bytemuck::pod_collect_to_vec(&std::fs::read(folder.0.join("y")).unwrap())
    };
    write_onnx(&extraction, &*backbone, OnnxOptions::default(), &folder.0.join("plain")).unwrap();
    let cls = run("plain", "cls");
    let with = extraction.with_classifier(classifier).unwrap();
    let options = OnnxOptions { within: 0, ..OnnxOptions::default() };
    write_onnx(&with, &*backbone, options, &folder.0.join("beside")).unwrap();
    assert_eq!(run("beside", "cls"), cls);
    let logits = run("beside", "logits");
    for (i, logit) in logits.iter().enumerate() {
        let (image, class) = (i / 3, i % 3);
        let product: f32 =
            cls[image * width..][..width].iter().zip(&weight[class * width..]).map(|(a, b)| a * b).sum();
        assert!((logit - product - bias[class]).abs() < 1e-4, "{logits:?}");
    }
    // a file of weights that is cut off is noticed
    let data = folder.0.join("beside/model.onnx.data");
    let file = std::fs::File::options().write(true).open(&data).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let args = [
        folder.path("beside/model.onnx"),
        folder.path("x"),
        image.to_string(),
        "cls".into(),
        folder.path("y"),
    ];
    let done = Command::new(&python).args(["-c", script]).args(args).output().unwrap();
    assert!(!done.status.success());
}

#[test]
#[ignore = "writes 2.5 GB: the time that a ViT-L takes"]
fn a_vit_large_is_written_in_seconds() {
    let folder = Folder::new("onnx-large");
    let mut s = vit::Settings::default();
    (s.elastic.patch_size, s.attention.max_embed_dim) = (16, 1024);
    let vit = Vit::new(VitSizes::from_settings(&s, 224), ElasticGrid::of(Network::new(1024, 24)));
    let specs: Vec<TensorSpec> = vit.specs().iter().map(|s| TensorSpec::f32(&s.name, &s.shape)).collect();
    let path = folder.0.join("teacher.safetensors");
    let count = |name: &str| specs.iter().find(|s| s.name == name).unwrap().shape.iter().product::<usize>();
    write_tensors(&path, &specs, |name| {
        Ok((0..count(name)).map(|i| (i % 997) as f32 / 5e4).collect::<Vec<f32>>())
    })
    .unwrap();
    let teacher = TensorFile::open(&path).unwrap();
    let extraction = Extraction::new(&teacher, &vit, Network::new(1024, 24), Format::Onnx).unwrap();
    for within in [OnnxOptions::default().within, 0] {
        let start = std::time::Instant::now();
        let options = OnnxOptions { within, ..OnnxOptions::default() };
        let bytes = write_onnx(&extraction, &vit, options, &folder.0.join("net")).unwrap();
        println!("within {within}: {bytes} bytes in {:.1} s", start.elapsed().as_secs_f64());
        assert!(bytes > 1_200_000_000);
    }
}
