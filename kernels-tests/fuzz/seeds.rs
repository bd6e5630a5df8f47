//! Inputs that get far into the parsers: made here, or small files that other tests have too.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use poa_gpu::models::backbone::Backbone;
use poa_gpu::models::grid::ElasticGrid;
use poa_gpu::recipes::Config;

macro_rules! fixtures {
    ($($name:literal),* $(,)?) => {
        [$(include_bytes!(concat!("../fixtures/", $name)).to_vec()),*]
    };
}

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub fn recipes() -> Vec<Vec<u8>> {
    let utf_16 = "\u{feff}[optim]\nepochs = 3\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut all = texts(&[
        "[student]\narch = \"vit_dynamic\"\nmin_embed_dim = 48\nmax_embed_dim = 96\nhead_dim = 48\npatch_size = 8\n\
         max_depth = 3\nmin_depth = 2\n[crops]\nglobal_crops_size = 32\nlocal_crops_size = 16\n",
        "[student]\narch = \"swin_dynamic\"\nwindow_size = 2\n[train]\nbatch_size_per_gpu = 4\n",
        "[student]\narch = 'resnet_dynamic'\nmax_depths = [2, 2, 3, 2]\nmin_depths = [1, 1, 1, 1]\n[optim]\nlr = 1e-3\n",
        "# nothing else\n[optim]\nepochs = 3\nbase_lr = nan\n[data]\nspec = \"shapes:400\"\nmean = [0.5]\n",
        "[dino]\nhead_n_prototypes = [16, 24]\n[teacher]\nmomentum_teacher = 0.99\n[evaluation]\nk = [5, 20]\n",
        "student.arch: vit_dynamic\ntrain:\n  epochs: 3\n",
    ]);
    all.push(utf_16);
    all
}

pub fn stored_configs() -> Vec<Vec<u8>> {
    let mut all: Vec<_> = fixtures!("checkpoint/config.toml").into();
    all.extend(recipes());
    all
}

pub fn overrides() -> Vec<Vec<u8>> {
    texts(&[
        "optim.epochs=100\nstudent.max_depth=2\ndino.head_n_prototypes=[16, 24]",
        "student.arch=swin_dynamic\nstudent.window_size=4",
        "student.arch = resnet_dynamic",
        "data.spec=folder:/a b\ndata.mean=[0.5, 0.5, 0.5]\ntrain.seed=18446744073709551615",
        "train.precision=mixed\ntrain.seed=0x7f\noptim.lr=1e308\ncrops.blur=\"none\"",
    ])
}

pub fn data_specs() -> Vec<Vec<u8>> {
    texts(&[
        "shapes",
        "shapes:7",
        "shapes:3x16",
        "shapes:2x17x4",
        "cifar10:nowhere",
        "nothing:at",
        "photos",
        ":",
    ])
}

pub fn braces() -> Vec<Vec<u8>> {
    texts(&[
        "train-{000..002}.tar",
        "{a,b}-{9..11}::c.tar",
        "{x-{0..1},y}{1..0}.tar",
        "{{a,b},{c,d{e,f}}}",
        "{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}",
        "{}{,}{..}",
    ])
}

pub fn lists() -> Vec<Vec<u8>> {
    texts(&[
        "a.png\nb.jpg\n",
        "# two classes\na.png 0\nsub folder/b.jpg 1\n",
        "a.png\tcat\r\nb b.png\tdog\r\n",
        "path,label\na.png,cat\n\"b, c.png\",\"a \"\"dog\"\"\"\n",
        "\u{feff}a.png,3\nb.tiff,4\n../../a.png,5\n",
        "a 1\nb -2\n/dev/zero 3\n/dev/full 4\n",
        "path\tlabel\na.png\tx\nb.png\t\n",
    ])
}

/// A member of a tar file with exactly this header, but for its checksum.
fn member(name: &str, kind: u8, size: &[u8], content: &[u8]) -> Vec<u8> {
    let mut block = [0u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = block.to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file_member(name: &str, content: &[u8]) -> Vec<u8> {
    member(name, b'0', format!("{:011o}\0", content.len()).as_bytes(), content)
}

/// The size that is written in binary, since it is beyond eleven octal digits: 2^60.
pub const HUGE_SIZE: [u8; 12] = [0x80, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0];

/// A tar file of these members.
pub fn tar_of(members: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = members.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A shard whose image claims 2^60 bytes.
pub fn huge_member(kind: u8, name: &str) -> Vec<u8> {
    tar_of(&[
        file_member("0.txt", b"x"),
        member(name, kind, &HUGE_SIZE, b"little"),
        file_member("b.png", &tiny_png()),
    ])
}

pub fn shards() -> Vec<Vec<u8>> {
    let png = tiny_png();
    let pax =
        |text: &str| member("PaxHeader", b'x', format!("{:011o}\0", text.len()).as_bytes(), text.as_bytes());
    let long = format!("{}/a.png\0", "folder".repeat(20));
    vec![
        tar_of(&[
            file_member("a.png", &png),
            file_member("a.cls", b"3"),
            file_member("b.png", &png),
            file_member("b.cls", b"7"),
        ]),
        tar_of(&[file_member("a.cls", b"cat"), file_member("a.png", &png), file_member("a.json", b"{}")]),
        tar_of(&[
            file_member("../../a.png", &png),
            file_member("/etc/b.seg.png", &png),
            file_member("x", b""),
        ]),
        tar_of(&[pax("15 path=c.png\n17 size=00000100\n"), file_member("b.png", &png)]),
        tar_of(&[
            member("././@LongLink", b'L', format!("{:011o}\0", long.len()).as_bytes(), long.as_bytes()),
            file_member("b.png", &png),
        ]),
        tar_of(&[
            file_member("a.png", &png),
            member("b.png", b'1', b"00000000000\0", b""),
            member("d", b'5', b"00000000000\0", b""),
        ]),
        tar_of(&[member("a.png", b'S', b"00000000010\0", b"12345678"), file_member("a.cls", b"1")]),
        huge_member(b'0', "a.png"),
        huge_member(b'0', "a.cls"),
        huge_member(b'x', "a.png"),
        huge_member(b'L', "a.png"),
        tar_of(&[]),
    ]
}

pub fn cifar10() -> Vec<Vec<u8>> {
    let record =
        |label: u8| std::iter::once(label).chain((0..3072).map(|i| (i % 251) as u8)).collect::<Vec<_>>();
    vec![record(3), [record(0), record(9)].concat(), record(10), record(1)[..100].to_vec()]
}

pub fn cifar_names() -> Vec<Vec<u8>> {
    texts(&[
        "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n",
        "a\nb\n",
        "\r\na\r\n",
    ])
}

fn picture(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(40 * x) as u8, (60 * y) as u8, (x * y) as u8])).into()
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("a small picture can be written");
    bytes.into_inner()
}

/// The image in shards.
fn tiny_png() -> Vec<u8> {
    encoded(&picture(2, 2), ImageFormat::Png)
}

pub fn class_names() -> Vec<Vec<u8>> {
    texts(&[
        "water\nfield\n",
        "# two classes\r\n#000080 water\r\n0 128 0 field\r\n",
        "\u{feff}255,255,255 a b\n\n#ff0000\n",
        "a\na\n",
        "#12 x\n300 0 0 y\n",
    ])
}

pub fn png() -> Vec<Vec<u8>> {
    let mut all = vec![tiny_png(), encoded(&picture(5, 4).to_luma_alpha16().into(), ImageFormat::Png)];
    all.extend(fixtures!(
        "images/palette-alpha.png",
        "images/bilevel.png",
        "images/color-key.png",
        "images/grey16.png",
        "images/turned-6.png",
    ));
    all
}

pub fn jpeg() -> Vec<Vec<u8>> {
    let mut all = vec![encoded(&picture(9, 7), ImageFormat::Jpeg)];
    all.extend(fixtures!(
        "images/progressive.jpg",
        "images/cmyk.jpg",
        "images/ycck.jpg",
        "images/grey.jpg",
        "images/turned-6.jpg",
        "images/not-ycbcr.jpg",
    ));
    all
}

pub fn webp() -> Vec<Vec<u8>> {
    let mut all = vec![encoded(&picture(5, 4), ImageFormat::WebP)];
    all.extend(fixtures!("images/rgb.webp", "images/rgba.webp", "images/turned-6.webp"));
    all
}

/// Planes as NumPy writes them.
pub fn npy() -> Vec<Vec<u8>> {
    let file = |kind: &str, shape: &str, data: usize| {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = (header.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &vec![1; data]].concat()
    };
    vec![file("|b1", "(4, 4)", 16), file("<f4", "(2, 3, 3)", 72), file("<i8", "(2, 2)", 32)]
}

pub fn bmp() -> Vec<Vec<u8>> {
    let mut all = vec![encoded(&picture(5, 4), ImageFormat::Bmp)];
    all.extend(fixtures!("images/bilevel.bmp", "images/palette.bmp"));
    all
}

/// A TIFF of 4 x 2 pixels: tags with their values as SHORTs or LONGs, and the bytes of its one strip (or tile).
fn tiff_of(big: bool, tags: &[(u16, &[u32])], data: &[u8]) -> Vec<u8> {
    let place =
        |big: bool, n: u64| if big { n.to_le_bytes().to_vec() } else { (n as u32).to_le_bytes().to_vec() };
    let mut all: Vec<(u16, Vec<u32>)> = vec![(256, vec![4]), (257, vec![2]), (278, vec![2])];
    all.extend(tags.iter().map(|(tag, values)| (*tag, values.to_vec())));
    let head = if big { 16 } else { 8 };
    for (tag, value) in [(273, head as u32), (279, data.len() as u32)] {
        if !all.iter().any(|(known, _)| *known == tag || (324..=325).contains(known)) {
            all.push((tag, vec![value]));
        }
    }
    all.sort_unstable();
    let mut bytes = if big { b"II+\0\x08\0\0\0".to_vec() } else { b"II*\0".to_vec() };
    let directory = head + data.len().next_multiple_of(2);
    bytes.extend(place(big, directory as u64));
    bytes.extend_from_slice(data);
    bytes.resize(directory, 0);
    let (counter, entry, inline) = if big { (8, 20, 8) } else { (2, 12, 4) };
    let mut behind = directory + counter + entry * all.len() + inline;
    let mut values = Vec::new();
    bytes.extend_from_slice(&(all.len() as u64).to_le_bytes()[..counter]);
    for (tag, list) in &all {
        bytes.extend(tag.to_le_bytes());
        let long = [256, 257, 273, 278, 279, 322, 323, 324, 325].contains(tag);
        bytes.extend(if long { 4u16 } else { 3 }.to_le_bytes());
        bytes.extend(place(big, list.len() as u64));
        let mut content: Vec<u8> =
            list.iter().flat_map(|v| v.to_le_bytes().into_iter().take(if long { 4 } else { 2 })).collect();
        if content.len() > inline {
            bytes.extend(place(big, behind as u64));
            behind += content.len();
            values.extend(content);
        } else {
            content.resize(inline, 0);
            bytes.extend(content);
        }
    }
    bytes.extend(place(big, 0));
    bytes.extend(values);
    bytes
}

/// zlib's container with its content as it is.
fn stored_zlib(content: &[u8]) -> Vec<u8> {
    let (mut a, mut b) = (1u32, 0u32);
    for byte in content {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    let length = (content.len() as u16).to_le_bytes();
    let mut bytes = vec![0x78, 0x01, 0x01, length[0], length[1], !length[0], !length[1]];
    bytes.extend_from_slice(content);
    bytes.extend((b << 16 | a).to_be_bytes());
    bytes
}

pub fn tiff() -> Vec<Vec<u8>> {
    let grey: Vec<u8> = (0..8).map(|i| 30 * i).collect();
    let colours: Vec<u8> = (0..24).map(|i| 10 * i).collect();
    let wide: Vec<u8> = (0..64).collect();
    let ramp: Vec<u32> = (0..768).map(|i| i * 85).collect();
    let of = |bits: &'static [u32], compression, photometric, samples| {
        vec![(258u16, bits), (259, compression), (262, photometric), (277, samples)]
    };
    let tags =
        |bits, compression: &'static [u32], photometric, samples| of(bits, compression, photometric, samples);
    let mut all = vec![
        encoded(&picture(3, 2), ImageFormat::Tiff),
        tiff_of(false, &tags(&[8], &[1], &[1], &[1]), &grey),
        tiff_of(true, &tags(&[8], &[1], &[0], &[1]), &grey),
        tiff_of(false, &tags(&[8, 8, 8], &[8], &[2], &[3]), &stored_zlib(&colours)),
        tiff_of(false, &tags(&[8], &[32773], &[1], &[1]), &[7, 1, 2, 3, 4, 5, 6, 7, 8]),
        tiff_of(
            false,
            &tags(&[8], &[5], &[1], &[1]),
            &[0x80, 0x0b, 0x60, 0x50, 0x22, 0x0c, 0x0c, 0x85, 0x01],
        ),
        tiff_of(false, &tags(&[1], &[4], &[0], &[1]), &[0x26, 0xa0, 0x40, 0x01, 0x00, 0x10]),
        tiff_of(false, &tags(&[1], &[3], &[0], &[1]), &[0x00, 0x1d, 0x9a, 0x80]),
        tiff_of(false, &tags(&[16], &[1], &[1], &[1]), &wide[..16]),
        tiff_of(false, &[tags(&[32], &[1], &[1], &[1]), vec![(339, &[3])]].concat(), &wide[..32]),
        tiff_of(true, &tags(&[32, 32], &[1], &[1], &[2]), &wide),
        tiff_of(false, &[tags(&[8, 8], &[1], &[1], &[2]), vec![(338, &[2])]].concat(), &colours[..16]),
        tiff_of(
            false,
            &[tags(&[8, 8, 8], &[1], &[2], &[3]), vec![(284, &[2]), (273, &[8, 16, 24]), (279, &[8, 8, 8])]]
                .concat(),
            &colours,
        ),
        tiff_of(
            false,
            &[tags(&[8], &[1], &[1], &[1]), vec![(322, &[16]), (323, &[16]), (324, &[8]), (325, &[256])]]
                .concat(),
            &[7; 256],
        ),
        tiff_of(false, &[tags(&[4], &[1], &[3], &[1]), vec![(320, &ramp[..48])]].concat(), &grey[..4]),
        tiff_of(false, &[tags(&[8, 8, 8], &[7], &[6], &[3]), vec![(530, &[2, 2])]].concat(), &jpeg()[0]),
    ];
    all.extend(fixtures!("images/bilevel.tif", "images/grey.tif"));
    all
}

pub fn any_image() -> Vec<Vec<u8>> {
    let mut all = texts(&[
        "GIF89a\u{2}\0\u{2}\0\0\0\0,\0\0\0\0\u{2}\0\u{2}\0\0\u{2}\u{3}\u{4}\u{5}\0;",
        "P6 2 2 255\nabcdefghijkl",
        "P5\n2 2\n65535\nabcdefgh",
        "<svg xmlns=\"http://www.w3.org/2000/svg\"/>",
        "\0\0\0\u{18}ftypavif\0\0\0\0avifmif1",
        "qoif\0\0\0\u{1}\0\0\0\u{1}\u{3}\0",
        "farbfeld\0\0\0\u{1}\0\0\0\u{1}12345678",
        "#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\nabcd",
    ]);
    all.extend([tiny_png(), jpeg().remove(0)]);
    all
}

/// A file of tensors with this header and so many zeros.
fn tensor_file(header: &str, zeros: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + zeros, 0);
    bytes
}

pub fn tensors() -> Vec<Vec<u8>> {
    vec![
        tensor_file(
            r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]}}"#,
            26,
        ),
        tensor_file(
            r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"c":{"dtype":"U8","shape":[0,4],"data_offsets":[8,8]},"d":{"dtype":"BOOL","shape":[3],"data_offsets":[8,11]}}"#,
            11,
        ),
        tensor_file(
            r#"{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#,
            8,
        ),
        tensor_file(
            r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}"#,
            0,
        ),
        tensor_file(
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551611,18446744073709551615]}}"#,
            4,
        ),
        b"PK\x03\x04".to_vec(),
    ]
}

/// A ViT of 8 channels and two blocks.
pub fn small_model() -> Box<dyn Backbone> {
    let settings = [
        "patch_size=8",
        "min_embed_dim=8",
        "max_embed_dim=8",
        "head_dim=8",
        "min_depth=1",
        "max_depth=2",
        "num_register_tokens=2",
    ];
    let settings: Vec<String> = settings.iter().map(|setting| format!("student.{setting}")).collect();
    let config = Config::load("demo", &settings).expect("settings that exist");
    config.backbone().expect("a small model")
}

/// The sub-networks of a recipe of the program.
pub fn grid(recipe: &str) -> ElasticGrid {
    Config::recipe(recipe)
        .and_then(|config| config.backbone())
        .expect("a recipe of the program")
        .grid()
        .clone()
}

/// Headers of files with the small model's tensors, under the names of several programs.
pub fn weights() -> Vec<Vec<u8>> {
    let specs = small_model().specs();
    let header = |name: &dyn Fn(&str) -> Option<String>, dtype: &str, bytes: usize| {
        let mut at = 0;
        let entries = specs.iter().filter_map(|spec| {
            let name = name(&spec.name)?;
            let end = at + bytes * spec.shape.iter().product::<usize>();
            let entry = format!(
                r#""{name}":{{"dtype":"{dtype}","shape":{:?},"data_offsets":[{at},{end}]}}"#,
                spec.shape
            );
            at = end;
            Some(entry)
        });
        format!("{{{}}}", entries.collect::<Vec<_>>().join(",")).into_bytes()
    };
    let bare = |name: &str| name.strip_prefix("backbone.").map(str::to_string);
    vec![
        header(&|name| Some(name.to_string()), "F32", 4),
        header(&bare, "F16", 2),
        header(&|name| bare(name).map(|name| name.replace("register_tokens", "reg_token")), "F32", 4),
        header(&|name| Some(format!("_orig_mod.teacher.{name}")), "BF16", 2),
        header(&|name| bare(name).filter(|name| !name.contains("ls") && !name.contains("blocks.1")), "F32", 4),
        header(&|name| bare(name).map(|name| name.replace("mlp.fc1", "mlp.w12").replace("blocks.", "blocks.0.")), "F64", 8),
        br#"{"pos_embed":{"dtype":"F32","shape":[1,50,8],"data_offsets":[0,1600]},"patch_embed.proj.weight":{"dtype":"F32","shape":[8,1,4,4],"data_offsets":[0,512]},"cls_token":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#.to_vec(),
        br#"{"pos_embed":{"dtype":"F32","shape":[1,16,8],"data_offsets":[0,512]},"model.head.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.to_vec(),
    ]
}

/// The files of a checkpoint, but for its manifest.
pub fn checkpoint_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("student.safetensors", tensors().remove(0)),
        ("config.toml", b"[student]\nmax_depth = 2\nmin_depth = 1\n".to_vec()),
        ("state.json", states().remove(0)),
    ]
}

/// The manifest of a checkpoint with these files.
pub fn manifest_of(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let files = files.iter().map(|(name, bytes)| {
        let (size, sum) = (bytes.len(), crc32c::crc32c(bytes));
        format!(r#""{name}":{{"bytes":{size},"crc32c":{sum}}}"#)
    });
    let files = files.collect::<Vec<_>>().join(",");
    format!(r#"{{"format":"poa-gpu checkpoint","version":2,"files":{{{files}}}}}"#).into_bytes()
}

pub fn manifests() -> Vec<Vec<u8>> {
    let mut all = vec![manifest_of(&checkpoint_files()), manifest_of(&checkpoint_files()[..1])];
    all.extend(texts(&[

        r#"{"format":"poa-gpu checkpoint","version":2,"files":{"/dev/zero":{"bytes":0,"crc32c":0}}}"#,
        r#"{"format":"poa-gpu checkpoint","version":2,"files":{"../manifest/state.json":{"bytes":30,"crc32c":7}}}"#,
        r#"{"format":"poa-gpu checkpoint","version":2,"files":{"state.json":{"bytes":18446744073709551615,"crc32c":0}}}"#,
        r#"{"format":"other","version":3,"files":{}}"#,
    ]));
    all
}

pub fn states() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"step":4,"applied":4,"skipped":0,"seed":0,"images":64,"metrics_bytes":987,"seconds":2.5}"#,
        r#"{"step":18446744073709551615,"seconds":1e300,"loss_scale":{"scale":65536.0,"good_steps":3}}"#,
        "{}",
    ])
}

pub fn latest() -> Vec<Vec<u8>> {
    texts(&["step-00000004", "step-00000004\n", "../latest/step-00000004", "/", "..", ""])
}

pub fn metrics() -> Vec<Vec<u8>> {
    texts(&[
        "{\"step\":0,\"knn/96x3\":20.5,\"time\":{\"seconds\":1.5}}\n{\"step\":40,\"knn/96x3\":30,\"loss\":\"NaN\"}\n",
        "{\"step\":-1,\"knn/a\":1e308}\n{\"step\":18446744073709551615,\"knn/\":null}\nhalf a li",
        "[]\n\n{}\n{\"step\":{}}\n\u{0}",
    ])
}

pub fn run_logs() -> Vec<Vec<u8>> {
    texts(&[
        "2026-01-31 12:34:56Z  device: cpu (2 threads)\n2026-01-31 12:34:56Z  step 7/600: loss 1.0, lr 1\n",
        "2026-01-31 12:34:56Z  warning: step 5: the loss moved by only 0.05%\n2026-01-31 12:34:57Z  stopped: </script>\nhalf",
        "2026-01-31 12:34:56Z  600 steps done, 0 skipped; 119.6 s\n",
    ])
}

pub fn sweeps() -> Vec<Vec<u8>> {
    texts(&["network,width,depth,parameters,flops,k=10\n48x2,48,2,10,20,0.5\n", "network,width\n1,2\n"])
}

pub fn requests() -> Vec<Vec<u8>> {
    texts(&[
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:6160\r\n\r\n",
        "GET /news?3.17 HTTP/1.1\r\nHost: localhost:6160\r\nAccept: */*\r\n\r\n",
        "POST / HTTP/1.0\r\n\r\n",
    ])
}

pub fn bad_samples() -> Vec<Vec<u8>> {
    let mut all =
        texts(&["damaged\ta/b.jpg\tends early\nmissing\tc.png\tno such file\n", "a\tb\n\t\t\t\t\n"]);
    all.push(b"damaged\tcut \xc3".to_vec());
    all
}

pub fn event_names() -> Vec<Vec<u8>> {
    texts(&[
        "events.out.tfevents.1769817600.000001.poa",
        "events.out.tfevents.1769817600.host.7.0",
        "events.out.tfevents.9999999998.4294967295.poa",
        "events.out.tfevents.9999999998.x",
        "metrics.jsonl",
    ])
}

/// Records without most of what a replay reads, so that they are short; a whole one is in the fixtures.
pub fn records() -> Vec<Vec<u8>> {
    let [whole] = fixtures!("vit/fixture.json");
    let mut value: serde_json::Value = serde_json::from_slice(&whole).expect("a record of the tests");
    let mut short = Vec::new();
    if let Some(record) = value.as_object_mut() {
        record.remove("param_groups");
        if let Some(steps) = record.get_mut("steps").and_then(|steps| steps.as_array_mut()) {
            steps.truncate(1);
            steps.iter_mut().for_each(|step| step["grad_norm"] = serde_json::json!({}));
        }
        record.insert("pytorch_float32_error".into(), serde_json::json!({}));
        short = serde_json::to_vec(&value).expect("it is JSON");
    }
    vec![short, br#"{"arch":"resnet"}"#.to_vec(), br#"{"arch":"mlp","steps":[]}"#.to_vec()]
}

pub fn networks() -> Vec<Vec<u8>> {
    texts(&[
        "intact",
        "384x12,smallest middle",
        "all",
        "96x6",
        "64x2-2-3-2",
        "small",
        "99999999999999999999x1",
        "x",
        "1x",
    ])
}

pub fn budgets() -> Vec<Vec<u8>> {
    texts(&["5ms", "20M,2gflops", "1.5GiB 800us", "1gmacs", "20m", "0s", "µs", "1e9ms"])
}

pub fn costs() -> Vec<Vec<u8>> {
    texts(&[
        "network,latency_ms\n384x12,4.5\n1024x24,40\n",
        "network,width,k=10,k=20\nsmallest,384,0.5,0.6\nintact,1024,0.7,0.8\n",
        "model,us\n\"384x12\",4500\n448x13,\n",
        "network,top1\n384x12,1\n384x12,1\n",
    ])
}

pub fn devices() -> Vec<Vec<u8>> {
    texts(&["auto", "CPU", "0", "llvmpipe", "", "-1", "18446744073709551616"])
}
