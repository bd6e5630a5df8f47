//! Masks of the global crops.

use poa_gpu::data::MaskConfig;

#[test]
fn masks_hide_what_was_asked_for() {
    for (side, ratio) in [(14, (0.1, 0.5)), (7, (0.1, 0.3)), (16, (0.1, 0.5)), (37, (0.1, 0.5))] {
        let config = MaskConfig { ratio, ..MaskConfig::new(side) };
        let cells = side * side;
        let mut reached = 0.0;
        for step in 0..40 {
            let crops = 2 * (1 + step as usize % 9);
            let masks = config.masks(11, step, 0, crops);
            assert_eq!(masks.len(), crops * cells);
            assert!(masks.iter().all(|&m| m <= 1));
            let mut counts: Vec<usize> =
                masks.chunks(cells).map(|m| m.iter().map(|&v| v as usize).sum()).collect();
            counts.sort_unstable();
            let (empty, masked) = counts.split_at(crops - crops / 2);
            assert!(empty.iter().all(|&c| c == 0), "{counts:?}");
            // Each in its own part of the ratio range; a mask may fall short, never exceed.
            let point = |i: usize| ratio.0 + (ratio.1 - ratio.0) * i as f64 / masked.len() as f64;
            for (i, &count) in masked.iter().enumerate() {
                assert!(count as f64 <= cells as f64 * point(i + 1), "{count} of {cells} for number {i}");
                reached +=
                    count as f64 / (cells as f64 * (point(i) + point(i + 1)) / 2.0) / masked.len() as f64;
            }
        }
        assert!(reached / 40.0 > 0.85, "side {side}: {reached}");
    }
}

#[test]
fn masks_follow_from_seed_step_and_rank() {
    let config = MaskConfig::new(14);
    assert_eq!(config.masks(1, 2, 0, 16), config.masks(1, 2, 0, 16));
    assert_ne!(config.masks(1, 2, 0, 16), config.masks(1, 3, 0, 16));
    assert_ne!(config.masks(1, 2, 0, 16), config.masks(2, 2, 0, 16));
    for rank in 1..5 {
        for other in 0..rank {
            assert_ne!(config.masks(1, 2, rank, 16), config.masks(1, 2, other, 16));
        }
    }
    // Masked crops are not always the same ones.
    let first = |step| config.masks(1, step, 0, 8)[..196].contains(&1);
    assert!((0..20).any(first) && !(0..20).all(first));
}

/// What goes on with a run depends on it: the only rank, and the first of several, have these masks.
#[test]
fn masks_of_the_first_rank_stay_as_they_are() {
    let masks = MaskConfig::new(4).masks(1, 2, 0, 8);
    let hidden: Vec<String> =
        masks.chunks(16).map(|m| m.iter().map(|v| if *v == 0 { '.' } else { '#' }).collect()).collect();
    assert_eq!(hidden, PINNED);
}

const PINNED: [&str; 8] = [
    "................",
    "..#...#...#.....",
    "#.###.###.......",
    "................",
    "................",
    "...#...#...#....",
    ".....###.###....",
    "................",
];
