//! Images of another number of channels than three, from sources to batches.

use std::sync::Arc;

use image::{GrayImage, Luma};
use poa_gpu::data::augment::{Area, Choices, Jitter};
use poa_gpu::data::batch::GLOBAL;
use poa_gpu::data::channels::in_channels;
use poa_gpu::data::normalization::{MEAN, STD};
use poa_gpu::data::*;
use poa_gpu::share::Share;

use crate::{folder, open, picture, save, spec};

fn config(channels: usize) -> LoaderConfig {
    let crops = CropConfig {
        global: Crop { size: 32, scale: (0.32, 1.0) },
        local: Crop { size: 16, scale: (0.05, 0.32) },
        local_count: 2,
        ..CropConfig::default()
    };
    let crops = crops.in_channels(channels);
    LoaderConfig {
        batch: 4,
        seed: 5,
        threads: 2,
        prefetch: 2,
        recipe: Arc::new(MultiCrop { crops, masks: MaskConfig::new(4) }),
        start_step: 0,
        start: None,
        share: Share::ALL,
    }
}

#[test]
fn batches_have_the_channels_of_the_settings() {
    for (source, channels) in
        [("shapes:20", 1), ("shapes:20x36x1", 1), ("shapes:20x36x4", 4), ("shapes:20x36x6", 6)]
    {
        let mut loader = Loader::new(open(source).unwrap(), config(channels)).unwrap();
        let batch = loader.next().unwrap();
        assert_eq!(batch.channels(), channels, "{source}");
        let global = batch.group(GLOBAL).unwrap();
        assert_eq!(global.shape(), [8, channels, 32, 32]);
        for plane in global.normalised().chunks(32 * 32) {
            assert!(plane.iter().all(|v| v.abs() < 3.0) && plane.iter().any(|v| *v != plane[0]), "{source}");
        }
    }
}

#[test]
fn channels_that_do_not_fit_are_refused() {
    let error = |source: &str, config: LoaderConfig| {
        Loader::new(open(source).unwrap(), config).err().unwrap().to_string()
    };
    let text = error("shapes:20", config(4));
    assert!(
        text.contains("`student.in_chans`: is 4") && text.contains("have 3") && text.contains("1 or 3"),
        "{text}"
    );
    let text = error("shapes:20x36x4", config(3));
    assert!(text.contains("is 3") && text.contains("have 4; it must be 4"), "{text}");
    let crops = CropConfig { jitter: 0.8, ..CropConfig::default().in_channels(1) };
    let recipe = Arc::new(MultiCrop { crops, masks: MaskConfig::new(4) });
    let text = error("shapes:20", LoaderConfig { recipe, ..config(1) });
    assert!(text.contains("changes of colour") && text.contains("crops.grayscale_probability"), "{text}");
    for wrong in ["shapes:5x36x0", "shapes:5x36x65", "shapes:5x36x1x1", "shapes:5x36xred"] {
        assert!(open(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn one_channel_is_the_grey_value() {
    let dir = folder("grey");
    // a grey file comes through untouched, colours as PIL's L: (19595 r + 38470 g + 7471 b + 32768) / 65536
    let grey = GrayImage::from_fn(9, 7, |x, y| Luma([(x * 20 + y * 11) as u8]));
    save(&dir, "a.png", grey.clone());
    save(&dir, "b.png", picture(9, 7, 200));
    let source = in_channels(open(&spec(&dir)).unwrap(), 1).unwrap();
    let [a, b] = [0, 1].map(|i| source.load(i).unwrap());
    assert_eq!((source.channels(), a.channels(), a.dimensions()), (1, 1, (9, 7)));
    assert_eq!(a.values(), grey.as_raw());
    assert_eq!(b.values()[0], ((7471 * 200 + 32768) >> 16) as u8);
    assert_eq!(b.values()[1], ((19595 * 7 + 7471 * 200 + 32768) >> 16) as u8);
    // and back: three equal colours
    let rgb = a.in_channels(3).unwrap();
    assert_eq!(rgb.values()[..6], [0, 0, 0, 20, 20, 20]);
    // the held-out part of a source goes the same way
    let shapes = in_channels(open("shapes:300").unwrap(), 1).unwrap();
    assert_eq!(shapes.own_held_out().unwrap().load(0).unwrap().channels(), 1);
    let own = open("shapes:300x36x1").unwrap();
    assert_eq!(own.load(3).unwrap(), shapes.load(3).unwrap());
    assert_eq!((own.describe(), own.own_held_out().unwrap().channels()), ("shapes:300x36x1".into(), 1));
}

/// Every channel goes through crop, flip, blur and normalisation as if it were alone.
#[test]
fn channels_are_treated_alike() {
    let wide: Arc<dyn Source> = open("shapes:10x48x6").unwrap();
    let image = wide.load(4).unwrap();
    let choices = Choices {
        area: Area { top: 3, left: 7, height: 30, width: 37 },
        size: 16,
        flip: true,
        jitter: None,
        grayscale: false,
        blur_sigma: Some(1.1),
        solarize: false,
    };
    for channels in [1, 2, 4, 5, 6] {
        let first = image.map_pixels(channels, |pixel, out| out.extend(&pixel[..channels]));
        let all = apply(&first, &choices, &Normalization::imagenet(channels));
        assert_eq!(all.len(), channels * 16 * 16);
        for (channel, plane) in all.chunks(16 * 16).enumerate() {
            let alone = image.map_pixels(1, |pixel, out| out.push(pixel[channel]));
            assert!(plane == apply(&alone, &choices, &Normalization::imagenet(1)), "{channel} of {channels}");
        }
        let view = EvaluationView { size: 24, normalization: Normalization::imagenet(channels) };
        assert_eq!((view.shape(), view.of(&first).len()), ([channels, 24, 24], channels * 24 * 24));
    }
    let jitter =
        Some([Jitter::Brightness(1.0), Jitter::Contrast(1.0), Jitter::Saturation(1.0), Jitter::Hue(0.0)]);
    let rgb = image.map_pixels(3, |pixel, out| out.extend(&pixel[..3]));
    let plain = apply(&rgb, &choices, &Normalization::imagenet(3));
    // the identity in all four stages moves no value by more than hue's rounding
    let moved = apply(&rgb, &Choices { jitter, ..choices }, &Normalization::imagenet(3));
    assert!(plain.iter().zip(&moved).all(|(a, b)| (a - b).abs() < 0.15));
}

#[test]
fn normalisation_is_imagenets_unless_it_is_given() {
    assert_eq!((Normalization::imagenet(3).mean(), Normalization::imagenet(3).std()), (&MEAN[..], &STD[..]));
    let one = Normalization::imagenet(1);
    assert!((one.mean()[0] - 0.449).abs() < 1e-6 && (one.std()[0] - 0.226).abs() < 1e-6);
    assert_eq!(Normalization::imagenet(5).channels(), 5);
    let own = Normalization::new(2, &[0.5, 0.25], &[0.5, 0.125]).unwrap();
    let mut values = [255.0, 0.0, 255.0, 63.75];
    own.apply(&mut values);
    assert_eq!(values, [1.0, -1.0, 6.0, 0.0]);
    assert_eq!((own.value(0, 1.0), own.value(1, 6.0)), (255, 255));
    let error = |mean: &[f64], std: &[f64]| Normalization::new(2, mean, std).unwrap_err().to_string();
    assert!(error(&[0.5], &[]).contains("`data.mean`: has 1 numbers for student.in_chans = 2"));
    assert!(error(&[], &[0.5, 0.0]).contains("`data.std`: holds 0"));
    assert!(error(&[f64::NAN, 0.5], &[]).contains("`data.mean`: holds NaN"));
}
