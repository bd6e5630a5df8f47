//! Unsupervised classification and retrieval: on both devices against scikit-learn and torchmetrics
//! (`fixtures/clusters`, by `benches/peers/scikit-learn`), against plain loops, and on the command line from files to
//! numbers.

#[path = "support/program.rs"]
mod support;

use std::path::Path;

use image::{Rgb, RgbImage};
use poa_gpu::data::{EvaluationView, Reading, open};
use poa_gpu::eval::agreement::agreement;
use poa_gpu::eval::kmeans::{KMeansOptions, Points};
use poa_gpu::eval::retrieval::Ranking;
use poa_gpu::eval::{
    ClusterOptions, LabelledImages, RetrievalOptions, RetrievalScores, cluster_scores, retrieval_scores,
};
use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::ops;
use poa_gpu::poa::PoaModel;
use poa_gpu::recipes::Config;
use poa_gpu::tensor::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use serde_json::Value;
use support::{Folder, SMALL, printed, program, refused, text};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/fixtures/clusters");

fn devices() -> [Device; 2] {
    [Device::cpu(), ops::open(&DeviceChoice::Gpu).expect("kernels-tests/run installs a software adapter")]
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The cases of a section of the record; there are some.
fn recorded(section: &str) -> Vec<Value> {
    let cases = json(&Path::new(FIXTURES).join("expected.json"))[section].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

/// A recorded tensor and the length of its rows.
fn tensor(name: &str) -> (Vec<f32>, usize) {
    let bytes = std::fs::read(Path::new(FIXTURES).join("features.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (values.collect(), tensor.shape()[1])
}

fn whole(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

#[track_caller]
fn near(what: &str, got: f64, want: &Value, most: f64) {
    let want = want.as_f64().unwrap();
    assert!((got - want).abs() <= most, "{what}: {got} instead of {want}");
}

#[test]
fn agreement_equals_that_of_scikit_learn() {
    for case in recorded("agreement") {
        let name = case["name"].as_str().unwrap();
        let got = agreement(&whole(&case["classes"]), &whole(&case["clusters"]));
        for (what, got) in [("accuracy", got.accuracy), ("ari", got.ari), ("nmi", got.nmi), ("fmi", got.fmi)]
        {
            near(&format!("{what} of {name}"), got, &case[what], 1e-12);
        }
    }
}

#[test]
fn agreement_is_one_for_classes_by_other_numbers_and_nothing_for_chance() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let classes: Vec<u32> = (0..50_000).map(|_| rng.random_range(0..1000)).collect();
    let permuted: Vec<u32> = classes.iter().map(|c| (c * 7 + 3) % 1000).collect();
    let same = agreement(&classes, &permuted);
    assert_eq!((same.accuracy, same.ari), (1.0, 1.0));
    assert!((same.nmi - 1.0).abs() < 1e-12 && (same.fmi - 1.0).abs() < 1e-12, "{same:?}");
    // as many clusters as ImageNet has classes
    let began = std::time::Instant::now();
    let random: Vec<u32> = classes.iter().map(|_| rng.random_range(0..1000)).collect();
    let chance = agreement(&classes, &random);
    println!("1000 x 1000 matched in {:.2} s", began.elapsed().as_secs_f64());
    assert!(chance.ari.abs() < 1e-3 && chance.nmi > 0.2 && chance.accuracy < 0.05, "{chance:?}");
    assert!(agreement(&[], &[]).accuracy.is_nan());
}

#[test]
fn k_means_equals_that_of_scikit_learn() {
    for case in recorded("k_means") {
        let name = case["name"].as_str().unwrap();
        let (points, width) = tensor(&format!("{name}.points"));
        let (first, _) = tensor(&format!("{name}.first"));
        let (centres, _) = tensor(&format!("{name}.centres"));
        let iterations = case["max_iter"].as_u64().unwrap() as usize;
        let options = KMeansOptions { iterations, ..KMeansOptions::default() };
        for device in devices() {
            let on = format!("{name} on {}", device.kind());
            let points = Points::new(&device, points.clone(), width).unwrap();
            let got = points.lloyd(&first, &options).unwrap();
            let clusters = whole(&case["clusters"]);
            assert_eq!(got.clusters, clusters, "{on}");
            assert_eq!(got.iterations as u64, case["iterations"].as_u64().unwrap(), "{on}");
            // the record is in double precision: a centre is a sum of some hundred values of size 1 in single. That of a
            // cluster without a row may lie anywhere.
            for (c, (got, want)) in got.centres.chunks(width).zip(centres.chunks(width)).enumerate() {
                let near = got.iter().zip(want).all(|(got, want)| (got - want).abs() < 5e-6);
                assert!(near || !clusters.contains(&(c as u32)), "{on}: {got:?} instead of {want:?}");
            }
            let inertia = case["inertia"].as_f64().unwrap();
            assert!((got.inertia - inertia).abs() <= 1e-6 * inertia + 1e-10, "{on}: {}", got.inertia);
            assert_eq!(points.lloyd(&first, &options).unwrap(), got, "{on}, again");
        }
    }
}

/// Clouds of points far from each other, in more than one block, some of them twice.
#[test]
fn clouds_are_found_from_any_seed_with_the_same_bits_again() {
    let (width, k, count) = (6, 12, 4500);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let centres: Vec<f32> = (0..k * width).map(|_| rng.random_range(-9.0..9.0)).collect();
    let classes: Vec<u32> = (0..count).map(|i| i * 7919 % k as u32).collect();
    let row = |class: &u32| centres[*class as usize * width..][..width].to_vec();
    let mut points: Vec<f32> =
        classes.iter().flat_map(row).map(|v| 100.0 + v + rng.random_range(-0.5..0.5)).collect();
    points.copy_within(0..50 * width, k * 50 * width);
    for device in devices() {
        let points = Points::new(&device, points.clone(), width).unwrap();
        for seed in [0, 1] {
            let options = KMeansOptions { starts: 3, seed, ..KMeansOptions::default() };
            let mut told = Vec::new();
            let got = points.k_means(k, &options, |done| told.push(done)).unwrap();
            assert_eq!(told, [1, 2, 3]);
            assert_eq!(agreement(&classes, &got.clusters).accuracy, 1.0, "on {}", device.kind());
            assert_eq!(points.k_means(k, &options, |_| {}).unwrap(), got, "again on {}", device.kind());
        }
    }
}

/// As many features as ImageNet has validation images, of a ResNet-50's width, in as many clusters as it has classes.
#[test]
#[ignore = "takes 2 GiB and minutes"]
fn a_thousand_clusters_of_wide_features() {
    let (width, k, count) = (2048, 1000, 50_000);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let centres: Vec<f32> = (0..k * width).map(|_| rng.random_range(-1.0..1.0)).collect();
    let classes: Vec<u32> = (0..count).map(|i| i * 7919 % k as u32).collect();
    let row = |class: &u32| centres[*class as usize * width..][..width].to_vec();
    let rows: Vec<f32> = classes.iter().flat_map(row).map(|v| v + rng.random_range(-2.0..2.0)).collect();
    let device = ops::open(&DeviceChoice::Auto).unwrap();
    let points = Points::new(&device, rows, width).unwrap();
    let began = std::time::Instant::now();
    let options = KMeansOptions { starts: 1, iterations: 5, ..KMeansOptions::default() };
    let got = points.k_means(k, &options, |_| {}).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    println!("{} iterations and the first centres: {seconds:.1} s on {}", got.iterations, device.describe());
    let found = agreement(&classes, &got.clusters);
    assert!(found.accuracy > 0.5 && found.nmi > 0.9, "{found:?}");
}

#[test]
fn fewer_different_rows_than_clusters_have_no_inertia() {
    let rows: Vec<f32> = (0..40).flat_map(|i| [(i % 3) as f32, 1.0]).collect();
    for device in devices() {
        let points = Points::new(&device, rows.clone(), 2).unwrap();
        let got =
            points.k_means(6, &KMeansOptions { starts: 2, ..KMeansOptions::default() }, |_| {}).unwrap();
        assert!(got.inertia < 1e-10, "{}", got.inertia);
        let classes: Vec<u32> = (0..40).map(|i| i % 3).collect();
        assert_eq!(agreement(&classes, &got.clusters).accuracy, 1.0);
    }
    assert!(Points::new(&Device::cpu(), Vec::new(), 2).is_err());
    assert!(Points::new(&Device::cpu(), vec![1.0; 3], 2).is_err());
}

/// Rows of length 1 in blocks of at most so many.
fn unit(device: &Device, rows: &[f32], width: usize, block: usize) -> Vec<Tensor> {
    let length = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>().sqrt();
    let unit: Vec<f32> = rows.chunks(width).flat_map(|row| row.iter().map(|v| v / length(row))).collect();
    unit.chunks(block * width)
        .map(|rows| Tensor::from_slice(device, &[rows.len() / width, width], rows).unwrap())
        .collect()
}

#[test]
fn retrieval_equals_that_of_torchmetrics() {
    for case in recorded("retrieval") {
        let name = case["name"].as_str().unwrap();
        let (gallery, width) = tensor(&format!("{name}.gallery"));
        let within = case["within"].as_bool().unwrap();
        let queries = (!within).then(|| tensor(&format!("{name}.queries")).0);
        let (classes, asked) = (whole(&case["classes"]), whole(&case["asked"]));
        let ks: Vec<usize> = whole(&case["ks"]).into_iter().map(|k| k as usize).collect();
        for device in devices() {
            let gallery = unit(&device, &gallery, width, 100);
            let queries = queries.as_ref().map(|queries| unit(&device, queries, width, 64));
            let queries = queries.as_ref().map(|blocks| (&blocks[..], &asked[..]));
            let ranking = Ranking { gallery: &gallery, classes: &classes, queries, ks: &ks };
            let got = ranking.scores(|_, _| {}).unwrap();
            let what = format!("{name} on {}", device.kind());
            near(&what, got.map, &case["map"], 1e-6);
            near(&what, got.precision_at_1, &case["precision_at_1"], 1e-6);
            for i in 0..ks.len() {
                near(&what, got.recall[i], &case["recall"][i], 1e-6);
                near(&what, got.hits[i], &case["hits"][i], 1e-6);
            }
            assert_eq!(got.without as u64, case["without"].as_u64().unwrap(), "{what}");
            assert_eq!(got.queries + got.without, asked.len(), "{what}");
        }
    }
}

/// Scores by sorting all images for every image: (map, precision at 1, recall at k, hits at k).
fn plain(features: &[f32], classes: &[i64], k: usize) -> [f64; 4] {
    let width = features.len() / classes.len();
    let rows: Vec<Vec<f64>> = features
        .chunks(width)
        .map(|row| {
            let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            row.iter().map(|v| f64::from(*v) / length).collect()
        })
        .collect();
    let (mut sums, mut queries) = ([0.0; 4], 0.0);
    for (q, row) in rows.iter().enumerate() {
        let dot = |i: usize| rows[i].iter().zip(row).map(|(a, b)| a * b).sum::<f64>();
        let mut all: Vec<(f64, usize)> = (0..rows.len()).filter(|i| *i != q).map(|i| (dot(i), i)).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let right: Vec<bool> = all.iter().map(|(_, i)| classes[*i] == classes[q]).collect();
        let count = right.iter().filter(|right| **right).count();
        if count == 0 {
            continue;
        }
        queries += 1.0;
        let (mut found, mut precision) = (0, 0.0);
        for (i, _) in right.iter().enumerate().filter(|(_, right)| **right) {
            found += 1;
            precision += f64::from(found) / (i + 1) as f64;
        }
        let first = right.iter().take(k).filter(|right| **right).count();
        let scores =
            [precision / count as f64, f64::from(u8::from(right[0])), first as f64 / count as f64, 0.0];
        sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
        sums[3] += f64::from(u8::from(first > 0));
    }
    sums.map(|sum| sum / queries)
}

#[test]
fn equal_similarities_are_ranked_in_the_order_of_the_images() {
    // both zeros too: 0·(−1) and 0·1
    let (gallery, width) = (vec![1.0, 0.0, 1.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 1.0], 2);
    for device in devices() {
        let gallery = unit(&device, &gallery, width, 2);
        let scores = |query: [f32; 2], classes: &[u32]| {
            let queries = unit(&device, &query, width, 1);
            let queries = Some((&queries[..], &[1][..]));
            let got = Ranking { gallery: &gallery, classes, queries, ks: &[1, 2] }.scores(|_, _| {}).unwrap();
            (got.map, got.hits)
        };
        // the third of the three equal ones, and the last
        assert_eq!(scores([1.0, 0.0], &[0, 0, 1, 1, 0]), ((1.0 / 3.0 + 2.0 / 5.0) / 2.0, vec![0.0, 0.0]));
        assert_eq!(scores([0.0, 1.0], &[0, 1, 1, 0, 0]), ((1.0 / 3.0 + 2.0 / 4.0) / 2.0, vec![0.0, 0.0]));
        assert_eq!(scores([0.0, 1.0], &[0, 0, 0, 0, 1]), (1.0, vec![1.0, 1.0]));
        let none = scores([0.0, 1.0], &[0; 5]);
        assert!(none.0.is_nan() && none.1[0].is_nan());
    }
}

#[test]
fn networks_together_score_as_each_alone_and_weights_that_are_not_numbers_are_told() {
    let mut config = Config::recipe("demo").unwrap();
    config.resolve(1).unwrap();
    let view = EvaluationView::rgb(config.crops.global_crops_size);
    let images =
        |spec: &str| LabelledImages::new(&open(spec, &Reading::default()).unwrap(), 0, &view).unwrap();
    let (gallery, queries) = (images("shapes:90"), images("shapes:70"));
    for device in devices() {
        let model = PoaModel::new(&config, &device, 5).unwrap();
        let encoder = model.teacher_encoder();
        let networks = ["smallest", "intact"].map(|name| model.grid.named(name).unwrap());
        let clusters = |memory: usize, normalize: bool| {
            let k_means = KMeansOptions { starts: 2, ..KMeansOptions::default() };
            let options = ClusterOptions { k_means, normalize, memory, ..ClusterOptions::new(10) };
            cluster_scores(encoder, &networks, &gallery, &options, &mut |_, _, _| {})
        };
        let retrieval = |memory: usize, queries: Option<&LabelledImages>| {
            let options = RetrievalOptions { memory, ..RetrievalOptions::default() };
            retrieval_scores(encoder, &networks, (&gallery, queries), &options, &mut |_, _, _| {})
        };
        let together = clusters(usize::MAX, false).unwrap();
        assert_eq!(clusters(0, false).unwrap(), together, "on {}", device.kind());
        assert_ne!(clusters(0, true).unwrap(), together, "by angles, on {}", device.kind());
        for queries in [None, Some(&queries)] {
            let together = retrieval(usize::MAX, queries).unwrap();
            assert_eq!(retrieval(0, queries).unwrap(), together, "on {}", device.kind());
            let scored = |scores: &RetrievalScores| scores.queries == if queries.is_some() { 70 } else { 90 };
            assert!(together.iter().all(|s| scored(s) && (0.0..=1.0).contains(&s.map)), "{together:?}");
        }
        let too_many = ClusterOptions::new(91);
        let error = cluster_scores(encoder, &networks, &gallery, &too_many, &mut |_, _, _| {}).unwrap_err();
        assert!(error.to_string().contains("90 readable images for 91 clusters"), "{error}");

        let weights = encoder.parameters.values();
        let norm = "backbone.norm.norm.weight";
        let count = weights.read(norm).unwrap().len();
        weights.write(norm, &vec![f32::NAN; count]).unwrap();
        for error in [clusters(0, false).unwrap_err(), retrieval(0, None).unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains("not finite") && error.contains("48x2"), "{error}");
        }
    }
}

/// Images of three classes, which differ in colour and a little in all else.
fn coloured(folder: &Folder) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for (class, colour) in [("red", [220, 40, 30]), ("green", [30, 200, 60]), ("blue", [20, 60, 230])] {
        std::fs::create_dir_all(folder.0.join("images").join(class)).unwrap();
        for i in 0..15 {
            let noise = |v: u8, rng: &mut ChaCha8Rng| v.saturating_add(rng.random_range(0..40));
            let pixels = |_: u32, _: u32| Rgb(colour.map(|v| noise(v, &mut rng)));
            let image = RgbImage::from_fn(40, 36, pixels);
            image.save(folder.0.join("images").join(class).join(format!("{i}.png"))).unwrap();
        }
    }
    format!("folder:{}", folder.path("images"))
}

/// From files to numbers, of a ViT and of a Swin: what the commands write is what follows from exported features.
#[test]
fn the_commands_score_what_features_exports() {
    let folder = Folder::new("clusters");
    let images = coloured(&folder);
    for recipe in ["demo", "demo_swin"] {
        let (run, out, file) = (folder.path(recipe), folder.path("out"), folder.path("f.safetensors"));
        let train = ["train", "--config", recipe, "--out", &run, "--device=cpu", "--steps=2"];
        let small = if recipe == "demo" { &SMALL[..] } else { &SMALL[3..] };
        let short = ["data.spec=shapes:100", "train.batch_size_per_gpu=4", "evaluation.val_images=20"];
        printed(&[&train, &short[..], small].concat());
        printed(&["features", "--checkpoint", &run, "--data", &images, "--out", &file, "--device=cpu"]);
        let file = TensorFile::open(&file).unwrap();
        let (features, classes) = (file.read_f32("cls").unwrap(), file.read_i64("labels").unwrap());
        assert_eq!(classes.len(), 45);
        let width = features.len() / classes.len();

        let common = ["--checkpoint", &run, "--device=cpu", "--network", "smallest,intact", "--out", &out];
        let ask = ["eval", "retrieval", "--train", &images, "--within", "--k", "3,20"];
        let told = printed(&[&ask, &common[..]].concat());
        assert!(told.contains("mAP") && told.contains("hit@20"), "{told}");
        let written = json(&Path::new(&out).join("retrieval.json"));
        let intact = &written["networks"].as_array().unwrap()[1];
        for k in ["3", "20"] {
            let [map, first, recall, hits] = plain(&features, &classes, k.parse().unwrap());
            near("mAP", map, &intact["map"], 1e-6);
            near("precision at 1", first, &intact["precision_at_1"], 1e-6);
            near("recall", recall, &intact["recall"][k], 1e-6);
            near("hits", hits, &intact["hits"][k], 1e-6);
            assert!(told.contains(&format!("{:.1}%", 100.0 * map)), "{told}");
        }

        let told = printed(&[&["eval", "clusters", "--data", &images, "--starts=3"], &common[..]].concat());
        assert!(told.contains("3 clusters, the best of 3 starts") && told.contains("NMI"), "{told}");
        let points = Points::new(&Device::cpu(), features, width).unwrap();
        let options = KMeansOptions { starts: 3, ..KMeansOptions::default() };
        let found = points.k_means(3, &options, |_| {}).unwrap();
        let classes: Vec<u32> = classes.iter().map(|c| *c as u32).collect();
        let want = agreement(&classes, &found.clusters);
        let written = json(&Path::new(&out).join("clusters.json"));
        let intact = &written["networks"].as_array().unwrap()[1];
        near("accuracy", want.accuracy, &intact["accuracy"], 1e-9);
        near("ARI", want.ari, &intact["ari"], 1e-9);
        near("NMI", want.nmi, &intact["nmi"], 1e-9);
        near("FMI", want.fmi, &intact["fmi"], 1e-9);
        near("inertia", found.inertia, &intact["inertia"], 1e-4 * found.inertia);
        // colours are easy
        assert!(want.accuracy > 0.9, "{recipe}: {want:?}");
        for name in ["clusters", "retrieval"] {
            let table = std::fs::read_to_string(Path::new(&out).join(format!("{name}.csv"))).unwrap();
            assert_eq!(table.lines().count(), 1 + 2, "{table}");
            for chart in ["surface", "parameters"] {
                assert!(image::open(Path::new(&out).join(format!("{name}-{chart}.png"))).is_ok());
            }
        }
        std::fs::remove_dir_all(out).unwrap();
    }
    let run = folder.path("demo");
    let common = ["--checkpoint", &run, "--device=cpu"];
    let bad = |args: &[&str], texts: &[&str]| {
        let status = if texts[0].starts_with("--") { 2 } else { 1 };
        refused(&[&["eval"], args, &common[..]].concat(), status, texts);
    };
    bad(&["clusters", "--data", &images, "--clusters", "46"], &["--clusters 46", "45 images"]);
    bad(&["clusters", "--data", &images, "--clusters", "1"], &["--clusters 1", "at least 2"]);
    bad(&["clusters", "--data", &images, "--starts", "0"], &["--starts must be at least 1"]);
    bad(&["clusters", "--data", &images, "--images", "1"], &["one class alone"]);
    bad(&["clusters", "--data", "folder:/no/such"], &["/no/such"]);
    bad(&["retrieval", "--train", &images, "--within", "--k", "45"], &["--k 45", "44 images"]);
    bad(&["retrieval", "--train", &images, "--k", "0"], &["--k 0", "at least 1"]);
    bad(&["retrieval", "--train", &images, "--k", "x"], &["--k: `x` is no whole number"]);
    let one = format!("folder:{}", folder.path("images/red"));
    bad(&["retrieval", "--train", &one, "--within"], &["images/red"]);
    let both = program(&[
        "eval",
        "retrieval",
        "--checkpoint",
        &run,
        "--train",
        "shapes",
        "--within",
        "--val",
        "shapes",
    ]);
    assert_eq!(both.status.code(), Some(2));
    assert!(text(&both.stderr).contains("cannot be used with"), "{}", text(&both.stderr));

    // a class that the gallery does not hold among those that were picked
    let few = ["--train", &images, "--val", &images, "--train-images", "1", "--k", "1"];
    let out = program(&[&["eval", "retrieval"], &few[..], &common[..]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(
        text(&out.stderr).contains("30 of 45 queries have no image of their class"),
        "{}",
        text(&out.stderr)
    );
}
