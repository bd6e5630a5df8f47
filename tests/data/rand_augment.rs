//! RandAugment against timm's and PIL's (`fixtures/rand_augment`), and how operations are drawn.

use std::collections::BTreeMap;

use poa_gpu::checks::Problems;
use poa_gpu::data::classify::{
    Choices, ClassifyAugment, ClassifyCrops, Cut, Operation, OperationSet, apply_into, draw,
};
use poa_gpu::data::recipe::Recipe;
use poa_gpu::data::scratch::Scratch;
use poa_gpu::data::*;
use poa_gpu::rng::{Purpose, stream};
use safetensors::SafeTensors;
use serde_json::Value;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/fixtures/rand_augment");

fn record() -> Value {
    serde_json::from_str(&std::fs::read_to_string(format!("{FIXTURES}/cases.json")).unwrap()).unwrap()
}

/// The operation of a name and an argument of the record.
fn recorded(name: &str, argument: &Value) -> Operation {
    let number = || argument.as_f64().unwrap();
    let factor = || number() as f32;
    match name {
        "Rotate" => Operation::Rotate(number()),
        "ShearX" => Operation::ShearX(number()),
        "ShearY" => Operation::ShearY(number()),
        "TranslateX" => Operation::TranslateX(number()),
        "TranslateY" => Operation::TranslateY(number()),
        "AutoContrast" => Operation::AutoContrast,
        "Equalize" => Operation::Equalize,
        "Invert" => Operation::Invert,
        "Posterize" => Operation::Posterize(number() as u32),
        "Solarize" => Operation::Solarize(number() as u32),
        "SolarizeAdd" => Operation::SolarizeAdd(number() as u8),
        "Color" => Operation::Color(factor()),
        "Contrast" => Operation::Contrast(factor()),
        "Brightness" => Operation::Brightness(factor()),
        "Sharpness" => Operation::Sharpness(factor()),
        other => panic!("unknown operation {other}"),
    }
}

/// `[channels, size, size]`, of a square image to which nothing else is done.
fn done(image: &Image, operation: Operation) -> Vec<u8> {
    let (size, channels) = (image.width() as usize, image.channels());
    let cut = Cut::Shifted { down: 0, right: 0 };
    let choices = Choices { cut, flip: false, operations: vec![operation], erased: None };
    let (mut out, fill) = (vec![0; channels * size * size], Normalization::imagenet(channels).mean_bytes());
    apply_into(image, &choices, size, &fill, &mut Scratch::default(), &mut out);
    out
}

/// Every operation gives PIL's values to the bit.
#[test]
fn operations_are_those_of_pil() {
    assert_eq!(Normalization::imagenet(3).mean_bytes(), [124, 116, 104]);
    let bytes = std::fs::read(format!("{FIXTURES}/images.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let record = record();
    let cases = record["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3 * 33);
    let mut wrong: BTreeMap<String, (usize, u8)> = BTreeMap::new();
    for (i, case) in cases.iter().enumerate() {
        let image = stored.tensor(&format!("image.{}", case["image"])).unwrap();
        let [height, width, 3] = *image.shape() else { panic!("{:?}", image.shape()) };
        let values = image.data().to_vec();
        let image = Image::new(width as u32, height as u32, 3, values).unwrap();
        let name = case["operation"].as_str().unwrap();
        let got = done(&image, recorded(name, &case["argument"]));
        let want = stored.tensor(&format!("case.{i}")).unwrap();
        for (at, got) in got.iter().enumerate() {
            let (channel, pixel) = (at / (height * width), at % (height * width));
            let off = got.abs_diff(want.data()[3 * pixel + channel]);
            if off > 0 {
                let (count, most) = wrong.entry(format!("{name} {}", case["argument"])).or_default();
                (*count, *most) = (*count + 1, off.max(*most));
            }
        }
    }
    assert!(wrong.is_empty(), "values that differ, and by how much: {wrong:?}");
}

#[test]
fn no_bit_is_black() {
    let image: Image = crate::picture(9, 9, 77).into();
    assert!(done(&image, Operation::Posterize(0)).iter().all(|v| *v == 0));
}

/// With no spread every draw of an operation is that of timm, in one direction or the other; all are drawn alike.
#[test]
fn strengths_are_those_of_timm() {
    const DRAWS: u64 = 1000;
    for level in record()["levels"].as_array().unwrap() {
        let augment = ClassifyAugment {
            rand_augment_magnitude: level["magnitude"].as_f64().unwrap(),
            rand_augment_magnitude_std: 0.0,
            rand_augment_probability: 1.0,
            rand_augment_operations: 3,
            ..ClassifyAugment::default()
        };
        // of timm's, those of which both directions are possible
        let mut known: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
        for (name, argument) in level["arguments"].as_object().unwrap() {
            let mut both = vec![recorded(name, argument)];
            match both[0] {
                Operation::Rotate(v) => both.push(Operation::Rotate(-v)),
                Operation::ShearX(v) => both.push(Operation::ShearX(-v)),
                Operation::ShearY(v) => both.push(Operation::ShearY(-v)),
                Operation::TranslateX(v) => both.push(Operation::TranslateX(-v)),
                Operation::TranslateY(v) => both.push(Operation::TranslateY(-v)),
                Operation::Color(v) => both.push(Operation::Color(opposite(v))),
                Operation::Contrast(v) => both.push(Operation::Contrast(opposite(v))),
                Operation::Brightness(v) => both.push(Operation::Brightness(opposite(v))),
                Operation::Sharpness(v) => both.push(Operation::Sharpness(opposite(v))),
                _ => {}
            }
            known.insert(name, both);
        }
        assert_eq!(known.len(), 15);
        let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
        for i in 0..DRAWS {
            let drawn = draw(&mut stream(3, Purpose::ClassifyCrops, 0, i), &augment, 32, (50, 50));
            assert_eq!(drawn.operations.len(), 3);
            for operation in drawn.operations {
                let (name, which) = known
                    .iter()
                    .find_map(|(name, both)| {
                        Some((*name, both.iter().position(|known| near(*known, operation))?))
                    })
                    .unwrap_or_else(|| panic!("{operation:?} at {}", level["magnitude"]));
                counts.entry(name).or_default()[which] += 1;
            }
        }
        for (name, both) in &counts {
            // 200 of each are expected; five standard errors are 70
            assert!((130..270).contains(&(both[0] + both[1])), "{name}: {both:?}");
            let signed = known[name].len() == 2 && level["magnitude"].as_f64() != Some(0.0);
            assert!(!signed || both.iter().all(|count| *count > 50), "{name}: {both:?}");
        }
        assert_eq!(counts.len(), 15);
    }
}

/// The factor as far on the other side of 1, at least 0.1.
fn opposite(factor: f32) -> f32 {
    (2.0 - factor).max(0.1)
}

/// The same operation, but for rounding of its factor.
fn near(a: Operation, b: Operation) -> bool {
    let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
    match (a, b) {
        (Operation::Rotate(a), Operation::Rotate(b))
        | (Operation::ShearX(a), Operation::ShearX(b))
        | (Operation::ShearY(a), Operation::ShearY(b))
        | (Operation::TranslateX(a), Operation::TranslateX(b))
        | (Operation::TranslateY(a), Operation::TranslateY(b)) => close(a, b),
        (Operation::Color(a), Operation::Color(b))
        | (Operation::Contrast(a), Operation::Contrast(b))
        | (Operation::Brightness(a), Operation::Brightness(b))
        | (Operation::Sharpness(a), Operation::Sharpness(b)) => close(a.into(), b.into()),
        (a, b) => a == b,
    }
}

/// Magnitudes are normal about 9 with a deviation of 0.5, cut at 10; each operation is done half of the time.
#[test]
fn magnitudes_spread_and_operations_are_left_out() {
    const DRAWS: u64 = 20_000;
    let augment = ClassifyAugment { rand_augment_set: OperationSet::Geometry, ..ClassifyAugment::default() };
    let (mut total, mut magnitudes) = (0, Vec::new());
    for i in 0..DRAWS {
        let drawn = draw(&mut stream(4, Purpose::ClassifyCrops, 0, i), &augment, 32, (50, 50));
        total += drawn.operations.len();
        magnitudes.extend(drawn.operations.iter().map(|operation| match operation {
            Operation::Rotate(v) => v.abs() / 3.0,
            Operation::ShearX(v) | Operation::ShearY(v) => v.abs() / 0.03,
            Operation::TranslateX(v) | Operation::TranslateY(v) => v.abs() / 0.045,
            colours => panic!("{colours:?} is no geometry"),
        }));
    }
    assert!((total as f64 / DRAWS as f64 - 1.0).abs() < 0.02, "{total}");
    let n = magnitudes.len() as f64;
    let mean = magnitudes.iter().sum::<f64>() / n;
    let deviation = (magnitudes.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / n).sqrt();
    let at_most = magnitudes.iter().filter(|m| **m > 10.0 - 1e-9).count() as f64 / n;
    assert!(magnitudes.iter().all(|m| *m <= 10.0 + 1e-9));
    // the cut takes 0.004 of the mean and 0.008 of the deviation; 2.28 % lie at it
    assert!((mean - 8.996).abs() < 0.015 && (deviation - 0.492).abs() < 0.012, "{mean} {deviation}");
    assert!((at_most - 0.0228).abs() < 0.005, "{at_most}");
}

#[test]
fn colours_are_refused_for_other_channels() {
    let problem = |augment: &ClassifyAugment, channels| {
        let mut problems = Problems::new();
        augment.check_colours(channels, &mut problems);
        problems.into_found().pop()
    };
    let augment = ClassifyAugment::default();
    let (key, text) = problem(&augment, 4).unwrap();
    assert_eq!(key, "augment.rand_augment_set");
    assert!(text.contains("4 channels") && text.contains("\"geometry\""), "{text}");
    assert_eq!(problem(&augment, 3), None);
    let geometry = ClassifyAugment { rand_augment_set: OperationSet::Geometry, ..augment.clone() };
    assert_eq!(problem(&geometry, 4), None);
    assert_eq!(problem(&ClassifyAugment { rand_augment_operations: 0, ..augment.clone() }, 1), None);

    let recipe = |augment| ClassifyCrops { size: 24, augment, normalization: Normalization::imagenet(4) };
    assert!(recipe(augment).check().unwrap_err().to_string().contains("augment.rand_augment_set"));
    recipe(geometry).check().unwrap();
    // four channels move as each alone
    let four: Image = Image::new(9, 9, 4, (0..9 * 9 * 4).map(|i| (i * 37 % 251) as u8).collect()).unwrap();
    for operation in [Operation::Rotate(20.0), Operation::ShearY(-0.2), Operation::TranslateX(0.3)] {
        let all = done(&four, operation);
        for (channel, plane) in all.chunks(81).enumerate() {
            let alone = four.map_pixels(1, |pixel, out| out.push(pixel[channel]));
            assert_eq!(plane, done(&alone, operation), "{operation:?}, channel {channel}");
        }
    }
}
