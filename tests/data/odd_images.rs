//! Images of odd kinds, what is no image, and what is made to do harm.

use std::cell::RefCell;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use image::{DynamicImage, ImageBuffer, Luma};
use poa_gpu::data::decode::{decode, decode_file, is_junk};
use poa_gpu::data::*;
use poa_gpu::logging::{self, Level, Listener, show};
use poa_gpu::share::Share;

use crate::{folder, names, open, picture, save, spec};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/fixtures/images");

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(FIXTURES).join(name)).unwrap()
}

/// The messages of this thread; each is handed to a function, too.
struct Heard(RefCell<Vec<String>>, Box<dyn Fn()>);

impl Listener for Heard {
    fn message(&self, level: Level, text: &str) {
        self.0.borrow_mut().push(text.into());
        show(level, text);
        self.1();
    }
}

// ---- TIFF

/// A TIFF of one strip; a tag is its number, its type (3 for 16 and 4 for 32 bits, 2 for text) and a value of
/// up to four bytes or the place of one.
fn tiff(tags: &[(u16, u16, u32)], strip: &[u8]) -> Vec<u8> {
    let place = 8 + 2 + 12 * (tags.len() as u32 + 2) + 4;
    let mut all = tags.to_vec();
    all.extend([(273, 4, place), (279, 4, strip.len() as u32)]);
    all.sort_unstable();
    let mut out = b"II\x2a\0\x08\0\0\0".to_vec();
    out.extend((all.len() as u16).to_le_bytes());
    for (tag, kind, value) in all {
        let count: u32 = if kind == 2 { 4 } else { 1 };
        out.extend(
            [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()]
                .concat(),
        );
    }
    out.extend([0; 4]);
    out.extend(strip);
    out
}

/// Tags of a grey image; those given stand for the same ones of these.
fn grey(width: u32, height: u32, bits: u32, others: &[(u16, u16, u32)]) -> Vec<(u16, u16, u32)> {
    let mut tags = others.to_vec();
    let usual = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 1),
        (277, 3, 1),
        (278, 4, height),
    ];
    tags.extend(usual.into_iter().filter(|(tag, ..)| others.iter().all(|(known, ..)| known != tag)));
    tags
}

/// The grey values of the pixels.
fn values(bytes: &[u8], deep_bits: u32) -> Vec<u8> {
    let image =
        decode(bytes, &Reading { deep_bits, ..Reading::default() }).unwrap_or_else(|e| panic!("{e:?}"));
    assert!(image.pixels().all(|p| p.0 == [p.0[0]; 3]));
    image.pixels().map(|p| p.0[0]).collect()
}

#[test]
fn packed_values_and_small_palettes_of_tiff_are_read() {
    for (bits, strip, want) in [
        (1, &[0b1010_0000][..], [255, 0, 255]),
        (2, &[0b00_01_11_00], [0, 85, 255]),
        (4, &[0x0f, 0x30], [0, 255, 51]),
        (10, &[0xff, 0xc0, 0x01, 0x00], [255, 0, 16]),
        (12, &[0xff, 0xf0, 0x00, 0x80, 0x00], [255, 0, 128]),
        (14, &[0xff, 0xfc, 0x00, 0x08, 0x00, 0x00], [255, 0, 128]),
    ] {
        assert_eq!(values(&tiff(&grey(3, 1, bits, &[]), strip), 0), want, "{bits} bits");
    }
    // a file's lowest bit first
    assert_eq!(values(&tiff(&grey(3, 1, 1, &[(266, 3, 2)]), &[0b0000_0101]), 0), [255, 0, 255]);
    // a palette of two colours, its values behind the pixel
    let tags = grey(2, 1, 1, &[(262, 3, 3)]);
    let at = 8 + 2 + 12 * (tags.len() as u32 + 3) + 4 + 2;
    let mut bytes = tiff(&[&tags[..], &[(320, 3, at)]].concat(), &[0b0100_0000, 0]);
    let entry = bytes.windows(4).position(|w| w == [0x40, 1, 3, 0]).unwrap();
    bytes[entry + 4..entry + 8].copy_from_slice(&6_u32.to_le_bytes());
    bytes.extend([0xff00_u16, 0x1000, 0x8000, 0x2000, 0, 0x3000].iter().flat_map(|v| v.to_le_bytes()));
    assert_eq!(decode(&bytes, &Reading::default()).unwrap().as_raw(), &[255, 128, 0, 16, 32, 48]);
}

#[test]
fn kinds_of_tiff_that_are_not_read_are_refused_one_by_one() {
    let strip = [0; 64];
    for (bits, tags, words) in [
        (8, &[(259, 3, 2)][..], "CCITT run lengths"),
        (1, &[(259, 3, 3), (292, 4, 1)], "two-dimensional group 3"),
        (8, &[(259, 3, 4)], "a fax of 8 bits"),
        (8, &[(259, 3, 6)], "old-style JPEG"),
        (12, &[(259, 3, 7)], "JPEG of 12 bits"),
        (8, &[(259, 3, 34712)], "JPEG 2000"),
        (8, &[(259, 3, 34887)], "LERC"),
        (8, &[(259, 3, 34925)], "LZMA"),
        (8, &[(259, 3, 50001)], "WebP"),
        (8, &[(259, 3, 50002)], "JPEG XL"),
        (8, &[(259, 3, 999)], "compression 999"),
        (8, &[(262, 3, 8), (277, 3, 3)], "L*a*b*"),
        (8, &[(262, 3, 6), (277, 3, 3)], "subsampled YCbCr"),
        (8, &[(277, 3, 5)], "5 channels that are no colours"),
        (64, &[], "whole numbers of 64 bits"),
        (24, &[(339, 3, 3)], "floating point of 24 bits"),
        (64, &[(339, 3, 6)], "complex"),
        (12, &[(317, 3, 2)], "predictor 2 for 12 bits"),
    ] {
        let fault = decode(&tiff(&grey(2, 2, bits, tags), &strip), &Reading::default()).unwrap_err();
        assert_eq!(fault.kind, BadKind::Unsupported, "{words}: {}", fault.reason);
        assert!(fault.reason.contains(words) && fault.reason.contains("TIFF"), "{words}: {}", fault.reason);
    }
    // cut off, and with strips that are not there
    for count in [3, 0xffff_ffff] {
        let mut bytes = tiff(&grey(2, 2, 8, &[]), &[0; 4]);
        let entry = bytes.windows(4).position(|w| w == [0x17, 1, 4, 0]).unwrap();
        bytes[entry + 8..entry + 12].copy_from_slice(&u32::to_le_bytes(count));
        assert_eq!(decode(&bytes, &Reading::default()).unwrap_err().kind, BadKind::Damaged);
    }
}

// ---- more than 8 bits

#[test]
fn twelve_bits_in_sixteen_are_as_bright_as_eight() {
    let dir = folder("deep");
    let as_png = |values: [u16; 4]| {
        let image = ImageBuffer::<Luma<u16>, _>::from_raw(2, 2, values.to_vec()).unwrap();
        save(&dir, "deep.png", DynamicImage::from(image));
        std::fs::read(dir.join("deep.png")).unwrap()
    };
    let as_tiff = |values: [u16; 4]| {
        tiff(&grey(2, 2, 16, &[]), &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    };
    for file in [&as_png as &dyn Fn([u16; 4]) -> Vec<u8>, &as_tiff] {
        for (stored, deep_bits, want) in [
            ([0, 128, 255, 100], 0, [0, 128, 255, 100]),
            ([0, 512, 1023, 4], 0, [0, 128, 255, 1]),
            ([0, 2048, 4095, 16], 0, [0, 128, 255, 1]),
            ([0, 8192, 16383, 64], 0, [0, 128, 255, 1]),
            ([0, 32768, 65535, 256], 0, [0, 128, 255, 1]),
            // what a recipe says counts, whatever there is
            ([0, 128, 255, 100], 16, [0, 0, 0, 0]),
            ([0, 128, 255, 100], 12, [0, 8, 15, 6]),
            ([0, 2048, 4096, 65535], 12, [0, 128, 255, 255]),
        ] {
            assert_eq!(values(&file(stored), deep_bits), want, "{stored:?} by {deep_bits}");
        }
    }
    // A dark picture of 12 bits whose file says so.
    let strip: Vec<u8> = [0_u16, 16, 160, 255].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(values(&tiff(&grey(2, 2, 16, &[(281, 3, 4095)]), &strip), 0), [0, 1, 10, 15]);
}

#[test]
fn numbers_of_other_kinds_have_a_range_of_their_own() {
    let of = |bits: u32, format: u32, strip: Vec<u8>, others: &[(u16, u16, u32)], deep_bits| {
        let count = strip.len() as u32 * 8 / bits;
        let tags = grey(count, 1, bits, &[&[(339, 3, format)], others].concat());
        values(&tiff(&tags, &strip), deep_bits)
    };
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    assert_eq!(of(32, 3, floats(&[0.0, 0.2, 0.8]), &[], 0), [0, 51, 204]);
    assert_eq!(of(32, 3, floats(&[-50.0, 0.0, 50.0, 200.0]), &[], 0), [0, 51, 102, 255]);
    assert_eq!(of(32, 3, floats(&[f32::NAN, 0.0, 10.0, f32::INFINITY]), &[], 0), [0, 0, 255, 255]);
    assert_eq!(of(32, 3, floats(&[7.0, 7.0]), &[], 0), [0, 0], "all the same");
    assert_eq!(of(32, 3, floats(&[0.0, 2048.0, 4095.0]), &[], 12), [0, 128, 255]);
    // GDAL's mark for nothing, "-99"
    let nothing = [(42113, 2, u32::from_le_bytes(*b"-99\0"))];
    assert_eq!(of(32, 3, floats(&[-99.0, 5.0, 6.0]), &nothing, 0), [0, 0, 255]);
    let signed: Vec<u8> = [-1000_i16, 0, 1000].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(of(16, 2, signed, &[], 0), [0, 128, 255]);
    let whole = |values: [u32; 3]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    assert_eq!(of(32, 1, whole([0, 2048, 4095]), &[], 0), [0, 128, 255]);
    assert_eq!(of(32, 1, whole([0, 1 << 31, u32::MAX]), &[], 0), [0, 128, 255]);
}

// ---- odd but whole

#[test]
fn extreme_shapes_and_odd_orientations_are_read() {
    let dir = folder("extreme");
    for (name, width, height) in [
        ("tall.png", 1, 60_000),
        ("wide.jpg", 60_000, 1),
        ("tall.webp", 1, 16_000),
        ("dot.bmp", 1, 1),
        ("dot.jpeg", 1, 1),
        ("dot.tif", 1, 1),
        ("dot.gif", 1, 1),
        ("dot.qoi", 1, 1),
        ("dot.ppm", 1, 1),
    ] {
        save(&dir, name, picture(width, height, 9));
    }
    let source = open(&spec(&dir)).unwrap();
    let sizes: Vec<_> = (0..source.len()).map(|i| source.load(i).unwrap().dimensions()).collect();
    assert_eq!(sizes, [[(1, 1); 6].as_slice(), &[(1, 60_000), (1, 16_000), (60_000, 1)]].concat());
    // an orientation that there is not, and a block that breaks off
    let plain = fixture("rgb.jpg");
    let want = decode(&plain, &Reading::default()).unwrap();
    let exif = |orientation: u8| {
        [b"Exif\0\0II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0", &[orientation, 0, 0, 0][..], &[0; 4]]
            .concat()
    };
    for block in [exif(0), exif(99), b"Exif\0\0II".to_vec(), b"Exif\0\0".to_vec()] {
        let length = (block.len() as u16 + 2).to_be_bytes();
        let bytes = [&plain[..2], &[0xff, 0xe1], &length, &block, &plain[2..]].concat();
        assert_eq!(decode(&bytes, &Reading::default()).unwrap(), want);
    }
}

#[test]
fn images_of_kinds_that_are_not_read_are_called_by_their_name() {
    for (bytes, words) in [
        (&b"\0\0\0\x18ftypheic\0\0\0\0"[..], "a HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "an AVIF"),
        (b"\0\0\0\x0cJXL \x0d\x0a", "a JPEG XL"),
        (b"\0\0\0\x0cjP  \x0d\x0a", "a JPEG 2000"),
        (b"8BPS\0\x01", "a Photoshop file"),
        (b"\x76\x2f\x31\x01\0\0", "an OpenEXR"),
        (b"#?RADIANCE\n", "a Radiance HDR"),
        (b"  <svg xmlns='x'>", "an SVG"),
    ] {
        let fault = decode(bytes, &Reading::default()).unwrap_err();
        assert!(fault.kind == BadKind::Unsupported && fault.reason.contains(words), "{}", fault.reason);
    }
    // arithmetic coding, 12 bits and lossless: kinds of JPEG that few programs read
    let whole = fixture("rgb.jpg");
    let frame = whole.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    let kinds =
        [(0xc9, 8, "arithmetic"), (0xca, 8, "arithmetic"), (0xc1, 12, "12 bits"), (0xc3, 8, "lossless")];
    for (marker, bits, words) in kinds {
        let mut bytes = whole.clone();
        (bytes[frame + 1], bytes[frame + 4]) = (marker, bits);
        let fault = decode(&bytes, &Reading::default()).unwrap_err();
        assert!(
            fault.kind == BadKind::Unsupported && fault.reason.contains(words),
            "{words}: {}",
            fault.reason
        );
    }
}

// ---- what is no image

#[test]
fn what_systems_leave_beside_images_is_neither_image_nor_class() {
    let junk = [
        "._a.jpg",
        ".DS_Store",
        "Thumbs.db",
        ".hidden/a.png",
        ".ipynb_checkpoints/a.png",
        "cat/@eaDir/a.jpg",
        "__MACOSX/cat/._a.png",
        "lost+found/a.png",
        "$RECYCLE.BIN/a.png",
        "System Volume Information/a.png",
    ];
    let dir = folder("junk");
    for name in ["cat/a.png", "cat/b.jfif", "dog/a.png", "dog/c.jpe"].iter().chain(&junk) {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        picture(4, 4, 1).save_with_format(path, image::ImageFormat::Png).unwrap();
    }
    for name in junk {
        assert!(is_junk(Path::new(name)), "{name}");
    }
    for name in ["cat/a.png", "./cat/a.png", "../a.png", "a.b/c.png", "lost and found/a.png"] {
        assert!(!is_junk(Path::new(name)), "{name}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::{PermissionsExt, symlink};
        std::fs::set_permissions(dir.join("lost+found"), PermissionsExt::from_mode(0o000)).unwrap();
        symlink("nowhere.png", dir.join("cat/.gone.png")).unwrap();
        symlink(&dir, dir.join(".again")).unwrap();
    }
    let opened = open(&spec(&dir));
    #[cfg(unix)]
    std::fs::set_permissions(dir.join("lost+found"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let source = opened.unwrap();
    assert_eq!(names(&source), ["cat/a.png", "cat/b.jfif", "dog/a.png", "dog/c.jpe"]);
    assert_eq!(source.classes(), ["cat", "dog"]);
    assert!((0..4).all(|i| source.load(i).is_ok()), "the content decides");
    // A folder that is hidden itself was asked for.
    assert_eq!(open(&spec(&dir.join(".hidden"))).unwrap().len(), 1);
}

#[test]
fn images_that_are_not_read_are_counted_in_one_line() {
    let dir = folder("unread");
    for name in ["a.heic", "b.HEIF", "sub/c.svg", "d.nef", "notes.txt", ".hidden.svg"] {
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        std::fs::write(dir.join(name), "x").unwrap();
    }
    let error = open(&spec(&dir)).err().unwrap().to_string();
    let told = "4 files of kinds that are not read: 2 heic, 1 camera raw, 1 svg; convert them to jpeg or png";
    assert!(error.contains("holds no images that are read (jpg, ") && error.contains(told), "{error}");
    save(&dir, "sub/e.png", picture(4, 4, 1));
    let heard = Rc::new(Heard(RefCell::default(), Box::new(|| {})));
    logging::attach(&heard);
    assert_eq!(open(&spec(&dir)).unwrap().len(), 1);
    let heard = heard.0.borrow();
    assert!(heard.len() == 1 && heard[0].contains(told), "{heard:?}");
}

#[cfg(unix)]
#[test]
fn only_regular_files_of_a_sensible_size_are_read() {
    let dir = folder("irregular");
    let pipe = dir.join("pipe.jpg");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reading = Reading { max_pixels: 1_000_000, ..Reading::default() };
    let fault = |path: &Path| decode_file(path, &reading).unwrap_err();
    for (path, words) in [
        (&*pipe, "a pipe, a socket or a device"),
        (Path::new("/dev/zero"), "a device"),
        (&*dir, "is a folder"),
    ] {
        let fault = fault(path);
        assert!(fault.kind == BadKind::Unreadable && fault.reason.contains(words), "{}", fault.reason);
    }
    // 2^40 bytes, of which the disk has none
    let large = dir.join("large.jpg");
    std::fs::File::create(&large).unwrap().set_len(1 << 40).unwrap();
    let too_large = fault(&large);
    assert!(
        too_large.kind == BadKind::TooLarge && too_large.reason.contains("data.max_pixels"),
        "{}",
        too_large.reason
    );
    // what does not begin like an image is not read on
    std::fs::File::create(&large).unwrap().set_len(60 << 20).unwrap();
    assert_eq!(fault(&large).kind, BadKind::Unsupported);
    // links to files are fine, and a folder passes over the rest
    save(&dir, "real.png", picture(5, 4, 1));
    std::os::unix::fs::symlink("real.png", dir.join("link.png")).unwrap();
    let source = open(&spec(&dir)).unwrap();
    assert_eq!(names(&source), ["large.jpg", "link.png", "real.png"]);
    assert_eq!(source.load(1).unwrap(), source.load(2).unwrap());
}

// ---- what is made to do harm

/// A chunk of a PNG.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &crc.sum().to_be_bytes()].concat()
}

fn png(width: u32, height: u32, more: &[u8], pixels: &[u8]) -> Vec<u8> {
    let head = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n", &chunk(b"IHDR", &head)[..], more, &chunk(b"IDAT", pixels), &chunk(b"IEND", b"")]
        .concat()
}

/// So many MiB of zeros, compressed.
fn zeros(mib: usize) -> Vec<u8> {
    let mut out = ZlibEncoder::new(Vec::new(), Compression::fast());
    (0..mib).for_each(|_| out.write_all(&[0; 1 << 20]).unwrap());
    out.finish().unwrap()
}

/// Files that would take gigabytes if they were believed, with what is to be said of them; "" where they are
/// read.
fn bombs() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let bomb = zeros(1000);
    let small = ZlibEncoder::new(Vec::new(), Compression::fast());
    let rows = {
        let mut small = small;
        small.write_all(&[0; 110]).unwrap();
        small.finish().unwrap()
    };
    let profile = chunk(b"iCCP", &[b"x\0\0", &bomb[..]].concat());
    let text = chunk(b"zTXt", &[b"x\0\0", &bomb[..]].concat());
    let gif = |width: u16, height: u16, frame: u16| {
        let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
        let frame =
            [[0; 4], [frame.to_le_bytes(), frame.to_le_bytes()].concat().try_into().unwrap()].concat();
        [
            b"GIF89a",
            &size[..],
            &[0x80, 0, 0, 0, 0, 0, 255, 255, 255],
            b",",
            &frame,
            &[0, 2, 2, 0x44, 1, 0],
            b";",
        ]
        .concat()
    };
    let lossless = [&[0x2f_u8, 0xfe, 0xbf, 0xff, 0x0f][..], &[0; 21]].concat();
    let webp = [b"RIFF", &38_u32.to_le_bytes()[..], b"WEBPVP8L", &26_u32.to_le_bytes(), &lossless].concat();
    let deflate = |side: u32, strip: &[u8], others: &[(u16, u16, u32)]| {
        tiff(&grey(side, side, 8, &[others, &[(259, 3, 8)]].concat()), strip)
    };
    let mut jpeg = fixture("rgb.jpg");
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    let tile = {
        let tags = [
            (256, 4, 10),
            (257, 4, 10),
            (258, 3, 8),
            (259, 3, 1),
            (262, 3, 1),
            (322, 4, 0xfff0),
            (323, 4, 0xfff0),
        ];
        let mut bytes = tiff(&tags, &[0; 4]);
        for (old, new) in [([0x11, 1, 4, 0], 0x44), ([0x17, 1, 4, 0], 0x45)] {
            let entry = bytes.windows(4).position(|w| w == old).unwrap();
            bytes[entry] = new;
        }
        bytes
    };
    vec![
        ("png", png(100_000, 100_000, b"", &bomb), "100000×100000"),
        ("profile", png(10, 10, &profile, &rows), ""),
        ("text", png(10, 10, &text, &rows), ""),
        ("canvas", gif(65535, 65535, 1), "65535×65535"),
        ("frame", gif(10, 10, 65535), ""),
        ("webp", webp, "16383×16383"),
        ("tiff", deflate(100_000, &bomb, &[]), "100000×100000"),
        ("tiff strip", deflate(10, &bomb, &[]), ""),
        ("tiff values", deflate(10_000, &bomb, &[(262, 3, 2), (277, 3, 65535)]), "10000×10000"),
        ("tiff values of few", deflate(500, &bomb, &[(262, 3, 2), (277, 3, 65535)]), "data.max_pixels"),
        ("tiff tile", tile, "65520×65520"),
        ("jpeg", jpeg, "65535×65535"),
    ]
}

/// In a process of its own, where the most memory that was ever used can be asked for.
#[cfg(target_os = "linux")]
#[test]
fn bombs_take_no_memory() {
    const MARK: &str = "POA_TEST_BOMBS";
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
    };
    if std::env::var_os(MARK).is_none() {
        let name = "odd_images::bombs_take_no_memory";
        let child = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(MARK, "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        return;
    }
    let all = bombs();
    let (reading, before) = (Reading { max_pixels: 1_000_000, ..Reading::default() }, peak());
    for (name, bytes, words) in all {
        let result = decode(&bytes, &reading);
        println!("{name}: {:?}, peak {} MiB", result.as_ref().map(|i| i.dimensions()), peak());
        match result {
            Ok(image) => assert!(words.is_empty() && image.width() <= 10, "{name}"),
            Err(fault) => assert!(fault.reason.contains(words), "{name}: {}", fault.reason),
        }
        assert!(peak() < before + 150, "{name}: {} MiB, {before} before", peak());
    }
}

// ---- what takes long

/// Images of which one is ready only when it is told so.
struct Slow {
    ready: Arc<(Mutex<bool>, Condvar)>,
}

impl Source for Slow {
    fn len(&self) -> usize {
        4
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        if i == 2 {
            let (ready, told) = &*self.ready;
            let wait =
                told.wait_timeout_while(ready.lock().unwrap(), Duration::from_secs(60), |ready| !*ready);
            assert!(!wait.unwrap().1.timed_out(), "nobody was told");
        }
        Ok(picture(8, 8, i as u8).into())
    }
    fn label(&self, _: usize) -> Option<u32> {
        None
    }
    fn classes(&self) -> &[String] {
        &[]
    }
    fn name(&self, i: usize) -> String {
        format!("{i}.tif")
    }
    fn describe(&self) -> String {
        "slow".into()
    }
}

#[test]
fn the_image_that_is_waited_for_is_named() {
    let ready = Arc::new((Mutex::new(false), Condvar::new()));
    let release = ready.clone();
    let heard = Rc::new(Heard(
        RefCell::default(),
        Box::new(move || {
            *release.0.lock().unwrap() = true;
            release.1.notify_all();
        }),
    ));
    logging::attach(&heard);
    let config = LoaderConfig {
        batch: 4,
        seed: 0,
        threads: 2,
        prefetch: 1,
        recipe: Arc::new(MultiCrop {
            crops: CropConfig { local_count: 0, ..CropConfig::default() },
            masks: MaskConfig::new(14),
        }),
        start_step: 0,
        start: None,
        share: Share::ALL,
    };
    let mut loader = Loader::new(Arc::new(Slow { ready }), config).unwrap();
    loader.tell_after(Duration::from_millis(20));
    assert_eq!(loader.next().unwrap().images(), 4);
    let heard = heard.0.borrow();
    assert!(heard[0].contains("waiting for images: for 2.tif since"), "{heard:?}");
}
