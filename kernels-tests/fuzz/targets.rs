//! Everything that reads bytes of others, each as a function of the bytes. Whatever they are, it returns: it never
//! panics, hangs or takes much memory. `tests/fuzz.rs` tries all of them on seeds, past failures and some changes of
//! both; `main.rs` lets libFuzzer look for worse.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use poa_gpu::Result;
use poa_gpu::data::{
    self, Source, bad_samples_file::BadSamplesFile, decode::decode, npy::Plane, pixels::IGNORED,
    reading::Reading, segmentation, segmentation::Meaning,
};
use poa_gpu::eval::budget::{LatencyTable, Limits, Scores};
use poa_gpu::files::checkpoint::{Checkpoint, find};
use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::files::tensorboard::EventLog;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::models::backbone::Backbone;
use poa_gpu::nn::parameters::ParameterSpec;
use poa_gpu::recipes::Config;
use poa_gpu::recipes::teacher::config_of;
use poa_gpu::report::{Run, asked, page, table};
use poa_gpu::train::metrics::history;
use poa_gpu::train::save::RunState;
use poa_gpu::verify::Fixture;
use poa_gpu::weights::import::Import;
use poa_gpu::weights::networks::choose;

use crate::seeds;

/// A parser, and what to try it with.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// The longest input that is worth trying, bytes.
    pub longest: usize,
    /// Inputs that go far.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that its inputs are made of.
    pub words: &'static [&'static str],
}

const TOML_WORDS: &[&str] = &[
    "[student]",
    "[train]",
    "[optim]",
    "[crops]",
    "[data]",
    "arch",
    "vit_dynamic",
    "swin_dynamic",
    "resnet_dynamic",
    "max_embed_dim",
    "max_depth",
    "epochs",
    "spec",
    "head_n_prototypes",
    "=",
    "\n",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "\"\"\"",
    "true",
    "nan",
    "-inf",
    "1e308",
    "9223372036854775807",
    "-1",
    "0x",
    "1979-05-27T07:32:00Z",
    "\\u0000",
    "#",
];
const NPY_WORDS: &[&str] =
    &["descr", "fortran_order", "shape", "False", "True", "|b1", "<f4", "<f8", "<i8", "(", ")", "'", ","];
const JSON_WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "null",
    "true",
    "1e999",
    "-1",
    "18446744073709551615",
    "\\ud800",
    "\\u0000",
];
const TENSOR_WORDS: &[&str] = &[
    "\"dtype\":",
    "\"shape\":",
    "\"data_offsets\":",
    "\"F32\"",
    "\"F16\"",
    "\"BF16\"",
    "\"F64\"",
    "\"I64\"",
    "\"U8\"",
    "\"BOOL\"",
    "\"F8_E4M3\"",
    "__metadata__",
    "[0,0]",
    "[]",
    "[1,4294967296,4294967296]",
    "18446744073709551615",
    "{",
    "}",
    "backbone.",
    "teacher.",
    "_orig_mod.",
    "blocks.0.0.",
    ".weight",
    "pos_embed",
    "ls1.gamma",
    "qkv",
];
const LIST_WORDS: &[&str] = &[
    "a.png",
    ".jpg",
    "\t",
    ",",
    "\n",
    "\r\n",
    "\"",
    "path,label\n",
    "#",
    "../",
    "/dev/null",
    "\u{feff}",
    " 7",
    "-1",
];
const TAR_WORDS: &[&str] = &[
    "a.png",
    "a.cls",
    ".cls",
    ".json",
    "../",
    "./",
    "ustar\0",
    "ustar  \0",
    "x",
    "L",
    "K",
    "g",
    "0",
    "1",
    "S",
    "77777777777",
    "9 size=",
    "path=",
    "30 path=",
    "GNU.sparse.size=",
    "\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}",
];
const NONE: &[&str] = &[];

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "recipe", run: recipe, longest: 2048, seeds: seeds::recipes, words: TOML_WORDS },
    Target {
        name: "stored_config",
        run: stored_config,
        longest: 4096,
        seeds: seeds::stored_configs,
        words: TOML_WORDS,
    },
    Target { name: "overrides", run: overrides, longest: 512, seeds: seeds::overrides, words: TOML_WORDS },
    Target { name: "data_spec", run: data_spec, longest: 256, seeds: seeds::data_specs, words: SPEC_WORDS },
    Target { name: "braces", run: braces, longest: 256, seeds: seeds::braces, words: BRACE_WORDS },
    Target { name: "list", run: list, longest: 1024, seeds: seeds::lists, words: LIST_WORDS },
    Target { name: "shard", run: shard, longest: 8192, seeds: seeds::shards, words: TAR_WORDS },
    Target { name: "cifar10", run: cifar10, longest: 6200, seeds: seeds::cifar10, words: NONE },
    Target {
        name: "cifar_names",
        run: cifar_names,
        longest: 512,
        seeds: seeds::cifar_names,
        words: &["\n", "\r\n"],
    },
    Target { name: "png", run: png, longest: 2048, seeds: seeds::png, words: PNG_WORDS },
    Target { name: "jpeg", run: jpeg, longest: 1024, seeds: seeds::jpeg, words: NONE },
    Target { name: "webp", run: webp, longest: 512, seeds: seeds::webp, words: WEBP_WORDS },
    Target { name: "npy", run: npy, longest: 512, seeds: seeds::npy, words: NPY_WORDS },
    Target { name: "mask", run: mask, longest: 2048, seeds: seeds::png, words: PNG_WORDS },
    Target { name: "classes", run: classes, longest: 512, seeds: seeds::class_names, words: NONE },
    Target { name: "bmp", run: bmp, longest: 1024, seeds: seeds::bmp, words: NONE },
    Target { name: "tiff", run: tiff, longest: 1024, seeds: seeds::tiff, words: NONE },
    Target { name: "any_image", run: any_image, longest: 1024, seeds: seeds::any_image, words: NONE },
    Target { name: "tensors", run: tensors, longest: 1024, seeds: seeds::tensors, words: TENSOR_WORDS },
    Target { name: "weights", run: weights, longest: 4096, seeds: seeds::weights, words: TENSOR_WORDS },
    Target { name: "manifest", run: manifest, longest: 1024, seeds: seeds::manifests, words: MANIFEST_WORDS },
    Target { name: "state", run: state, longest: 512, seeds: seeds::states, words: JSON_WORDS },
    Target {
        name: "latest",
        run: latest,
        longest: 128,
        seeds: seeds::latest,
        words: &["..", "/", "step-00000004", "\n"],
    },
    Target { name: "metrics", run: metrics, longest: 1024, seeds: seeds::metrics, words: JSON_WORDS },
    Target { name: "run_page", run: run_page, longest: 1024, seeds: seeds::metrics, words: JSON_WORDS },
    Target { name: "run_log", run: run_log, longest: 512, seeds: seeds::run_logs, words: NONE },
    Target { name: "sweep", run: sweep, longest: 512, seeds: seeds::sweeps, words: NONE },
    Target { name: "request", run: request, longest: 512, seeds: seeds::requests, words: NONE },
    Target {
        name: "bad_samples",
        run: bad_samples,
        longest: 512,
        seeds: seeds::bad_samples,
        words: &["\t", "\n", "damaged"],
    },
    Target {
        name: "event_names",
        run: event_names,
        longest: 96,
        seeds: seeds::event_names,
        words: EVENT_WORDS,
    },
    Target { name: "record", run: record, longest: 4096, seeds: seeds::records, words: RECORD_WORDS },
    Target { name: "network", run: network, longest: 64, seeds: seeds::networks, words: NETWORK_WORDS },
    Target { name: "budget", run: budget, longest: 64, seeds: seeds::budgets, words: BUDGET_WORDS },
    Target { name: "costs", run: costs, longest: 512, seeds: seeds::costs, words: COST_WORDS },
    Target {
        name: "device",
        run: device,
        longest: 64,
        seeds: seeds::devices,
        words: &["auto", "cpu", "gpu", "0", "-1"],
    },
];

const SPEC_WORDS: &[&str] =
    &["shapes:", "x", "cifar10:", "webdataset:", "list:", "::", "{0..9}", "4294967295", "0"];
const BRACE_WORDS: &[&str] =
    &["{", "}", ",", "..", "::", "{0..9}", "{000..146}", "{a,b}", "18446744073709551615", "999999"];
const PNG_WORDS: &[&str] =
    &["IHDR", "PLTE", "IDAT", "IEND", "tRNS", "eXIf", "iCCP", "acTL", "fcTL", "fdAT", "\u{0}\u{0}\u{0}\r"];
const WEBP_WORDS: &[&str] = &["RIFF", "WEBP", "VP8 ", "VP8L", "VP8X", "ALPH", "ANIM", "ANMF", "EXIF", "ICCP"];
const MANIFEST_WORDS: &[&str] = &[
    "\"format\"",
    "\"poa-gpu checkpoint\"",
    "\"version\"",
    "\"files\"",
    "\"bytes\"",
    "\"crc32c\"",
    "state.json",
    "../",
    "/dev/null",
    ".",
    "..",
    "config.toml",
    "{",
    "}",
    "18446744073709551615",
    "4294967296",
    "-1",
];
const EVENT_WORDS: &[&str] =
    &["events.out.tfevents.", ".poa", "9999999999", "4294967295", "18446744073709551615", "."];
const RECORD_WORDS: &[&str] = &[
    "\"arch\"",
    "\"vit\"",
    "\"swin\"",
    "\"resnet\"",
    "\"student\"",
    "\"steps\"",
    "\"network\"",
    "[48,2]",
    "[[1,2,3,4],[1,1,1,1]]",
    "18446744073709551615",
    "1e999",
    "null",
    "{",
    "}",
    "\"optim\"",
    "\"loss\"",
    "\"heads\"",
    "\"crops\"",
];
const NETWORK_WORDS: &[&str] = &[
    "smallest",
    "middle",
    "intact",
    "all",
    "small",
    "base",
    "large",
    "x",
    "-",
    ",",
    "96x3",
    "18446744073709551615",
];

const BUDGET_WORDS: &[&str] =
    &["5ms", "20M", "2gflops", "1.5GiB", "us", "µs", "k", ",", "1e999", "nan", "-", "."];
const COST_WORDS: &[&str] = &[
    "network",
    "latency_ms",
    "k=20",
    "384x12",
    "smallest",
    ",",
    "\n",
    "\"",
    "0.5",
    "1e999",
    "nan",
    "-1",
    "\u{feff}",
];

/// Where targets put what must be a file: memory, where the system has such a folder, unless `TMPDIR` says otherwise.
pub fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let base = match std::env::var_os("TMPDIR") {
        None if memory.is_dir() => memory.to_path_buf(),
        _ => std::env::temp_dir(),
    };
    let dir = base.join(format!("poa-fuzz-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a folder for the files of fuzzing");
    dir
}

/// A folder of a target.
fn folder(name: &str) -> PathBuf {
    let dir = scratch().join(name);
    fs::create_dir_all(&dir).expect("a folder for a target's files");
    dir
}

/// A file of a target with this content.
fn file(target: &str, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder(target).join(name);
    fs::write(&path, bytes).expect("a file for a target");
    path
}

/// A file of a target that is the same for all inputs.
fn fixed(target: &str, name: &str, bytes: impl FnOnce() -> Vec<u8>) -> PathBuf {
    let path = folder(target).join(name);
    if !path.exists() {
        fs::write(&path, bytes()).expect("a file for a target");
    }
    path
}

/// An error is a text that can be shown.
fn told<T>(result: Result<T>) -> Option<T> {
    result.map_err(|e| assert!(!e.to_string().is_empty())).ok()
}

fn recipe(bytes: &[u8]) {
    let path = file("recipe", "recipe.toml", bytes);
    if let Some(config) = told(Config::load(&path.display().to_string(), &[])) {
        resolved(config);
    }
}

/// A recipe that is right gives a grid, and reads back as it was written.
fn resolved(mut config: Config) {
    if told(config.resolve(1)).is_none() {
        return;
    }
    if let Some(backbone) = told(config.backbone()) {
        assert!(!backbone.grid().entries().is_empty());
    }
    let text = config.to_toml().expect("a recipe that is right can be written");
    let again = Config::from_stored(&text, Path::new("config.toml")).expect("what was written can be read");
    assert!(again == config, "not what was written: {text}");
}

fn stored_config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(config) = told(Config::from_stored(&text, Path::new("config.toml"))) {
        resolved(config);
    }
}

thread_local! {
    static DEMO: OnceCell<Config> = const { OnceCell::new() };
}

fn overrides(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let overrides: Vec<&str> = text.lines().collect();
    let mut config = DEMO.with(|demo| demo.get_or_init(|| Config::recipe("demo").expect("a recipe")).clone());
    if told(config.apply(&overrides)).is_some() {
        resolved(config);
    }
}

/// An image of a few bytes may say that it is as large as is allowed, and be decoded to that size: less than the
/// default, so that inputs stay quick.
const READING: Reading = Reading { max_pixels: 16_000_000, deep_bits: 0 };

fn open(spec: &str) -> Result<Arc<dyn Source>> {
    data::open(spec, &READING)
}

/// What opened must be usable: names, classes, and the first images.
fn used(source: &dyn Source) {
    assert!(source.len() > 0 && !source.describe().is_empty());
    for i in 0..source.len().min(64) {
        let _ = source.name(i);
        if let Some(label) = source.label(i) {
            assert!((label as usize) < source.classes().len(), "image {i} has the class {label}");
        }
    }
    for i in 0..source.len().min(3) {
        if let Ok(image) = source.load(i) {
            assert!(image.width() > 0 && image.height() > 0);
        }
    }
}

fn data_spec(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    // these would go through what lies on this machine
    if ["folder", "list", "webdataset"].iter().any(|kind| text.starts_with(kind)) {
        return;
    }
    if let Some(source) = told(open(&text)) {
        used(&*source);
    }
}

fn braces(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).replace('/', "|");
    // nothing of these names is there
    let _ = told(open(&format!("webdataset:{}/{text}", folder("braces").display())));
}

fn list(bytes: &[u8]) {
    fixed("list", "a.png", || seeds::png().remove(0));
    let path = file("list", "images.txt", bytes);
    if let Some(source) = told(open(&format!("list:{}", path.display()))) {
        used(&*source);
    }
}

fn shard(bytes: &[u8]) {
    let path = file("shard", "shard.tar", bytes);
    if let Some(source) = told(open(&format!("webdataset:{}", path.display()))) {
        used(&*source);
    }
}

fn cifar10(bytes: &[u8]) {
    fixed("cifar10", "batches.meta.txt", || seeds::cifar_names().remove(0));
    for n in 2..6 {
        fixed("cifar10", &format!("data_batch_{n}.bin"), || seeds::cifar10().remove(0));
    }
    fixed("cifar10", "test_batch.bin", || seeds::cifar10().remove(0));
    let dir = file("cifar10", "data_batch_1.bin", bytes);
    if let Some(source) = told(open(&format!("cifar10:{}", dir.parent().expect("a folder").display()))) {
        used(&*source);
    }
}

fn cifar_names(bytes: &[u8]) {
    for n in 1..6 {
        fixed("cifar_names", &format!("data_batch_{n}.bin"), || seeds::cifar10().remove(0));
    }
    fixed("cifar_names", "test_batch.bin", || seeds::cifar10().remove(0));
    let names = file("cifar_names", "batches.meta.txt", bytes);
    if let Some(source) = told(open(&format!("cifar10:{}", names.parent().expect("a folder").display()))) {
        used(&*source);
    }
}

/// An image whose first bytes are these, so that every input is one of this kind.
fn image_of(start: &[u8], bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let n = start.len().min(bytes.len());
    bytes[..n].copy_from_slice(&start[..n]);
    any_image(&bytes);
}

fn png(bytes: &[u8]) {
    image_of(b"\x89PNG\r\n\x1a\n", bytes);
}

fn jpeg(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    bytes.extend([0xff, 0xd9]);
    image_of(b"\xff\xd8\xff", &bytes);
}

fn webp(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if let Some(kind) = bytes.get_mut(8..12) {
        kind.copy_from_slice(b"WEBP");
    }
    image_of(b"RIFF", &bytes);
}

fn npy(bytes: &[u8]) {
    let _ = Plane::parse(bytes);
}

/// A mask of indices and of colours, beside an image of 5×4 pixels.
fn mask(bytes: &[u8]) {
    fixed("mask/images", "a.png", || seeds::png().remove(0));
    file("mask/masks", "a.png", bytes);
    let dir = folder("mask");
    let spec = format!("pairs:{}::{}", dir.join("images").display(), dir.join("masks").display());
    let coloured = BTreeMap::from([([0, 0, 0], 0), ([255, 0, 0], 1)]);
    let indices = Meaning::numbered(200);
    for meaning in [Meaning { palette: coloured, ..indices.clone() }, indices] {
        let parts = segmentation::open(&spec, Some(&meaning), &READING);
        let Some(parts) = told(parts) else { continue };
        if let Ok(image) = parts.train.load(0) {
            let classes = image.classes().expect("a class a pixel");
            assert_eq!(classes.len(), image.width() as usize * image.height() as usize);
            let known = |class: &u8| usize::from(*class) < meaning.classes.len() || *class == IGNORED;
            assert!(classes.iter().all(known));
        }
    }
}

fn classes(bytes: &[u8]) {
    let path = file("classes", "classes.txt", bytes);
    if let Some(meaning) = told(Meaning::read(&path)) {
        assert!(!meaning.classes.is_empty() && meaning.classes.len() <= 255);
        assert!(meaning.palette.is_empty() || meaning.palette.len() == meaning.classes.len());
    }
}

fn bmp(bytes: &[u8]) {
    image_of(b"BM", bytes);
}

/// Of both byte orders, and BigTIFF.
fn tiff(bytes: &[u8]) {
    let start = match bytes.first() {
        Some(b'M') => b"MM\x00*",
        Some(b'B') => b"MM\x00+",
        Some(b'b') => b"II+\x00",
        _ => b"II*\x00",
    };
    image_of(start, bytes);
}

fn any_image(bytes: &[u8]) {
    match decode(bytes, &READING) {
        Ok(image) => assert!(image.width() > 0 && image.height() > 0),
        Err(fault) => assert!(!fault.reason.is_empty()),
    }
}

/// Every tensor of a file, read as everything.
fn read_all(file: &TensorFile) {
    for name in file.names().collect::<Vec<_>>() {
        let shape = file.shape(name).expect("it is there");
        if let Some(values) = told(file.read_f32(name)) {
            assert_eq!(values.len(), shape.iter().product::<usize>());
        }
        let _ = told(file.read_u8(name));
        let _ = told(file.read_i64(name));
    }
}

fn tensors(bytes: &[u8]) {
    if let Some(file) = told(TensorFile::open(file("tensors", "t.safetensors", bytes))) {
        read_all(&file);
    }
}

/// The bytes are the header; its length before it and zeros behind it make a file of them.
fn weights(bytes: &[u8]) {
    thread_local! {
        static MODEL: OnceCell<(Box<dyn Backbone>, Vec<ParameterSpec>)> = const { OnceCell::new() };
    }
    let path = folder("weights").join("w.safetensors");
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&(bytes.len() as u64).to_le_bytes())?;
        file.write_all(bytes)?;
        file.set_len(8 + bytes.len() as u64 + (64 << 10))
    });
    written.expect("a file for a target");
    MODEL.with(|model| {
        let (backbone, specs) = model.get_or_init(|| {
            let backbone = seeds::small_model();
            let specs = backbone.specs();
            (backbone, specs)
        });
        let Some(import) = told(Import::open(&path, &**backbone, specs)) else { return };
        assert!(!import.summary().is_empty());
        for filling in import.fillings() {
            if let Some(Some(values)) = told(import.read(filling)) {
                assert_eq!(values.len(), filling.shape.iter().product::<usize>(), "{filling:?}");
            }
        }
    });
}

/// A checkpoint of which everything is read.
fn read_checkpoint(checkpoint: &Checkpoint) {
    let _ = told(checkpoint.verify());
    let _ = told(checkpoint.state::<RunState>());
    let _ = told(config_of(checkpoint));
    if let Some(file) = told(checkpoint.tensors("student.safetensors")) {
        read_all(&file);
    }
}

/// The files of a checkpoint beside its manifest.
fn checkpoint_files(target: &str) -> PathBuf {
    for (name, bytes) in seeds::checkpoint_files() {
        fixed(target, name, || bytes);
    }
    folder(target)
}

fn manifest(bytes: &[u8]) {
    let dir = checkpoint_files("manifest");
    file("manifest", "manifest.json", bytes);
    if let Some(checkpoint) = told(Checkpoint::open(dir)) {
        read_checkpoint(&checkpoint);
    }
}

/// `state.json`, with a manifest that is right.
fn state(bytes: &[u8]) {
    let dir = checkpoint_files("state");
    file("state", "state.json", bytes);
    let mut files = seeds::checkpoint_files();
    files.retain(|(name, _)| *name != "state.json");
    files.push(("state.json", bytes.to_vec()));
    file("state", "manifest.json", &seeds::manifest_of(&files));
    let checkpoint = Checkpoint::open(dir).expect("its manifest is right");
    let _ = told(checkpoint.state::<RunState>());
}

/// What `latest` says where it is a file.
fn latest(bytes: &[u8]) {
    let dir = folder("latest");
    let step = dir.join("step-00000004");
    if !step.exists() {
        fs::create_dir_all(&step).expect("a folder for a target's files");
        let files = seeds::checkpoint_files();
        for (name, bytes) in &files {
            fs::write(step.join(name), bytes).expect("a file for a target");
        }
        fs::write(step.join("manifest.json"), seeds::manifest_of(&files)).expect("a file for a target");
    }
    let path = file("latest", "latest", bytes);
    let _ = told(find(&path));
}

fn metrics(bytes: &[u8]) {
    let _ = history(file("metrics", "metrics.jsonl", bytes), "knn/");
}

fn run_page(bytes: &[u8]) {
    let path = file("run_page", "metrics.jsonl", bytes);
    let data = Run::expected(path.parent().expect("in a folder")).to_json(Vec::new());
    assert_eq!(page("a run", &data).matches("</script>").count(), 2);
}

fn run_log(bytes: &[u8]) {
    let path = file("run_log", "train.log", bytes);
    let data = Run::expected(path.parent().expect("in a folder")).to_json(Vec::new());
    assert_eq!(page("a run", &data).matches("</script>").count(), 2);
}

fn sweep(bytes: &[u8]) {
    let _ = table(Path::new("run/knn.csv"), Path::new("run"), &String::from_utf8_lossy(bytes));
}

fn request(bytes: &[u8]) {
    let _ = asked(bytes, 6160);
}

fn bad_samples(bytes: &[u8]) {
    if let Some(found) = told(BadSamplesFile::open(&file("bad_samples", "bad_samples.txt", bytes))) {
        assert_eq!(found.is_empty(), found.summary().is_empty());
    }
}

/// What lies in a run's folder beside the event file that is begun there.
fn event_names(bytes: &[u8]) {
    let name: String =
        String::from_utf8_lossy(bytes).chars().filter(|c| !['/', '\0'].contains(c)).take(80).collect();
    let dir = folder("event_names");
    if !["", ".", ".."].contains(&name.as_str()) {
        fs::write(dir.join(&name), b"").expect("a file for a target");
    }
    let log = told(EventLog::create(&dir, Some(3)));
    assert!(log.is_some(), "no event file beside `{name}`");
    fs::remove_dir_all(dir).expect("a target's folder");
}

/// `fixture.json` of a recorded run, whose tensors are others.
fn record(bytes: &[u8]) {
    for name in ["student", "teacher", "batch", "expected"] {
        fixed("record", &format!("{name}.safetensors"), || seeds::tensors().remove(0));
    }
    let path = file("record", "fixture.json", bytes);
    let Some(fixture) = told(Fixture::open(path.parent().expect("a folder"))) else { return };
    if let Some(config) = told(fixture.config()) {
        resolved(config);
    }
}

thread_local! {
    static GRIDS: [poa_gpu::models::grid::ElasticGrid; 3] =
        ["vit_ee1200", "swin_ee1200", "demo_resnet"].map(seeds::grid);
}

fn budget(bytes: &[u8]) {
    if let Some(limits) = told(Limits::parse(&[String::from_utf8_lossy(bytes)])) {
        let all = [limits.latency, limits.parameters, limits.flops, limits.memory];
        assert!(all.iter().flatten().all(|most| *most > 0.0 && most.is_finite()));
        assert!(!limits.describe().is_empty());
    }
}

/// Tables of latencies and of accuracies.
fn costs(bytes: &[u8]) {
    GRIDS.with(|[grid, ..]| {
        let _ = LatencyTable::parse(bytes, grid);
        if let Ok(scores) = Scores::parse(bytes, None, grid) {
            let all = grid.entries().iter().filter_map(|(network, _)| scores.of(*network));
            assert!(all.into_iter().all(|score| (0.0..=1.0).contains(&score)));
        }
    });
}

fn network(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    GRIDS.with(|grids| {
        for grid in grids {
            if let Some(chosen) = told(choose(grid, &[&text])) {
                assert!(!chosen.is_empty());
            }
            let _ = grid.named(&text);
        }
    });
}

fn device(bytes: &[u8]) {
    let _ = told(DeviceChoice::from_str(&String::from_utf8_lossy(bytes)));
}
