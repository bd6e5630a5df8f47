//! Decoding, against PIL (`fixtures/images`, written by `make.py` there).

use std::path::Path;

use image::DynamicImage;
use poa_gpu::data::bad_samples::Fault;
use poa_gpu::data::decode::{self, decode_file};
use poa_gpu::data::*;
use safetensors::SafeTensors;

use crate::{folder, open, picture, save, spec};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/fixtures/images");

fn decode(bytes: &[u8]) -> Result<image::RgbImage, Fault> {
    decode::decode(bytes, &Reading::default())
}

#[test]
fn every_kind_of_image_has_the_pixels_that_pil_reads() {
    let bytes = std::fs::read(Path::new(FIXTURES).join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    assert!(expected.len() >= 59);
    for (name, want) in expected.tensors() {
        let path = Path::new(FIXTURES).join(&name);
        let got = decode_file(&path, &Reading::default()).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(want.shape(), [got.height() as usize, got.width() as usize, 3], "{name}");
        let differences: Vec<u8> =
            got.as_raw().iter().zip(want.data()).map(|(a, b)| a.abs_diff(*b)).collect();
        let max = differences.iter().max().unwrap();
        let mean = differences.iter().map(|&d| f64::from(d)).sum::<f64>() / differences.len() as f64;
        println!("{name}: mean {mean:.3}, max {max}");
        // The lossy formats leave the decoder some freedom, the conversion from CMYK a rounding.
        let (mean_limit, max_limit) = match name.as_str() {
            lossy if lossy.ends_with(".jpg") || lossy == "rgb.webp" || lossy == "turned-6.webp" => (0.6, 4),
            "cmyk.tif" => (0.5, 1),
            "ycbcr-jpeg.tif" => (0.6, 4),
            _ => (0.0, 0),
        };
        assert!(mean <= mean_limit && *max <= max_limit, "{name}: mean {mean}, max {max}");
    }
}

#[test]
fn the_content_decides_what_a_file_is() {
    let dir = folder("kinds");
    save(&dir, "plain.webp", picture(9, 7, 200));
    std::fs::rename(dir.join("plain.webp"), dir.join("plain.jpg")).unwrap();
    assert_eq!(open(&spec(&dir)).unwrap().load(0).unwrap(), Image::from(picture(9, 7, 200)));
}

#[test]
fn what_cannot_be_decoded_is_told_apart() {
    let kind = |bytes: &[u8]| decode(bytes).map_err(|Fault { kind, reason }| (kind, !reason.is_empty()));
    let bad = |kind| Err((kind, true));
    assert_eq!(kind(b""), bad(BadKind::Empty));
    assert_eq!(kind(b"<html>not found</html>"), bad(BadKind::Unsupported));
    let dir = folder("undecodable");
    assert_eq!(
        decode_file(&dir.join("nowhere.jpg"), &Reading::default()).unwrap_err().kind,
        BadKind::Missing
    );
    assert_eq!(decode_file(&dir, &Reading::default()).unwrap_err().kind, BadKind::Unreadable);
    for extension in ["png", "jpg", "webp", "bmp", "tif"] {
        let whole = std::fs::read(Path::new(FIXTURES).join(format!("rgb.{extension}"))).unwrap();
        assert!(kind(&whole).is_ok());
        for share in [0.3, 0.6, 0.9] {
            let fault = decode(&whole[..(whole.len() as f64 * share) as usize]).unwrap_err();
            assert_eq!(fault.kind, BadKind::Damaged, "{share} of {extension}");
            assert!(!fault.reason.contains('\n'), "{:?}", fault.reason);
        }
    }
}

#[test]
fn a_jpeg_without_its_end_is_damaged_even_with_a_thumbnail() {
    let whole = std::fs::read(Path::new(FIXTURES).join("rgb.jpg")).unwrap();
    // An application segment that holds a whole JPEG, with its end marker, behind the start marker.
    let length = (whole.len() as u16 + 2).to_be_bytes();
    let with_thumbnail = [&whole[..2], &[0xff, 0xe7], &length, &whole, &whole[2..]].concat();
    assert_eq!(decode(&with_thumbnail).unwrap(), decode(&whole).unwrap());
    let cut = &with_thumbnail[..with_thumbnail.len() - 100];
    assert_eq!(decode(cut).unwrap_err().kind, BadKind::Damaged);
    // Bytes behind the end do no harm.
    assert!(decode(&[&whole[..], &[0; 1000]].concat()).is_ok());
}

#[test]
fn a_decoded_image_may_take_only_so_much_memory() {
    // A grey image is small as such; its size counts, not that of the file.
    let dir = folder("large");
    let wide = DynamicImage::new_luma8(60_000, 2);
    save(&dir, "wide.png", wide);
    assert_eq!(open(&spec(&dir)).unwrap().load(0).unwrap().dimensions(), (60_000, 2));
    // A BMP may claim any size in its header.
    let mut header = std::fs::read(Path::new(FIXTURES).join("rgb.bmp")).unwrap();
    header[18..26].copy_from_slice(&[0x60, 0xea, 0, 0, 0x60, 0xea, 0, 0]);
    let fault = decode(&header).unwrap_err();
    assert_eq!(fault.kind, BadKind::TooLarge, "{}", fault.reason);
    assert!(fault.reason.contains("60000×60000"), "{}", fault.reason);
}
