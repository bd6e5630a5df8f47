//! What a batch says of itself, and which ones cannot be made.

use poa_gpu::Result;
use poa_gpu::data::batch::{GLOBAL, LOCAL, Pixels};
use poa_gpu::data::{Batch, CropGroup, Masks, Normalization};

/// Two global crops of 2×2 and three local ones of 1×1 pixel, of so many images and channels. A value says
/// where it is.
fn groups(images: usize, channels: usize) -> Vec<CropGroup> {
    let group = |name: &'static str, views: usize, size: usize| {
        let count = views * images * channels * size * size;
        let pixels = Pixels::Floats((0..count).map(|i| i as f32).collect());
        CropGroup { name, views, channels, size, pixels, masks: None }
    };
    let values = (0..2 * images as u8).collect();
    let masks = Some(Masks { side: 1, values });
    vec![CropGroup { masks, ..group(GLOBAL, 2, 2) }, group(LOCAL, 3, 1)]
}

#[test]
fn a_batch_knows_its_groups() {
    let batch = Batch::new(4, groups(4, 5)).unwrap().at_step(7);
    assert_eq!((batch.step(), batch.images(), batch.channels()), (7, 4, 5));
    assert_eq!(batch.group(GLOBAL).unwrap().shape(), [8, 5, 2, 2]);
    assert_eq!(batch.find(LOCAL).unwrap().shape(), [12, 5, 1, 1]);
    assert_eq!(batch.find("other"), None);
    let error = batch.group("other").unwrap_err().to_string();
    assert!(error.contains("`other` among global, local"), "{error}");
    assert!(batch.labels().is_none() && batch.indices().is_none());
    let batch = batch.with_labels(vec![3, 1, 2, 0]).unwrap().with_indices(vec![9, 8, 7, 6]).unwrap();
    assert_eq!(batch.labels(), Some(&[3, 1, 2, 0][..]));
    assert_eq!(batch.indices(), Some(&[9, 8, 7, 6][..]));
    assert_eq!(batch.without_masks().groups()[0].masks, None);
}

#[test]
fn a_part_has_the_crops_of_its_images() {
    let batch = Batch::new(4, groups(4, 1)).unwrap().at_step(2);
    let batch = batch.with_labels(vec![0, 1, 2, 3]).unwrap().with_indices(vec![5, 6, 7, 8]).unwrap();
    let part = batch.part(1..3).unwrap();
    assert_eq!((part.step(), part.images()), (2, 2));
    let expected: Vec<f32> = (4..12).chain(20..28).map(|i| i as f32).collect();
    assert_eq!(part.groups()[0].pixels, Pixels::Floats(expected));
    assert_eq!(part.groups()[0].masks.as_ref().unwrap().values, [1, 2, 5, 6]);
    assert_eq!(part.groups()[1].normalised()[..], [1.0, 2.0, 5.0, 6.0, 9.0, 10.0]);
    assert_eq!((part.labels(), part.indices()), (Some(&[1, 2][..]), Some(&[6, 7][..])));
    assert!(batch.part(0..4).unwrap() == batch);
    assert_eq!(batch.part(2..2).unwrap().images(), 0);
    assert!(batch.part(3..5).is_err());
}

#[test]
fn a_batch_of_8_bit_values_is_one_of_normalised_ones() {
    let by = Normalization::new(5, &[0.5, 0.1, 0.2, 0.3, 0.4], &[0.5, 1.0, 0.25, 0.3, 0.7]).unwrap();
    let bytes = |mut group: CropGroup| {
        let values = (0..group.pixels.len()).map(|i| (7 * i % 256) as u8).collect();
        group.pixels = Pixels::Bytes(values, by.clone());
        group
    };
    let mut batch = Batch::new(4, groups(4, 5).into_iter().map(bytes).collect()).unwrap();
    // as it was done crop by crop before
    for group in batch.groups() {
        let mut want: Vec<f32> = (0..group.pixels.len()).map(|i| (7 * i % 256) as f32).collect();
        want.chunks_mut(group.crop_len()).for_each(|crop| by.apply(crop));
        assert_eq!(group.normalised()[..], want);
    }
    let part = batch.part(1..3).unwrap();
    let whole = batch.group(GLOBAL).unwrap().normalised().into_owned();
    let views = [&whole[20..60], &whole[100..140]].concat();
    assert_eq!(part.group(GLOBAL).unwrap().normalised()[..], views);
    assert!(part.groups().iter().all(|group| matches!(group.pixels, Pixels::Bytes(..))));
    batch.pixels_mut(GLOBAL).unwrap()[3] = f32::NAN;
    assert!(batch.group(GLOBAL).unwrap().normalised()[3].is_nan());
    assert_eq!(batch.group(GLOBAL).unwrap().normalised()[4..], whole[4..]);
    let other = Pixels::Bytes(vec![0; 2 * 4 * 20], Normalization::imagenet(3));
    let mut wrong = groups(4, 5);
    wrong[0].pixels = other;
    let text = Batch::new(4, wrong).unwrap_err().to_string();
    assert!(text.contains("`global` has 5 channels, which are to be normalised as 3"), "{text}");
}

#[test]
fn what_does_not_fit_together_is_no_batch() {
    let error = |batch: Result<Batch>| batch.unwrap_err().to_string();
    assert!(error(Batch::new(4, Vec::new())).contains("no group"));
    let text = error(Batch::new(3, groups(4, 5)));
    assert!(text.contains("`global` has 160 values") && text.contains("make 120"), "{text}");
    let change = |change: fn(&mut Vec<CropGroup>)| {
        let mut all = groups(4, 5);
        change(&mut all);
        error(Batch::new(4, all))
    };
    assert!(change(|g| g[0].size = 0).contains("`global` has 2 crops an image of 5 channels and 0 pixels"));
    assert!(change(|g| g[1].channels = 0).contains("`local` has 3 crops an image of 0 channels"));
    let text = change(|g| g[0].masks.as_mut().unwrap().side = 2);
    assert!(text.contains("8 values of masks") && text.contains("make 32"), "{text}");
    assert!(change(|g| g[1].name = GLOBAL).contains("two groups `global`"));
    let text = change(|g| (g[1].channels, g[1].views) = (1, 15));
    assert!(text.contains("`global` has 5 channels, group `local` 1"), "{text}");
    let batch = || Batch::new(4, groups(4, 5)).unwrap();
    assert!(error(batch().with_labels(vec![0; 3])).contains("3 labels of 4 images"));
    assert!(error(batch().with_indices(vec![0; 5])).contains("5 indices of 4 images"));
}
