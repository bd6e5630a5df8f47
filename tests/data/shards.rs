//! Tar shards.

use std::path::{Path, PathBuf};

use poa_gpu::Error;
use poa_gpu::data::*;
use tar::{Builder, EntryType, Header};

use crate::{folder, labels, names, open, picture};

fn png(seed: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture(6, 5, seed).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Writes a shard; names over 100 bytes become GNU's long names.
fn shard(path: &Path, members: &[(&str, &[u8])]) {
    let mut builder = Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.finish().unwrap();
}

fn open_shards(dir: &Path, pattern: &str) -> poa_gpu::Result<std::sync::Arc<dyn Source>> {
    let parts: Vec<String> = pattern.split("::").map(|part| dir.join(part).display().to_string()).collect();
    open(&format!("webdataset:{}", parts.join("::")))
}

fn message(dir: &Path, pattern: &str) -> String {
    open_shards(dir, pattern).err().unwrap().to_string()
}

#[test]
fn samples_are_members_with_one_key() {
    let dir = folder("shards");
    std::fs::create_dir(dir.join("more")).unwrap();
    shard(
        &dir.join("train-008.tar"),
        &[
            ("a/1.cls", b"10\n"),
            ("a/1.PNG", &png(1)),
            ("a/1.json", b"{}"),
            ("a/1.mask.png", b"of another kind"),
            ("a/2.png", &png(2)),
            ("a/2.jpg", b"the second image of a sample"),
            ("a/2.cls", b"9"),
            ("._a", b"hidden"),
            ("no-image.cls", b"77"),
        ],
    );
    shard(&dir.join("train-009.tar"), &[("1.png", &png(3)), ("1.cls", b"9")]);
    shard(&dir.join("train-010.tar"), &[("notes.txt", b"no image at all")]);
    shard(&dir.join("more/x.tar"), &[("1.png", &png(4)), ("1.cls", b" 2 ")]);
    let source = open_shards(&dir, "train-{008..010}.tar::more/x.tar").unwrap();
    assert_eq!(names(&source), ["train-008.tar#0", "train-008.tar#1", "train-009.tar#0", "more/x.tar#0"]);
    for i in 0..4 {
        assert_eq!(source.load(i).unwrap(), Image::from(picture(6, 5, i as u8 + 1)));
    }
    assert_eq!(labels(&source), ["10", "9", "9", "2"]);
    assert_eq!(source.classes(), ["2", "9", "10"]);
    let (train, held_out) = split(source, HeldOut { fraction: 0.5, at_most: 1 });
    assert_eq!((train.len(), held_out.unwrap().len()), (3, 1));
    // Without labels.
    shard(&dir.join("plain.tar"), &[("1.png", &png(1)), ("2.png", b"no image")]);
    let plain = open_shards(&dir, "plain.tar").unwrap();
    assert_eq!((plain.len(), plain.classes().len(), plain.label(0)), (2, 0, None));
    let bad = plain.load(1).unwrap_err();
    assert_eq!((bad.name.as_str(), bad.kind), ("plain.tar#1", BadKind::Unsupported));
}

#[test]
fn braces_stand_for_ranges_and_lists() {
    let dir = folder("braces");
    for name in ["a-08", "a-09", "a-10", "a-11", "b-10", "b-9"] {
        shard(&dir.join(format!("{name}.tar")), &[("1.png", &png(1))]);
    }
    let shards = |pattern: &str| -> Vec<String> {
        let source = open_shards(&dir, pattern).unwrap();
        names(&source).iter().map(|name| name.replace(".tar#0", "")).collect()
    };
    assert_eq!(shards("a-{08..11}.tar"), ["a-08", "a-09", "a-10", "a-11"]);
    assert_eq!(shards("a-{11..10}.tar"), ["a-11", "a-10"]);
    assert_eq!(shards("b-{9..10}.tar"), ["b-9", "b-10"]);
    assert_eq!(shards("{b,a}-{10,10}.tar"), ["b-10", "b-10", "a-10", "a-10"]);
    assert_eq!(shards("{a-{08..09},b-10}.tar"), ["a-08", "a-09", "b-10"]);
    assert_eq!(shards("a-08.tar::a-{10..11}.tar"), ["a-08", "a-10", "a-11"]);
    for (pattern, words) in [
        ("a-{08..11.tar", "has a `{` without a `}`"),
        ("a-08}.tar", "has a `}` without a `{`"),
        ("a-{08}.tar", "neither a range"),
        ("a-{x..y}.tar", "neither a range"),
        ("a-{0..99999999999}.tar", "more than 1000000"),
        ("{0..9999}{0..9999}.tar", "more than 1000000"),
    ] {
        let error = open_shards(&dir, pattern).err().unwrap();
        assert!(matches!(error, Error::Usage(_)) && error.to_string().contains(words), "{error}");
    }
}

#[test]
fn long_names_of_both_kinds_are_read() {
    let dir = folder("long-names");
    let long = format!("{}/{}", "folder".repeat(20), "name".repeat(30));
    let members = [(format!("{long}-1.png"), png(1)), (format!("{long}-2.png"), png(2))];
    let parts: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    shard(&dir.join("gnu.tar"), &parts);

    // pax: the path, and a size that the header does not have, stand in a member before.
    let mut builder = Builder::new(std::fs::File::create(dir.join("pax.tar")).unwrap());
    for (name, bytes) in parts {
        let record = |key: &str, value: &str| {
            let rest = format!(" {key}={value}\n");
            let length = (1..).find(|n: &usize| n.to_string().len() + rest.len() == *n).unwrap();
            format!("{length}{rest}")
        };
        let records = record("path", name) + &record("size", &bytes.len().to_string());
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(records.len() as u64);
        header.set_cksum();
        builder.append(&header, records.as_bytes()).unwrap();
        let mut header = Header::new_ustar();
        header.set_path("cut").unwrap();
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }
    builder.finish().unwrap();

    let source = open_shards(&dir, "{gnu,pax}.tar").unwrap();
    assert_eq!(source.len(), 4);
    for i in 0..4 {
        assert_eq!(source.load(i).unwrap(), Image::from(picture(6, 5, i as u8 % 2 + 1)));
    }
}

#[test]
fn a_shard_that_cannot_be_used_is_named() {
    let dir = folder("shards-bad");
    let path = dir.join("0.tar");
    shard(&path, &[("1.png", &png(1)), ("2.png", &png(2)), ("3.png", &png(3))]);
    let whole = std::fs::read(&path).unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
    // Within a body, within a header, and not a tar file at all.
    put("body.tar", &whole[..512 + 40]);
    put("header.tar", &whole[..1024 + 100]);
    put("zip.tar", &b"PK\x03\x04 something else".repeat(100));
    put("empty.tar", b"");
    shard(&dir.join("no-images.tar"), &[("1.txt", b"text")]);
    shard(&dir.join("labelled.tar"), &[("1.png", &png(1)), ("1.cls", b"1")]);
    shard(&dir.join("names.tar"), &[("1.png", &png(1)), ("1.cls", b"cat")]);
    for (pattern, at_fault, words) in [
        ("{0,1}.tar", "1.tar", "no such shard"),
        ("{0,body}.tar", "body.tar", "ends within its member `1.png`"),
        ("header.tar", "header.tar", "not a whole, uncompressed tar file"),
        ("zip.tar", "zip.tar", "not a whole, uncompressed tar file"),
        ("empty.tar", "empty.tar", "empty shard"),
        ("no-images.tar", "no-images.tar", "holds no images"),
        ("{labelled,0}.tar", "0.tar", "sample `1` has no `.cls`"),
        ("names.tar", "names.tar", "`1.cls` holds no whole number"),
        ("", "shards-bad", "is not a file"),
    ] {
        let text = message(&dir, pattern);
        assert!(text.contains(at_fault) && text.contains(words) && !text.contains('\n'), "{pattern}: {text}");
    }
    assert!(open("webdataset:::").is_err());
    // A shard that goes away, or is cut off, while it is used.
    let source = open_shards(&dir, "0.tar").unwrap();
    put("0.tar", &whole[..1024]);
    assert_eq!(source.load(2).unwrap_err().kind, BadKind::Damaged);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(source.load(2).unwrap_err().kind, BadKind::Missing);
}

#[test]
fn shards_train_like_a_folder() {
    let dir = folder("shards-loader");
    let pictures: Vec<Vec<u8>> = (0..12).map(png).collect();
    let keys: Vec<String> = (0..12).map(|i| format!("{i:03}.png")).collect();
    let members: Vec<(&str, &[u8])> =
        keys.iter().map(String::as_str).zip(pictures.iter().map(Vec::as_slice)).collect();
    shard(&dir.join("0.tar"), &members[..5]);
    shard(&dir.join("1.tar"), &members[5..]);
    let images: PathBuf = folder("shards-loader-folder");
    members.iter().for_each(|(name, bytes)| std::fs::write(images.join(name), bytes).unwrap());
    let batch = |source, threads| {
        let crops = CropConfig { local_count: 1, ..CropConfig::default() };
        let masks = MaskConfig::new(14);
        let config = LoaderConfig { batch: 6, seed: 1, threads, prefetch: 1, crops, masks, start_step: 1 };
        Loader::new(source, config).unwrap().next().unwrap()
    };
    let from_folder = batch(open(&crate::spec(&images)).unwrap(), 0);
    assert!(from_folder == batch(open_shards(&dir, "{0..1}.tar").unwrap(), 3));
}
