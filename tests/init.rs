//! Weights of others as a start (`--init`): networks that lack something, names behind other prefixes, values
//! that cannot be used, checkpoints that are damaged.

use std::path::{Path, PathBuf};

use poa_gpu::files::checkpoint::CheckpointWriter;
use poa_gpu::files::tensor_writer::{TensorSpec, write_tensors};
use poa_gpu::models::backbone::Backbone;
use poa_gpu::models::plain::Format;
use poa_gpu::models::vit::{self, Vit, VitSizes, vit_grid, vit_specs};
use poa_gpu::weights::import::{Import, Outcome};

#[path = "support/program.rs"]
mod support;
use support::{Folder, program, text};

type Tensors = Vec<(String, Vec<usize>)>;

const WIDTH: usize = 16;

/// Two blocks, four patches.
fn sizes() -> VitSizes {
    let mut student = vit::Settings { min_depth: 2, max_depth: 2, ..Default::default() };
    student.elastic.patch_size = 4;
    let attention = &mut student.attention;
    (attention.min_embed_dim, attention.max_embed_dim, attention.head_dim) = (WIDTH, WIDTH, 8);
    VitSizes::from_settings(&student, 8)
}

fn backbone() -> Vit {
    Vit::new(sizes(), vit_grid(&vit::Settings::default()).unwrap())
}

/// A network of these sizes with timm's names.
fn timm(sizes: &VitSizes) -> Tensors {
    let vit = backbone();
    let name = |official: &str| vit.plain_name(official, Format::Timm).map(|plain| plain.name);
    vit_specs(sizes).into_iter().filter_map(|s| Some((name(&s.name)?, s.shape))).collect()
}

fn without(mut tensors: Tensors, dropped: impl Fn(&str) -> bool) -> Tensors {
    tensors.retain(|(name, _)| !dropped(name));
    tensors
}

fn values(name: &str, count: usize) -> Vec<f32> {
    let seed: usize = name.bytes().map(usize::from).sum();
    (0..count).map(|i| ((i * 31 + seed) % 997) as f32 / 997.0 + 0.1).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let specs: Vec<TensorSpec> = tensors.iter().map(|(name, shape)| TensorSpec::f32(name, shape)).collect();
    let count = |name: &str| specs.iter().find(|s| s.name == name).unwrap().shape.iter().product();
    write_tensors(path, &specs, |name| Ok(values(name, count(name)))).unwrap();
}

fn scratch(name: &str) -> (Folder, PathBuf) {
    let folder = Folder::new(&format!("init-{name}"));
    let path = folder.0.join("a.safetensors");
    (folder, path)
}

fn open(path: &Path) -> poa_gpu::error::Result<Import> {
    Import::open(path, &backbone(), &vit_specs(&sizes()))
}

#[track_caller]
fn started(path: &Path, tensors: &Tensors) -> Import {
    write(path, tensors);
    let import = open(path).unwrap();
    import.demand(false).unwrap();
    import
}

fn read(import: &Import, name: &str) -> Vec<f32> {
    import.read(import.fillings().iter().find(|f| f.name == name).unwrap()).unwrap().unwrap()
}

#[test]
fn without_layerscale_the_blocks_that_are_filled_have_ones() {
    let (_folder, path) = scratch("layerscale");
    let import = started(&path, &without(timm(&sizes()), |name| name.contains(".ls")));
    for name in ["backbone.blocks.0.ls1.gamma", "backbone.blocks.1.ls2.gamma"] {
        assert_eq!(read(&import, name), [1.0; WIDTH]);
    }
    let summary = import.summary();
    assert!(summary.starts_with("init: 2 of 2 blocks, "), "{summary}");
    assert!(summary.contains("has no LayerScale, so 4 are 1"), "{summary}");

    // a block that is not filled keeps its own
    let import = started(
        &path,
        &without(timm(&sizes()), |name| name.contains(".ls") || name.starts_with("blocks.1.")),
    );
    assert_eq!(read(&import, "backbone.blocks.0.ls1.gamma"), [1.0; WIDTH]);
    let outcome = |name: &str| import.fillings().iter().find(|f| f.name == name).unwrap().outcome.clone();
    assert_eq!(outcome("backbone.blocks.1.ls1.gamma"), Outcome::Missing);
    let summary = import.summary();
    assert!(summary.starts_with("init: 1 of 2 blocks, ") && summary.contains("so 2 are 1"), "{summary}");

    // BEiT's names
    let named = |(name, shape): (String, _)| {
        (name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"), shape)
    };
    let import = started(&path, &timm(&sizes()).into_iter().map(named).collect());
    assert_eq!(read(&import, "backbone.blocks.1.ls2.gamma"), values("blocks.1.gamma_2", WIDTH));
}

#[test]
fn what_a_network_lacks_or_has_besides_is_said() {
    let (_folder, path) = scratch("lacks");
    let renamed = |tensors: Tensors, from: &str, to: &str| -> Tensors {
        tensors
            .into_iter()
            .map(|(name, shape)| {
                (if name.starts_with(from) { name.replacen(from, to, 1) } else { name }, shape)
            })
            .collect()
    };
    let import = started(&path, &renamed(timm(&sizes()), "norm.", "fc_norm."));
    assert_eq!(read(&import, "backbone.norm.norm.bias"), values("fc_norm.bias", WIDTH));
    assert!(import.summary().contains("fc_norm is taken"), "{}", import.summary());

    let import = started(&path, &without(timm(&sizes()), |name| name.ends_with("qkv.bias")));
    assert_eq!(read(&import, "backbone.blocks.1.attn.qkv.linear.bias"), [0.0; 3 * WIDTH]);
    assert!(import.summary().contains("no biases of attn.qkv, so they are 0"), "{}", import.summary());

    let with_positions = |rows: usize| {
        let mut tensors = without(timm(&sizes()), |name| name == "pos_embed");
        tensors.push(("pos_embed".into(), vec![1, rows, WIDTH]));
        tensors
    };
    let import = started(&path, &with_positions(4));
    let (found, theirs) = (read(&import, "backbone.pos_embed"), values("pos_embed", 4 * WIDTH));
    assert_eq!((&found[..WIDTH], &found[WIDTH..]), (&[0.0; WIDTH][..], &theirs[..]));
    assert!(import.summary().contains("no row for the class token"), "{}", import.summary());
    // of another size
    assert_eq!(read(&started(&path, &with_positions(9)), "backbone.pos_embed").len(), 5 * WIDTH);

    let mut distilled = with_positions(6);
    distilled.push(("dist_token".into(), vec![1, 1, WIDTH]));
    let import = started(&path, &distilled);
    let (found, theirs) = (read(&import, "backbone.pos_embed"), values("pos_embed", 6 * WIDTH));
    assert_eq!(found, [&theirs[..WIDTH], &theirs[2 * WIDTH..]].concat());
    let summary = import.summary();
    assert!(
        summary.contains("1 rows of other tokens") && summary.contains("distillation token"),
        "{summary}"
    );

    let mut registers = timm(&sizes());
    registers.push(("register_tokens".into(), vec![1, 4, WIDTH]));
    let summary = started(&path, &registers).summary();
    assert!(summary.contains("4 register tokens are dropped"), "{summary}");

    let import = started(&path, &without(timm(&sizes()), |name| name == "pos_embed"));
    assert!(import.summary().contains("no pos_embed"), "{}", import.summary());

    let summary = started(&path, &timm(&VitSizes { depth: 5, ..sizes() })).summary();
    assert!(summary.contains("2 of 2 blocks") && summary.contains("3 more blocks"), "{summary}");
}

#[test]
fn what_cannot_be_taken_is_refused_by_name() {
    let (_folder, path) = scratch("refused");
    let problem = |tensors: &Tensors| {
        write(&path, tensors);
        open(&path).and_then(|import| import.demand(false)).unwrap_err().to_string()
    };
    let mut gated = without(timm(&sizes()), |name| name.contains(".mlp."));
    for block in 0..2 {
        gated.push((format!("blocks.{block}.mlp.w12.weight"), vec![80, WIDTH]));
        gated.push((format!("blocks.{block}.mlp.w3.weight"), vec![WIDTH, 40]));
    }
    let text = problem(&gated);
    assert!(text.contains("SwiGLU, `blocks.0.mlp.w12.weight`"), "{text}");
    let mut packed = without(timm(&sizes()), |name| name.contains(".mlp."));
    packed.push(("blocks.0.mlp.fc1.weight".into(), vec![80, WIDTH]));
    packed.push(("blocks.0.mlp.fc2.weight".into(), vec![WIDTH, 40]));
    assert!(problem(&packed).contains("SwiGLU, `blocks.0.mlp.fc1.weight`"));

    // another width: nothing fits, or the mask token alone
    let wide = timm(&VitSizes { width: 24, ..sizes() });
    assert!(problem(&wide).contains("`cls_token` is [1, 1, 24]"));
    let mut almost = wide;
    almost.push(("mask_token".into(), vec![1, WIDTH]));
    let text = problem(&almost);
    assert!(text.contains("`cls_token` is [1, 1, 24]") && text.contains("[1, 1, 16]"), "{text}");
    assert!(text.contains("set student.max_embed_dim=24") && text.contains("--init-partial"), "{text}");
    open(&path).unwrap().demand(true).unwrap();
    let text = problem(&timm(&VitSizes { mlp_ratio: 2, ..sizes() }));
    assert!(text.contains("set student.mlp_ratio=2"), "{text}");

    let text = problem(&without(timm(&sizes()), |name| name.starts_with("blocks.")));
    assert!(text.contains("fills 0 of 2 blocks") && text.contains("less than half"), "{text}");
    open(&path).unwrap().demand(true).unwrap();
}

#[test]
fn values_that_are_not_finite_or_not_floats_are_refused_where_they_are_used() {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;
    let (_folder, path) = scratch("values");
    let tensors = timm(&sizes());
    // one tensor of its own kind, one that nobody uses
    let write = |name: &str, kind: Dtype, element: &[u8]| {
        let of = |n: &str, shape: &[usize]| {
            let count: usize = shape.iter().product();
            match n == name {
                true => element.repeat(count),
                false => values(n, count).iter().flat_map(|x| x.to_le_bytes()).collect(),
            }
        };
        let mut all: Vec<(String, Vec<usize>, Vec<u8>)> =
            tensors.iter().map(|(n, shape)| (n.clone(), shape.clone(), of(n, shape))).collect();
        if !tensors.iter().any(|(n, _)| n == name) {
            all.push((name.to_string(), vec![2], element.repeat(2)));
        }
        let views = all.iter().map(|(n, shape, bytes)| {
            let kind = if n == name { kind } else { Dtype::F32 };
            (n.clone(), TensorView::new(kind, shape.clone(), bytes).unwrap())
        });
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        open(&path).and_then(|import| import.demand(false).map(|()| import))
    };
    let used = "blocks.1.norm2.weight";
    for (kind, element) in [
        (Dtype::F64, &0.5f64.to_le_bytes()[..]),
        (Dtype::F16, &half::f16::from_f32(0.5).to_le_bytes()),
        (Dtype::BF16, &half::bf16::from_f32(0.5).to_le_bytes()),
    ] {
        let import = write(used, kind, element).unwrap();
        assert_eq!(read(&import, "backbone.blocks.1.norm2.norm.weight"), [0.5; WIDTH]);
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let text = write(used, Dtype::F32, &value.to_le_bytes()).unwrap_err().to_string();
        assert!(text.contains("a.safetensors: tensor `blocks.1.norm2.weight` holds"), "{text}");
        write("head.bias", Dtype::F32, &value.to_le_bytes()).unwrap();
    }
    assert!(write(used, Dtype::F64, &1e300f64.to_le_bytes()).unwrap_err().to_string().contains("holds inf"));
    for (kind, size) in [(Dtype::I8, 1), (Dtype::U16, 2), (Dtype::I64, 8), (Dtype::F8_E4M3, 1)] {
        let text = write(used, kind, &vec![0; size]).unwrap_err().to_string();
        assert!(text.contains("tensor `blocks.1.norm2.weight` is stored as"), "{text}");
        write("head.bias", kind, &vec![0; size]).unwrap();
    }
}

#[test]
fn prefixes_are_found_by_matching() {
    let (_folder, path) = scratch("prefixes");
    for prefix in [
        "_orig_mod.",
        "net.",
        "encoder.",
        "teacher_backbone.",
        "student.backbone.",
        "model.",
        "module._orig_mod.model.vit.",
        "state_dict.anything-at-all.",
    ] {
        let tensors: Tensors =
            timm(&sizes()).into_iter().map(|(name, shape)| (format!("{prefix}{name}"), shape)).collect();
        let import = started(&path, &tensors);
        let summary = import.summary();
        assert!(summary.starts_with("init: 2 of 2 blocks, ") && !summary.contains("unused"), "{summary}");
        assert_eq!(read(&import, "backbone.cls_token"), values(&format!("{prefix}cls_token"), WIDTH));
    }
    for (taken, other) in
        [("teacher.backbone.", "student.backbone."), ("model_ema.", "model."), ("ema.net.", "")]
    {
        let both: Tensors = timm(&sizes())
            .into_iter()
            .flat_map(|(name, shape)| [taken, other].map(|prefix| (format!("{prefix}{name}"), shape.clone())))
            .collect();
        let import = started(&path, &both);
        assert_eq!(read(&import, "backbone.cls_token"), values(&format!("{taken}cls_token"), WIDTH));
        assert!(
            import.summary().contains(&format!("under `{taken}` are taken, not under")),
            "{}",
            import.summary()
        );
    }
}

/// Flipped bits and manifests that lie are seen whichever way a checkpoint is given.
#[test]
fn checkpoints_are_compared_with_their_manifest() {
    let folder = Folder::new("init-checkpoint");
    let dir = folder.0.join("checkpoints/step-00000005");
    let specs: Vec<TensorSpec> =
        vit_specs(&sizes()).iter().map(|s| TensorSpec::f32(&s.name, &s.shape)).collect();
    let count = |name: &str| specs.iter().find(|s| s.name == name).unwrap().shape.iter().product();
    std::fs::create_dir(folder.0.join("checkpoints")).unwrap();
    let mut writer = CheckpointWriter::create(&dir).unwrap();
    writer.tensors("teacher.safetensors", &specs, |name| Ok(values(name, count(name)))).unwrap();
    writer.finish(&5).unwrap();
    let file = dir.join("teacher.safetensors");
    let ways = [&folder.0, &folder.0.join("checkpoints"), &dir, &file];
    for way in ways {
        open(way).unwrap().demand(false).unwrap();
    }
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    for way in ways {
        let problem = open(way).unwrap_err().to_string();
        assert!(problem.contains("teacher.safetensors: is damaged: its checksum is"), "{problem}");
    }
    let manifest = dir.join("manifest.json");
    let honest = std::fs::read_to_string(&manifest).unwrap();
    for name in ["/dev/zero", "../../x"] {
        std::fs::write(&manifest, honest.replacen("teacher.safetensors", name, 1)).unwrap();
        for way in ways {
            let problem = open(way).unwrap_err().to_string();
            assert!(problem.contains("manifest.json") && problem.contains(name), "{problem}");
        }
    }
}

#[test]
fn a_start_is_refused_before_there_is_a_run() {
    let (folder, path) = scratch("program");
    write(&path, &timm(&sizes()));
    let (run, file) = (folder.path("run"), path.display().to_string());
    let train = |init: &str| {
        let out = program(&["train", "--device=cpu", "--steps=1", "--out", &run, "--init", init]);
        assert!(!out.status.success() && !folder.0.join("run").exists());
        text(&out.stderr)
    };
    assert!(train(&file).contains("`cls_token` is [1, 1, 16]"));
    assert!(train(&folder.path("")).contains("holds no weights"));
    let pipe = folder.path("pipe");
    if std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|made| made.success()) {
        assert!(train(&pipe).contains("is a named pipe, not a file"));
    }
    // nor is it taken unseen where a run is there that was ended before its first checkpoint
    let ended = folder.path("ended");
    std::fs::create_dir_all(&ended).unwrap();
    std::fs::write(format!("{ended}/config.toml"), support::printed(&["config", "demo"])).unwrap();
    let resumed = ["train", "--device=cpu", "--resume", "--steps=1", "--out", &ended, "--init", &file];
    support::refused(&resumed, 1, &["`cls_token` is [1, 1, 16]"]);
    let out = program(&["train", "--init-partial"]);
    assert!(text(&out.stderr).contains("--init <FILE|DIR>"), "{}", text(&out.stderr));
}
