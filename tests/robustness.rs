//! Robustness: the rule of the foreground and the changes of images by hand; nothing changed is what it was, to the bit; a
//! ViT without positions does not see where its patches are; draws follow from seed and image alone; and the command
//! line from files to pictures, for all families, with neighbours, probes and fine-tuned classifiers, and backgrounds.

#[path = "support/program.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::Path;

use image::{Rgb, RgbImage};
use poa_gpu::data::npy::Plane;
use poa_gpu::data::{EvaluationView, Reading, open};
use poa_gpu::eval::LabelledImages;
use poa_gpu::eval::knn_bank::KnnBank;
use poa_gpu::eval::robustness::changes::{cover, shuffled};
use poa_gpu::eval::robustness::salience::{foreground, mass};
use poa_gpu::eval::robustness::{Change, Draws, Head, Robustness, Salience, Score, Subject, accuracies};
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::ops;
use poa_gpu::recipes::teacher::Teacher;
use poa_gpu::tensor::{Device, Tensor};
use serde_json::Value;
use support::{Folder, SMALL, printed, program, refused, text};

fn devices() -> [Device; 2] {
    [Device::cpu(), ops::open(&DeviceChoice::Gpu).expect("kernels-tests/run installs a software adapter")]
}

/// A checkpoint of a family after two steps of pre-training.
fn pretrained(folder: &Folder, recipe: &str) -> String {
    let out = folder.path(recipe);
    let mut args = vec!["-q", "train", "--config", recipe, "--device=cpu", "--steps=2", "--out", &out];
    args.extend(["train.batch_size_per_gpu=4", "data.spec=shapes:40", "evaluation.train_images=20"]);
    args.extend(["evaluation.val_images=10", "dino.head_n_prototypes=[16, 24]", "dino.head_hidden_dim=32"]);
    if recipe == "demo" {
        args.extend(SMALL);
    }
    let done = program(&args);
    assert!(done.status.success(), "{recipe}: {}", text(&done.stderr));
    out
}

#[test]
fn the_foreground_is_what_the_official_rule_says() {
    // by hand: sums from the smallest are 0.1, 0.3, 0.6, 1.0
    let mass = [0.3, 0.1, 0.4, 0.2];
    assert_eq!(foreground(&mass, 0.0), [false; 4]);
    assert_eq!(foreground(&mass, 0.3), [false, false, true, false]);
    assert_eq!(foreground(&mass, 0.5), [true, false, true, false]);
    assert_eq!(foreground(&mass, 0.75), [true, false, true, true]);
    assert_eq!(foreground(&mass, 1.0), [true; 4]);
    // equal masses: the first cells are summed first
    assert_eq!(foreground(&[0.25; 4], 0.4), [false, false, true, true]);
}

#[test]
fn heads_count_alike_and_mass_sums_to_one() {
    // the first head pays half of its attention to the class token
    let attention = [0.125, 0.125, 0.25, 0.0, 0.4, 0.3, 0.2, 0.1];
    let near = |got: Vec<f64>, want: [f64; 4]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(near(mass(&attention, 2, Some(0)).unwrap(), [0.25, 0.25, 0.5, 0.0]));
    assert!(near(mass(&attention, 2, None).unwrap(), [0.325, 0.275, 0.35, 0.05]));
    assert!(mass(&attention, 2, Some(2)).unwrap_err().to_string().contains("heads 0 to 1"));
}

#[test]
fn cells_are_covered_and_pieces_moved() {
    let pixels: Vec<f32> = (1..=32).map(|v| v as f32).collect(); // two planes of 4 x 4
    let mut covered = pixels.clone();
    cover(&mut covered, 4, &[false, true, false, false], 0);
    let zero: BTreeSet<usize> = (0..32).filter(|i| covered[*i] == 0.0).collect();
    assert_eq!(zero, BTreeSet::from([2, 3, 6, 7, 18, 19, 22, 23]));
    assert!((0..32).all(|i| zero.contains(&i) || covered[i] == pixels[i]));
    let mut moved = pixels.clone();
    cover(&mut moved, 4, &[true, false, false, false], 1);
    let zero: Vec<usize> = (0..16).filter(|i| moved[*i] == 0.0).collect();
    assert_eq!(zero, [5, 6, 9, 10], "the grid is moved by a pixel");
    let order = [3, 1, 0, 2];
    let got = shuffled(&pixels, 4, [2, 2], &order);
    assert_eq!(got[..16], [11., 12., 3., 4., 15., 16., 7., 8., 1., 2., 9., 10., 5., 6., 13., 14.]);
    assert_eq!(shuffled(&pixels, 4, [2, 1], &[1, 0])[..8], pixels[8..16]);
    assert_eq!(shuffled(&pixels, 4, [1, 1], &[0]), pixels);
}

#[test]
fn draws_follow_from_seed_and_image() {
    let draws = Draws { seed: 3, shared_by: 1 };
    let count = |ratio| draws.covered(ratio, 10, 7).iter().filter(|c| **c).count();
    assert_eq!([0.0, 0.07, 0.29, 0.7, 1.0].map(count), [0, 7, 29, 70, 100]);
    let (few, many) = (draws.covered(0.3, 14, 5), draws.covered(0.6, 14, 5));
    assert!(few.iter().zip(&many).all(|(few, many)| !few || *many), "what is covered stays so");
    assert_ne!(draws.covered(0.5, 14, 5), draws.covered(0.5, 14, 6));
    assert_ne!(draws.covered(0.5, 14, 5), Draws { seed: 4, ..draws }.covered(0.5, 14, 5));
    let shared = Draws { seed: 3, shared_by: 8 };
    assert_eq!(shared.covered(0.5, 14, 8), shared.covered(0.5, 14, 15));
    assert_ne!(shared.covered(0.5, 14, 7), shared.covered(0.5, 14, 8));
    let mut order = draws.order([4, 8], 2);
    assert_ne!(order, draws.order([4, 8], 3));
    order.sort_unstable();
    assert_eq!(order, (0..32).collect::<Vec<_>>());
}

/// The whole range of changes that a demo's ViT of 32 pixels in patches of 8 can take, ratios ascending.
const CHANGES: [Change; 8] = [
    Change::Clean,
    Change::Random(0.0),
    Change::Salient(0.0),
    Change::NonSalient(0.0),
    Change::Shuffle([1, 1]),
    Change::Random(0.5),
    Change::Shuffle([4, 4]),
    Change::Random(1.0),
];

#[test]
fn nothing_changed_is_clean_and_patches_without_positions_have_no_place() {
    let folder = Folder::new("robust-vit");
    let run = pretrained(&folder, "demo");
    for device in devices() {
        let teacher = Teacher::open(run.as_ref(), &device).unwrap();
        let encoder = teacher.encoder();
        let side = teacher.config.crops.global_crops_size;
        assert_eq!(encoder.backbone.cells(side), 4, "of the demo");
        let images = |spec: &str| {
            let source = open(spec, &Reading::default()).unwrap();
            LabelledImages::new(&source, 60, &EvaluationView::rgb(side)).unwrap()
        };
        let (train, val) = (images("shapes:200"), images("shapes:300"));
        let networks = [teacher.grid.smallest(), teacher.grid.intact()];
        let scores = || -> Vec<Vec<Score>> {
            let banks = KnnBank::of(encoder, &networks, &train, (5, 0.07), &mut |_, _, _| {}).unwrap();
            let heads: Vec<Head> = banks.into_iter().map(Head::Neighbours).collect();
            let subjects: Vec<Subject> =
                networks.iter().zip(&heads).map(|(n, head)| Subject { network: *n, head }).collect();
            let options = Robustness {
                changes: &CHANGES,
                draws: Draws { seed: 0, shared_by: 1 },
                cells: 4,
                offset: 0,
                salience: Salience { of: None, head: None },
                classes: None,
            };
            accuracies(encoder, &subjects, &val, &options, &mut |_, _, _| {}).unwrap()
        };
        let on = device.kind();
        let before = scores();
        assert_eq!(before, scores(), "again, {on}");
        for of in &before {
            assert!(of[0].top1 > 0.2, "{on}: {of:?}");
            assert!(of[..5].iter().all(|score| *score == of[0]), "{on}: {of:?}");
            assert_eq!([of[5].covered, of[7].covered], [0.5, 1.0]);
            assert!(of[7].top1 < of[0].top1, "{on}: grey images all look alike: {of:?}");
        }
        // with positions order matters, without them features are the same sums in another order
        let view = EvaluationView::rgb(side);
        let image = open("shapes:10", &Reading::default()).unwrap().load(3).unwrap();
        let pixels = view.of(&image);
        let order = Draws { seed: 1, shared_by: 1 }.order([4, 4], 0);
        let moved = shuffled(&pixels, side, [4, 4], &order);
        let features = |pixels: &[f32]| {
            let images = Tensor::from_slice(&device, &[1, 3, side, side], pixels).unwrap();
            encoder.features(networks[1], &images, false).unwrap().0.to_vec::<f32>().unwrap()
        };
        let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart(&features(&pixels), &features(&moved)) > 1e-3, "{on}");
        let values = encoder.parameters.values();
        let positions = values.read("backbone.pos_embed").unwrap().len();
        values.write("backbone.pos_embed", &vec![0.0; positions]).unwrap();
        assert!(apart(&features(&pixels), &features(&moved)) < 1e-5, "{on}");
        let after = scores();
        for of in &after {
            assert_eq!(of[6].top1, of[0].top1, "{on}: shuffled patches are the patches: {of:?}");
        }
    }
}

fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The entry of a result whose key has this value.
fn at<'a>(list: &'a Value, key: &str, value: Value) -> &'a Value {
    list.as_array().unwrap().iter().find(|entry| entry[key] == value).unwrap()
}

#[test]
fn sub_networks_of_all_families_with_neighbours_and_probes() {
    let folder = Folder::new("robust-families");
    let vit = pretrained(&folder, "demo");
    for recipe in ["demo", "demo_swin", "demo_resnet"] {
        let run = if recipe == "demo" { vit.clone() } else { pretrained(&folder, recipe) };
        let (knn, out) = (folder.path("knn"), folder.path("robust"));
        let same = ["--checkpoint", &run, "--train=shapes:200", "--network=smallest,intact", "--device=cpu"];
        printed(&[&["eval", "knn", "--k=10", "--out", &knn], &same[..]].concat());
        let all = ["eval", "robustness", "--k=10", "--ratio=0,0.5", "--pieces=1x1,4x2", "--out", &out];
        let told = printed(&[&all, &same[..]].concat());
        assert!(told.contains("random (share that is covered)") && told.contains("4x2"), "{told}");
        assert_eq!(told.contains("\nsalient ("), recipe == "demo", "{told}");
        let (theirs, ours) = (json(&format!("{knn}/knn.json")), json(&format!("{out}/robustness.json")));
        for (knn, of) in
            theirs["networks"].as_array().unwrap().iter().zip(ours["networks"].as_array().unwrap())
        {
            assert_eq!(knn["network"], of["network"]);
            let clean = &knn["top1"]["10"];
            assert_eq!(&of["clean"], clean, "{recipe}: {of}");
            assert_eq!(&at(&of["random"], "ratio", 0.0.into())["top1"], clean);
            assert_eq!(&at(&of["shuffle"], "pieces", "1x1".into())["top1"], clean);
            assert_eq!(at(&of["random"], "ratio", 0.5.into())["covered"], 0.5);
        }
        let mut pictures = vec!["random", "shuffle"];
        pictures.extend((recipe == "demo").then_some("non-salient"));
        for kind in pictures {
            for end in ["png", "svg"] {
                assert!(
                    Path::new(&out).join(format!("robustness-{kind}.{end}")).is_file(),
                    "{recipe}: {kind}"
                );
            }
        }
        if recipe != "demo" {
            let asked = [&["eval", "robustness", "--kind=salient"], &same[..]].concat();
            refused(&asked, 2, &["no class token", "--salience-of"]);
            let by = ["--salience-of", &vit, "--ratio=0.5", "--out", &out];
            let told = printed(&[&asked, &by[..]].concat());
            assert!(told.contains("salient"), "{told}");
            let found = json(&format!("{out}/robustness.json"));
            let covered = found["networks"][0]["salient"][0]["covered"].as_f64().unwrap();
            assert!(covered > 0.0 && covered <= 0.5, "the salient half takes less cells: {covered}");
        }
    }
    // the best probe on what it was chosen by
    let (linear, out) = (folder.path("linear"), folder.path("probes"));
    let same = ["--checkpoint", &vit, "--train=shapes:200", "--network=intact", "--device=cpu"];
    printed(
        &[&["eval", "linear", "--epochs=1", "--epoch-iterations=10", "--out", &linear], &same[..]].concat(),
    );
    let more = ["--classifier=linear", "--probe-steps=10", "--kind=shuffle", "--pieces=1x1", "--out", &out];
    printed(&[&["eval", "robustness"], &more[..], &same[..]].concat());
    let best = &json(&format!("{linear}/linear.json"))["networks"][0]["best"]["top1"];
    assert_eq!(&json(&format!("{out}/robustness.json"))["networks"][0]["clean"], best);
}

/// Pictures of two classes, cold and warm, under `dir/CLASS`.
fn photos(dir: &Path, count: usize, colours: [[u8; 3]; 2]) {
    for (class, colour) in ["cold", "warm"].into_iter().zip(colours) {
        let dir = dir.join(class);
        std::fs::create_dir_all(&dir).unwrap();
        for i in 0..count {
            let of = |x: u32, y: u32| {
                let [r, g, b] = colour.map(|v| v.saturating_add((i * 7) as u8 % 40));
                Rgb([r, g.wrapping_add((x * 3) as u8 % 16), b.wrapping_add((y * 5) as u8 % 16)])
            };
            RgbImage::from_fn(32, 32, of).save(dir.join(format!("{i}.png"))).unwrap();
        }
    }
}

/// A mask in NumPy's format.
fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    while !(header.len() + 11).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
}

#[test]
fn masks_of_numpy_are_read_and_others_refused() {
    let plane = Plane::parse(&npy("|b1", "(2, 3)", &[0, 1, 1, 0, 0, 1])).unwrap();
    assert_eq!((plane.height, plane.width), (2, 3));
    assert_eq!(plane.values, [0., 1., 1., 0., 0., 1.]);
    let floats: Vec<u8> = [0.5f32, 9.0, 1.0, 9.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(Plane::parse(&npy("<f4", "(1, 2, 2)", &floats)).unwrap().values, [0.5, 1.0]);
    for (bytes, why) in [
        (b"no".to_vec(), "no .npy"),
        (npy("|b1", "(2, 3)", &[0]), "cut short"),
        (npy("<c8", "(1, 1)", &[0; 8]), "`<c8`"),
        (npy("|b1", "(6,)", &[0; 6]), "shape (6,)"),
        (npy("|b1", "(99999999999, 99999999999)", &[0]), "too many"),
    ] {
        let problem = Plane::parse(&bytes).unwrap_err();
        assert!(problem.contains(why), "{problem}");
    }
}

#[test]
fn a_fine_tuned_network_before_other_backgrounds() {
    let folder = Folder::new("robust-tuned");
    let (blue, orange) = ([20, 60, 190], [200, 90, 20]);
    let photo = folder.path("photos");
    photos(Path::new(&photo), 8, [blue, orange]);
    let challenge = folder.path("bg_challenge");
    let variant = |name: &str| Path::new(&challenge).join(name).join("val");
    photos(&variant("original"), 3, [blue, orange]);
    photos(&variant("mixed_same"), 4, [blue, orange]);
    photos(&variant("mixed_rand"), 4, [blue, blue]); // half of them are mistaken
    photos(&variant("only_bg_t"), 2, [blue, orange]);
    for (class, mask) in [("cold", [1u8; 1024]), ("warm", [0; 1024])] {
        let dir = variant("fg_mask").join(class);
        std::fs::create_dir_all(&dir).unwrap();
        (0..3).for_each(|i| {
            std::fs::write(dir.join(format!("{i}.npy")), npy("|b1", "(32, 32)", &mask)).unwrap();
        });
    }
    let data = format!("folder:{photo}");
    for recipe in ["demo", "demo_swin", "demo_resnet"] {
        let (init, tuned, out) =
            (pretrained(&folder, recipe), folder.path(&format!("tuned-{recipe}")), folder.path("out"));
        let done = program(&[
            "-q",
            "finetune",
            "--init",
            &init,
            "--out",
            &tuned,
            "--train",
            &data,
            "--val",
            &data,
            "--network=smallest",
            "--device=cpu",
            "--steps=60",
            "train.batch_size_per_gpu=8",
            "finetune.lr=0.02",
            "finetune.layer_decay=0.9",
        ]);
        assert!(done.status.success(), "{recipe}: {}", text(&done.stderr));
        let best = json(&format!("{tuned}/best.json"))["top1"].clone();
        assert_eq!(best, 1.0, "{recipe}: colours are told apart");
        let all = [
            "eval",
            "robustness",
            "--model",
            &tuned,
            "--data",
            &data,
            "--kind=random,shuffle",
            "--ratio=0,1",
            "--pieces=1x1,2x2",
            "--backgrounds",
            &challenge,
            "--challenge",
            "--device=cpu",
            "--out",
            &out,
        ];
        let told = printed(&all);
        assert!(told.contains("BG-Gap") && told.contains("vulnerable"), "{told}");
        let found = json(&format!("{out}/robustness.json"));
        let of = &found["networks"][0];
        assert_eq!(of["clean"], best);
        assert_eq!(at(&of["random"], "ratio", 0.0.into())["top1"], best);
        assert_eq!(at(&of["random"], "ratio", 1.0.into())["top1"], 0.5, "one class for grey images");
        let b = &of["backgrounds"];
        assert_eq!(
            (&b["top1"]["mixed_same"], &b["top1"]["mixed_rand"]),
            (&1.0.into(), &0.5.into()),
            "{recipe}"
        );
        assert_eq!(b["bg_gap"], 0.5);
        // cold objects fill their pictures, warm ones are not there: some background is taken for the other class
        assert_eq!(b["vulnerable"], 0.5, "{recipe}");
        assert!(b["top1"]["fg_mask"].is_null());
        // the other way round by a map of numbers and names, and -1 for what is neither
        let map = folder.path("map.json");
        std::fs::write(&map, r#"{"0": 1, "warm": -1}"#).unwrap();
        printed(&[&all[..], &["--class-map", &map]].concat());
        let found = json(&format!("{out}/robustness.json"));
        let top1 = &found["networks"][0]["backgrounds"]["top1"];
        assert_eq!((&top1["mixed_same"], &top1["mixed_rand"]), (&0.0.into(), &0.5.into()));
        if recipe == "demo" {
            // the folder best alone says what it is
            let (copy, best) =
                (Path::new(&folder.path("copy")).to_path_buf(), Path::new(&tuned).join("best"));
            std::fs::create_dir_all(&copy).unwrap();
            for name in ["config.json", "model.safetensors"] {
                std::fs::copy(best.join(name), copy.join(name)).unwrap();
            }
            let models = [copy.to_str().unwrap(), &tuned];
            let several = ["--data", &data, "--kind=salient", "--ratio=0.3", "--device=cpu", "--out", &out];
            printed(&[&["eval", "robustness", "--model"], &models[..], &several[..]].concat());
            let found = json(&format!("{out}/robustness.json"));
            assert_eq!(found["networks"].as_array().unwrap().len(), 2);
            assert_eq!(found["networks"][0]["salient"], found["networks"][1]["salient"]);
        }
    }
}

#[test]
fn what_is_wrong_is_said_before_the_work() {
    let folder = Folder::new("robust-wrong");
    let run = pretrained(&folder, "demo");
    let with = |more: &[&str], texts: &[&str]| {
        let all = ["eval", "robustness", "--device=cpu", "--checkpoint", &run, "--train=shapes:100"];
        refused(&[&all, more].concat(), 2, texts);
    };
    with(&["--kind=occlusion"], &["`occlusion`", "random"]);
    with(&["--ratio=1.5"], &["`1.5`", "0 to 1"]);
    with(&["--pieces=3x3"], &["3x3", "must divide 32"]);
    with(&["--pieces=four"], &["`four`", "4x4"]);
    with(&["--salience-head=first"], &["`first`", "mean"]);
    with(&["--salience-head=99", "--kind=salient"], &["99", "heads 0 to"]);
    with(&["--grid=99"], &["--grid 99", "1 to 32"]);
    with(&["--shared-by=0"], &["--shared-by"]);
    let model = |dir: &str, texts: &[&str]| {
        refused(&["eval", "robustness", "--device=cpu", "--model", dir, "--data=shapes:50"], 1, texts);
    };
    model(&run, &["no network with a classifier", "--checkpoint"]);
    let net = folder.path("net");
    printed(&["extract", "--checkpoint", &run, "--out", &net]);
    model(&net, &["without a classifier"]);
    refused(&["eval", "robustness", "--model", &net], 2, &["--data"]);
    let backgrounds = folder.path("nothing");
    std::fs::create_dir_all(&backgrounds).unwrap();
    let all =
        ["eval", "robustness", "--device=cpu", "--checkpoint", &run, "--train=shapes:100", "--kind=shuffle"];
    refused(
        &[&all[..], &["--pieces=1x1", "--backgrounds", &backgrounds]].concat(),
        1,
        &["variants", "mixed_same"],
    );
}
