//! The k largest of every row, in one chunk and in many, against sorting everything.

use poa_gpu::ops::top_k::{Scored, TopK, argmax};

use crate::support::{Placing, devices, place, random};

/// NaN as −∞; of equal scores the first column.
fn reference(row: &[f32], k: usize) -> Vec<Scored> {
    let score = |v: f32| if v.is_nan() { f32::NEG_INFINITY } else { v };
    let mut all: Vec<Scored> =
        row.iter().enumerate().map(|(c, v)| Scored { score: score(*v), column: c as u32 }).collect();
    all.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap().then(a.column.cmp(&b.column)));
    all.truncate(k);
    all
}

/// Runs the columns of `values` in chunks of these lengths, dense and strided.
#[track_caller]
fn case(what: &str, values: &[f32], chunks: &[usize], k: usize) {
    let cols: usize = chunks.iter().sum();
    let rows = values.len() / cols;
    let expected: Vec<_> = values.chunks(cols).map(|row| reference(row, k)).collect();
    for device in devices() {
        for placing in [Placing::Dense, Placing::Strided] {
            let mut top = TopK::new(&device, rows, k).unwrap();
            let mut at = 0;
            for &n in chunks {
                let part: Vec<f32> =
                    values.chunks(cols).flat_map(|row| row[at..at + n].iter().copied()).collect();
                top.add(&place(&device, &[rows, n], &part, placing).unwrap(), at).unwrap();
                at += n;
                for kept in [top.kept().0, top.kept().1] {
                    assert!(kept.fences_intact().unwrap(), "{what} on {}: written beside", device.kind());
                }
            }
            let got = top.sorted().unwrap();
            assert_eq!(got, expected, "{what}, chunks {chunks:?}, k {k} on {}", device.kind());
            let columns = top.kept().1.to_vec::<u32>().unwrap();
            assert!(columns.chunks(k.min(cols)).all(|row| row.is_sorted()), "{what}: columns in order");
        }
    }
}

#[test]
fn of_any_number_of_columns_and_chunks() {
    for (rows, chunks, k) in [
        (1, vec![1], 1),
        (3, vec![7], 3),
        (5, vec![7], 7),
        (5, vec![7], 20),
        (4, vec![3, 1, 9, 2], 5),
        (33, vec![100, 1, 300], 100),
        (9, vec![257, 256, 255], 256),
        (2, vec![4096, 4096, 809], 1024),
        (2, vec![5000], 4999),
    ] {
        let values = random(rows as u64, rows * chunks.iter().sum::<usize>());
        case("random", &values, &chunks, k);
        // few different scores
        let equal: Vec<f32> = values.iter().map(|v| (v * 1.5).round()).collect();
        case("rounded", &equal, &chunks, k);
        case("all equal", &vec![0.25; values.len()], &chunks, k);
        // the later, the larger; and the other way round
        let n = chunks.iter().sum::<usize>();
        let rising: Vec<f32> = (0..values.len()).map(|i| (i % n) as f32 - 50.0).collect();
        case("rising", &rising, &chunks, k);
        case("falling", &rising.iter().map(|v| -v).collect::<Vec<_>>(), &chunks, k);
    }
}

#[test]
fn of_special_numbers() {
    let special = [
        f32::NAN,
        0.0,
        -0.0,
        f32::INFINITY,
        -f32::NAN,
        f32::NEG_INFINITY,
        f32::MIN_POSITIVE / 2.0,
        -f32::MIN_POSITIVE / 2.0,
        f32::MAX,
        f32::MIN,
        1.0,
        -1.0,
        f32::NAN,
    ];
    for k in 1..=special.len() {
        case("special", &special, &[13], k);
        case("special", &special, &[4, 4, 5], k);
    }
}

#[test]
fn of_more_rows_than_a_grid_is_wide() {
    let (rows, cols) = (66_000, 3);
    let values = random(1, rows * cols);
    for device in devices() {
        let scores = place(&device, &[rows, cols], &values, Placing::Dense).unwrap();
        let want: Vec<u32> = values.chunks(cols).map(|row| reference(row, 1)[0].column).collect();
        assert!(argmax(&scores).unwrap() == want, "on {}", device.kind());
    }
}

#[test]
fn wrong_shapes_are_refused() {
    for device in devices() {
        assert!(TopK::new(&device, 3, 0).is_err());
        let mut top = TopK::new(&device, 3, 2).unwrap();
        let scores = place(&device, &[2, 5], &random(1, 10), Placing::Dense).unwrap();
        assert!(top.add(&scores, 0).unwrap_err().to_string().contains("3 rows"));
    }
}
