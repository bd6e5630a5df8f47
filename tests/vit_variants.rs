//! ViTs with SwiGLU and registers: features and gradients of a whole network and of cut ones against PyTorch's (recorded by
//! `benches/peers/pytorch/swiglu_registers.py`), and networks that are cut out, in timm's, DINOv2's and POA's names.

use std::path::{Path, PathBuf};

use poa_gpu::autograd::Tape;
use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::models::backbone::{Backbone, CropBatch, Token};
use poa_gpu::models::encoder::Encoder;
use poa_gpu::models::grid::Network;
use poa_gpu::models::plain::Format;
use poa_gpu::models::vit::{self, Ffn, Vit, VitSizes, vit_grid};
use poa_gpu::nn::parameters::{FlatBuffers, FlatLayout, Parameters};
use poa_gpu::ops;
use poa_gpu::tensor::{Device, Tensor};
use poa_gpu::weights::extract::Extraction;
use poa_gpu::weights::import::Import;

const HEAD: usize = 8;
const REGISTERS: usize = 3;
/// Pixels of global and of local crops.
const SIDES: [usize; 2] = [16, 8];
/// Of the record: all of it, a narrower and a shallower network.
const NETWORKS: [(&str, Network); 3] =
    [("whole", Network::new(24, 2)), ("cut", Network::new(16, 2)), ("shallow", Network::new(16, 1))];

fn record() -> TensorFile {
    let path = "kernels-tests/fixtures/vit_swiglu_registers/record.safetensors";
    TensorFile::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn settings() -> vit::Settings {
    let mut s = vit::Settings {
        min_depth: 1,
        max_depth: 2,
        ffn_layer: Ffn::SwiGlu,
        num_register_tokens: REGISTERS,
        ..Default::default()
    };
    (s.elastic.patch_size, s.attention.head_dim) = (4, HEAD);
    (s.attention.min_embed_dim, s.attention.max_embed_dim) = (16, 24);
    s
}

fn backbone() -> Vit {
    Vit::from_settings(&settings(), SIDES[0]).unwrap()
}

/// Parameters of a backbone on a device, with gradients.
fn parameters(vit: &Vit, device: &Device, read: impl Fn(&str) -> Vec<f32>) -> Parameters {
    let layout = FlatLayout::new(&vit.specs(), usize::MAX).unwrap();
    let values = FlatBuffers::zeros(&layout, device).unwrap();
    for place in layout.places() {
        values.write(&place.spec.name, &read(&place.spec.name)).unwrap();
    }
    Parameters::trained(values).unwrap()
}

fn devices() -> [Device; 2] {
    [Device::cpu(), ops::open(&DeviceChoice::Gpu).unwrap()]
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let d: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    (d / b.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>().max(1e-30)).sqrt()
}

/// The record's crops of a kind, without masks.
fn crops(file: &TensorFile, device: &Device, name: &str) -> Tensor {
    Tensor::from_slice(device, file.shape(name).unwrap(), &file.read_f32(name).unwrap()).unwrap()
}

#[test]
fn features_and_gradients_are_those_of_pytorch() {
    let file = record();
    for device in devices() {
        let vit = backbone();
        for (case, network) in NETWORKS {
            let parameters =
                parameters(&vit, &device, |name| file.read_f32(&format!("parameter.{name}")).unwrap());
            let mut batches = ["globals", "locals"].map(|name| CropBatch::new(crops(&file, &device, name)));
            let mask: Vec<u32> = file.read_u8("masks").unwrap().iter().map(|m| u32::from(*m)).collect();
            batches[0].mask = Some(Tensor::from_slice(&device, &[mask.len()], &mask).unwrap());
            let class = |group, count| (0..count).map(move |crop| Token::Cls { group, crop });
            let masked = mask.iter().enumerate().filter(|(_, m)| **m != 0);
            let patches = masked.map(|(i, _)| Token::Patch { group: 0, crop: i / 16, cell: i % 16 });
            let asked: Vec<Token> = class(0, 2).chain(patches).chain(class(1, 3)).collect();

            let tape = Tape::new();
            let tokens = vit.forward(&tape, &parameters, network, &batches, None).unwrap();
            let features = tokens.features(&tape, &asked).unwrap();
            let found = features.value().to_vec::<f32>().unwrap();
            let error = distance(&found, &file.read_f32(&format!("{case}.features")).unwrap());
            println!("{} {case}: features {error:.1e}", device.describe());
            assert!(error < 1e-5, "{case}: features are {error:e} apart");

            if case != "shallow" {
                let whole = file.read_f32("cotangent").unwrap();
                let cotangent: Vec<f32> =
                    whole.chunks(24).flat_map(|row| &row[..network.width]).copied().collect();
                let cotangent = Tensor::from_slice(&device, features.value().shape(), &cotangent).unwrap();
                tape.backward(vec![(&features, cotangent)]).unwrap();
                let gradients = parameters.gradients().unwrap();
                let (mut worst, mut compared) = (0.0f64, 0);
                for spec in vit.specs() {
                    let mut found = gradients.read(&spec.name).unwrap();
                    let mut want = file.read_f32(&format!("{case}.gradient.{}", spec.name)).unwrap();
                    if spec.name.ends_with("qkv.linear.bias") {
                        // softmax does not depend on the keys' bias: what is there is rounding
                        [&mut found, &mut want].into_iter().for_each(|v| drop(v.drain(24..48)));
                    }
                    let error = distance(&found, &want);
                    assert!(error < 1e-4, "{case}: the gradient of {} is {error:e} apart", spec.name);
                    (worst, compared) = (worst.max(error), compared + 1);
                }
                println!("{} {case}: gradients {worst:.1e}", device.describe());
                assert_eq!(compared, 8 + 14 * 2);
            }

            let encoder = Encoder { device: &device, backbone: &vit, parameters: &parameters };
            let locals = crops(&file, &device, "locals");
            let attention = encoder.class_attention(network, &locals).unwrap().unwrap();
            let error = distance(&attention, &file.read_f32(&format!("{case}.attention")).unwrap());
            assert!(error < 1e-5, "{case}: attention is {error:e} apart");
            // class tokens and patch tokens, without registers, from every way to ask for them
            let (cls, patches) = encoder.features(network, &locals, true).unwrap();
            let (blocks, last) = encoder.last_blocks(network, &locals, 1).unwrap();
            assert_eq!(patches.as_ref().unwrap().shape(), [3 * 4, network.width]);
            for (a, b) in [(&cls, &blocks[0]), (patches.as_ref().unwrap(), &last)] {
                let error = distance(&a.to_vec::<f32>().unwrap(), &b.to_vec::<f32>().unwrap());
                assert!(error < 2e-6, "{case}: {error:e} between ways to ask");
            }
        }
    }
}

#[test]
fn registers_and_gates_count_in_costs() {
    // timm's counts of vit_giant_patch14_dinov2 and vit_giant_patch14_reg4_dinov2
    let mut s = vit::Settings { max_depth: 40, ffn_layer: Ffn::SwiGlu, ..Default::default() };
    (s.elastic.patch_size, s.attention.max_embed_dim) = (14, 1536);
    let giant = VitSizes::from_settings(&s, 518);
    assert_eq!(giant.hidden(1536), 4096);
    assert_eq!(giant.cost(Network::new(1536, 40)).parameters, 1_136_479_232);
    let with = VitSizes { registers: 4, ..giant.clone() };
    assert_eq!(with.cost(Network::new(1536, 40)).parameters, 1_136_483_840);
    let tokens = 1370u64;
    let flops = |tokens: u64| {
        let layers = tokens * (4 * 1536 * 1536 + 3 * 1536 * 4096) + 2 * tokens * tokens * 1536;
        2 * (1369 * 1536 * 588 + 40 * layers)
    };
    assert_eq!(giant.cost(Network::new(1536, 40)).flops, flops(tokens));
    assert_eq!(with.cost(Network::new(1536, 40)).flops, flops(tokens + 4));
    // in proportion and rounded down, as the official layers are cut
    s.attention.max_embed_dim = 1024;
    let large = VitSizes::from_settings(&s, 224);
    assert_eq!([384, 768, 1024].map(|width| large.hidden(width)), [1026, 2052, 2736]);
    assert_eq!(large.plain(Network::new(384, 12)).hidden(384), 1026);
    s.swiglu_hidden = 2048;
    assert_eq!(VitSizes::from_settings(&s, 224).hidden(512), 1024);
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("poa-variants-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// The record's parameters as a teacher's file.
fn teacher(dir: &Path) -> TensorFile {
    use poa_gpu::files::tensor_writer::{TensorSpec, write_tensors};
    let (file, path) = (record(), dir.join("teacher.safetensors"));
    let specs: Vec<TensorSpec> =
        backbone().specs().iter().map(|s| TensorSpec::f32(&s.name, &s.shape)).collect();
    write_tensors(&path, &specs, |name| file.read_f32(&format!("parameter.{name}"))).unwrap();
    TensorFile::open(path).unwrap()
}

#[test]
fn cut_out_they_are_what_they_were() {
    let (dir, elastic, device) = (scratch("cut"), backbone(), Device::cpu());
    let (teacher, file) = (teacher(&dir), record());
    let own = parameters(&elastic, &device, |name| file.read_f32(&format!("parameter.{name}")).unwrap());
    for (case, network) in NETWORKS {
        for format in Format::ALL.into_iter().filter(|format| *format != Format::Onnx) {
            let out = dir.join(format!("{case}-{format}"));
            let cut = Extraction::new(&teacher, &elastic, network, format);
            // 42 hidden channels of 16
            if matches!(format, Format::Dinov2 | Format::Transformers) && case != "whole" {
                let text = cut.unwrap_err().to_string();
                assert!(
                    text.contains("42 hidden channels") && text.contains("--format timm or poa"),
                    "{text}"
                );
                continue;
            }
            cut.unwrap().write(&out).unwrap();
            let model = TensorFile::open(out.join("model.safetensors")).unwrap();
            let config = std::fs::read_to_string(out.join("config.json")).unwrap();
            let config: serde_json::Value = serde_json::from_str(&config).unwrap();
            let hidden = elastic.sizes().hidden(network.width);
            let names = if format == Format::Timm {
                let args = &config["model_args"];
                assert_eq!(config["architecture"], "vit_giant_patch14_reg4_dinov2");
                assert_eq!((&args["reg_tokens"], &args["no_embed_class"]), (&3.into(), &true.into()));
                // as the constructor computes it
                let product = network.width as f64 * args["mlp_ratio"].as_f64().unwrap();
                assert_eq!(product as usize, 2 * hidden);
                assert_eq!(model.shape("pos_embed").unwrap(), [1, 16, network.width]);
                ["reg_token", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight"]
            } else if format == Format::Transformers {
                assert_eq!(
                    (&config["num_register_tokens"], &config["use_swiglu_ffn"]),
                    (&3.into(), &true.into())
                );
                [
                    "embeddings.register_tokens",
                    "encoder.layer.0.mlp.weights_in.weight",
                    "encoder.layer.0.mlp.weights_out.weight",
                ]
            } else {
                assert_eq!(
                    (&config["num_register_tokens"], &config["ffn_layer"]),
                    (&3.into(), &"swiglufused".into())
                );
                ["register_tokens", "blocks.0.mlp.w12.weight", "blocks.0.mlp.w3.weight"]
            };
            assert_eq!(model.shape(names[0]).unwrap(), [1, 3, network.width]);
            assert_eq!(model.shape(names[1]).unwrap(), [2 * hidden, network.width]);
            assert_eq!(model.shape(names[2]).unwrap(), [network.width, hidden]);

            // read back, whole, into a model of these sizes alone
            let plain =
                Vit::new(elastic.sizes().plain(network), vit_grid(&vit::Settings::default()).unwrap());
            let import = Import::open(&out, &plain, &plain.specs()).unwrap();
            import.demand(false).unwrap();
            assert!(import.unused().is_empty(), "{:?}", import.unused());
            let mask = |name: &str| format == Format::Timm && name.ends_with("mask_token");
            assert!(
                import.fillings().iter().all(|f| f.is_from_file() || mask(&f.name)),
                "{}",
                import.summary()
            );
            let values = import.fillings().iter().map(|f| {
                let zeros = || vec![0.0; f.shape.iter().product()];
                (f.name.clone(), import.read(f).unwrap().unwrap_or_else(zeros))
            });
            let values: std::collections::HashMap<_, _> = values.collect();
            let theirs = parameters(&plain, &device, |name| values[name].clone());
            for name in ["globals", "locals"] {
                let images = crops(&file, &device, name);
                let run = |backbone: &Vit, parameters: &Parameters| {
                    let encoder = Encoder { device: &device, backbone, parameters };
                    let (cls, patches) = encoder.features(network, &images, true).unwrap();
                    [cls.to_vec::<f32>().unwrap(), patches.unwrap().to_vec().unwrap()]
                };
                for (got, want) in run(&plain, &theirs).iter().zip(&run(&elastic, &own)) {
                    let error = distance(got, want);
                    assert!(error < 2e-6, "{case}, {format}, {name}: {error:e} apart");
                }
            }
        }
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn files_of_another_kind_are_refused_with_what_to_set() {
    let dir = scratch("kinds");
    let teacher = teacher(&dir);
    let out = dir.join("net");
    Extraction::new(&teacher, &backbone(), Network::new(24, 2), Format::Dinov2).unwrap().write(&out).unwrap();
    let open = |change: &dyn Fn(&mut vit::Settings)| {
        let mut settings = settings();
        change(&mut settings);
        let vit = Vit::from_settings(&settings, SIDES[0]).unwrap();
        Import::open(&out, &vit, &vit.specs())
            .and_then(|import| import.demand(false).map(|()| import.summary()))
    };
    let problem = |change: &dyn Fn(&mut vit::Settings)| open(change).unwrap_err().to_string();
    let text = problem(&|s| s.ffn_layer = Ffn::Mlp);
    assert!(
        text.contains("`blocks.0.mlp.w12.weight`") && text.contains("student.ffn_layer=swiglufused"),
        "{text}"
    );
    let text = problem(&|s| s.swiglu_hidden = 40);
    assert!(text.contains("set student.swiglu_hidden=64"), "{text}");
    let text = problem(&|s| s.num_register_tokens = 5);
    assert!(text.contains("set student.num_register_tokens=3"), "{text}");
    let text = open(&|s| s.num_register_tokens = 0).unwrap();
    assert!(
        text.contains("3 register tokens are dropped (student.num_register_tokens=3 takes them)"),
        "{text}"
    );
    std::fs::remove_dir_all(dir).unwrap();
}
