//! Crops against torchvision's (`fixtures/augment`), and how they are drawn.

use std::path::Path;

use image::RgbImage;
use poa_gpu::data::augment::{Area, MEAN, STD};
use poa_gpu::data::*;
use poa_gpu::rng::{Purpose, stream};
use safetensors::SafeTensors;

use crate::picture;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/fixtures/augment");

fn recorded_choices(case: &serde_json::Value) -> Choices {
    let number = |key: &str| case[key].as_u64().unwrap() as u32;
    let stage = |name: &serde_json::Value| {
        let name = name.as_str().unwrap();
        let amount = case["jitter"][name].as_f64().unwrap() as f32;
        match name {
            "brightness" => Jitter::Brightness(amount),
            "contrast" => Jitter::Contrast(amount),
            "saturation" => Jitter::Saturation(amount),
            "hue" => Jitter::Hue(amount),
            other => panic!("unknown stage {other}"),
        }
    };
    let order = case.get("jitter_order").map(|o| o.as_array().unwrap());
    let sigma = case["blur_sigma"].as_f64().unwrap() as f32;
    Choices {
        area: Area {
            top: number("top"),
            left: number("left"),
            height: number("height"),
            width: number("width"),
        },
        size: number("size") as usize,
        flip: case["flip"].as_bool().unwrap(),
        jitter: order.map(|o| std::array::from_fn(|i| stage(&o[i]))),
        grayscale: case["grayscale"].as_bool().unwrap(),
        blur_sigma: (sigma > 0.0).then_some(sigma),
        solarize: case["solarize"].as_bool().unwrap(),
    }
}

#[test]
fn recorded_crops_come_out_as_torchvision_makes_them() {
    let cases = std::fs::read_to_string(Path::new(FIXTURES).join("cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&cases).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    let bytes = std::fs::read(Path::new(FIXTURES).join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(cases.len(), expected.len());
    for (i, case) in cases.iter().enumerate() {
        let path = Path::new(FIXTURES).join(case["image"].as_str().unwrap());
        let choices = recorded_choices(case);
        let image = Image::from(image::open(path).unwrap().into_rgb8());
        let got = apply(&image, &choices, &Normalization::imagenet(3));
        let want = expected.tensor(&format!("case{i}")).unwrap();
        assert_eq!(want.shape(), [3, choices.size, choices.size]);
        let want = want.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let plane = choices.size * choices.size;
        let differences: Vec<f32> = got
            .iter()
            .zip(want)
            .enumerate()
            .map(|(at, (a, b))| (a - b).abs() * STD[at / plane] * 255.0)
            .collect();
        assert_eq!(differences.len(), 3 * plane);
        let mean = differences.iter().sum::<f32>() / differences.len() as f32;
        let max = differences.iter().copied().fold(0.0, f32::max);
        println!("case {i}: mean {mean:.3}, max {max:.1} of 255");
        assert!(mean <= 2.0 && max <= 12.0, "case {i}: mean {mean}, max {max} of 255");
    }
}

#[test]
fn drawn_crops_lie_within_the_image_and_the_recipe() {
    let config = CropConfig::default();
    for (width, height) in [(1, 1), (1, 50), (300, 2), (500, 375), (32, 32)] {
        for i in 0..300 {
            let mut rng = stream(3, Purpose::Crops, 0, i);
            for (view, crop) in
                [(View::GlobalA, config.global), (View::GlobalB, config.global), (View::Local, config.local)]
            {
                let drawn = draw(&mut rng, &config, view, width, height);
                let Area { top, left, height: h, width: w } = drawn.area;
                assert!(w >= 1 && h >= 1 && left + w <= width && top + h <= height, "{drawn:?}");
                assert_eq!(drawn.size, crop.size);
                if (width, height) == (500, 375) {
                    let share = f64::from(w * h) / f64::from(width * height);
                    assert!(share > crop.scale.0 - 0.01 && share < crop.scale.1 + 0.01, "{share}");
                    let aspect = f64::from(w) / f64::from(h);
                    assert!((0.73..1.36).contains(&aspect), "{aspect}");
                }
            }
        }
    }
}

#[test]
fn choices_follow_their_probabilities() {
    let share = |blur: BlurProbabilities, view: View, of: fn(&Choices) -> bool| {
        let config = CropConfig { blur, ..CropConfig::default() };
        let drawn = (0..4000).map(|i| draw(&mut stream(5, Purpose::Crops, 1, i), &config, view, 64, 48));
        drawn.filter(of).count() as f64 / 4000.0
    };
    let near = |got: f64, want: f64| assert!((got - want).abs() < 0.03, "{got} instead of {want}");
    let (paper, code) = (BlurProbabilities::PAPER, BlurProbabilities::CODE);
    for (blur, a, b) in [(paper, 1.0, 0.1), (code, 0.0, 0.9)] {
        near(share(blur, View::GlobalA, |c| c.blur_sigma.is_some()), a);
        near(share(blur, View::GlobalB, |c| c.blur_sigma.is_some()), b);
        near(share(blur, View::Local, |c| c.blur_sigma.is_some()), 0.5);
    }
    near(share(paper, View::Local, |c| c.flip), 0.5);
    near(share(paper, View::Local, |c| c.jitter.is_some()), 0.8);
    near(share(paper, View::Local, |c| c.grayscale), 0.2);
    near(share(paper, View::GlobalB, |c| c.solarize), 0.2);
    assert_eq!(share(paper, View::GlobalA, |c| c.solarize), 0.0);
    assert_eq!(share(paper, View::Local, |c| c.solarize), 0.0);
    near(share(paper, View::Local, |c| matches!(c.jitter, Some([Jitter::Hue(_), ..]))), 0.2);
}

#[test]
fn evaluation_views_are_centred_and_normalised() {
    let grey = RgbImage::from_pixel(50, 37, image::Rgb([100, 150, 200])).into();
    let view = EvaluationView::rgb(16).of(&grey);
    assert_eq!(view.len(), 3 * 16 * 16);
    for (channel, value) in [100.0, 150.0, 200.0].into_iter().enumerate() {
        let want = (value / 255.0 - MEAN[channel]) / STD[channel];
        assert!(view[channel * 256..][..256].iter().all(|v| (v - want).abs() < 1e-5));
    }
    // A square image of the right size is taken as it is.
    let exact = picture(16, 16, 9).into();
    let view = EvaluationView::rgb(16).of(&exact);
    assert!((view[3] - (21.0 / 255.0 - MEAN[0]) / STD[0]).abs() < 1e-5);
    // 32 · 256 / 224 = 36: the centre of a 36-pixel image, without resizing.
    let centre = EvaluationView::rgb(32).of(&picture(36, 36, 9).into());
    assert!((centre[0] - (14.0 / 255.0 - MEAN[0]) / STD[0]).abs() < 1e-5);
    // Extreme shapes cost no more than their centre.
    for (width, height) in [(1, 60_000), (60_000, 1), (1, 1), (2, 3)] {
        assert_eq!(EvaluationView::rgb(224).of(&picture(width, height, 1).into()).len(), 3 * 224 * 224);
    }
}
