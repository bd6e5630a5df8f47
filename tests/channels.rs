//! Networks for images of another number of channels than three: training of every family, from a run to its
//! features on the command line, weights of another number as a start.

#[path = "support/program.rs"]
mod support;

use std::path::{Path, PathBuf};

use poa_gpu::data::batch::GLOBAL;
use poa_gpu::data::{self, Loader, Normalization};
use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::files::tensor_writer::{TensorSpec, write_tensors};
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::models::plain::Format;
use poa_gpu::ops;
use poa_gpu::optim::adamw::StepSettings;
use poa_gpu::poa::{PoaModel, StepInputs};
use poa_gpu::recipes::Config;
use poa_gpu::tensor::{Device, Tensor};
use poa_gpu::weights::extract::Extraction;
use poa_gpu::weights::import::{Import, Outcome};
use support::{Folder, printed, refused};

/// What a recipe needs to say for another number of channels than three.
const COLOURLESS: [&str; 3] =
    ["crops.color_jitter_probability=0", "crops.grayscale_probability=0", "crops.solarize_probability=0"];

const RECIPES: [&str; 3] = ["demo", "demo_swin", "demo_resnet"];

fn config(recipe: &str, channels: usize) -> Config {
    let mut config = Config::recipe(recipe).unwrap();
    config.apply(&COLOURLESS).unwrap();
    config.apply(&[format!("student.in_chans={channels}")]).unwrap();
    let small = ["train.batch_size_per_gpu=2", "dino.head_n_prototypes=[32]", "dino.head_hidden_dim=32"];
    config.apply(&small).unwrap();
    config.resolve(1).unwrap();
    config
}

/// Name and shape of the weights that see the images.
fn first(model: &PoaModel) -> (String, Vec<usize>) {
    let names = ["backbone.patch_embed.proj.weight", "backbone.conv1.weight"];
    let places = model.student.values().layout().places();
    let place = places.iter().find(|place| names.contains(&place.spec.name.as_str())).unwrap();
    (place.spec.name.clone(), place.spec.shape.clone())
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let d: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    (d / b.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>()).sqrt()
}

#[test]
fn every_family_trains_on_any_number_of_channels() {
    for (recipe, channels) in RECIPES.into_iter().flat_map(|recipe| [(recipe, 1), (recipe, 4)]) {
        let config = config(recipe, channels);
        let source = data::open(&format!("shapes:50x36x{channels}"), &data::Reading::default()).unwrap();
        let mut loader = Loader::new(source, config.loader().unwrap()).unwrap();
        let batches = [loader.next().unwrap(), loader.next().unwrap()];
        assert_eq!(batches[0].group(GLOBAL).unwrap().channels, channels);
        let runs = [DeviceChoice::Cpu, DeviceChoice::Gpu].map(|choice| {
            let mut model = PoaModel::new(&config, &ops::open(&choice).unwrap(), 5).unwrap();
            let (name, shape) = first(&model);
            assert_eq!(shape[1], channels, "{recipe}");
            let before = model.student.values().read(&name).unwrap();
            let settings =
                StepSettings { lr: 1e-3, last_layer_lr: 1e-3, weight_decay: 0.0, teacher_momentum: 0.9 };
            let (mut losses, mut gradient) = (Vec::new(), Vec::new());
            for batch in &batches {
                let mut how = StepInputs::new(model.grid.intact(), 0.05);
                let record = model.forward_backward(batch, &mut how).unwrap();
                losses.push(record.read(&model.settings.weights).unwrap().total);
                let gradients = model.student.gradients().unwrap().clone();
                if gradient.is_empty() {
                    gradient = gradients.read(&name).unwrap();
                }
                model.optimizer.measure(&gradients, &record.total).unwrap();
                model.optimizer.update(&model.student, Some(model.teacher.values()), settings).unwrap();
                model.optimizer.applied += 1;
            }
            assert!(losses.iter().all(|loss| loss.is_finite()), "{recipe} of {channels}: {losses:?}");
            // every channel's weights have a gradient and move
            let cells = shape[2] * shape[3];
            let after = model.student.values().read(&name).unwrap();
            for channel in 0..channels {
                let of = |values: &[f32]| -> Vec<f32> {
                    let rows = values.chunks(channels * cells);
                    rows.flat_map(|row| row[channel * cells..][..cells].to_vec()).collect()
                };
                assert!(of(&gradient).iter().any(|g| *g != 0.0), "{recipe}: channel {channel} of {channels}");
                assert!(of(&before) != of(&after), "{recipe}: channel {channel} of {channels}");
            }
            (losses[0], gradient)
        });
        let [(cpu, ours), (gpu, theirs)] = &runs;
        assert!((cpu - gpu).abs() < 2e-6 * cpu.abs(), "{recipe} of {channels}: {cpu} and {gpu}");
        let error = distance(ours, theirs);
        assert!(error < 2e-5, "{recipe} of {channels}: gradients {error:e} apart");
    }
}

#[test]
fn a_model_refuses_images_of_another_number() {
    for recipe in RECIPES {
        let model = PoaModel::new(&config(recipe, 1), &Device::cpu(), 5).unwrap();
        let images = Tensor::from_slice(&Device::cpu(), &[1, 3, 64, 64], &vec![0.0f32; 3 * 64 * 64]).unwrap();
        let features = model.teacher_encoder().features(model.grid.intact(), &images, false);
        let error = features.err().unwrap().to_string();
        assert!(error.contains("[n, 1, side, side]"), "{recipe}: {error}");
    }
}

/// All parameters of the student as a file.
fn saved(model: &PoaModel, path: &Path) {
    let places = model.student.values().layout().places();
    let specs: Vec<_> = places.iter().map(|p| TensorSpec::f32(p.spec.name.as_str(), &p.spec.shape)).collect();
    write_tensors(path, &specs, |name| model.student.values().read(name)).unwrap();
}

/// A model of other channels that starts from a file gives, for images whose channels are all the same, what
/// the file's model gives, where its channels are one or a multiple of the file's; and always weights by the
/// rule.
#[test]
fn weights_of_another_number_start_a_model() {
    let folder = Folder::new("channels-import");
    let device = Device::cpu();
    for recipe in RECIPES {
        for (from, to) in [(3, 1), (3, 6), (1, 3), (3, 4)] {
            let config = |channels| config(recipe, channels);
            let (theirs, ours) = (
                PoaModel::new(&config(from), &device, 5).unwrap(),
                PoaModel::new(&config(to), &device, 6).unwrap(),
            );
            let path = PathBuf::from(folder.path("weights.safetensors"));
            saved(&theirs, &path);
            let specs: Vec<_> =
                ours.student.values().layout().places().iter().map(|p| p.spec.clone()).collect();
            let import = Import::open(&path, &*ours.backbone, &specs).unwrap();
            let (name, shape) = first(&ours);
            let outcome = &import.fillings().iter().find(|f| f.name == name).unwrap().outcome;
            assert_eq!(*outcome, Outcome::Channels { from, to, sides: [shape[2]; 2] });
            let how = if to == 1 { "summed" } else { "repeated" };
            let said = format!("1 brought to other channels ({name} {how} {from} → {to})");
            assert!(import.summary().contains(&said), "{}", import.summary());
            import
                .fill(|name, values| {
                    ours.student.values().write(name, values)?;
                    ours.teacher.values().write(name, values)
                })
                .unwrap();
            for place in theirs.student.values().layout().places() {
                let values = theirs.student.values().read(&place.spec.name).unwrap();
                theirs.teacher.values().write(&place.spec.name, &values).unwrap();
            }
            if to > 1 {
                let (cells, [theirs, ours]) =
                    (shape[2] * shape[3], [&theirs, &ours].map(|m| m.student.values().read(&name).unwrap()));
                for (i, value) in ours.iter().enumerate() {
                    let (row, channel, cell) = (i / (to * cells), i / cells % to, i % cells);
                    let source = theirs[(row * from + channel % from) * cells + cell];
                    let expected = f64::from(source) * from as f64 / to as f64;
                    assert!((f64::from(*value) - expected).abs() < 1e-7, "{recipe}, {from} to {to}: {i}");
                }
            }
            if to % from != 0 && to != 1 {
                continue;
            }
            let side = config(from).crops.global_crops_size;
            let grey: Vec<f32> = (0..side * side).map(|i| (i as f32 * 0.37).sin()).collect();
            let features = |model: &PoaModel, channels: usize| {
                let images = grey.repeat(channels);
                let images = Tensor::from_slice(&device, &[1, channels, side, side], &images).unwrap();
                let (cls, _) =
                    model.teacher_encoder().features(model.grid.smallest(), &images, false).unwrap();
                cls.to_vec::<f32>().unwrap()
            };
            let error = distance(&features(&ours, to), &features(&theirs, from));
            assert!(error < 1e-5, "{recipe}, {from} to {to}: {error:e}");
        }
    }
}

#[test]
fn an_extracted_network_says_its_channels() {
    let folder = Folder::new("channels-extract");
    for (recipe, formats) in RECIPES.into_iter().zip([
        &[Format::Timm, Format::Dinov2, Format::Poa][..],
        &[Format::Timm, Format::Poa],
        &[Format::Poa],
    ]) {
        for channels in [1, 4] {
            let mut config_of = config(recipe, channels);
            if recipe == "demo_swin" {
                // windows that divide every map, as timm needs them
                config_of.apply(&["student.window_size=2"]).unwrap();
            }
            let model = PoaModel::new(&config_of, &Device::cpu(), 5).unwrap();
            let path = PathBuf::from(folder.path("teacher.safetensors"));
            saved(&model, &path);
            let file = TensorFile::open(&path).unwrap();
            for format in formats {
                let dir = PathBuf::from(folder.path(format.name()));
                let extraction =
                    Extraction::new(&file, &*model.backbone, model.grid.intact(), *format).unwrap();
                let mean = vec![0.5; channels];
                let own = Normalization::new(channels, &mean, &[]).unwrap();
                extraction.normalized(own).write(&dir).unwrap();
                let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
                let json: serde_json::Value = serde_json::from_str(&text).unwrap();
                let (args, images) = match format {
                    Format::Timm => (&json["model_args"], &json["pretrained_cfg"]),
                    _ => (&json, &json),
                };
                assert_eq!(args["in_chans"], channels, "{text}");
                assert_eq!(images["mean"], serde_json::json!(mean), "{text}");
                assert_eq!(images["std"].as_array().unwrap().len(), channels);
                if *format == Format::Timm {
                    assert_eq!(images["input_size"][0], channels);
                    assert!(images["first_conv"].is_null(), "{text}");
                }
                let (name, shape) = first(&model);
                let plain = name.strip_prefix("backbone.").unwrap();
                let written = TensorFile::open(dir.join("model.safetensors")).unwrap();
                assert_eq!(written.shape(plain).unwrap(), shape);
            }
            let cost = |channels: usize| {
                let backbone = config(recipe, channels).backbone().unwrap();
                backbone.cost(backbone.grid().intact())
            };
            let (shape, more) = (first(&model).1, cost(channels + 1).parameters - cost(channels).parameters);
            assert_eq!(more, (shape[0] * shape[2] * shape[3]) as u64, "{recipe}");
        }
    }
}

#[test]
fn settings_of_channels_are_checked_together() {
    let problem = |settings: &[&str]| {
        let mut config = Config::recipe("vit_ee1200").unwrap();
        config.apply(settings).and_then(|()| config.resolve(1)).unwrap_err().to_string()
    };
    let text = problem(&["student.in_chans=1"]);
    for key in ["color_jitter_probability", "grayscale_probability", "solarize_probability"] {
        assert!(text.contains(&format!("crops.{key}")) && text.contains("in_chans = 1"), "{text}");
    }
    assert!(problem(&["student.in_chans=0"]).contains("student.in_chans"));
    assert!(problem(&["data.mean=[0.5]"]).contains("has 1 numbers for student.in_chans = 3"));
    assert!(problem(&["data.std=[0.2, 0.2, 0]"]).contains("data.std"));
    let grey = config("demo", 1);
    let written = grey.to_toml().unwrap();
    assert_eq!(Config::from_toml(&written, Path::new("written")).unwrap(), grey);
}

/// Grey images from training to evaluation, extraction, features and pictures.
#[test]
fn grey_images_go_all_the_way() {
    let folder = Folder::new("channels-run");
    let (run, out) = (folder.path("run"), folder.path("out"));
    let own =
        ["train", "--out", &run, "--device=cpu", "--steps=3", "student.in_chans=1", "data.spec=shapes:300"];
    let small = ["train.batch_size_per_gpu=4", "evaluation.train_images=40", "evaluation.val_images=20"];
    let shown = printed(&[&own, &small[..], &COLOURLESS].concat());
    assert!(shown.contains("checkpoint"), "{shown}");
    let subject = ["--checkpoint", &run, "--device=cpu"];
    let knn = ["eval", "knn", "--train", "shapes:80x36x1", "--k=5", "--network=intact", "--out", &out];
    assert!(printed(&[&knn, &subject[..]].concat()).contains("k=5"));
    let file = folder.path("features.safetensors");
    let features = ["features", "--data", "shapes:20", "--out", &file, "--images"];
    printed(&[&features, &subject[..]].concat());
    assert_eq!(TensorFile::open(&file).unwrap().shape("images").unwrap(), [20, 1, 32, 32]);
    let plain = folder.path("plain");
    printed(&["extract", "--checkpoint", &run, "--format=timm", "--out", &plain]);
    let written = TensorFile::open(Path::new(&plain).join("model.safetensors")).unwrap();
    assert_eq!(written.shape("patch_embed.proj.weight").unwrap()[1], 1);
    let (picture, pictures) = (folder.path("a.png"), folder.path("pictures"));
    image::RgbImage::from_fn(40, 40, |x, y| image::Rgb([x as u8 * 6, y as u8 * 6, 90]))
        .save(&picture)
        .unwrap();
    printed(&[&["visualize", picture.as_str(), "--out", &pictures], &subject[..]].concat());
    let mut drawn = std::fs::read_dir(&pictures).unwrap().map(|file| file.unwrap().path());
    let attention = drawn.find(|path| path.to_string_lossy().ends_with("a.png.attention.png")).unwrap();
    let seen = image::open(attention).unwrap().into_rgb8();
    let [r, g, b] = seen.get_pixel(99, 99).0;
    assert!(r == g && g == b, "the image is shown as the network saw it: {r} {g} {b}");
    // what a network of one channel starts from, and what it cannot be shown
    let other = folder.path("other");
    let init =
        ["train", "--out", &other, "--device=cpu", "--steps=1", "--init", &run, "data.spec=shapes:300"];
    printed(&[&init, &small[..]].concat());
    let log = std::fs::read_to_string(Path::new(&other).join("train.log")).unwrap();
    assert!(log.contains("repeated 1 → 3"), "{log}");
    let wide = ["train", "--out", &folder.path("wide"), "student.in_chans=4", "data.spec=shapes:300"];
    refused(&[&wide, &COLOURLESS[..]].concat(), 2, &["student.in_chans", "is 4", "1 or 3"]);
    assert!(!Path::new(&folder.path("wide")).exists(), "refused before anything is made");
}
