//! Mixup and CutMix of batches.

use poa_gpu::checks::Problems;
use poa_gpu::data::augment::Area;
use poa_gpu::data::classify::{Mix, Mixing, partners};
use poa_gpu::data::recipe::BatchNumber;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::ops;
use poa_gpu::tensor::{Device, Tensor};

const DRAWS: u64 = 20_000;

fn draws(mixing: &Mixing, side: usize) -> impl Iterator<Item = Mix> {
    (0..DRAWS).map(move |step| Mix::draw(mixing, BatchNumber { seed: 3, step, rank: 0 }, side))
}

/// Mean and variance.
fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n)
}

/// Beta(α, α) has the mean ½ and the variance 1 / (4·(2α + 1)). With 20,000 draws four standard errors are at most
/// 0.012 of the mean.
#[test]
fn blends_are_beta() {
    for alpha in [0.2, 0.8, 1.0, 4.0] {
        let mixing = Mixing { mixup_alpha: alpha, cutmix_alpha: 0.0, ..Mixing::default() };
        let lambdas: Vec<f64> = draws(&mixing, 32)
            .map(|mix| {
                assert_eq!(mix.cut, None);
                f64::from(mix.lambda)
            })
            .collect();
        assert!(lambdas.iter().all(|l| (0.0..=1.0).contains(l)));
        let (mean, variance) = moments(&lambdas);
        let expected = 0.25 / (2.0 * alpha + 1.0);
        assert!((mean - 0.5).abs() < 0.012, "{alpha}: mean {mean}");
        assert!(
            (variance / expected - 1.0).abs() < 0.05,
            "{alpha}: variance {variance}, {expected} expected"
        );
    }
}

/// With α = 1 the side of the box is √(1 − λ) with uniform λ, its middle anywhere. What of it lies within the image
/// is the share that is given away: (side − side²/4)² on average over both middles, 0.3208 where λ alone says 0.5.
#[test]
fn boxes_lie_within_and_lambda_is_what_they_leave() {
    let mixing = Mixing { mixup_alpha: 0.0, ..Mixing::default() };
    let mut given = Vec::new();
    for Mix { lambda, cut } in draws(&mixing, 256) {
        let Some(Area { top, left, height, width }) = cut else {
            assert_eq!(lambda, 1.0);
            given.push(0.0);
            continue;
        };
        assert!(height > 0 && width > 0 && top + height <= 256 && left + width <= 256);
        let share = f64::from(height * width) / 65536.0;
        assert!((f64::from(lambda) - (1.0 - share)).abs() < 1e-6);
        given.push(share);
    }
    let (mean, _) = moments(&given);
    // ∫₀¹ (r − r²/4)²·2r dr = 1/2 − 1/5 + 1/48
    let expected = 0.5 - 0.2 + 1.0 / 48.0;
    assert!((mean - expected).abs() < 0.012, "{mean}, {expected} expected");
}

#[test]
fn batches_are_mixed_in_one_way_or_the_other() {
    let shares = |mixing: Mixing| {
        let (mut cut, mut none) = (0, 0);
        for mix in draws(&mixing, 1000) {
            cut += usize::from(mix.cut.is_some());
            none += usize::from(mix == Mix::NONE);
        }
        (cut as f64 / DRAWS as f64, none as f64 / DRAWS as f64)
    };
    let near = |(a, b): (f64, f64), (c, d): (f64, f64)| {
        assert!((a - c).abs() < 0.015 && (b - d).abs() < 0.015, "{a} {b} instead of {c} {d}");
    };
    near(shares(Mixing::default()), (0.5, 0.0));
    near(shares(Mixing { cutmix_probability: 0.2, mix_probability: 0.6, ..Mixing::default() }), (0.12, 0.4));
    assert_eq!(shares(Mixing::none()), (0.0, 1.0));
    assert_eq!(shares(Mixing { mix_probability: 0.0, ..Mixing::default() }), (0.0, 1.0));
    let at = |seed, step, rank| Mix::draw(&Mixing::default(), BatchNumber { seed, step, rank }, 32);
    assert_eq!(at(1, 2, 3), at(1, 2, 3));
    assert!(at(1, 2, 3) != at(2, 2, 3) && at(1, 2, 3) != at(1, 3, 3) && at(1, 2, 3) != at(1, 2, 4));
}

#[test]
fn images_are_mixed_with_the_reversed_batch() {
    assert_eq!(partners(&[4, 7, 9]), [9, 7, 4]);
    let cut = Some(Area { top: 1, left: 3, height: 4, width: 2 });
    for device in [Device::cpu(), ops::open(&DeviceChoice::Gpu).unwrap()] {
        for n in [1, 2, 5, 6] {
            let values: Vec<f32> = (0..n * 3 * 64).map(|i| ((i * 7919) % 613) as f32 / 100.0 - 3.0).collect();
            for mix in [Mix::NONE, Mix { lambda: 0.3, cut: None }, Mix { lambda: 0.875, cut }] {
                let images = Tensor::from_slice(&device, &[n, 3, 8, 8], &values).unwrap();
                let mixed = mix.apply(images).unwrap();
                assert_eq!(mixed.shape(), [n, 3, 8, 8]);
                for (at, got) in mixed.to_vec::<f32>().unwrap().into_iter().enumerate() {
                    let (image, rest, y, x) = (at / 192, at % 192, at / 8 % 8, at % 8);
                    let (own, other) = (values[at], values[(n - 1 - image) * 192 + rest]);
                    let want = match mix.cut {
                        Some(_) if (1..5).contains(&y) && (3..5).contains(&x) => other,
                        Some(_) => own,
                        None => mix.lambda * own + (1.0 - mix.lambda) * other,
                    };
                    assert!((got - want).abs() < 1e-6, "{} {mix:?} {at}: {got} {want}", device.kind());
                }
            }
        }
        let images = || Tensor::from_slice(&device, &[2, 3, 4, 4], &[0.0f32; 96]).unwrap();
        assert!(Mix { lambda: 0.5, cut }.apply(images()).is_err(), "the box is larger");
        assert!(Mix { lambda: 0.5, cut: None }.apply(images().reshape(&[6, 16]).unwrap()).is_err());
    }
}

#[test]
fn wrong_settings_are_named() {
    let wrong = Mixing {
        mixup_alpha: -1.0,
        cutmix_alpha: f64::NAN,
        mix_probability: 2.0,
        cutmix_probability: -0.5,
        label_smoothing: 1.5,
    };
    let mut problems = Problems::new();
    wrong.check(&mut problems);
    assert_eq!(problems.len(), 5);
    assert!(problems.into_found().iter().all(|(key, _)| key.starts_with("augment.")));
}
