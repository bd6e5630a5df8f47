//! Networks of other libraries as a start (`--init`): transformers, timm, OpenCLIP. Their files are small ones that
//! `kernels-tests/fixtures/init/make.py` has these libraries write; what they make of two images is recorded too.

use std::path::{Path, PathBuf};

use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::files::tensor_writer::{TensorSpec, write_tensors};
use poa_gpu::models::backbone::Backbone;
use poa_gpu::models::encoder::Encoder;
use poa_gpu::models::vit::{self, Ffn, Vit, VitSizes, vit_grid};
use poa_gpu::nn::parameters::{FlatBuffers, FlatLayout, Parameters};
use poa_gpu::tensor::{Device, Tensor};
use poa_gpu::weights::import::{Import, Outcome};

#[path = "support/program.rs"]
mod support;
use support::{Folder, SMALL, program, text};

const WIDTH: usize = 16;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("kernels-tests/fixtures/init/{name}.safetensors"))
}

/// Two blocks of 16 channels, four patches of 4 pixels.
fn vit(registers: usize, swiglu: bool) -> Vit {
    let mut s =
        vit::Settings { min_depth: 2, max_depth: 2, num_register_tokens: registers, ..Default::default() };
    s.elastic.patch_size = 4;
    (s.attention.min_embed_dim, s.attention.max_embed_dim, s.attention.head_dim) = (WIDTH, WIDTH, 8);
    if swiglu {
        (s.ffn_layer, s.swiglu_hidden) = (Ffn::SwiGlu, 48);
    }
    Vit::new(VitSizes::from_settings(&s, 8), vit_grid(&s).unwrap())
}

fn import(path: &Path, vit: &Vit) -> Import {
    let import = Import::open(path, vit, &vit.specs()).unwrap();
    import.demand(false).unwrap();
    import
}

fn read(import: &Import, name: &str) -> Vec<f32> {
    import.read(import.fillings().iter().find(|f| f.name == name).unwrap()).unwrap().unwrap()
}

#[test]
fn networks_of_the_same_structure_have_their_features() {
    let recorded = TensorFile::open(fixture("features")).unwrap();
    let images = recorded.read_f32("images").unwrap();
    for (name, registers, swiglu) in [
        ("vit", 0, false),
        ("dinov2", 0, false),
        ("dinov2_registers", 4, false),
        ("dinov2_swiglu", 0, true),
        ("timm_vit", 0, false),
        ("timm_beit", 0, false),
    ] {
        let vit = vit(registers, swiglu);
        let import = import(&fixture(name), &vit);
        let device = Device::cpu();
        let values =
            FlatBuffers::zeros(&FlatLayout::new(&vit.specs(), usize::MAX).unwrap(), &device).unwrap();
        import.fill_all(&vit, &values, "the test").unwrap();
        let parameters = Parameters::frozen(values);
        let images = Tensor::from_slice(&device, &[2, 3, 8, 8], &images).unwrap();
        let encoder = Encoder { device: &device, backbone: &vit, parameters: &parameters };
        let (cls, patches) = encoder.features(vit.grid().intact(), &images, true).unwrap();
        for (what, found) in [("cls", cls), ("patches", patches.unwrap())] {
            let (found, right) =
                (found.to_vec::<f32>().unwrap(), recorded.read_f32(&format!("{name}.{what}")).unwrap());
            let largest = right.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            let worst = found.iter().zip(&right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(found.len() == right.len() && largest > 0.5, "{name} {what}");
            assert!(worst <= 1e-5 * largest.max(1.0), "{name} {what}: {worst:e} of {largest}");
        }
    }
}

#[test]
fn every_block_is_filled_and_what_has_no_place_is_said() {
    let rotary = "has no pos_embed (its network may use rotary positions)";
    let pre_norm = "its norm before the first block has no place";
    let cases: [(&str, usize, &[&str]); 10] = [
        ("vit", 0, &["its names are those of transformers' ViT", "has no LayerScale, so 4 are 1"]),
        (
            "deit",
            0,
            &[
                "its names are those of transformers' ViT",
                "distillation token is dropped",
                "1 rows of other tokens",
            ],
        ),
        ("mae", 0, &["its names are those of transformers' ViT", "has no LayerScale"]),
        ("dinov2_registers", 4, &["its names are those of transformers' ViT"]),
        (
            "dinov2_registers",
            0,
            &["its 4 register tokens are dropped (student.num_register_tokens=4 takes them)"],
        ),
        ("dinov3", 4, &["its names are those of transformers' DINOv3", rotary]),
        (
            "clip_vision",
            0,
            &[
                "its names are those of transformers' CLIP",
                pre_norm,
                "no biases of backbone.patch_embed.proj",
            ],
        ),
        ("clip", 0, &[pre_norm, "unused (logit_scale, text_model."]),
        ("open_clip", 0, &["its names are those of OpenCLIP", pre_norm]),
        ("timm_clip", 0, &[pre_norm]),
    ];
    for (name, registers, notes) in cases {
        let import = import(&fixture(name), &vit(registers, false));
        let summary = import.summary();
        assert!(summary.starts_with("init: 2 of 2 blocks, "), "{name}: {summary}");
        for note in notes {
            assert!(summary.contains(note), "{name}: `{note}` is not in: {summary}");
        }
        // one that the structure matches says nothing of a norm
        assert_eq!(summary.contains(pre_norm), name.contains("clip"), "{name}: {summary}");
        let missing = |f: &&poa_gpu::weights::import::Filling| f.outcome == Outcome::Missing;
        let missing: Vec<&str> = import.fillings().iter().filter(missing).map(|f| f.name.as_str()).collect();
        let may: &[&str] = &["backbone.mask_token", "backbone.pos_embed"];
        assert!(missing.iter().all(|name| may.contains(name)), "{name}: {missing:?}");
        assert_eq!(missing.contains(&"backbone.pos_embed"), name.contains("dinov3"), "{name}");
    }
    let import = import(&fixture("timm_dinov3"), &vit(4, false));
    let summary = import.summary();
    for note in [rotary, "no biases of attn.qkv", "its fc_norm is taken"] {
        assert!(summary.starts_with("init: 2 of 2 blocks") && summary.contains(note), "{summary}");
    }
}

#[test]
fn queries_keys_and_values_are_put_together_and_biases_without_keys_are_zero_there() {
    let file = TensorFile::open(fixture("dinov3")).unwrap();
    let dinov3 = import(&fixture("dinov3"), &vit(4, false));
    let of = |part: &str| file.read_f32(&format!("layer.1.attention.{part}")).unwrap();
    let weight = [of("q_proj.weight"), of("k_proj.weight"), of("v_proj.weight")].concat();
    assert_eq!(read(&dinov3, "backbone.blocks.1.attn.qkv.linear.weight"), weight);
    let bias = [of("q_proj.bias"), vec![0.0; WIDTH], of("v_proj.bias")].concat();
    assert_eq!(read(&dinov3, "backbone.blocks.1.attn.qkv.linear.bias"), bias);
    assert_eq!(
        read(&dinov3, "backbone.register_tokens"),
        file.read_f32("embeddings.register_tokens").unwrap()
    );

    // DINOv3's own files have a mask beside the bias, and other names for registers
    let folder = Folder::new("foreign-hub");
    let path = folder.0.join("hub.safetensors");
    let theirs = |name: &str| match name {
        "reg_token" => "storage_tokens".to_string(),
        _ => name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma").replace("fc_norm", "norm"),
    };
    let file = TensorFile::open(fixture("timm_dinov3")).unwrap();
    let mut specs: Vec<(TensorSpec, Vec<f32>)> = file
        .names()
        .map(|name| (TensorSpec::f32(theirs(name), file.shape(name).unwrap()), file.read_f32(name).unwrap()))
        .collect();
    for block in 0..2 {
        for (end, values) in [("", 0.25), ("_mask", f32::NAN)] {
            let name = format!("blocks.{block}.attn.qkv.bias{end}");
            specs.push((TensorSpec::f32(name, &[3 * WIDTH]), vec![values; 3 * WIDTH]));
        }
    }
    let all: Vec<TensorSpec> = specs.iter().map(|(spec, _)| spec.clone()).collect();
    let values = |name: &str| Ok(specs.iter().find(|(spec, _)| spec.name == name).unwrap().1.clone());
    write_tensors(&path, &all, values).unwrap();
    let hub = import(&path, &vit(4, false));
    let bias = [vec![0.25; WIDTH], vec![0.0; WIDTH], vec![0.25; WIDTH]].concat();
    assert_eq!(read(&hub, "backbone.blocks.0.attn.qkv.linear.bias"), bias);
    assert_eq!(read(&hub, "backbone.register_tokens"), file.read_f32("reg_token").unwrap());
}

#[test]
fn what_cannot_be_taken_is_refused_with_the_names_of_the_file() {
    let problem = |path: &Path, vit: &Vit| {
        let demanded = Import::open(path, vit, &vit.specs()).and_then(|import| import.demand(false));
        demanded.unwrap_err().to_string()
    };
    let gated = problem(&fixture("dinov3_gated"), &vit(4, false));
    assert!(
        gated.contains("dinov3_gated.safetensors") && gated.contains("`layer.0.mlp.gate_proj.weight`"),
        "{gated}"
    );
    let swiglu = problem(&fixture("dinov2_swiglu"), &vit(0, false));
    assert!(swiglu.contains("student.ffn_layer=swiglufused"), "{swiglu}");

    // some of a file
    let folder = Folder::new("foreign-part");
    let path = folder.0.join("part.safetensors");
    let without = |dropped: &str, nan: &str| {
        let file = TensorFile::open(fixture("dinov2")).unwrap();
        let names: Vec<&str> = file.names().filter(|name| !name.contains(dropped)).collect();
        let specs: Vec<TensorSpec> =
            names.iter().map(|name| TensorSpec::f32(*name, file.shape(name).unwrap())).collect();
        let values = |name: &str| {
            let mut values = file.read_f32(name)?;
            if name.contains(nan) {
                values[3] = f32::NAN;
            }
            Ok(values)
        };
        write_tensors(&path, &specs, values).unwrap();
    };
    without("layer.1.attention.attention.key.weight", "nothing");
    let keys = problem(&path, &vit(0, false));
    assert!(
        keys.contains("part.safetensors")
            && keys.contains("encoder.layer.1.attention.attention.query.weight"),
        "{keys}"
    );
    without("nothing", "layer.0.attention.attention.value.bias");
    let nan = problem(&path, &vit(0, false));
    assert!(nan.contains("encoder.layer.0.attention.attention.value.bias") && nan.contains("NaN"), "{nan}");

    // another width, on the command line, before there is a run
    let (run, file) = (folder.path("run"), fixture("clip").display().to_string());
    let args = ["train", "--device=cpu", "--steps=1", "--out", &run, "--init", &file];
    let out = program(&[&args[..], &SMALL[..]].concat());
    let told = text(&out.stderr);
    assert!(
        !out.status.success()
            && told.contains("vision_model.embeddings.class_embedding")
            && told.contains("student.max_embed_dim")
            && !Path::new(&run).exists(),
        "{told}"
    );
}

#[test]
fn the_elastic_student_is_sliced_from_what_was_loaded() {
    let folder = Folder::new("foreign-train");
    let (run, file) = (folder.path("run"), fixture("dinov2_registers").display().to_string());
    let out = program(&[
        "train",
        "--device=cpu",
        "--steps=2",
        "--out",
        &run,
        "--init",
        &file,
        "train.batch_size_per_gpu=4",
        "student.min_embed_dim=8",
        "student.max_embed_dim=16",
        "student.head_dim=8",
        "student.min_depth=1",
        "student.max_depth=2",
        "student.patch_size=4",
        "student.num_register_tokens=4",
        "crops.global_crops_size=8",
        "crops.local_crops_size=4",
        "dino.head_n_prototypes=[16]",
    ]);
    let told = text(&out.stderr) + &text(&out.stdout);
    assert!(out.status.success() && told.contains("init: 2 of 2 blocks"), "{told}");
}
