//! Tensor files that come from anywhere: headers that lie, types that are not read, and files that are
//! something else.

use std::path::{Path, PathBuf};

use poa_gpu::files::tensor_file::{StoredType, TensorFile};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("poa-gpu-tensor-files-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..data).map(|i| i as u8));
    bytes
}

fn problem(path: &Path) -> String {
    TensorFile::open(path).expect_err("it is refused").to_string()
}

/// Tensors that nobody asks for may be stored in any way, also in one that does not exist yet.
#[test]
fn types_that_are_not_read_refuse_no_file() {
    let dir = Scratch::new("types");
    let kinds = [
        ("I8", 1),
        ("U16", 2),
        ("I16", 2),
        ("U32", 4),
        ("U64", 8),
        ("F8_E4M3", 1),
        ("F8_E5M2", 1),
        ("F8_E8M0", 1),
        ("C64", 8),
        ("F4", 1),
        ("Q9_FUTURE", 3),
    ];
    let (mut header, mut at) = (r#"{"__metadata__":{"format":"pt"},"#.to_string(), 0);
    for (kind, size) in kinds {
        header += &format!(
            r#""x.{kind}":{{"dtype":"{kind}","shape":[2],"data_offsets":[{at},{}]}},"#,
            at + 2 * size
        );
        at += 2 * size;
    }
    header += &format!(r#""used":{{"dtype":"F32","shape":[1],"data_offsets":[{at},{}]}}}}"#, at + 4);
    let path = dir.file("a.safetensors", safetensors(&header, at + 4));
    let file = TensorFile::open(&path).unwrap();
    assert_eq!(file.names().count(), kinds.len() + 1);
    assert_eq!(file.stored("used").unwrap(), StoredType::F32);
    assert_eq!(file.read_f32("used").unwrap().len(), 1);
    for (kind, _) in kinds {
        let name = format!("x.{kind}");
        assert_eq!(file.shape(&name).unwrap(), [2]);
        let text = file.read_f32(&name).unwrap_err().to_string();
        assert!(text.contains("a.safetensors") && text.contains(&format!("`{name}`")), "{text}");
        assert!(text.contains(&format!("is stored as {kind}")), "{text}");
    }
}

#[test]
fn headers_that_contradict_themselves_are_refused_by_name() {
    let dir = Scratch::new("headers");
    let f32 = |name: &str, begin: usize, end: usize| {
        format!(
            r#""{name}":{{"dtype":"F32","shape":[{}],"data_offsets":[{begin},{end}]}}"#,
            (end - begin) / 4
        )
    };
    let of = |tensors: &[String]| format!("{{{}}}", tensors.join(","));
    let raw = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (header, data, said) in [
        (of(&[f32("a", 0, 8), f32("a", 8, 16)]), 16, "tensor `a` is in it twice"),
        (of(&[f32("a", 0, 8), f32("b", 4, 12)]), 12, "tensor `b` overlaps tensor `a`"),
        (of(&[f32("a", 0, 8), f32("b", 0, 8)]), 8, "tensor `b` overlaps tensor `a`"),
        (of(&[f32("a", 0, 8), f32("b", 12, 16)]), 16, "tensor `b` leaves a hole after tensor `a`"),
        (of(&[f32("a", 4, 8)]), 8, "tensor `a` leaves a hole after the header"),
        (of(&[f32("a", 0, 8)]), 11, "3 bytes at its end belong to no tensor"),
        (of(&[f32("a", 0, 8)]), 7, "is cut off: tensor `a` ends at byte"),
        (raw("F32", "[1]", "[0,1152921504606846976]"), 8, "tensor `a` has shape [1]"),
        (raw("F32", "[2]", "[8,0]"), 8, "tensor `a` has shape [2] but 8..0"),
        (raw("U7", "[2]", "[8,0]"), 8, "tensor `a` has shape [2] but 8..0"),
        (raw("F32", "[4294967296,4294967296,4294967296]", "[0,0]"), 0, "which is more than there can be"),
        (raw("F64", "[2305843009213693952]", "[0,0]"), 0, "has shape [2305843009213693952]"),
        (raw("U7", "[1]", "[0,18446744073709551615]"), 8, "is cut off"),
        (raw("F32", "[-1]", "[0,4]"), 4, "tensor `a`: invalid value: integer `-1`"),
        (raw("F32", "[1.5]", "[0,4]"), 4, "tensor `a`: invalid type: floating point"),
        (raw("F32", "3", "[0,4]"), 4, "tensor `a`: invalid type: integer"),
        (r#"{"a":{"dtype":"F32","shape":[1]}}"#.into(), 4, "tensor `a`: missing field"),
        (r#"{"a\u001b[31m\n":7}"#.into(), 4, r"tensor `a\u001b[31m\n`"),
        ("[1,2]".into(), 0, "a map of tensors"),
        ("{".into(), 0, "is not a safetensors file"),
        (format!("{}{}", r#"{"a":"#, "[".repeat(100_000)), 0, "tensor `a`: invalid type"),
    ] {
        let path = dir.file("a.safetensors", safetensors(&header, data));
        let text = problem(&path);
        let shown = &header[..header.len().min(120)];
        assert!(text.contains("a.safetensors") && text.contains(said), "{shown}: {text}");
        assert!(!text.contains(['\n', '\u{1b}']), "{text:?}");
    }
    // lengths of headers: nothing is allocated for them
    for length in [u64::MAX, 1 << 60, 100_000_001, 99_999_999, 9] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(b"{\"a\":1}");
        let text = problem(&dir.file("a.safetensors", bytes));
        assert!(text.contains("header"), "{text}");
    }
}

/// A file with holes can claim more than there is memory for; it is refused when it is read.
#[cfg(target_os = "linux")]
#[test]
fn a_tensor_larger_than_memory_is_an_error() {
    let dir = Scratch::new("sparse");
    let size = 1u64 << 42;
    let header = format!(r#"{{"a":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}"#);
    let path = dir.file("a.safetensors", safetensors(&header, 0));
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    let whole = file.metadata().unwrap().len() + size;
    if file.set_len(whole).is_err() {
        return; // no file system for it
    }
    let file = TensorFile::open(&path).unwrap();
    assert_eq!(file.shape("a").unwrap(), [1 << 42]);
}

#[test]
fn other_files_are_told_what_they_are() {
    let dir = Scratch::new("kinds");
    let member = |name: &str| {
        let mut zip = b"PK\x03\x04".to_vec();
        zip.extend([0; 22]);
        zip.extend((name.len() as u16).to_le_bytes());
        zip.extend([0, 0]);
        zip.extend(name.as_bytes());
        zip.extend([0; 50]);
        zip
    };
    let mut tar = vec![b'x'; 257];
    tar.extend(b"ustar\x0000");
    for (content, said) in [
        (Vec::new(), "is empty"),
        (member("arr_0.npy"), "NumPy archive"),
        (member("config.json"), "Keras"),
        (b"\x93NUMPY\x01\x00".to_vec(), "NumPy array"),
        (b"\x89HDF\r\n\x1a\n\0\0\0\0".to_vec(), "HDF5"),
        (b"GGUF\x03\0\0\0\0\0\0\0\0".to_vec(), "GGUF"),
        (b"\x08\x07\x12\x07pytorch\x1a\x051.9".to_vec(), "ONNX"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0".to_vec(), "packed (gzip)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n".to_vec(), "git lfs pull"),
        (b"\n <!DOCTYPE html><html><body>Sign in".to_vec(), "is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied".to_vec(), "is a web page"),
        (b"Access to model is restricted".to_vec(), "not a safetensors file but text"),
        (b"hi".to_vec(), "not a safetensors file but text"),
        (tar, "tar archive"),
        (b"\xff\xd8\xff\xe0\0\0\0\0\0\0".to_vec(), "is an image"),
        (vec![0xfe; 300], "is not a safetensors file, or its start is damaged"),
    ] {
        for name in ["a.safetensors", "weights"] {
            let text = problem(&dir.file(name, &content));
            assert!(text.contains(name) && text.contains(said), "{said}: {text}");
        }
    }
}

/// Zipped ones and older ones; the lines are Python, whatever the file is called.
#[test]
fn pytorch_files_are_told_how_to_convert() {
    let dir = Scratch::new("pytorch");
    let mut zip = b"PK\x03\x04\0\0\x08\x08\0\0".to_vec();
    zip.extend([0; 16]);
    zip.extend([16, 0, 0, 0]);
    zip.extend(b"archive/data.pklFB");
    for (name, content) in
        [("a.pth", zip), ("it's \"b\".bin", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec())]
    {
        let text = problem(&dir.file(name, content));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 4 && lines[0].contains("is a PyTorch file"), "{text}");
        assert!(lines[1].contains("weights_only=True") && lines[3].starts_with("save_file("), "{text}");
        let quoted = format!("{:?}", dir.0.join(name).with_extension("safetensors"));
        assert!(lines[3].contains(&quoted), "{text}");
    }
}

/// What would be waited for without end, or never ends, is not opened.
#[cfg(unix)]
#[test]
fn pipes_devices_and_folders_are_refused() {
    let dir = Scratch::new("special");
    let pipe = dir.0.join("pipe");
    if std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|made| made.success()) {
        assert!(problem(&pipe).contains("pipe: is a named pipe, not a file"));
        let link = dir.0.join("link");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        assert!(problem(&link).contains("is a named pipe"));
    }
    assert!(problem(Path::new("/dev/zero")).contains("is a device"));
    assert!(problem(&dir.0).contains("is a folder"));
    assert!(problem(&dir.0.join("absent")).contains("cannot be read"));
}
