//! Tensor files and checkpoints: round trips, files of others, damage.

use std::path::{Path, PathBuf};

use poa_gpu::Result;
use poa_gpu::files::checkpoint::{
    Checkpoint, CheckpointWriter, Newest, checkpoint_dir, checkpoints_in, find, newest_whole, point_latest,
    prune,
};
use poa_gpu::files::tensor_file::{StoredType, TensorFile};
use poa_gpu::files::tensor_writer::{TensorSpec, Values, write_tensors};
use serde::{Deserialize, Serialize};

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("poa-gpu-checkpoint-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures").join(path)
}

fn values(name: &str, count: usize) -> Vec<f32> {
    (0..count).map(|i| (i as f32 - 3.3) * name.len() as f32).collect()
}

fn specs() -> Vec<TensorSpec> {
    vec![
        TensorSpec::u8("masks", &[3]),
        TensorSpec::f32("scalar", &[]),
        TensorSpec::f32("weight \"quoted\"", &[7, 17]),
        TensorSpec::f32("empty", &[0, 4]),
        TensorSpec::f32("bias", &[197]),
    ]
}

fn read(name: &str) -> Result<Values> {
    Ok(match name {
        "masks" => vec![1_u8, 0, 1].into(),
        "scalar" => vec![f32::NAN].into(),
        "empty" => Vec::<f32>::new().into(),
        "bias" => values(name, 197).into(),
        _ => values(name, 7 * 17).into(),
    })
}

fn check(file: &TensorFile) {
    assert_eq!(file.names().count(), 5);
    assert_eq!(file.shape("weight \"quoted\"").unwrap(), [7, 17]);
    assert_eq!(file.read_f32("weight \"quoted\"").unwrap(), values("weight \"quoted\"", 119));
    assert_eq!(file.read_f32_as("bias", &[197]).unwrap(), values("bias", 197));
    assert!(file.read_f32("scalar").unwrap()[0].is_nan());
    assert!(file.read_f32("empty").unwrap().is_empty());
    assert_eq!(file.read_u8("masks").unwrap(), [1, 0, 1]);
    assert_eq!(file.stored("masks").unwrap(), StoredType::U8);
}

#[test]
fn tensors_round_trip() {
    let dir = scratch("round");
    let path = dir.join("t.safetensors");
    write_tensors(&path, &specs(), read).unwrap();
    check(&TensorFile::open(&path).unwrap());
    // The reference implementation reads the same.
    let bytes = std::fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("bias").unwrap().shape(), [197]);
    let expected: Vec<u8> = values("bias", 197).iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(theirs.tensor("bias").unwrap().data(), expected);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn every_float_width_is_read() {
    use half::{bf16, f16};
    let dir = scratch("widths");
    let path = dir.join("t.safetensors");
    let numbers = [0.5_f32, -2.0, 96.0];
    let f64s: Vec<u8> = numbers.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect();
    let f16s: Vec<u8> = numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
    let bf16s: Vec<u8> = numbers.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
    let view = |kind, bytes| safetensors::tensor::TensorView::new(kind, vec![3], bytes).unwrap();
    use safetensors::Dtype;
    let tensors =
        [("d", view(Dtype::F64, &f64s)), ("h", view(Dtype::F16, &f16s)), ("b", view(Dtype::BF16, &bf16s))];
    std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let file = TensorFile::open(&path).unwrap();
    for name in ["d", "h", "b"] {
        assert_eq!(file.read_f32(name).unwrap(), numbers);
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn files_of_others_are_read() {
    let batch = TensorFile::open(fixture("vit/batch.safetensors")).unwrap();
    assert_eq!(batch.shape("step0.global_crops").unwrap(), [8, 3, 32, 32]);
    assert_eq!(batch.read_u8("step0.masks").unwrap().len(), 8 * 16);
    let knn = TensorFile::open(fixture("knn/features.safetensors")).unwrap();
    assert_eq!(knn.read_i64("val_labels").unwrap().len(), 150);
    assert_eq!(knn.read_f32("val_features").unwrap().len(), 150 * 32);
}

#[test]
fn errors_name_file_and_tensor() {
    let file = TensorFile::open(fixture("vit/student.safetensors")).unwrap();
    let error = file.read_f32("backbone.cls_tokn").unwrap_err().to_string();
    assert!(error.contains("student.safetensors") && error.contains("`backbone.cls_token`"), "{error}");
    let error = file.read_f32_as("backbone.cls_token", &[1, 1, 64]).unwrap_err().to_string();
    assert!(error.contains("[1, 1, 48]") && error.contains("[1, 1, 64]"), "{error}");
    let error = file.read_u8("backbone.cls_token").unwrap_err().to_string();
    assert!(error.contains("F32"), "{error}");
    assert!(TensorFile::open("absent.safetensors").unwrap_err().to_string().contains("absent.safetensors"));

    let dir = scratch("wrong");
    let path = dir.join("t.safetensors");
    let error =
        write_tensors(&path, &[TensorSpec::f32("a", &[3])], |_| Ok(vec![1.0_f32])).unwrap_err().to_string();
    assert!(error.contains("`a`") && error.contains("1 values"), "{error}");
    let twice = [TensorSpec::f32("a", &[1]), TensorSpec::f32("a", &[1])];
    assert!(write_tensors(&path, &twice, |_| Ok(vec![1.0_f32])).is_err());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn damaged_files_are_errors() {
    let dir = scratch("damage");
    let path = dir.join("t.safetensors");
    write_tensors(&path, &specs(), read).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(5).chain([whole.len() - 1]) {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = TensorFile::open(&path).expect_err("cut off").to_string();
        assert!(error.contains("t.safetensors"), "{error}");
    }
    // Any damage of the header is an error or leaves readable names; nothing panics.
    for i in 0..whole.len().min(450) {
        let mut bytes = whole.clone();
        bytes[i] ^= [0x01, 0x02, 0x10, 0x80][i % 4];
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(file) = TensorFile::open(&path) {
            for name in file.names() {
                let _ = file.read_f32(name);
            }
        }
    }
    let huge = br#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}"#;
    let liar =
        br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551611,18446744073709551615]}}"#;
    for header in [huge.as_slice(), liar, b"{\"a\": 3}", b"[]", b"", b"garbage"] {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header);
        std::fs::write(&path, &bytes).unwrap();
        assert!(TensorFile::open(&path).is_err());
    }
    std::fs::write(&path, [0xff; 64]).unwrap();
    assert!(TensorFile::open(&path).is_err());
    assert!(TensorFile::open(&dir).is_err(), "a folder is not a file");
    std::fs::remove_dir_all(dir).unwrap();
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct State {
    step: usize,
    loss_scale: f32,
}

fn save(dir: &Path, step: usize) -> Result<PathBuf> {
    let mut writer = CheckpointWriter::create(dir)?;
    writer.tensors("student.safetensors", &specs(), read)?;
    writer.finish(&State { step, loss_scale: 0.1 })
}

fn steps(dir: &Path) -> Vec<usize> {
    checkpoints_in(dir).unwrap().into_iter().map(|(step, _)| step).collect()
}

#[test]
fn the_newest_and_every_nth_are_kept() {
    let dir = scratch("kept");
    for step in (10..=80).step_by(10) {
        save(&checkpoint_dir(&dir, step), step).unwrap();
        prune(&dir, 2, 30).unwrap();
    }
    assert_eq!(steps(&dir), [30, 60, 70, 80]);
    std::fs::remove_dir_all(dir).unwrap();
}

/// Any single byte of any file: what is damaged is found, passed over and set aside, and `latest` follows.
#[test]
fn damage_anywhere_falls_back_to_the_checkpoint_before() {
    let dir = scratch("fallback");
    save(&checkpoint_dir(&dir, 10), 10).unwrap();
    let files = ["student.safetensors", "state.json", "manifest.json"];
    for (i, file) in files.iter().enumerate() {
        for place in [0.0, 0.3, 0.6, 0.999] {
            let newest = save(&checkpoint_dir(&dir, 20), 20).unwrap();
            point_latest(&newest).unwrap();
            assert_eq!(find(&dir.join("latest")).unwrap().state::<State>().unwrap().step, 20);
            let path = newest.join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            let at = (place * bytes.len() as f64) as usize;
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            let Newest { whole, damaged, .. } = newest_whole(&dir).unwrap();
            let (step, path) = whole.unwrap();
            assert_eq!((step, damaged.len()), (10, 1), "byte {at} of {file}");
            assert!(damaged[0].to_string().contains("step-00000020"), "{}", damaged[0]);
            assert_eq!(Checkpoint::open(path).unwrap().state::<State>().unwrap().step, 10);
            assert_eq!(find(&dir.join("latest")).unwrap().state::<State>().unwrap().step, 10);
            assert_eq!(steps(&dir), [10]);
            assert!(dir.join("step-00000020.damaged").is_dir(), "it can still be looked at");
        }
        assert!(dir.join(format!("step-00000020.damaged-{}", 4 * i + 4)).exists() || i == 0);
    }
    // what an interrupted writer leaves is cleared away
    std::fs::create_dir_all(dir.join("step-00000030.partial")).unwrap();
    std::fs::create_dir_all(dir.join("step-00000010.old")).unwrap();
    assert_eq!(newest_whole(&dir).unwrap().whole.unwrap().0, 10);
    assert!(!dir.join("step-00000030.partial").exists() && !dir.join("step-00000010.old").exists());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn checkpoints_are_found_from_any_folder_of_a_run() {
    let dir = scratch("find");
    let checkpoints = dir.join("checkpoints");
    std::fs::create_dir(&checkpoints).unwrap();
    for step in [10, 20] {
        save(&checkpoint_dir(&checkpoints, step), step).unwrap();
    }
    let step = |path: &Path| find(path).unwrap().state::<State>().unwrap().step;
    assert_eq!(step(&dir), 20);
    assert_eq!(step(&checkpoints), 20);
    assert_eq!(step(&checkpoint_dir(&checkpoints, 10)), 10);
    let empty = scratch("find-empty");
    for path in [&empty, &dir.join("absent"), &checkpoint_dir(&checkpoints, 10).join("student.safetensors")] {
        let error = find(path).unwrap_err().to_string();
        assert!(error.contains("checkpoint") && !error.contains('\n'), "{error}");
    }
    std::fs::remove_dir_all(dir).unwrap();
    std::fs::remove_dir_all(empty).unwrap();
}

#[test]
fn checkpoints_round_trip_and_replace() {
    let dir = scratch("checkpoint");
    for step in [5, 10, 20] {
        let path = save(&checkpoint_dir(&dir, step), step).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.state::<State>().unwrap(), State { step, loss_scale: 0.1 });
        check(&checkpoint.tensors("student.safetensors").unwrap());
    }
    save(&checkpoint_dir(&dir, 20), 21).unwrap();
    assert_eq!(Checkpoint::open(checkpoint_dir(&dir, 20)).unwrap().state::<State>().unwrap().step, 21);
    prune(&dir, 0, 0).unwrap();
    assert_eq!(steps(&dir), [5, 10, 20]);
    prune(&dir, 2, 0).unwrap();
    assert_eq!(steps(&dir), [10, 20]);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "nothing else is left behind");
    assert!(checkpoints_in(dir.join("absent")).unwrap().is_empty());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_failed_checkpoint_leaves_the_old_one() {
    let dir = scratch("failed");
    let path = checkpoint_dir(&dir, 5);
    save(&path, 5).unwrap();
    let mut writer = CheckpointWriter::create(&path).unwrap();
    let failed = writer.tensors("student.safetensors", &specs(), |name| match name {
        "bias" => Err(poa_gpu::Error::Device("lost".into())),
        _ => read(name),
    });
    assert!(failed.is_err());
    drop(writer);
    assert_eq!(Checkpoint::open(&path).unwrap().state::<State>().unwrap().step, 5);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn damaged_checkpoints_are_errors() {
    let dir = scratch("damaged-checkpoint");
    let path = checkpoint_dir(&dir, 5);
    save(&path, 5).unwrap();
    let tensors = path.join("student.safetensors");
    let whole = std::fs::read(&tensors).unwrap();
    std::fs::write(&tensors, &whole[..whole.len() - 1]).unwrap();
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(error.contains("student.safetensors") && error.contains("earlier checkpoint"), "{error}");
    std::fs::remove_file(&tensors).unwrap();
    assert!(Checkpoint::open(&path).is_err());
    // of the right length, and other content
    save(&path, 5).unwrap();
    let mut other = whole.clone();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&tensors, &other).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    for error in [checkpoint.tensors("student.safetensors").unwrap_err(), checkpoint.verify().unwrap_err()] {
        let error = error.to_string();
        assert!(error.contains("student.safetensors") && error.contains("checksum"), "{error}");
    }
    let manifest = path.join("manifest.json");
    std::fs::write(&manifest, "{").unwrap();
    assert!(Checkpoint::open(&path).unwrap_err().to_string().contains("manifest.json"));
    std::fs::write(&manifest, r#"{"format":"other","version":2,"files":{}}"#).unwrap();
    assert!(Checkpoint::open(&path).unwrap_err().to_string().contains("`other`"));
    std::fs::write(&manifest, r#"{"format":"poa-gpu checkpoint","version":2,"files":{}}"#).unwrap();
    assert!(Checkpoint::open(&path).unwrap().state::<State>().is_err(), "a state without a checksum");
    assert!(Checkpoint::open(&dir).is_err());
    std::fs::remove_dir_all(dir).unwrap();
}

/// A manifest that names something outside of its folder, or no file, is refused before any of it is read.
#[cfg(unix)]
#[test]
fn a_manifest_names_files_of_its_folder_alone() {
    use std::os::unix::fs::symlink;
    let dir = scratch("manifest");
    let path = save(&checkpoint_dir(&dir, 5), 5).unwrap();
    let manifest = path.join("manifest.json");
    let whole = std::fs::read_to_string(&manifest).unwrap();
    let with = |name: &str, bytes: &str| {
        let name = serde_json::to_string(name).unwrap();
        let more = format!("\"files\": {{ {name}: {{\"bytes\": {bytes}, \"crc32c\": 0}},");
        std::fs::write(&manifest, whole.replacen("\"files\": {", &more, 1)).unwrap();
        Checkpoint::open(&path).map(|_| ()).map_err(|e| e.to_string())
    };
    std::fs::write(dir.join("beside"), "x").unwrap();
    symlink(dir.join("beside"), path.join("out")).unwrap();
    symlink("/dev/zero", path.join("device")).unwrap();
    symlink("nowhere", path.join("dangling")).unwrap();
    symlink("state.json", path.join("inside")).unwrap();
    std::fs::create_dir(path.join("folder")).unwrap();
    for name in [
        "/dev/zero",
        "../beside",
        "..",
        ".",
        "",
        "folder/../state.json",
        "./state.json",
        "a/b",
        "..\\x",
        "a\0",
        "out",
        "device",
        "dangling",
    ] {
        let text = with(name, "1").unwrap_err();
        assert!(
            text.contains("manifest.json") && text.contains("no file in the checkpoint's folder"),
            "{text}"
        );
        assert!(text.contains(&format!("{name:?}")), "{text}");
    }
    assert!(with("folder", "1").unwrap_err().contains("folder: is a folder, not a file"));
    let made = std::process::Command::new("mkfifo").arg(path.join("pipe")).status();
    if made.is_ok_and(|made| made.success()) {
        assert!(with("pipe", "0").unwrap_err().contains("pipe: is a named pipe, not a file"));
    }
    // a link to a file beside it is as good as the file; sizes are those of the files
    let bytes = std::fs::metadata(path.join("state.json")).unwrap().len().to_string();
    with("inside", &bytes).unwrap();
    let text = with("inside", "1152921504606846976").unwrap_err();
    assert!(text.contains("should have 1152921504606846976 bytes"), "{text}");
    for bytes in ["-1", "1e9", "\"9\"", "36893488147419103232"] {
        assert!(with("inside", bytes).unwrap_err().contains("manifest.json"));
    }
    assert!(with("absent", "1").unwrap_err().contains("absent: cannot be read"));

    // the manifest itself, and what `latest` points at where there are no links
    std::fs::remove_file(&manifest).unwrap();
    symlink("/dev/zero", &manifest).unwrap();
    assert!(Checkpoint::open(&path).unwrap_err().to_string().contains("is a device"));
    std::fs::remove_file(&manifest).unwrap();
    std::fs::write(&manifest, &whole).unwrap();
    for (name, right) in [("step-00000005\n", true), ("../step-00000005", false), ("/", false), ("", false)] {
        std::fs::write(dir.join("latest"), name).unwrap();
        let found = find(&dir.join("latest"));
        assert_eq!(found.is_ok(), right, "{name:?}");
        if let Err(e) = found {
            assert!(e.to_string().contains("latest: does not hold the name of a checkpoint"), "{e}");
        }
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_state_of_other_types_is_refused_by_name() {
    let dir = scratch("state");
    let path = checkpoint_dir(&dir, 5);
    for state in [
        serde_json::json!({ "step": "five", "loss_scale": 0.1 }),
        serde_json::json!({ "step": -1, "loss_scale": 0.1 }),
        serde_json::json!({ "step": 5 }),
        serde_json::json!([5]),
        serde_json::Value::Null,
    ] {
        let mut writer = CheckpointWriter::create(&path).unwrap();
        writer.text("config.toml", "").unwrap();
        writer.finish(&state).unwrap();
        let text = Checkpoint::open(&path).unwrap().state::<State>().unwrap_err().to_string();
        assert!(text.contains("state.json: is no state of this program"), "{text}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}
