//! What a file is that is no safetensors file: whoever gives one is told, with what to do.

use std::io::Read;
use std::path::Path;

use crate::error::Error;
use crate::shown::shown;

/// Bytes of the start that are looked at.
const LOOKED_AT: u64 = 1024;

/// The error for a file whose header is none, read from its beginning; `why` says what was noticed.
pub(super) fn error(path: &Path, file: &mut dyn Read, length: u64, why: &str) -> Error {
    let mut start = Vec::new();
    // what cannot be read is not known
    let _ = file.take(LOOKED_AT).read_to_end(&mut start);
    let problem = match kind(&start, length) {
        // several lines; the paths in them are shown
        Some(Kind::PyTorch) => return Error::File { path: path.to_path_buf(), problem: pytorch(path) },
        Some(Kind::Other(what)) => what.to_string(),
        None => {
            format!("is not a safetensors file, or its start is damaged ({why}); copy it again")
        }
    };
    Error::file(path, problem)
}

enum Kind {
    PyTorch,
    Other(&'static str),
}

fn kind(start: &[u8], length: u64) -> Option<Kind> {
    use Kind::{Other, PyTorch};
    if length == 0 {
        return Some(Other("is empty; download or copy it again"));
    }
    // the first bytes of known kinds; pickles, which old PyTorch files are, begin with 128 and their version
    let binary: [(&[u8], &str); 9] = [
        (b"\x93NUMPY", "is a NumPy array; save the weights with safetensors.numpy.save_file and give that"),
        (
            b"\x89HDF\r\n\x1a\n",
            "is an HDF5 file (Keras); give the weights as safetensors, for example timm's",
        ),
        (b"GGUF", "is a GGUF file; give the weights as safetensors, as they were before they were packed"),
        (b"\x1f\x8b", "is packed (gzip); unpack it and give what is in it"),
        (b"\x28\xb5\x2f\xfd", "is packed (zstd); unpack it and give what is in it"),
        (b"BZh", "is packed (bzip2); unpack it and give what is in it"),
        (b"\xfd7zXZ", "is packed (xz); unpack it and give what is in it"),
        (b"\x89PNG", "is an image, not weights"),
        (b"\xff\xd8\xff", "is an image, not weights"),
    ];
    if let Some((_, what)) = binary.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Some(Other(what));
    }
    if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
        return Some(zip(start));
    }
    if matches!(start, [0x80, 1..=5, ..]) {
        return Some(PyTorch);
    }
    if start.get(257..262) == Some(b"ustar") {
        return Some(Other("is a tar archive; unpack it and give the safetensors file in it"));
    }
    // protobuf: the version of the format, then who made it
    if let [0x08, 1..=32, 0x12, size, maker @ ..] = start
        && maker.len() >= usize::from(*size)
        && maker[..usize::from(*size)].iter().all(|b| b.is_ascii_graphic() || *b == b' ')
    {
        return Some(Other(
            "is an ONNX file; give the weights as safetensors, as they were before the export",
        ));
    }
    text(start).map(Other)
}

/// Which kind of zip archive, by the name of its first member.
fn zip(start: &[u8]) -> Kind {
    let size = start.get(26..28).map_or(0, |n| usize::from(u16::from_le_bytes([n[0], n[1]])));
    let name = String::from_utf8_lossy(start.get(30..30 + size).unwrap_or_default());
    if name.ends_with(".npy") {
        return Kind::Other(
            "is a NumPy archive (npz); save the weights with safetensors.numpy.save_file and give that",
        );
    }
    if ["metadata.json", "config.json", "model.weights.h5"].contains(&&*name) {
        return Kind::Other("is a Keras file; give the weights as safetensors, for example timm's");
    }
    // whatever else is zipped and given as weights
    Kind::PyTorch
}

fn text(start: &[u8]) -> Option<&'static str> {
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        // the last character may be cut
        Err(e) if e.valid_up_to() + 4 > start.len() => std::str::from_utf8(&start[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let text = text.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    if text.starts_with("version https://git-lfs") {
        return Some("is a pointer of git-lfs, not the weights themselves; fetch them with `git lfs pull`");
    }
    if ["<!doctype html", "<html", "<?xml", "<error"].iter().any(|page| text.starts_with(page)) {
        return Some(
            "is a web page, not weights: the download has failed (a login, a wrong address); download it again",
        );
    }
    if text.starts_with('{') && text.contains("weight_map") {
        return None;
    }
    let plain = |c: char| !c.is_control() || c.is_whitespace();
    text.chars().all(plain).then_some(
        "is not a safetensors file but text; give a safetensors file (a download that failed leaves such)",
    )
}

/// A PyTorch file of a kind that is not read here is turned into safetensors once.
fn pytorch(path: &Path) -> String {
    let to = path.with_extension("safetensors");
    format!(
        "is a PyTorch file or another pickle; turn it into safetensors once, with these three lines of Python, and \
         give the result:\n\
         import torch; from safetensors.torch import save_file; d = torch.load({from:?}, map_location='cpu', \
         weights_only=True)\n\
         d = next((d[k] for k in ('teacher', 'model', 'state_dict') if k in d), d)\n\
         save_file({{k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}}, {to:?})",
        from = shown(path),
        to = shown(&to),
    )
}
