//! What a batch says of itself, and which ones cannot be made.

use poa_gpu::Result;
use poa_gpu::data::batch::{GLOBAL, LOCAL};
use poa_gpu::data::{Batch, CropGroup, Masks};

/// Two global crops of 2×2 and three local ones of 1×1 pixel, of so many images and channels. A value says
/// where it is.
fn groups(images: usize, channels: usize) -> Vec<CropGroup> {
    let group = |name: &'static str, views: usize, size: usize| {
        let count = views * images * channels * size * size;
        let pixels = (0..count).map(|i| i as f32).collect();
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
    assert_eq!(part.groups()[0].pixels, expected);
    assert_eq!(part.groups()[0].masks.as_ref().unwrap().values, [1, 2, 5, 6]);
    assert_eq!(part.groups()[1].pixels, [1.0, 2.0, 5.0, 6.0, 9.0, 10.0]);
    assert_eq!((part.labels(), part.indices()), (Some(&[1, 2][..]), Some(&[6, 7][..])));
    assert!(batch.part(0..4).unwrap() == batch);
    assert_eq!(batch.part(2..2).unwrap().images(), 0);
    assert!(batch.part(3..5).is_err());
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
