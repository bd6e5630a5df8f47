//! Tar shards.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use poa_gpu::Error;
use poa_gpu::data::*;
use poa_gpu::share::Share;
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
            ("__MACOSX/a/._3.png", b"left by a system"),
            (".ipynb_checkpoints/4.png", b"left by a program"),
            ("a/5.heic", b"not read"),
            ("no-image.cls", b"77"),
        ],
    );
    shard(&dir.join("train-009.tar"), &[("1.png", &png(3)), ("1.cls", b"9")]);
    shard(&dir.join("train-010.tar"), &[("notes.txt", b"no image at all")]);
    shard(&dir.join("more/x.tar"), &[("1.png", &png(4)), ("1.cls", b" 2 ")]);
    let source = open_shards(&dir, "train-{008..010}.tar::more/x.tar").unwrap();
    assert_eq!(names(&source), ["train-008.tar/a/1", "train-008.tar/a/2", "train-009.tar/1", "more/x.tar/1"]);
    for i in 0..4 {
        assert_eq!(source.load(i).unwrap(), Image::from(picture(6, 5, i as u8 + 1)));
    }
    assert_eq!(labels(&source), ["10", "9", "9", "2"]);
    assert_eq!(source.classes(), ["2", "9", "10"]);
    let told = [
        "members of shards that are left out: 1 images with an ending of several parts (such as `a/1.mask.png`)",
        "1 second images of a sample (such as `a/2.jpg`)",
        "1 images of kinds that are not read (such as `a/5.heic`)",
        "1 labels without an image (such as `no-image.cls`)",
    ];
    assert_eq!(source.remarks(), [told.join(", ")]);
    let (train, held_out) = split(source, HeldOut { fraction: 0.5, at_most: 1 });
    assert_eq!((train.len(), held_out.unwrap().len()), (3, 1));
    // Without labels.
    shard(&dir.join("plain.tar"), &[("1.png", &png(1)), ("2.png", b"no image")]);
    let plain = open_shards(&dir, "plain.tar").unwrap();
    assert_eq!((plain.len(), plain.classes().len(), plain.label(0)), (2, 0, None));
    let bad = plain.load(1).unwrap_err();
    assert_eq!((bad.name.as_str(), bad.kind), ("plain.tar/2", BadKind::Unsupported));
}

#[test]
fn braces_stand_for_ranges_and_lists() {
    let dir = folder("braces");
    for name in ["a-08", "a-09", "a-10", "a-11", "b-10", "b-9"] {
        shard(&dir.join(format!("{name}.tar")), &[("1.png", &png(1))]);
    }
    let shards = |pattern: &str| -> Vec<String> {
        let source = open_shards(&dir, pattern).unwrap();
        names(&source).iter().map(|name| name.replace(".tar/1", "")).collect()
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
        (&format!("{}.tar", "{0..0}".repeat(20_000)), "more than 200 pairs"),
        (&format!("{}b{}.tar", "{a,".repeat(20_000), "}".repeat(20_000)), "more than 200 pairs"),
        (&format!("{{0..999999}}{}.tar", "x".repeat(100_000)), "64 MiB of them"),
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
        let records = pax(&[("path", name), ("size", &bytes.len().to_string())]);
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(records.len() as u64);
        header.set_cksum();
        builder.append(&header, &records[..]).unwrap();
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
    put("text.tar", "no tar file at all\n".repeat(100).as_bytes());
    shard(&dir.join("no-images.tar"), &[("1.txt", b"text")]);
    shard(&dir.join("dots.tar"), &[("photo.1.png", &png(1)), ("photo.2.png", &png(1))]);
    let long = "x".repeat(300);
    shard(
        &dir.join("labels.tar"),
        &[("1.cls", b"\xff"), ("2.cls", b"1\n2"), ("3.cls", long.as_bytes()), ("4.cls", b"\xfe")],
    );
    put("gzip.tar", b"\x1f\x8b\x08\0 and so on");
    put("zstd.tar", b"\x28\xb5\x2f\xfd and so on");
    for (pattern, at_fault, words) in [
        ("{0,1}.tar", "1.tar", "no such shard"),
        ("{0,body}.tar", "body.tar", "ends within its member `1.png`"),
        ("header.tar", "header.tar", "not a whole, uncompressed tar file"),
        ("zip.tar", "zip.tar", "is a zip file, and shards are read in place: unpack it"),
        (
            "gzip.tar",
            "gzip.tar",
            "is compressed with gzip, and shards are read in place: unpack it with `gunzip`",
        ),
        ("zstd.tar", "zstd.tar", "unpack it with `unzstd`"),
        ("text.tar", "text.tar", "not a whole, uncompressed tar file (has a header whose checksum is wrong)"),
        ("*.tar", "*.tar", "`*` does not stand for names here, write {000..146}"),
        ("empty.tar", "empty.tar", "empty shard"),
        ("no-images.tar", "no-images.tar", "holds no images"),
        ("dots.tar", "dots.tar", "2 images with an ending of several parts (such as `photo.1.png`)"),
        ("labels.tar", "labels.tar", "4 of its labels cannot be read: `1.cls` is not UTF-8 text"),
        ("labels.tar", "labels.tar", "`2.cls` is more than a line of 256 bytes"),
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

/// Where the members of a tar file with such a name and content begin.
struct Raw(Vec<u8>);

impl Raw {
    /// A member with a header of one's own.
    fn member(mut self, name: &[u8], kind: u8, bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Self {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(EntryType::new(kind));
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        change(header.as_mut_bytes());
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.member(name.as_bytes(), b'0', bytes, |_| {})
    }

    fn link(self, kind: u8, name: &str, to: &str) -> Self {
        self.member(name.as_bytes(), kind, b"", |header| {
            header[157..157 + to.len()].copy_from_slice(to.as_bytes())
        })
    }

    fn write(mut self, path: &Path) {
        self.0.resize(self.0.len() + 1024, 0);
        std::fs::write(path, self.0).unwrap();
    }
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let record = |(key, value): &(&str, &str)| {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|n: &usize| n.to_string().len() + rest.len() == *n).unwrap();
        format!("{length}{rest}")
    };
    records.iter().map(record).collect::<String>().into_bytes()
}

/// The class of every image.
fn classes_of(source: &std::sync::Arc<dyn Source>) -> Vec<Option<&str>> {
    let name = |class: u32| source.classes()[class as usize].as_str();
    (0..source.len()).map(|i| source.label(i).map(name)).collect()
}

#[test]
fn labels_are_names_or_numbers_on_either_side_of_the_image() {
    let dir = folder("shards-labels");
    let image = png(1);
    let members: [(&str, &[u8]); 11] = [
        ("1.cls", b" cat\n"),
        ("1.png", &image),
        ("2.png", &image),
        ("2.json", b"{}"),
        ("2.CLS", b"big dog"),
        ("3.png", &image),
        ("4.png", &image),
        ("4.cls", b" \n"),
        ("5.png", &image),
        ("3.txt", b"a caption"),
        // not beside its image
        ("5.cls", b"cat"),
    ];
    shard(&dir.join("a.tar"), &members);
    shard(&dir.join("b.tar"), &[("1.cls", b"7"), ("2.cls", b"08"), ("2.png", &image), ("1.png", &image)]);
    let source = open_shards(&dir, "a.tar").unwrap();
    assert_eq!(source.classes(), ["big dog", "cat"]);
    assert_eq!(classes_of(&source), [Some("cat"), Some("big dog"), None, None, Some("cat")]);
    assert_eq!(source.remarks().len(), 1, "{:?}", source.remarks());
    assert!(source.remarks()[0].starts_with("2 of 5 images have no label (a.tar/3, a.tar/4):"));
    let (train, held_out) = split(source, HeldOut { fraction: 0.4, at_most: 9 });
    let held_out = held_out.unwrap();
    assert_eq!((train.len(), held_out.len(), held_out.label(0).is_some()), (4, 1, true));

    let source = open_shards(&dir, "b.tar").unwrap();
    assert_eq!(
        (source.classes(), classes_of(&source)),
        (&["7".into(), "8".into()][..], vec![Some("8"), Some("7")])
    );
    // one shard without labels beside one that has them
    shard(&dir.join("c.tar"), &[("1.png", &image)]);
    let source = open_shards(&dir, "{b,c}.tar").unwrap();
    assert_eq!(classes_of(&source), [Some("8"), Some("7"), None]);
    assert!(source.remarks()[0].starts_with("1 of 3 images have no label (c.tar/1):"));
    // the same keys once more, as in shards that were put together
    shard(
        &dir.join("twice.tar"),
        &[("1.png", &image), ("1.cls", b"a"), ("2.png", &image), ("1.png", &image), ("1.cls", b"b")],
    );
    assert_eq!(classes_of(&open_shards(&dir, "twice.tar").unwrap()), [Some("a"), None, Some("b")]);
}

#[test]
fn links_folders_and_odd_names_in_a_shard() {
    let dir = folder("shards-links");
    let long = format!("{}/{}.png", "folder".repeat(20), "name".repeat(30));
    Raw(Vec::new())
        .member(b"./", b'5', b"", |_| {})
        .member(b"./looks-like.png/", b'5', b"", |_| {})
        .file("./a/1.png", &png(1))
        .file("./a/1.cls", b"cat")
        // the same content under other names, as `tar` writes it of hard-linked files
        .link(b'1', "./a/2.png", "./a/1.png")
        .link(b'1', "a/2.cls", "a/1.cls")
        .link(b'2', "a/3.png", "1.png")
        .link(b'1', "a/4.png", "a/nowhere.png")
        // long names of both ends of a link
        .member(b"././@LongLink", b'L', long.as_bytes(), |_| {})
        .file("cut", &png(2))
        .member(b"././@LongLink", b'K', long.as_bytes(), |_| {})
        .link(b'1', "5.png", "cut")
        .member(b"pax", b'x', &pax(&[("path", "6.png"), ("linkpath", &long)]), |_| {})
        .link(b'1', "cut", "cut")
        // never opened by their names
        .file("../../../../etc/7.png", &png(3))
        .file("/etc/8.png", &png(4))
        .member(b"c\xe9.png", b'0', &png(5), |_| {})
        .member(b"c\xe8.png", b'0', &png(6), |_| {})
        .file("._9.png", b"hidden")
        .file("__MACOSX/9.png", b"left by a system")
        .file("a/.ipynb_checkpoints/9.png", b"left by an editor")
        .member(b"10.png", b'S', &png(7), |_| {})
        .member(b"pax", b'x', &pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.name", "11.png")]), |_| {})
        .file("GNUSparseFile.1/11.png", &png(7))
        .file("12.png", &png(7))
        .write(&dir.join("a.tar"));
    let source = open_shards(&dir, "a.tar").unwrap();
    let seeds = [1, 1, 2, 2, 2, 3, 4, 5, 6, 7];
    assert_eq!(source.len(), seeds.len());
    for (i, seed) in seeds.into_iter().enumerate() {
        assert_eq!(source.load(i).unwrap(), Image::from(picture(6, 5, seed)), "image {i}");
    }
    assert_eq!(classes_of(&source)[..3], [Some("cat"), Some("cat"), None]);
    let told = &source.remarks()[0];
    for text in [
        "1 symbolic links (such as `a/3.png`)",
        "1 links to what is not there (such as `a/4.png`)",
        "2 sparse files (such as `10.png`)",
    ] {
        assert!(told.contains(text), "{told}");
    }
}

#[test]
fn sizes_that_cannot_be_are_refused_at_once() {
    let dir = folder("shards-sizes");
    let base_256 = |value: u64| {
        move |header: &mut [u8]| {
            header[124..136].copy_from_slice(&[&[0x80, 0, 0, 0][..], &value.to_be_bytes()].concat());
        }
    };
    let negative = |header: &mut [u8]| header[124..136].fill(0xff);
    let minus = |header: &mut [u8]| header[124..136].copy_from_slice(b"-0000000001\0");
    let beyond = |header: &mut [u8]| header[124..136].copy_from_slice(&[&[0x80][..], &[0xff; 11]].concat());
    let raw = || Raw(Vec::new()).file("0.png", &png(1));
    raw().member(b"1.png", b'0', b"x", base_256(1 << 60)).write(&dir.join("huge.tar"));
    raw().member(b"1.png", b'0', b"x", base_256(u64::MAX)).write(&dir.join("most.tar"));
    raw().member(b"1.png", b'0', b"x", negative).write(&dir.join("negative.tar"));
    raw().member(b"1.png", b'0', b"x", minus).write(&dir.join("minus.tar"));
    raw().member(b"1.png", b'0', b"x", beyond).write(&dir.join("beyond.tar"));
    raw().member(b"x", b'L', b"x", base_256(1 << 60)).file("1.png", b"").write(&dir.join("name.tar"));
    raw().member(b"x", b'L', &[b'x'; 2 << 20], |_| {}).file("1.png", b"").write(&dir.join("long.tar"));
    raw()
        .member(b"x", b'x', &pax(&[("size", "1152921504606846976")]), |_| {})
        .file("1.png", b"x")
        .write(&dir.join("pax.tar"));
    raw()
        .member(b"x", b'x', &pax(&[("size", "-5")]), |_| {})
        .file("1.png", b"x")
        .write(&dir.join("pax-minus.tar"));
    raw().member(b"x", b'x', b"99999 path=x\n", |_| {}).file("1.png", b"x").write(&dir.join("records.tar"));
    raw().member(b"1.png", b'S', b"", |header| header[482] = 1).write(&dir.join("sparse.tar"));
    let number = "has a member whose size is no number";
    for (name, words) in [
        ("huge", "ends within its member `1.png`"),
        ("most", "ends within its member `1.png`"),
        ("negative", number),
        ("minus", number),
        ("beyond", number),
        ("name", "ends within its member"),
        ("long", "has a name or records of 2097152 bytes"),
        ("pax", "ends within its member `1.png`"),
        ("pax-minus", number),
        ("records", "has pax records that cannot be read"),
    ] {
        let text = message(&dir, &format!("{name}.tar"));
        assert!(text.contains(words) && !text.contains('\n'), "{name}: {text}");
    }
    // in base 256, and right; and a map of a sparse file that ends at once
    let size = png(2).len() as u64;
    raw().member(b"1.png", b'0', &png(2), base_256(size)).write(&dir.join("right.tar"));
    let source = open_shards(&dir, "{right,sparse}.tar").unwrap();
    assert_eq!(source.len(), 3);
    assert_eq!(source.load(1).unwrap(), Image::from(picture(6, 5, 2)));
}

#[test]
fn shards_without_an_end_or_with_more_behind_it_are_told() {
    let dir = folder("shards-ends");
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
    shard(&dir.join("whole.tar"), &[("1.png", &png(1)), ("2.png", &png(2))]);
    let whole = std::fs::read(dir.join("whole.tar")).unwrap();
    put("cut.tar", &whole[..1024]);
    put("nothing.tar", &[0; 10240]);
    put("behind.tar", &[&whole[..], &vec![1; 2 << 20]].concat());
    assert!(open_shards(&dir, "whole.tar").unwrap().remarks().is_empty());
    for (pattern, images, words) in [
        ("cut.tar", 1, "cut.tar has no mark at its end: it may be cut off"),
        ("{whole,nothing}.tar", 2, "nothing.tar is an empty shard"),
        ("behind.tar", 2, "behind.tar is read up to its end mark; "),
    ] {
        let source = open_shards(&dir, pattern).unwrap();
        assert_eq!(source.len(), images);
        let told = source.remarks();
        assert!(told.len() == 1 && told[0].contains(words), "{told:?}");
    }
    let text = message(&dir, "nothing.tar");
    assert!(text.contains("holds no images"), "{text}");
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
        let share = Share::ALL;
        let config = LoaderConfig {
            batch: 6,
            seed: 1,
            threads,
            prefetch: 1,
            recipe: Arc::new(MultiCrop { crops, masks }),
            start_step: 1,
            start: None,
            share,
        };
        Loader::new(source, config).unwrap().next().unwrap()
    };
    let from_folder = batch(open(&crate::spec(&images)).unwrap(), 0);
    assert!(from_folder == batch(open_shards(&dir, "{0..1}.tar").unwrap(), 3));
}
