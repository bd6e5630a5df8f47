//! Weights in and out: names, sub-networks as plain networks, what they cost, files of others as a start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use poa_gpu::files::checkpoint::CheckpointWriter;
use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::files::tensor_writer::{TensorSpec, write_tensors};
use poa_gpu::models::Student;
use poa_gpu::models::backbone::Backbone;
use poa_gpu::models::encoder::Encoder;
use poa_gpu::models::grid::{ElasticGrid, Network, block_ids};
use poa_gpu::models::plain::{Format, PlainName, corner};
use poa_gpu::models::resnet::{ResNet, ResNetShape};
use poa_gpu::models::swin::{Swin, SwinShape};
use poa_gpu::models::vit::{self, Vit, VitSizes, vit_grid, vit_specs};
use poa_gpu::nn::parameters::{FlatBuffers, FlatLayout, Init, ParameterSpec, Parameters};
use poa_gpu::ops::position::bicubic_matrix;
use poa_gpu::recipes::Config;
use poa_gpu::tensor::{Device, Tensor};
use poa_gpu::verify::Fixture;
use poa_gpu::weights::extract::Extraction;
use poa_gpu::weights::import::{Import, Outcome};
use poa_gpu::weights::names::unchunked;
use poa_gpu::weights::networks::choose;

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("poa-gpu-weights-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Sizes of the recorded run.
fn recorded() -> VitSizes {
    let mut student = vit::Settings { min_depth: 2, max_depth: 4, layerscale: 0.1, ..Default::default() };
    student.elastic.patch_size = 8;
    let attention = &mut student.attention;
    (attention.min_embed_dim, attention.max_embed_dim, attention.head_dim) = (16, 48, 16);
    VitSizes::from_settings(&student, 32)
}

/// A ViT of these sizes.
fn vit(sizes: &VitSizes) -> Vit {
    Vit::new(sizes.clone(), vit_grid(&vit::Settings::default()).unwrap())
}

fn record(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures").join(kind)
}

fn recorded_config(kind: &str) -> Config {
    Fixture::open(&record(kind)).unwrap().config().unwrap()
}

fn recorded_backbone(kind: &str) -> Box<dyn Backbone> {
    recorded_config(kind).backbone().unwrap()
}

fn recorded_teacher(kind: &str) -> TensorFile {
    TensorFile::open(record(kind).join("teacher.safetensors")).unwrap()
}

fn network(width: usize, depth: usize) -> Network {
    Network::new(width, depth)
}

/// Values that tell tensors and places in them apart.
fn values(name: &str, count: usize) -> Vec<f32> {
    let seed: usize = name.bytes().map(usize::from).sum();
    (0..count).map(|i| ((i * 31 + seed) % 997) as f32 / 997.0 - 0.4).collect()
}

/// Writes a file of these tensors.
fn file(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let specs: Vec<TensorSpec> = tensors.iter().map(|(name, shape)| TensorSpec::f32(name, shape)).collect();
    let count = |name: &str| specs.iter().find(|s| s.name == name).unwrap().shape.iter().product();
    write_tensors(path, &specs, |name| Ok(values(name, count(name)))).unwrap();
}

/// A backbone's tensors, renamed; where `rename` gives nothing, left out.
fn backbone(sizes: &VitSizes, rename: impl Fn(&str) -> Option<String>) -> Vec<(String, Vec<usize>)> {
    let specs = vit_specs(sizes);
    specs.into_iter().filter_map(|s| Some((rename(&s.name)?, s.shape))).collect()
}

fn head_specs() -> Vec<ParameterSpec> {
    let spec = |name: &str, shape: &[usize]| ParameterSpec::new(name, shape, Init::Constant(0.0));
    vec![
        spec("dino_head.mlp0.0.linear.weight", &[32, 48]),
        spec("dino_head.mlp0.2.weight", &[32, 32]),
        spec("dino_head.last_layer0.weight_g", &[24, 1]),
        spec("dino_head.last_layer0.weight_v", &[24, 16]),
    ]
}

fn all_specs(sizes: &VitSizes) -> Vec<ParameterSpec> {
    let mut all = vit_specs(sizes);
    all.extend(head_specs());
    all
}

/// The name that a plain ViT in a format has for a parameter.
fn plain_name(official: &str, format: Format) -> Option<String> {
    vit(&recorded()).plain_name(official, format).map(|plain| plain.name)
}

/// A file as the start of a ViT.
fn open(path: impl AsRef<Path>, specs: &[ParameterSpec]) -> poa_gpu::error::Result<Import> {
    Import::open(path, &vit(&recorded()), specs)
}

fn outcome<'a>(import: &'a Import, name: &str) -> &'a Outcome {
    &import.fillings().iter().find(|f| f.name == name).unwrap().outcome
}

fn read(import: &Import, name: &str) -> Vec<f32> {
    let filling = import.fillings().iter().find(|f| f.name == name).unwrap();
    import.read(filling).unwrap().unwrap()
}

#[test]
fn names_round_trip() {
    for (kind, all_lack) in
        [("vit", &[][..]), ("resnet", &[]), ("swin", &["norm0.norm.", "norm1.norm.", "norm2.norm."])]
    {
        let backbone = recorded_backbone(kind);
        let mut seen = BTreeSet::new();
        for ParameterSpec { name, .. } in backbone.specs() {
            let bare = name.strip_prefix("backbone.").unwrap();
            assert_eq!(unchunked(&name), name);
            for format in Format::ALL {
                let lacks = all_lack.iter().any(|start| bare.starts_with(start))
                    || format.is_named_as_timm() && bare == "mask_token"
                    || format == Format::Transformers && bare == "mask_token" && kind != "vit";
                let plain = backbone.plain_name(&name, format);
                assert_eq!(plain.is_none(), lacks, "{name} in {format}");
                let Some(plain) = plain else { continue };
                let levels = [
                    "linear",
                    "norm.norm",
                    "norm1.norm",
                    "norm2.norm",
                    "stages",
                    ".conv.",
                    "ffn",
                    "w_msa",
                    ".layers.",
                ];
                assert!(!levels.iter().any(|level| plain.name.contains(level)), "{}", plain.name);
                assert_eq!(unchunked(&plain.name), plain.name);
                assert!(format != Format::Poa || seen.insert(plain.name.clone()), "{} twice", plain.name);
            }
        }
        for spec in head_specs() {
            assert_eq!(unchunked(&spec.name), spec.name);
            assert_eq!(backbone.plain_name(&spec.name, Format::Poa), None);
        }
    }
    assert_eq!(unchunked("backbone.blocks.1.13.norm2.norm.bias"), "backbone.blocks.13.norm2.norm.bias");
    assert_eq!("dinov2".parse::<Format>().unwrap(), Format::Dinov2);
    assert_eq!("onnx".parse::<Format>().unwrap(), Format::Onnx);
    let unknown = "tflite".parse::<Format>().unwrap_err().to_string();
    assert!(unknown.contains("timm, dinov2, poa, transformers and onnx"), "{unknown}");
}

#[test]
fn a_plain_network_holds_slices_with_alpha_folded_in() {
    let teacher = recorded_teacher("vit");
    let sizes = recorded();
    let whole = sizes.width;
    for of in [network(16, 2), network(32, 3), network(48, 4)] {
        let w = of.width;
        let cut = Extraction::new(&teacher, &vit(&sizes), of, Format::Dinov2).unwrap();
        let plain = |name: &str| cut.read(name).unwrap();
        let source = |name: &str| teacher.read_f32(&format!("backbone.{name}")).unwrap();
        assert_eq!(plain("cls_token"), source("cls_token")[..w]);
        assert_eq!(plain("mask_token"), source("mask_token")[..w]);
        assert_eq!(plain("norm.bias"), source("norm.norm.bias")[..w]);
        let fan_in = 3 * 8 * 8;
        assert_eq!(plain("patch_embed.proj.weight"), source("patch_embed.proj.weight")[..w * fan_in]);
        let rows: Vec<f32> =
            source("pos_embed").chunks(whole).flat_map(|row| row[..w].iter().copied()).collect();
        assert_eq!(plain("pos_embed"), rows);
        for (new, old) in block_ids(4, of.depth).into_iter().enumerate() {
            for part in ["ls1.gamma", "ls2.gamma"] {
                assert_eq!(
                    plain(&format!("blocks.{new}.{part}")),
                    source(&format!("blocks.{old}.{part}"))[..w]
                );
            }
            let norm = source(&format!("blocks.{old}.norm2.norm.weight"));
            assert_eq!(plain(&format!("blocks.{new}.norm2.weight")), norm[..w]);
            // layer, groups of rows, rows of a group in the intact and in the sub-network, columns likewise
            let layers = [
                ("attn.qkv", 3, (whole, w), (whole, w)),
                ("attn.proj", 1, (whole, w), (whole, w)),
                ("mlp.fc1", 1, (4 * whole, 4 * w), (whole, w)),
                ("mlp.fc2", 1, (whole, w), (4 * whole, 4 * w)),
            ];
            for (layer, groups, (most_rows, rows), (most_columns, columns)) in layers {
                let x = values(layer, columns);
                let weight = source(&format!("blocks.{old}.{layer}.linear.weight"));
                let bias = source(&format!("blocks.{old}.{layer}.linear.bias"));
                let plain_weight = plain(&format!("blocks.{new}.{layer}.weight"));
                let plain_bias = plain(&format!("blocks.{new}.{layer}.bias"));
                assert_eq!((plain_weight.len(), plain_bias.len()), (groups * rows * columns, groups * rows));
                let alpha = most_columns as f64 / columns as f64;
                for (out, plain_bias) in plain_bias.iter().enumerate() {
                    let row = out / rows * most_rows + out % rows;
                    let product = |w: &[f32], first: usize, factor: f64| -> f64 {
                        let w = &w[first..][..columns];
                        w.iter().zip(&x).map(|(w, x)| f64::from(*w) * factor * f64::from(*x)).sum()
                    };
                    let expected = product(&weight, row * most_columns, alpha) + f64::from(bias[row]);
                    let found = product(&plain_weight, out * columns, 1.0) + f64::from(*plain_bias);
                    assert!((expected - found).abs() < 1e-6, "{of} {layer} {out}: {found} for {expected}");
                }
            }
        }
    }
}

#[test]
fn a_folder_is_what_timm_loads() {
    let dir = scratch("timm").join("deep/er");
    let teacher = recorded_teacher("vit");
    for format in [Format::Timm, Format::Dinov2, Format::Poa] {
        let cut = Extraction::new(&teacher, &vit(&recorded()), network(32, 3), format).unwrap();
        cut.write(&dir).unwrap();
        let model = TensorFile::open(dir.join("model.safetensors")).unwrap();
        assert_eq!(model.contains("mask_token"), format != Format::Timm);
        assert_eq!(model.shape("blocks.2.attn.qkv.weight").unwrap(), [96, 32]);
        assert!(!model.contains("blocks.3.norm1.weight"));
        let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
        assert!(String::from_utf8_lossy(&bytes).contains(r#""__metadata__":{"format":"pt"}"#));
        let config = std::fs::read_to_string(dir.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["poa_network"], "32x3");
        let args = match format {
            Format::Timm => {
                assert_eq!(config["architecture"], "vit_tiny_patch16_224");
                assert_eq!(config["num_classes"], 0);
                assert_eq!(config["pretrained_cfg"]["mean"][0], 0.485);
                assert_eq!(config["pretrained_cfg"]["input_size"], serde_json::json!([3, 32, 32]));
                &config["model_args"]
            }
            _ => &config,
        };
        assert_eq!((&args["num_heads"], &args["patch_size"]), (&2.into(), &8.into()));
        assert_eq!(args["init_values"], 0.1);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "no temporary file is left");
    }
}

#[test]
fn a_teacher_that_does_not_fit_is_refused_by_name() {
    let teacher = recorded_teacher("vit");
    let cut = |sizes: &VitSizes, of| Extraction::new(&teacher, &vit(sizes), of, Format::Timm);
    let problem = |sizes: &VitSizes, of| cut(sizes, of).unwrap_err().to_string();
    assert!(problem(&recorded(), network(40, 3)).contains("no sub-network 40x3 in a ViT of 48x4"));
    assert!(problem(&recorded(), network(64, 3)).contains("64x3"));
    assert!(problem(&recorded(), network(32, 0)).contains("32x0"));
    let wide = VitSizes { width: 64, ..recorded() };
    assert!(problem(&wide, network(32, 3)).contains("`backbone.cls_token` has shape [1, 1, 48]"));
    let deep = VitSizes { depth: 6, ..recorded() };
    let text = problem(&deep, network(32, 6));
    assert!(
        text.contains("teacher.safetensors") && text.contains("`backbone.blocks.4.norm1.norm.weight` is")
    );
    let cut = cut(&recorded(), network(16, 2)).unwrap();
    assert!(cut.read("mask_token").unwrap_err().to_string().contains("`mask_token`"));
}

/// timm's counts of `vit_{small,base,large}_patch16_224` with `num_classes=0` and `init_values`.
#[test]
fn costs_equal_known_counts() {
    let sizes = VitSizes::from_settings(&vit::Settings::default(), 224);
    for (width, depth, parameters, gmacs) in
        [(384, 12, 21_674_880, 4.608), (768, 12, 85_817_088, 17.582), (1024, 24, 303_350_784, 61.555)]
    {
        let found = sizes.cost(network(width, depth));
        assert_eq!(found.parameters, parameters);
        assert!((found.flops as f64 / 2e9 - gmacs).abs() < 0.05, "{width}x{depth}: {}", found.flops);
    }
    // 4 patches of 8 pixels and the class token, 16 channels, one block
    let tiny = VitSizes { image: 16, ..recorded() };
    let macs = 4 * 192 * 16 + 5 * 16 * 16 * 12 + 2 * 25 * 16;
    assert_eq!(tiny.cost(network(16, 1)).flops, 2 * macs);
}

/// Parameters of timm's `SwinTransformer` of 128x18 with heads of 16, and of docs/plain_swin.py's 96x6
/// (without mask token); operations by PyTorch's `FlopCounterMode` over the latter's two.
#[test]
fn costs_of_swins_equal_known_counts() {
    let swin = Config::recipe("swin_ee1200").unwrap().backbone().unwrap();
    for (width, depth, parameters, flops) in [(96, 6, 27_544_308, 8.989), (128, 18, 86_806_768, 30.860)] {
        let found = swin.cost(network(width, depth));
        assert_eq!(found.parameters, parameters);
        assert!((found.flops as f64 / 1e9 / flops - 1.0).abs() < 1e-3, "{width}x{depth}: {}", found.flops);
    }
}

#[test]
fn networks_are_chosen_by_name() {
    let grid = vit_grid(&vit::Settings::default()).unwrap();
    let chosen = choose(&grid, &["small,base", "large 384x12", "intact"]).unwrap();
    assert_eq!(chosen, [network(384, 12), network(768, 12), network(1024, 24)]);
    assert_eq!(choose(&grid, &["all"]).unwrap().len(), 143);
    assert_eq!(choose(&grid, &["smallest"]).unwrap(), [network(384, 12)]);
    let problem = |grid: &ElasticGrid, word: &str| choose(grid, &[word]).unwrap_err().to_string();
    assert!(problem(&grid, "390x12").contains("the nearest is 384x12; WIDTHxDEPTH from 384x12 to 1024x24"));
    assert!(problem(&grid, "smal").contains("the nearest is small;"));
    assert!(problem(&grid, "largest").contains("the nearest is large;"));
    assert!(problem(&grid, " ,").contains("no sub-network is named"));
    let mut student = vit::Settings { min_depth: 6, max_depth: 12, ..Default::default() };
    (student.attention.min_embed_dim, student.attention.max_embed_dim) = (64, 384);
    let grid = vit_grid(&student).unwrap();
    assert_eq!(choose(&grid, &["small"]).unwrap(), [network(384, 12)]);
    let text = problem(&grid, "base");
    assert!(text.contains("the paper's 768x12") && text.contains("intact, all, small work"), "{text}");
}

#[test]
fn own_and_official_files_fill_everything() {
    let dir = scratch("own");
    let specs = all_specs(&recorded());
    for prefix in ["", "teacher.", "module.student.", "model."] {
        let path = dir.join("a.safetensors");
        let tensors: Vec<_> =
            specs.iter().map(|s| (format!("{prefix}{}", s.name), s.shape.clone())).collect();
        file(&path, &tensors);
        let import = open(&path, &specs).unwrap();
        assert!(import.fillings().iter().all(|f| f.outcome == Outcome::Matched));
        assert_eq!(import.summary(), format!("init: 4 of 4 blocks, {} tensors matched", specs.len()));
        let mut filled = 0;
        import
            .fill(|name, got| {
                filled += 1;
                assert_eq!(got, values(&format!("{prefix}{name}"), got.len()));
                Ok(())
            })
            .unwrap();
        assert_eq!(filled, specs.len());
    }
}

#[test]
fn the_teacher_counts_where_both_are_there() {
    let path = scratch("both").join("a.safetensors");
    let name = |who: &str| format!("{who}.backbone.norm.norm.weight");
    file(&path, &[(name("student"), vec![48]), (name("teacher"), vec![48])]);
    let import = open(&path, &all_specs(&recorded())).unwrap();
    assert_eq!(read(&import, "backbone.norm.norm.weight"), values(&name("teacher"), 48));
    assert_eq!(import.unused(), [name("student")]);
}

#[test]
fn plain_vits_fill_the_backbone() {
    let dir = scratch("plain");
    let sizes = recorded();
    let specs = all_specs(&sizes);
    let chunked = |name: &str| match name.strip_prefix("blocks.") {
        Some(rest) => format!("blocks.{}.{rest}", rest[..1].parse::<usize>().unwrap() / 2),
        None => name.to_string(),
    };
    for (format, chunks) in [(Format::Timm, false), (Format::Dinov2, false), (Format::Dinov2, true)] {
        let path = dir.join("a.safetensors");
        let rename = |name: &str| plain_name(name, format).map(|n| if chunks { chunked(&n) } else { n });
        let mut tensors = backbone(&sizes, rename);
        tensors.push(("head.weight".into(), vec![10, 48]));
        if chunks {
            assert!(tensors.iter().any(|(name, _)| name == "blocks.1.3.attn.qkv.weight"));
        }
        file(&path, &tensors);
        let import = open(&path, &specs).unwrap();
        let missing = head_specs().len() + usize::from(format == Format::Timm);
        let text = import.summary();
        assert!(
            text.starts_with(&format!(
                "init: 4 of 4 blocks, {} tensors matched, {missing} missing",
                specs.len() - missing
            )) && text.ends_with("1 unused (head.weight)"),
            "{text}"
        );
        assert_eq!(import.fillings().iter().filter(|f| f.is_filled()).count(), tensors.len() - 1);
        let (ours, theirs) = ("backbone.blocks.3.mlp.fc2.linear.weight", "blocks.3.mlp.fc2.weight");
        let theirs = if chunks { chunked(theirs) } else { theirs.into() };
        assert_eq!(read(&import, ours), values(&theirs, 48 * 192));
    }
}

/// Files with the names and the order that timm has fill Swins and ResNets.
#[test]
fn plain_swins_and_resnets_fill_the_backbone() {
    let dir = scratch("plain-maps");
    let norms = ["norm0", "norm1", "norm2"].map(|norm| format!("backbone.{norm}.norm."));
    for (kind, format) in [("swin", Format::Timm), ("swin", Format::Poa), ("resnet", Format::Poa)] {
        let (teacher, elastic) = (recorded_teacher(kind), recorded_backbone(kind));
        let intact = elastic.grid().intact();
        Extraction::new(&teacher, &*elastic, intact, format).unwrap().write(&dir).unwrap();
        let import = Import::open(&dir, &*elastic, &elastic.specs()).unwrap();
        assert!(import.unused().is_empty(), "{:?}", import.unused());
        for filling in import.fillings() {
            let name = &filling.name;
            let absent = kind == "swin" && norms.iter().any(|norm| name.starts_with(norm))
                || format == Format::Timm && name == "backbone.mask_token";
            assert_eq!(filling.outcome == Outcome::Missing, absent, "{name}");
            if !absent {
                assert_eq!(import.read(filling).unwrap().unwrap(), teacher.read_f32(name).unwrap(), "{name}");
            }
        }
    }
}

#[test]
fn positions_and_kernels_of_other_sizes_are_resampled() {
    let path = scratch("resize").join("a.safetensors");
    let theirs = VitSizes { patch: 7, image: 42, ..recorded() };
    file(&path, &backbone(&theirs, |name| plain_name(name, Format::Dinov2)));
    let import = open(&path, &vit_specs(&recorded())).unwrap();
    assert_eq!(*outcome(&import, "backbone.pos_embed"), Outcome::Resized { from: 6, to: 4 });
    assert_eq!(*outcome(&import, "backbone.patch_embed.proj.weight"), Outcome::Resized { from: 7, to: 8 });
    assert_eq!(
        import.summary(),
        "init: 4 of 4 blocks, 61 tensors matched, 2 resized (backbone.pos_embed 6x6 → 4x4, backbone.patch_embed.proj.weight 7x7 → 8x8)"
    );
    let (found, source) = (read(&import, "backbone.pos_embed"), values("pos_embed", 37 * 48));
    assert_eq!(found.len(), 17 * 48);
    assert_eq!(found[..48], source[..48]);
    let matrix = bicubic_matrix(6, 4);
    for (patch, channel) in [(0, 0), (5, 17), (15, 47)] {
        let at = |from: usize| f64::from(source[(1 + from) * 48 + channel]);
        let expected: f64 = (0..36).map(|from| f64::from(matrix[patch * 36 + from]) * at(from)).sum();
        assert!((f64::from(found[(1 + patch) * 48 + channel]) - expected).abs() < 1e-6);
    }
    let found = read(&import, "backbone.patch_embed.proj.weight");
    let source = values("patch_embed.proj.weight", 48 * 3 * 49);
    assert_eq!(found.len(), 48 * 3 * 64);
    let matrix = bicubic_matrix(7, 8);
    for (plane, pixel) in [(0, 0), (71, 33), (143, 63)] {
        let at = |from: usize| f64::from(source[plane * 49 + from]);
        let sum: f64 = (0..49).map(|from| f64::from(matrix[pixel * 49 + from]) * at(from)).sum();
        assert!((f64::from(found[plane * 64 + pixel]) - sum * 49.0 / 64.0).abs() < 1e-6);
    }
}

#[test]
fn half_precision_and_extra_axes_are_read() {
    let path = scratch("half").join("a.safetensors");
    let bytes: Vec<u8> =
        values("x", 48).iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
    let view =
        safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, vec![1, 1, 48], &bytes).unwrap();
    std::fs::write(&path, safetensors::serialize([("mask_token", view)], None).unwrap()).unwrap();
    let import = open(&path, &all_specs(&recorded())).unwrap();
    let expected: Vec<f32> = values("x", 48).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
    assert_eq!(read(&import, "backbone.mask_token"), expected);
}

#[test]
fn folders_stand_for_their_teacher() {
    let run = scratch("folders");
    let specs = all_specs(&recorded());
    let problem = open(&run, &specs).unwrap_err().to_string();
    assert!(problem.contains("holds no weights"), "{problem}");
    std::fs::create_dir(run.join("checkpoints")).unwrap();
    for step in [10, 20] {
        let mut writer = CheckpointWriter::create(run.join(format!("checkpoints/step-{step:08}"))).unwrap();
        let tensors = [TensorSpec::f32("backbone.norm.norm.bias", &[48])];
        writer.tensors("teacher.safetensors", &tensors, |_| Ok(vec![step as f32; 48])).unwrap();
        writer.finish(&step).unwrap();
    }
    std::fs::write(run.join("config.toml"), "").unwrap();
    let from = |dir: &Path| read(&open(dir, &specs).unwrap(), "backbone.norm.norm.bias")[0];
    assert_eq!(from(&run), 20.0);
    assert_eq!(from(&run.join("checkpoints/step-00000010")), 10.0);

    let dir = run.join("extracted");
    let teacher = recorded_teacher("vit");
    let cut = Extraction::new(&teacher, &vit(&recorded()), network(32, 3), Format::Timm).unwrap();
    cut.write(&dir).unwrap();
    let import = open(&dir, &all_specs(&recorded().plain(network(32, 3)))).unwrap();
    let norm = teacher.read_f32("backbone.norm.norm.bias").unwrap();
    assert_eq!(read(&import, "backbone.norm.norm.bias"), norm[..32]);
}

#[test]
fn what_does_not_fit_is_said() {
    let dir = scratch("bad");
    let path = dir.join("a.safetensors");
    let specs = all_specs(&recorded());
    let problem = || open(&path, &specs).unwrap_err().to_string();

    // narrower: nothing fits
    let narrow = VitSizes { width: 32, ..recorded() };
    let mut tensors = backbone(&narrow, |name| plain_name(name, Format::Timm));
    file(&path, &tensors);
    let text = problem();
    assert!(
        text.contains(
            "a.safetensors: none of its tensors has a shape of this model: `cls_token` is [1, 1, 32]"
        )
    );
    assert!(text.contains("student.max_embed_dim"), "{text}");

    // one tensor fits: the others are named with their shapes
    tensors.push(("mask_token".into(), vec![1, 48]));
    file(&path, &tensors);
    let import = open(&path, &specs).unwrap();
    assert_eq!(*outcome(&import, "backbone.norm.norm.bias"), Outcome::OtherShape(vec![32]));
    let text = import.summary();
    assert!(
        text.contains(
            "init: 0 of 4 blocks, 1 tensor matched, 66 missing (backbone.cls_token is [1, 1, 32], not [1, 1, 48], "
        )
    );
    assert!(import.unused().is_empty());

    file(&path, &[("visual.conv1.weight".into(), vec![3]), ("encoder.normal.bias".into(), vec![3])]);
    let text = problem();
    assert!(
        text.contains("the nearest is `encoder.normal.bias`, where the model has `backbone.norm.norm.bias`"),
        "{text}"
    );
    file(&path, &[]);
    assert!(problem().contains("it holds no tensor at all"));

    std::fs::write(&path, b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00").unwrap();
    let text = problem();
    assert!(text.contains("is a PyTorch file") && text.contains("torch.load"), "{text}");
    std::fs::write(&path, "hello, I am text").unwrap();
    assert!(problem().contains("is not a safetensors file"));
    std::fs::remove_file(&path).unwrap();
    assert!(problem().contains("a.safetensors: cannot be read"));
}

#[test]
fn a_resnet_is_cut_renumbered_and_its_factors_folded() {
    let (teacher, backbone) = (recorded_teacher("resnet"), recorded_backbone("resnet"));
    let of = Network::staged(6, [2, 2, 3, 2]);
    let cut = Extraction::new(&teacher, &*backbone, of, Format::Poa).unwrap();
    // of four blocks three are the first, the second and the last
    let name = "layer3.2.conv2.weight";
    let got = cut.read(name).unwrap();
    let all = teacher.read_f32("backbone.layer3.layers.3.conv2.conv.weight").unwrap();
    let (middle, most) = (24, 32);
    assert_eq!(got.len(), middle * middle * 9);
    for (i, value) in got.iter().enumerate() {
        let (out, input, tap) = (i / 9 / middle, i / 9 % middle, i % 9);
        assert_eq!(*value, all[(out * most + input) * 9 + tap] * (most as f32 / middle as f32));
    }
    let norm = cut.read("layer3.2.bn2.weight").unwrap();
    let all = teacher.read_f32("backbone.layer3.layers.3.norm2.weight").unwrap();
    assert_eq!(norm, all[..middle]);
    let names: Vec<String> = cut.tensors().into_iter().map(|t| t.name).collect();
    assert!(names.contains(&"conv1.weight".to_string()) && names.contains(&"bn1.bias".to_string()));
    assert!(names.contains(&"layer1.0.downsample.1.weight".to_string()), "{names:?}");
    let problem = |format| Extraction::new(&teacher, &*backbone, of, format).unwrap_err().to_string();
    assert!(problem(Format::Timm).contains("--format poa"));
    assert!(problem(Format::Dinov2).contains("no ResNets"));
}

#[test]
fn a_swin_is_cut_renumbered_and_put_in_the_order_of_timm() {
    let (teacher, backbone) = (recorded_teacher("swin"), recorded_backbone("swin"));
    let intact = backbone.grid().intact();
    let of = backbone.grid().smallest();
    let cut = Extraction::new(&teacher, &*backbone, of, Format::Poa).unwrap();
    let source = |name: &str| teacher.read_f32(&format!("backbone.{name}")).unwrap();
    // merging: [2 · width, 4 · width], the neighbours column by column, each with its first channels
    let (width, most) = (of.width, intact.width);
    let (got, all) = (
        cut.read("layers.1.downsample.reduction.weight").unwrap(),
        source("stages.0.downsample.reduction.linear.weight"),
    );
    assert_eq!(got.len(), 8 * width * width);
    let alpha = most as f32 / width as f32;
    for (i, value) in got.iter().enumerate() {
        let (out, column, row, channel) = (i / (4 * width), i / (2 * width) % 2, i / width % 2, i % width);
        assert_eq!(*value, all[out * 4 * most + (2 * row + column) * most + channel] * alpha);
    }
    let (got, all) = (
        cut.read("layers.1.downsample.norm.weight").unwrap(),
        source("stages.0.downsample.norm.norm.weight"),
    );
    for (i, value) in got.iter().enumerate() {
        assert_eq!(*value, all[(2 * (i / width % 2) + i / (2 * width)) * most + i % width]);
    }
    // the patch embedding and its norm stay whole
    assert_eq!(cut.read("patch_embed.norm.bias").unwrap(), source("patch_embed.norm.norm.bias"));
    assert_eq!(cut.read("norm.bias").unwrap(), source("norm3.norm.bias")[..8 * width]);
    // the second of two blocks was the fourth of four; of its table the first heads' columns
    let (heads, all_heads) = (4 * width / 4, 4 * most / 4);
    assert_eq!(block_ids(intact.depth, of.depth), [0, 3]);
    let got = cut.read("layers.2.blocks.1.attn.relative_position_bias_table").unwrap();
    let all = source("stages.2.blocks.3.attn.w_msa.relative_position_bias_table");
    let columns: Vec<f32> = all.chunks(all_heads).flat_map(|row| row[..heads].iter().copied()).collect();
    assert_eq!(got, columns);

    let cut = |of, format| Extraction::new(&teacher, &*backbone, of, format);
    let problem = |of, format| cut(of, format).unwrap_err().to_string();
    let text = problem(of, Format::Timm);
    assert!(
        text.contains("12 channels") && text.contains("takes 8") && text.contains("--format poa"),
        "{text}"
    );
    let text = problem(Network::new(most, 3), Format::Timm);
    assert!(text.contains("do not alternate") && text.contains("--format poa"), "{text}");
    assert!(problem(of, Format::Dinov2).contains("no Swins"));
    assert!(problem(Network::new(16, 2), Format::Poa).contains("no sub-network 16x2 in a Swin of 12x4"));
    for depth in [2, 4] {
        cut(Network::new(most, depth), Format::Timm).unwrap();
    }
}

/// The plain network that a sub-network becomes, as an engine of its own that has nothing elastic about it.
fn plain_backbone(kind: &str, of: Network) -> Box<dyn Backbone> {
    let config = recorded_config(kind);
    let (grid, image) = (recorded_backbone(kind).grid().clone(), config.crops.global_crops_size);
    match &config.student {
        Student::Vit(s) => Box::new(Vit::new(VitSizes::from_settings(s, image).plain(of), grid)),
        Student::Swin(s) => Box::new(Swin::new(SwinShape::from_settings(s, image).plain(of), grid)),
        Student::ResNet(s) => Box::new(ResNet::new(ResNetShape::from_settings(s, image).plain(of), grid)),
    }
}

/// Parameters of a backbone on the CPU, filled by their official names.
fn filled(backbone: &dyn Backbone, read: impl Fn(&str) -> Option<Vec<f32>>) -> Parameters {
    let layout = FlatLayout::new(&backbone.specs(), usize::MAX).unwrap();
    let values = FlatBuffers::zeros(&layout, &Device::cpu()).unwrap();
    for place in layout.places() {
        if let Some(x) = read(&place.spec.name) {
            values.write(&place.spec.name, &x).unwrap();
        }
    }
    Parameters::frozen(values)
}

#[test]
fn plain_networks_compute_what_the_sub_networks_do() {
    let device = Device::cpu();
    for kind in ["vit", "swin", "resnet"] {
        let (teacher, elastic) = (recorded_teacher(kind), recorded_backbone(kind));
        let parameters = filled(&*elastic, |name| Some(teacher.read_f32(name).unwrap()));
        let side = recorded_config(kind).crops.global_crops_size;
        let images =
            Tensor::from_slice(&device, &[2, 3, side, side], &values(kind, 6 * side * side)).unwrap();
        let run = |backbone: &dyn Backbone, parameters: &Parameters, of| -> [Vec<f32>; 2] {
            let encoder = Encoder { device: &device, backbone, parameters };
            let (cls, patches) = encoder.features(of, &images, true).unwrap();
            [cls.to_vec().unwrap(), patches.unwrap().to_vec().unwrap()]
        };
        for (of, _) in elastic.grid().entries() {
            let cut = Extraction::new(&teacher, &*elastic, *of, Format::Poa).unwrap();
            let plain = plain_backbone(kind, *of);
            let own = filled(&*plain, |name| {
                let PlainName { name, pieces } = elastic.plain_name(name, Format::Poa)?;
                let shape = cut.tensors().into_iter().find(|t| t.name == name).unwrap().shape;
                let pieces = pieces.map(|p| p.inverse());
                Some(corner(&cut.read(&name).unwrap(), &shape, &shape, pieces.as_ref()))
            });
            let expected = run(&*elastic, &parameters, *of);
            for (found, expected) in run(&*plain, &own, *of).iter().zip(&expected) {
                let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let worst = found.iter().zip(expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(largest > 0.1 && worst <= 1e-5 * largest, "{kind} {of}: {worst} of {largest}");
            }
        }
    }
}
