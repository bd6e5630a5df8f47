//! Networks trained alone, and the paper's variants of POA: what they compute, beside plain PyTorch; what they leave out;
//! whole runs; what does not go together.

#[path = "support/program.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use poa_gpu::data::batch::{Batch, CropGroup, GLOBAL, LOCAL, Masks};
use poa_gpu::files::checkpoint::checkpoints_in;
use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::gpu::{Caps, DeviceChoice};
use poa_gpu::models::encoder::Encoder;
use poa_gpu::models::plain::Format;
use poa_gpu::nn::parameters::{FlatBuffers, FlatLayout, Parameters};
use poa_gpu::ops;
use poa_gpu::poa::branches::Branches;
use poa_gpu::poa::forecast::Forecast;
use poa_gpu::poa::losses::LossReport;
use poa_gpu::poa::settings::Settings;
use poa_gpu::poa::{PoaModel, StepInputs};
use poa_gpu::recipes::Config;
use poa_gpu::tensor::{Device, Tensor};
use poa_gpu::verify::Fixture;
use poa_gpu::weights::extract::Extraction;
use poa_gpu::weights::import::Import;
use serde::Deserialize;
use support::{Folder, SMALL, printed, program, refused, result, text};

/// What `benches/peers/pytorch/variants.py` wrote down.
#[derive(Deserialize)]
struct Recorded {
    network: [usize; 2],
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    total: f64,
    components: BTreeMap<String, f64>,
    grad_norm: BTreeMap<String, f64>,
}

/// The settings of a case over those of the official record.
fn settings(case: &str) -> &'static [&'static str] {
    match case {
        "poa" => &[],
        "v1" => &["dino.branches=v1"],
        "v2" => &["dino.branches=v2"],
        "v3" => &["dino.branches=v3"],
        "alone" => &["dino.branches=alone"],
        "ibot" => &["dino.branches=alone", "train.centering=centering", "dino.koleo_loss_weight=0"],
        "cross_view" => &["dino.elastic_same_view=false"],
        "same_view" => &["dino.elastic_cross_view=false"],
        "without_alpha" => &["student.input_scale=false"],
        other => panic!("`{other}` is recorded, and nothing here computes it"),
    }
}

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/fixtures");

fn record(name: &str) -> TensorFile {
    TensorFile::open(Path::new(FIXTURES).join("vit").join(name)).unwrap()
}

/// The official record's images of its first step.
fn recorded_batch(config: &Config) -> Batch {
    let (file, images) = (record("batch.safetensors"), config.loading.batch_size_per_gpu);
    let group = |name: &'static str, views: usize, size: usize| {
        let pixels = file.read_f32(&format!("step0.{name}_crops")).unwrap();
        CropGroup { name, views, channels: 3, size, pixels: pixels.into(), masks: None }
    };
    let masks = Some(Masks { side: 4, values: file.read_u8("step0.masks").unwrap() });
    let global = CropGroup { masks, ..group(GLOBAL, 2, config.crops.global_crops_size) };
    let local = group(LOCAL, config.crops.local_crops_number, config.crops.local_crops_size);
    Batch::new(images, vec![global, local]).unwrap()
}

/// Norms of the gradients by module, as clipping takes them.
fn norms(model: &PoaModel) -> BTreeMap<String, f64> {
    let gradients = model.student.gradients().unwrap();
    let mut squares = BTreeMap::new();
    for place in gradients.layout().places() {
        let module = place.spec.name.split('.').next().unwrap().to_string();
        let own = gradients.read(&place.spec.name).unwrap();
        *squares.entry(module).or_insert(0.0) += own.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
    }
    squares.into_iter().map(|(module, square): (String, f64)| (module, square.sqrt())).collect()
}

/// How far two numbers are apart, of the second.
fn apart(got: f64, want: f64) -> f64 {
    (got - want).abs() / want.abs()
}

fn adapter() -> Device {
    ops::open(&DeviceChoice::Gpu).unwrap()
}

#[test]
fn every_variant_has_the_losses_and_gradients_of_plain_pytorch() {
    let text = std::fs::read_to_string(Path::new(FIXTURES).join("variants/expected.json")).unwrap();
    let recorded: Recorded = serde_json::from_str(&text).unwrap();
    assert_eq!(recorded.cases.len(), 9);
    for device in [Device::cpu(), adapter()] {
        for (case, want) in &recorded.cases {
            let fixture = Fixture::open(&Path::new(FIXTURES).join("vit")).unwrap();
            let mut config = fixture.config().unwrap();
            config.apply(settings(case)).unwrap();
            config.resolve(1).unwrap();
            let model = PoaModel::new(&config, &device, 0).unwrap();
            for (buffers, file) in
                [(&model.student, "student.safetensors"), (&model.teacher, "teacher.safetensors")]
            {
                let file = record(file);
                for place in buffers.values().layout().places() {
                    let values = file.read_f32_as(&place.spec.name, &place.spec.shape).unwrap();
                    buffers.values().write(&place.spec.name, &values).unwrap();
                }
            }
            let name = recorded.network.map(|n| n.to_string()).join("x");
            // alone there is one network, whatever is asked for
            let network = model.grid.named(&name).unwrap_or(model.grid.intact());
            let mut inputs = StepInputs::new(network, 0.05);
            let done = model.forward_backward(&recorded_batch(&config), &mut inputs).unwrap();
            let LossReport { total, components } = done.read(&model.settings.weights).unwrap();
            let on_device = done.total.to_vec::<f32>().unwrap()[0];
            let mut worst = apart(total, want.total).max(apart(f64::from(on_device), want.total));
            let names: Vec<&String> = components.iter().map(|(name, _)| name).collect();
            assert_eq!(components.len(), want.components.len(), "{case}: {names:?}");
            for (name, value) in &components {
                worst = worst.max(apart(*value, want.components[name]));
            }
            let norms = norms(&model);
            assert_eq!(norms.len(), 2);
            for (module, norm) in &norms {
                worst = worst.max(apart(*norm, want.grad_norm[module]));
            }
            println!("{case:14} on {}: worst {worst:.1e}", device.kind());
            assert!(worst < 1e-5, "{case} on {}: {worst:e}, {components:?}, {norms:?}", device.kind());
        }
    }
}

fn config(recipe: &str, settings: &[&str]) -> Config {
    let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
    let mut config = Config::load(recipe, &settings).unwrap();
    config.resolve(1).unwrap();
    config
}

const ALONE: [&str; 2] = ["dino.branches=alone", "evaluation.networks=[\"intact\"]"];

/// No pass of an elastic student, none of its memory: by rehearsal, and by what a step leaves behind.
#[test]
fn alone_there_is_no_elastic_student_to_pay_for() {
    for recipe in ["demo", "demo_swin", "demo_resnet"] {
        let caps = Caps { max_binding_bytes: 1 << 40, ..Caps::minimal() };
        let of = |settings: &[&str]| {
            Forecast::of(&config(recipe, &[&["train.batch_size_per_gpu=4"], settings].concat()), &caps)
                .unwrap()
        };
        let both = of(&["student.fixed_network=intact"]);
        let intact = of(&ALONE);
        // of two students and a teacher one student is left; the update is the same
        let share = intact.step.work.flops / both.step.work.flops;
        println!("{recipe}: {share:.2} of the operations, {} of {} bytes", intact.memory, both.memory);
        assert!((0.4..0.7).contains(&share), "{recipe}: {share}");
        assert!(intact.memory < both.memory && intact.state == both.state, "{recipe}: memory");
        let smallest = of(&[&ALONE[..], &["student.fixed_network=smallest"]].concat());
        assert!(smallest.step.work.flops < intact.step.work.flops, "{recipe}");
        assert!(smallest.state < intact.state, "{recipe}: parameters of the smallest alone");
    }
}

/// The demo's smallest and intact networks.
fn ends(recipe: &str) -> [String; 2] {
    let backbone = config(recipe, &[]).backbone().unwrap();
    [backbone.grid().smallest(), backbone.grid().intact()].map(|network| network.to_string())
}

#[test]
fn alone_any_network_of_every_family_learns_on_both_devices_alike() {
    for recipe in ["demo", "demo_swin", "demo_resnet"] {
        let [smallest, intact] = ends(recipe);
        for name in [&smallest, &intact] {
            let fixed = format!("student.fixed_network={name}");
            let config = config(recipe, &[&ALONE[..], &["train.batch_size_per_gpu=4", &fixed]].concat());
            let source = poa_gpu::data::open("shapes:40", &poa_gpu::data::Reading::default()).unwrap();
            let batch = poa_gpu::data::Loader::new(source, config.loader().unwrap()).unwrap().next().unwrap();
            let [on_cpu, on_gpu] = [Device::cpu(), adapter()].map(|device| {
                let model = PoaModel::new(&config, &device, 7).unwrap();
                assert_eq!(model.grid.entries().len(), 1);
                assert_eq!(&model.grid.intact().to_string(), name);
                let done =
                    model.forward_backward(&batch, &mut StepInputs::new(model.grid.intact(), 0.05)).unwrap();
                assert!(done.koleo.len() == 1 && done.heads.iter().all(|head| head.loss.elastic.is_none()));
                (done.read(&model.settings.weights).unwrap().total, norms(&model))
            });
            assert!(apart(on_gpu.0, on_cpu.0) < 1e-5, "{recipe} {name}: {on_cpu:?} and {on_gpu:?}");
            for (module, norm) in &on_cpu.1 {
                assert!(*norm > 0.0 && apart(on_gpu.1[module], *norm) < 1e-4, "{recipe} {name} {module}");
            }
        }
    }
}

/// Without α as with it, a sub-network is what is cut out of it.
#[test]
fn without_alpha_networks_are_cut_out_as_they_are() {
    let (folder, device) = (Folder::new("baselines-alpha"), Device::cpu());
    for recipe in ["demo", "demo_swin", "demo_resnet"] {
        let mut found = Vec::new();
        for scale in ["true", "false"] {
            let config = config(recipe, &[&format!("student.input_scale={scale}")]);
            let backbone = config.backbone().unwrap();
            let network = backbone.grid().smallest();
            let layout = FlatLayout::new(&backbone.specs(), usize::MAX).unwrap();
            let mut rng = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(1);
            let values = FlatBuffers::initialised(&layout, &device, &mut rng).unwrap();
            let file = folder.path(&format!("{recipe}-{scale}.safetensors"));
            write(Path::new(&file), &values);
            let teacher = TensorFile::open(&file).unwrap();
            let extraction = Extraction::new(&teacher, &*backbone, network, Format::Poa).unwrap();
            let plain = folder.path(&format!("{recipe}-{scale}"));
            extraction.write(plain.as_ref()).unwrap();
            let alone = backbone.alone(network).unwrap();
            let own =
                FlatBuffers::zeros(&FlatLayout::new(&alone.specs(), usize::MAX).unwrap(), &device).unwrap();
            let import = Import::open(&plain, &*alone, &alone.specs()).unwrap();
            import.fill(|name, of| own.write(name, of)).unwrap();
            let side = config.crops.global_crops_size;
            let pixels: Vec<f32> =
                (0..2 * 3 * side * side).map(|i| ((i * 7919) % 1013) as f32 / 500.0 - 1.0).collect();
            let images = Tensor::from_slice(&device, &[2, 3, side, side], &pixels).unwrap();
            let features = |backbone, values| {
                let parameters = Parameters::frozen(values);
                let encoder = Encoder { device: &device, backbone, parameters: &parameters };
                encoder.features(network, &images, false).unwrap().0.to_vec::<f32>().unwrap()
            };
            let (elastic, own) = (features(&*backbone, values), features(&*alone, own));
            let worst = own.iter().zip(&elastic).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(own.len() == elastic.len() && worst < 2e-5, "{recipe} {scale}: {worst}");
            found.push(elastic);
        }
        let differs = found[0].iter().zip(&found[1]).any(|(a, b)| (a - b).abs() > 1e-3);
        // every elastic convolution of a ResNet is followed by a norm, which takes α out again
        assert_eq!(differs, recipe != "demo_resnet", "{recipe}: what α changes");
    }
}

fn write(path: &Path, values: &FlatBuffers) {
    use poa_gpu::files::tensor_writer::{TensorSpec, write_tensors};
    let places = values.layout().places();
    let specs: Vec<_> =
        places.iter().map(|place| TensorSpec::f32(&place.spec.name, &place.spec.shape)).collect();
    write_tensors(path, &specs, |name| values.read(name)).unwrap();
}

const SHORT: [&str; 9] = [
    "data.spec=shapes:100",
    "train.batch_size_per_gpu=4",
    "train.log_every=1",
    "optim.epochs=3",
    "train.OFFICIAL_EPOCH_LENGTH=2",
    "train.saveckp_freq=1",
    "train.keep_checkpoints=0",
    "evaluation.train_images=20",
    "evaluation.val_images=10",
];

fn train(out: &str, more: &[&str]) {
    let args = [&["train", "--config=demo", "--out", out][..], &SHORT, &SMALL, more].concat();
    let done = program(&args);
    assert!(done.status.success(), "{more:?}: {}", text(&done.stderr));
}

/// Whole runs of the smallest network alone, by one rank and two: to the bit, resumed, evaluated, extracted.
#[test]
fn a_network_alone_is_trained_resumed_judged_and_cut_out() {
    let folder = Folder::new("baselines-run");
    let alone = ["dino.branches=alone", "student.fixed_network=smallest", "train.centering=centering"];
    for device in ["--device=cpu", "--devices=cpu:2"] {
        let [whole, cut] = ["whole", "cut"].map(|name| folder.path(&format!("{name}{device}")));
        train(&whole, &[&[device][..], &alone].concat());
        let told = std::fs::read_to_string(Path::new(&whole).join("train.log")).unwrap();
        assert!(told.contains("network 16x1 alone"), "{told}");
        train(&cut, &[&[device][..], &alone].concat());
        for (step, dir) in checkpoints_in(Path::new(&cut).join("checkpoints")).unwrap() {
            if step > 2 {
                std::fs::remove_dir_all(dir).unwrap();
            }
        }
        let resumed = program(&["train", "--out", &cut, "--resume", device]);
        assert!(text(&resumed.stderr).contains("resumed after 2 of 6 steps"), "{}", text(&resumed.stderr));
        assert_eq!(result(&whole), result(&cut), "{device}: resumed");
        let (lines, _) = result(&whole);
        let last = lines.iter().rev().find(|line| line.get("loss").is_some()).unwrap();
        assert_eq!(last["network"], "16x1");
        assert!(last.get("distill_global_crops_loss_0").is_none() && last.get("target_entropy_0").is_some());
        assert!(lines.iter().any(|line| line.get("knn.16x1.10").is_some()), "{lines:?}");
    }
    let run = folder.path("whole--device=cpu");
    let listed = printed(&["extract", "--checkpoint", &run, "--list"]);
    assert!(listed.lines().count() == 2 && listed.contains("16x1"), "{listed}");
    let out = folder.path("network");
    printed(&["extract", "--checkpoint", &run, "--out", &out]);
    let file = TensorFile::open(Path::new(&out).join("model.safetensors")).unwrap();
    assert_eq!(file.shape("blocks.0.attn.qkv.weight").unwrap(), [48, 16]);
    printed(&["eval", "knn", "--checkpoint", &run, "--train", "shapes:60", "--k=5", "--device=cpu", "-q"]);
    let tuned = folder.path("tuned");
    // of one network there is no other to name
    let network = ["--init", &run, "--device=cpu", "--steps=2", "data.spec=shapes:40"];
    let done =
        program(&[&["finetune", "--out", &tuned, "train.batch_size_per_gpu=4"][..], &network].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
}

#[test]
fn every_variant_trains_on_two_ranks_and_resumes() {
    let folder = Folder::new("baselines-variants");
    for (variant, own) in [
        ("dino.branches=v1", None),
        ("dino.branches=v2", None),
        ("dino.branches=v3", Some("elastic_teacher_local_crops_loss_1")),
        ("dino.elastic_same_view=false", None),
    ] {
        let [whole, cut] = ["whole", "cut"].map(|name| folder.path(&format!("{variant}-{name}")));
        let more = [
            "--devices=cpu:2",
            variant,
            "ibot.separate_head=true",
            "ibot.head_n_prototypes=[16]",
            "ibot.head_hidden_dim=32",
            "ibot.head_bottleneck_dim=8",
        ];
        train(&whole, &more);
        train(&cut, &more);
        for (step, dir) in checkpoints_in(Path::new(&cut).join("checkpoints")).unwrap() {
            if step > 4 {
                std::fs::remove_dir_all(dir).unwrap();
            }
        }
        let resumed = program(&["train", "--out", &cut, "--resume", "--devices=cpu:2"]);
        assert!(resumed.status.success(), "{variant}: {}", text(&resumed.stderr));
        assert_eq!(result(&whole), result(&cut), "{variant}: resumed");
        let (lines, _) = result(&whole);
        let last = lines.iter().rev().find(|line| line.get("loss").is_some()).unwrap();
        let distilled = last.get("distill_global_crops_loss_0").is_some();
        assert_eq!(distilled, variant == "dino.branches=v3", "{variant}: {last}");
        assert!(own.is_none_or(|name| last[name].as_f64().unwrap() > 0.0), "{variant}: {last}");
        assert!(last["ibot_loss_0"].as_f64().unwrap() > 0.0, "{variant}: {last}");
    }
}

#[test]
fn what_does_not_go_together_is_a_line() {
    let check = |settings: &[&str], texts: &[&str]| {
        refused(&[&["config", "demo"][..], settings].concat(), 2, texts);
    };
    check(&["dino.lambda_ie=1"], &["`dino.lambda_ie`", "dino.branches = \"alone\""]);
    check(&["dino.branches=v2", "dino.lambda_ie=0.7"], &["`dino.lambda_ie`", "v2", "0.8"]);
    check(&["dino.branches=alone", "dino.lambda_ie=0.7"], &["`dino.lambda_ie`", "alone"]);
    check(&["dino.branches=alone", "dino.elastic_same_view=false"], &["`dino.elastic_same_view`", "alone"]);
    check(&["dino.branches=v1", "dino.elastic_cross_view=false"], &["`dino.elastic_cross_view`", "v1"]);
    check(
        &["dino.elastic_cross_view=false", "dino.elastic_same_view=false"],
        &["`dino.elastic_same_view`", "elastic_cross_view"],
    );
    check(&["dino.branches=v3", "train.centering=centering"], &["`train.centering`", "v3", "sinkhorn_knopp"]);
    check(&["dino.branches=alone", "train.network_per_rank=false"], &["`train.network_per_rank`"]);
    check(&["dino.branches=alone", "student.fixed_network=50x2"], &["`student.fixed_network`", "48x2"]);
    check(
        &["dino.branches=alone", "student.fixed_network=48x2", "evaluation.networks=[\"96x3\"]"],
        &["`evaluation.networks`", "96x3"],
    );
    check(&["dino.branches=elastic"], &["`dino.branches`", "alone"]);
}

/// What a run of an earlier version said by λ = 1 is said by its branches.
#[test]
fn an_earlier_run_without_elastic_student_goes_on_as_one_alone() {
    let earlier = config("demo", &["dino.lambda_ie=0.99"]).to_toml().unwrap();
    let earlier = earlier.replace("branches = \"poa\"\n", "").replace("lambda_ie = 0.99", "lambda_ie = 1.0");
    let mut stored = Config::from_stored(&earlier, Path::new("config.toml")).unwrap();
    stored.resolve(1).unwrap();
    assert_eq!(stored.dino.branches, Branches::Alone);
    assert_eq!(stored.backbone().unwrap().grid().intact().to_string(), "96x3");
}

/// Every variant of the paper's tables differs from its recipe in what it is about.
#[test]
fn recipes_of_the_tables_change_one_thing() {
    let paper = Settings::default();
    let mut found = 0;
    for name in Config::recipe_names().filter(|name| name.starts_with("variant_")) {
        let changed = Config::recipe(name).unwrap().differences(&paper).unwrap();
        let keys: Vec<&str> = changed.iter().map(|(key, ..)| key.as_str()).collect();
        // the rows of Table 3 are of one head
        let one_head = name.contains("view");
        let grid = name == "variant_networks_42";
        assert_eq!(keys.len(), if one_head || grid { 2 } else { 1 }, "{name}: {keys:?}");
        found += 1;
    }
    assert_eq!(found, 13);
    let networks = |name: &str| config(name, &[]).backbone().unwrap().grid().entries().len();
    assert_eq!(networks("variant_networks_42"), 42);
    for name in ["dinov2_baseline", "ibot_baseline"] {
        assert_eq!(networks(name), 1, "{name}");
        let base = config(name, &["student.fixed_network=1024x24"]);
        assert_eq!(base.backbone().unwrap().grid().intact().to_string(), "1024x24");
    }
    let ibot = config("ibot_baseline", &["ibot.separate_head=true"]);
    assert!(ibot.dino.koleo_loss_weight == 0.0 && ibot.ibot_start_step() == 0);
}
