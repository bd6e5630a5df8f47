//! Charts, event files for TensorBoard, and pictures of what a backbone sees.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use poa_gpu::eval::visualize::{Principal, attention_map, attention_panel, token_pictures, write_png};
use poa_gpu::files::tensorboard::{EventLog, masked_crc, record, scalars_event, start_event, version_event};
use poa_gpu::plot::{CAPTION, accuracy_over_parameters, accuracy_surface, lines, panel};

/// An empty folder of a test's own.
fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("poa-gpu-plots-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn with(stem: &Path, extension: &str) -> PathBuf {
    PathBuf::from(format!("{}{extension}", stem.display()))
}

/// Both files of a chart, the pixels and the SVG; nothing else may lie in the folder.
fn chart(stem: &Path) -> (RgbImage, String) {
    assert_eq!(fs::read_dir(stem.parent().unwrap()).unwrap().count(), 2);
    let image = image::open(with(stem, ".png")).unwrap().to_rgb8();
    assert_eq!(image.dimensions(), (1200, 900));
    let svg = fs::read_to_string(with(stem, ".svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
    (image, svg)
}

#[test]
fn surfaces_of_all_sizes() {
    let dir = folder("surface");
    let stem = dir.join("top-1.at.k20");
    let grid = |widths: usize, depths: usize| -> Vec<(usize, usize, f64)> {
        let at = |i: usize| (384 + 64 * (i / depths), 12 + i % depths, 0.7 + 0.0012 * i as f64);
        (0..widths * depths).map(at).collect()
    };
    for (widths, depths) in [(11, 13), (2, 3), (3, 13), (1, 1), (1, 40)] {
        accuracy_surface(&grid(widths, depths), "a < b & c", &stem).unwrap();
        let (_, svg) = chart(&stem);
        assert!(svg.contains(">a &lt; b &amp; c</text>"));
        // A number in every cell: the first is the accuracy of the smallest.
        assert!(svg.contains(">70.0</text>"), "{widths} × {depths}");
        assert!(svg.contains(">384</text>") && svg.contains(">12</text>"));
    }
    // Cells too small for numbers still have colours.
    accuracy_surface(&grid(60, 60), "many", &stem).unwrap();
    assert!(!chart(&stem).1.contains(">70.0</text>"));
}

#[test]
fn the_surface_is_dark_where_accuracy_is_low_and_grey_where_there_is_none() {
    let stem = folder("surface-colors").join("surface");
    let cells = [(64, 2, 0.1), (64, 4, 0.9), (128, 2, f64::NAN)];
    accuracy_surface(&cells, "", &stem).unwrap();
    let image = chart(&stem).0;
    let light = |x: u32, y: u32| image.get_pixel(x, y).0.iter().map(|&v| u32::from(v)).sum::<u32>();
    // Width grows to the right, depth upwards.
    let (low, high) = (light(200, 750), light(200, 120));
    assert!(low < 200 && high > 400, "{low} {high}");
    for (x, y) in [(900, 750), (900, 120)] {
        assert_eq!(image.get_pixel(x, y).0, [220; 3]);
    }
}

#[test]
fn equal_accuracies_and_extreme_values_are_drawn() {
    let stem = folder("extremes").join("chart");
    accuracy_surface(&[(64, 2, 0.5), (128, 2, 0.5)], "equal", &stem).unwrap();
    chart(&stem);
    accuracy_over_parameters(&[(1e6, 0.5, "64x2"), (1e6, 0.5, "no network")], &[], "equal", &stem).unwrap();
    chart(&stem);
    lines(&[("a", vec![(0.0, 0.0)]), ("b", vec![])], "one point", "x", "y", &stem).unwrap();
    chart(&stem);
    let long = "very long ".repeat(100);
    lines(&[(&long, vec![(-1e300, -1e-300), (1e300, 1e-300)])], &long, &long, &long, &stem).unwrap();
    chart(&stem);
    // Beyond what can be placed: any picture will do.
    lines(&[("a", vec![(f64::MIN, f64::MIN), (f64::MAX, f64::MAX)])], "", "", "", &stem).unwrap();
    accuracy_surface(&[(1, 1, -1e306), (1, 2, 1e306), (1, 3, f64::MAX)], "", &stem).unwrap();
}

#[test]
fn points_and_curves_leave_out_what_is_not_finite() {
    let stem = folder("finite").join("chart");
    let points = [
        (2e6, 0.5, "64x2"),
        (40e6, 0.7, "128x4"),
        (f64::NAN, 0.6, "256x4"),
        (0.0, 0.6, "256x5"),
        (3e6, f64::INFINITY, "256x6"),
    ];
    accuracy_over_parameters(&points, &[("64x2", "small")], "title", &stem).unwrap();
    let svg = chart(&stem).1;
    assert!(svg.contains(">small: 64x2 (50.0%)</text>") && svg.contains(">best: 128x4 (70.0%)</text>"));
    assert!(svg.contains(">width 64</text>") && !svg.contains("256"));

    let gap = vec![(0.0, 0.1), (1.0, 0.2), (2.0, f64::NAN), (3.0, 0.3), (4.0, 0.4)];
    lines(&[("64x2, k = 20".to_string(), gap)], "title", "step", "top-1", &stem).unwrap();
    let svg = chart(&stem).1;
    assert_eq!(svg.matches("stroke=\"#4e79a7\"").count(), 3, "two parts and the legend");
}

/// The labels of points in an SVG: their middle, and half of their width and height.
fn labels(svg: &str) -> Vec<[f32; 4]> {
    let number = |line: &str, key: &str| -> f32 {
        let rest = line.split(&format!(" {key}=\"")).nth(1).unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    };
    let lines = svg.lines().filter(|line| line.contains("paint-order"));
    lines
        .map(|line| {
            let words = line.split('>').nth(1).unwrap().split('<').next().unwrap();
            // a letter of this font is at least so wide on average
            [number(line, "x"), number(line, "y") - 7.0, 0.25 * 20.0 * words.len() as f32, 10.0]
        })
        .collect()
}

#[test]
fn labels_of_points_keep_apart_and_inside() {
    let names = ["384x12", "768x12", "1024x24"];
    let named = [("1024x24", "intact"), ("384x12", "small"), ("768x12", "base"), ("1024x24", "large")];
    // the paper's grid; all in one spot; along both edges; the same with very long names
    let paper: Vec<(f64, f64, String)> = (0..11)
        .flat_map(|w| (0..13).map(move |d| (384 + 64 * w, 12 + d)))
        .map(|(w, d)| ((12 * w * w * d) as f64, 0.7 + 0.02 * ((w * d) as f64).ln(), format!("{w}x{d}")))
        .collect();
    let spot = names.map(|name| (2e6, 0.5, name.to_string())).to_vec();
    let edges = vec![
        (1e6, 0.9, "384x12".to_string()),
        (1.001e6, 0.899, "768x12".into()),
        (9e6, 0.1, "1024x24".into()),
        (9e6, 0.9, "512x14".into()),
    ];
    for (case, points) in [("paper", &paper), ("spot", &spot), ("edges", &edges)] {
        let stem = folder(&format!("labels-{case}")).join("chart");
        let points: Vec<(f64, f64, &str)> = points.iter().map(|(p, a, l)| (*p, *a, l.as_str())).collect();
        accuracy_over_parameters(&points, &named, "title", &stem).unwrap();
        let svg = chart(&stem).1;
        assert!(svg.contains("intact, large: 1024x24 (") && svg.contains("small: 384x12 ("), "{svg}");
        assert!(svg.contains(">best") && svg.contains("base: 768x12 ("));
        let labels = labels(&svg);
        assert!(labels.len() >= 3, "{case}");
        for (i, [x, y, w, h]) in labels.iter().enumerate() {
            assert!(x - w > 120.0 && x + w < 1170.0 && y - h > 80.0 && y + h < 800.0, "{labels:?}");
            let meets =
                |other: &[f32; 4]| (x - other[0]).abs() < w + other[2] && (y - other[1]).abs() < h + other[3];
            assert!(!labels[i + 1..].iter().any(meets), "{labels:?}");
        }
    }
}

#[test]
fn charts_of_nothing_and_folders_that_are_missing_are_errors() {
    let dir = folder("errors");
    let stem = dir.join("chart");
    let nothing = "no chart can be drawn: there is not one finite value to show";
    let errors = [
        accuracy_surface(&[], "", &stem),
        accuracy_surface(&[(1, 1, f64::NAN)], "", &stem),
        accuracy_over_parameters(&[(-1.0, 0.5, "a")], &[], "", &stem),
        lines(&[("a", vec![(f64::NAN, 1.0)])], "", "", "", &stem),
        lines::<&str>(&[], "", "", "", &stem),
    ];
    for error in errors {
        assert_eq!(error.unwrap_err().to_string(), format!("{}: {nothing}", stem.display()));
    }
    let missing = dir.join("none/chart");
    let error = accuracy_surface(&[(1, 1, 0.5)], "", &missing).unwrap_err().to_string();
    assert!(error.contains("none/chart.svg: cannot be written:") && error.lines().count() == 1, "{error}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn checksums_are_crc_32c() {
    assert_eq!(masked_crc(b"123456789"), 0xE306_9283_u32.rotate_right(15).wrapping_add(0xA282_EAD8));
    assert_eq!(masked_crc(b""), 0xA282_EAD8);
}

/// Written by TensorBoard's `RecordWriter` from its own `Event` messages.
#[test]
fn records_equal_those_of_tensorboard() {
    assert_eq!(
        hex(&record(&version_event(1_700_000_000.25))),
        "1800000000000000a37f4b220900001040fc54d9411a0d627261696e2e4576656e743a32338d2fe9"
    );
    let values = [("loss/total", 9.75), ("learning_rate", 0.0005)];
    assert_eq!(
        hex(&record(&scalars_event(1_700_000_000.5, 1234, &values))),
        "3700000000000000e7e8ca590900002040fc54d94110d2092a290a110a0a6c6f73732f746f74616c1500001c410a140a0d6c65\
         61726e696e675f72617465156f12033ad8f7f090"
    );
    assert_eq!(
        hex(&record(&start_event(1_700_000_001.0, 1000))),
        "100000000000000095fbfe180900004040fc54d94110e8073a02080126721e87"
    );
    assert_eq!(
        hex(&record(&scalars_event(1_700_000_001.0, 0, &[("zero", 0.0)]))),
        "1800000000000000a37f4b220900004040fc54d9412a0d0a0b0a047a65726f1500000000ac1de649"
    );
}

/// The records of a file, with their checksums checked.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let number = |b: &[u8]| u32::from_le_bytes(b.try_into().unwrap());
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(number(&bytes[8..12]), masked_crc(&bytes[..8]));
        let event = &bytes[12..12 + length];
        assert_eq!(number(&bytes[12 + length..16 + length]), masked_crc(event));
        out.push(event.to_vec());
        bytes = &bytes[16 + length..];
    }
    out
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

/// The fields of a message as (number, content); numbers as eight bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                out.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            _ => 4,
        };
        out.push((key >> 3, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    out
}

fn field(message: &[u8], number: u64) -> Option<Vec<u8>> {
    fields(message).into_iter().find(|(n, _)| *n == number).map(|(_, content)| content)
}

#[test]
fn event_files_read_back() {
    let dir = folder("events").join("tensorboard");
    let step = u64::from(u32::MAX) + 5;
    let mut log = EventLog::create(&dir, Some(300)).unwrap();
    log.scalars(0, &[("loss", 1.5)]).unwrap();
    log.scalars(step, &[("a/b", f64::NAN), ("größe", -2e-3)]).unwrap();
    log.scalars(step, &[]).unwrap();
    log.flush().unwrap();
    let path = fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
    let events = records(&fs::read(path).unwrap());
    assert_eq!(events.len(), 5);
    assert!(events.iter().all(|e| f64::from_le_bytes(field(e, 1).unwrap().try_into().unwrap()) > 1.6e9));
    assert_eq!(field(&events[0], 3).unwrap(), b"brain.Event:2");
    assert_eq!(field(&events[1], 2).unwrap(), 300_u64.to_le_bytes());
    assert_eq!(field(&field(&events[1], 7).unwrap(), 1).unwrap(), 1_u64.to_le_bytes());
    assert_eq!(field(&events[2], 2), None);
    assert_eq!(field(&events[3], 2).unwrap(), step.to_le_bytes());
    let values: Vec<(String, f32)> = fields(&field(&events[3], 5).unwrap())
        .iter()
        .map(|(_, value)| {
            let simple = field(value, 2).unwrap().try_into().unwrap();
            (String::from_utf8(field(value, 1).unwrap()).unwrap(), f32::from_le_bytes(simple))
        })
        .collect();
    assert_eq!(values[1], ("größe".to_string(), -2e-3_f32));
    assert!(values[0].0 == "a/b" && values[0].1.is_nan());
}

#[test]
fn event_files_sort_in_the_order_they_were_made() {
    let dir = folder("event-names");
    // The clock was set back since, and another program wrote here.
    fs::write(dir.join("events.out.tfevents.4000000000.host.123.0"), "").unwrap();
    fs::write(dir.join("notes.txt"), "").unwrap();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let mut before = names();
    for _ in 0..12 {
        EventLog::create(&dir, None).unwrap();
        let after = names();
        let new = after.iter().position(|name| !before.contains(name)).unwrap();
        assert_eq!(new + 2, after.len(), "the newest is last but for the notes: {after:?}");
        before = after;
    }
    // a run that starts again without a checkpoint says nothing of what it had said before
    let dir = folder("event-restart");
    let newest = || {
        EventLog::create(&dir, None).unwrap();
        let newest = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).max().unwrap();
        records(&fs::read(newest).unwrap())
    };
    assert_eq!(newest().len(), 1);
    let restarted = newest();
    assert_eq!(restarted.len(), 2);
    assert_eq!(field(&field(&restarted[1], 7).unwrap(), 1).unwrap(), 1_u64.to_le_bytes());
    assert_eq!(field(&restarted[1], 2), None, "step 0");
    let file = folder("event-file").join("file");
    fs::write(&file, "").unwrap();
    assert!(EventLog::create(&file, None).unwrap_err().to_string().contains("cannot be created"));
}

/// Tokens c₁·a + c₂·b + c₃·c + mean with orthogonal a, b and c, of falling size.
#[test]
fn principal_components_are_the_factors() {
    let (n, dim) = (400, 48);
    let wave = |k: usize| -> Vec<f64> {
        let unit = (2.0 / dim as f64).sqrt();
        let angle = |j: usize| 2.0 * std::f64::consts::PI * (k * j) as f64 / dim as f64;
        (0..dim).map(|j| unit * (angle(j) + 0.3).cos()).collect()
    };
    let factors = [wave(1), wave(2), wave(5)];
    // Whole periods of different frequency: uncorrelated, of mean zero and variance 1/2.
    let weight = |i: usize, f: usize| (2.0 * std::f64::consts::PI * ((f + 1) * i) as f64 / n as f64).sin();
    let scales = [0.5, 3.0, 1.5];
    let rows: Vec<f32> = (0..n * dim)
        .map(|at| {
            let (i, j) = (at / dim, at % dim);
            let parts = (0..3).map(|f| scales[f] * weight(i, f) * factors[f][j]);
            (7.0 + parts.sum::<f64>()) as f32
        })
        .collect();
    let principal = Principal::of(&rows, dim);
    for (found, f) in [1, 2, 0].into_iter().enumerate() {
        let direction = &principal.directions[found];
        let cosine: f64 = direction.iter().zip(&factors[f]).map(|(a, b)| a * b).sum();
        assert!((cosine.abs() - 1.0).abs() < 1e-6, "component {found}: {cosine}");
        let largest = direction.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
        assert!(largest > 0.0);
        let variance = scales[f] * scales[f] / 2.0;
        assert!((principal.variances[found] / variance - 1.0).abs() < 1e-5);
        for other in &principal.directions[..found] {
            assert!(direction.iter().zip(other).map(|(a, b)| a * b).sum::<f64>().abs() < 1e-12);
        }
    }
    assert!(principal.mean.iter().all(|m| (m - 7.0).abs() < 1e-5));
    assert_eq!(principal.directions, Principal::of(&rows, dim).directions, "the same every time");
}

#[test]
fn tokens_without_variance_are_grey_and_few_dimensions_are_enough() {
    let constant = vec![0.1; 16 * 8];
    let pictures = token_pictures(&[&constant, &constant[..4 * 8]], 8, 20).unwrap();
    assert_eq!(pictures.len(), 2);
    assert!(pictures.iter().all(|p| p.dimensions() == (20, 20) && p.iter().all(|&v| v.abs_diff(128) < 2)));
    assert_eq!(token_pictures(&[&[3.0]], 1, 4).unwrap()[0].get_pixel(0, 0), &Rgb([128; 3]));

    // One dimension: red runs over its range, green and blue have nothing to show.
    let picture = &token_pictures(&[&[0.0, 0.0, 1.0, 1.0]], 1, 40).unwrap()[0];
    assert_eq!((picture.get_pixel(20, 1).0, picture.get_pixel(20, 38).0), ([0, 128, 128], [255, 128, 128]));
}

#[test]
fn colours_of_tokens_agree_between_images() {
    let dim = 5;
    let token = |kind: usize| (0..dim).map(move |j| f32::from(u8::from(j == kind)) * (kind + 1) as f32);
    let image = |kinds: [usize; 4]| kinds.into_iter().flat_map(token).collect::<Vec<f32>>();
    let (first, second) = (image([0, 1, 2, 3]), image([3, 2, 1, 0]));
    let pictures = token_pictures(&[&first, &second], dim, 64).unwrap();
    let corners = [(0, 0), (63, 0), (0, 63), (63, 63)];
    let colors = |i: usize| corners.map(|(x, y)| pictures[i].get_pixel(x, y).0);
    let mut reversed = colors(1);
    reversed.reverse();
    assert_eq!(colors(0), reversed);
    assert!(colors(0)[0] != colors(0)[3]);
}

#[test]
fn attention_is_bright_where_it_is_large() {
    let (grid, size) = (4_usize, 64);
    let mut attention = vec![0.01; 2 * grid * grid];
    attention[grid + 2] = 0.8; // head 0: row 1, column 2
    attention[grid * grid + 3 * grid] = 0.5; // head 1: row 3, column 0
    let light = |p: &RgbImage, x: u32, y: u32| p.get_pixel(x, y).0.iter().map(|&v| u32::from(v)).sum::<u32>();
    let brightest = |p: &RgbImage| {
        let all = p.enumerate_pixels().map(|(x, y, _)| (x, y));
        let (x, y) = all.max_by_key(|&(x, y)| light(p, x, y)).unwrap();
        (x as usize * grid / size, y as usize * grid / size)
    };
    let maps: Vec<_> =
        attention.chunks(grid * grid).map(|a| attention_map(a, size as u32).unwrap()).collect();
    assert_eq!((brightest(&maps[0]), brightest(&maps[1])), ((2, 1), (0, 3)));

    // The image, two heads, their mean: two by two, each below its name, with gaps of four pixels.
    let image = RgbImage::from_pixel(64, 64, Rgb([90, 100, 110]));
    let panel = attention_panel(&image, &attention, 2).unwrap();
    assert_eq!(panel.dimensions(), (132, 132 + 2 * CAPTION));
    assert_eq!(panel.get_pixel(30, CAPTION + 30).0, [90, 100, 110]);
    let ink = |x: u32, y: u32| {
        let caption = image::imageops::crop_imm(&panel, x, y, 64, CAPTION).to_image();
        caption.pixels().filter(|p| p.0[0] < 100).count()
    };
    assert!([(0, 0), (68, 0), (0, 68 + CAPTION), (68, 68 + CAPTION)].iter().all(|&(x, y)| ink(x, y) > 20));
    assert_eq!(panel.get_pixel(65, 30).0, [255; 3]);
    let part = |x: u32, y: u32| {
        let y = CAPTION + y / 68 * (68 + CAPTION);
        image::imageops::crop_imm(&panel, x, y, 64, 64).to_image()
    };
    assert_eq!((brightest(&part(68, 0)), brightest(&part(0, 68))), ((2, 1), (0, 3)));
    assert_eq!(brightest(&part(68, 68)), (2, 1));

    // Twelve heads of a grid whose patches are no whole number of pixels; equal weights are dark.
    let panel = attention_panel(&RgbImage::new(65, 65), &[0.1; 12 * 9], 12).unwrap();
    assert_eq!(panel.dimensions(), (4 * 69 - 4, 4 * (69 + CAPTION) - 4));
    assert!(attention_map(&[0.1; 9], 10).unwrap().iter().all(|&v| v < 5));
}

#[test]
fn pictures_of_wrong_sizes_are_errors() {
    let image = RgbImage::new(8, 8);
    let message = |result: poa_gpu::error::Result<RgbImage>| result.unwrap_err().to_string();
    assert!(message(attention_panel(&image, &[0.0; 7], 2)).contains("7 weights cannot be shared by 2 heads"));
    assert!(message(attention_panel(&image, &[], 0)).contains("0 patches fill no square"));
    assert!(message(attention_panel(&image, &[0.0; 10], 2)).contains("5 patches fill no square"));
    assert!(message(attention_panel(&RgbImage::new(8, 9), &[0.0; 8], 2)).contains("8 × 9 pixels"));
    assert!(message(attention_map(&[f32::NAN], 8)).contains("not finite"));
    assert!(message(panel::<&str>(&[], 3)).contains("there is no picture"));
    assert!(message(panel(&[("a", image.clone()), ("b", RgbImage::new(8, 9))], 3)).contains("8 × 9"));
    assert!(token_pictures(&[], 4, 8).is_err());
    assert!(token_pictures(&[&[0.0; 5]], 4, 8).is_err());
    assert!(token_pictures(&[&[]], 0, 8).is_err());
    assert!(token_pictures(&[&[0.0; 12]], 4, 8).unwrap_err().to_string().contains("3 patches"));

    let dir = folder("png");
    let path = dir.join("picture.png");
    write_png(&path, &image).unwrap();
    assert_eq!(image::open(&path).unwrap().to_rgb8(), image);
    let error = write_png(&dir.join("none/picture.png"), &image).unwrap_err().to_string();
    assert!(error.contains("none/picture.png: cannot be written"), "{error}");
}
