//! Data sets and their held-out parts; tar shards have a file of their own.

use std::path::{Path, PathBuf};

use poa_gpu::Error;
use poa_gpu::data::*;

use crate::{folder, labels, names, open, picture, save, spec};

#[test]
fn a_spec_that_names_nothing_is_a_usage_error() {
    let bad = [
        "",
        "imagenet",
        "folder",
        "folder:",
        "list:",
        "webdataset",
        "cifar10:",
        "shapes:0",
        "shapes:x",
        "shapes:10x4",
        "shapes:99999999999",
    ];
    for spec in bad {
        let error = open(spec).err().unwrap_or_else(|| panic!("{spec} opened"));
        assert!(matches!(error, Error::Usage(_)), "{error}");
        for kind in
            ["folder:DIR", "list:FILE", "webdataset:PATTERN", "cifar10:DIR", "cifar100:DIR", "shapes:N"]
        {
            assert!(error.to_string().contains(kind), "{error}");
        }
    }
    let dir = folder("meant");
    for (name, kind) in [("", "folder"), ("a.tar", "webdataset"), ("a.txt", "list")] {
        let path = if name.is_empty() { dir.clone() } else { dir.join(name) };
        if !name.is_empty() {
            std::fs::write(&path, "").unwrap();
        }
        let error = open(path.to_str().unwrap()).err().unwrap().to_string();
        assert!(error.contains(&format!("`{kind}:{}`", path.display())), "{error}");
    }
}

#[test]
fn a_folder_without_images_says_so() {
    let dir = folder("empty");
    std::fs::write(dir.join("readme.txt"), "no image").unwrap();
    let missing = dir.join("nowhere");
    let file = dir.join("readme.txt");
    for (path, words) in [(&dir, "holds no images"), (&missing, "no such folder"), (&file, "not a folder")] {
        let error = open(&spec(path)).err().unwrap();
        assert!(matches!(error, Error::File { .. }) && error.to_string().contains(words), "{error}");
    }
}

#[test]
fn folders_are_read_in_order_with_the_parents_as_classes() {
    let dir = folder("classes");
    for (i, name) in
        ["a/deep/dog/2.PNG", "cat/1.png", "cat/sub/dog/0.bmp", "dog/x.jpeg", "dog/a.tiff"].iter().enumerate()
    {
        save(&dir, name, picture(8, 6, i as u8));
    }
    std::fs::write(dir.join("cat/notes.txt"), "skipped").unwrap();
    let source = open(&spec(&dir)).unwrap();
    assert_eq!(
        names(&source),
        ["a/deep/dog/2.PNG", "cat/1.png", "cat/sub/dog/0.bmp", "dog/a.tiff", "dog/x.jpeg"]
    );
    assert_eq!(source.classes(), ["cat", "dog"]);
    let labels: Vec<_> = (0..source.len()).map(|i| source.label(i).unwrap()).collect();
    assert_eq!(labels, [1, 0, 1, 1, 1]);
    // One parent only: no labels.
    let single = open(&spec(&dir.join("dog"))).unwrap();
    assert_eq!((single.len(), single.classes().len(), single.label(0)), (2, 0, None));
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_in_circles() {
    let (dir, other) = (folder("links"), folder("links-target"));
    save(&dir, "x/a.png", picture(4, 4, 0));
    save(&other, "b.png", picture(4, 4, 1));
    std::os::unix::fs::symlink(&other, dir.join("y")).unwrap();
    std::os::unix::fs::symlink(&dir, dir.join("x/again")).unwrap();
    std::os::unix::fs::symlink("nowhere.png", dir.join("x/gone.png")).unwrap();
    let source = open(&spec(&dir)).unwrap();
    assert_eq!(names(&source), ["x/a.png", "x/gone.png", "y/b.png"]);
    assert!(source.load(1).is_err());
    assert_eq!(source.load(2).unwrap(), Image::from(picture(4, 4, 1)));
}

#[test]
fn shapes_have_two_parts_and_always_the_same_pictures() {
    let source = open("shapes:300").unwrap();
    assert_eq!((source.len(), source.classes().len()), (300, 10));
    assert_eq!(source.load(7).unwrap(), open("shapes").unwrap().load(7).unwrap());
    assert_eq!(open("shapes:5x64").unwrap().load(0).unwrap().dimensions(), (64, 64));
    let (train, val) = split(source, HeldOut::default());
    let val = val.unwrap();
    assert_eq!((train.len(), val.len()), (300, 200));
    assert_ne!(train.load(0).unwrap(), val.load(0).unwrap());
    assert_eq!(train.classes(), val.classes());
    let mut counts = [0; 10];
    (0..300).for_each(|i| counts[train.label(i).unwrap() as usize] += 1);
    assert_eq!(counts, [30; 10]);
}

#[test]
fn a_labelled_folder_is_split_by_name() {
    let dir = folder("split");
    for i in 0..60 {
        save(&dir, &format!("{}/{i}.png", ["cat", "dog"][i % 2]), picture(3, 3, i as u8));
    }
    let open_split = |held_out| split(open(&spec(&dir)).unwrap(), held_out);
    let (train, val) = open_split(HeldOut::default());
    let val = val.unwrap();
    assert_eq!((train.len(), val.len()), (54, 6));
    let (train_names, val_names) = (names(&train), names(&val));
    assert!(val_names.iter().all(|n| !train_names.contains(n)));
    assert_eq!(val.classes()[val.label(0).unwrap() as usize], val_names[0].split('/').next().unwrap());
    assert_eq!(names(&open_split(HeldOut::default()).1.unwrap()), val_names);
    assert_eq!(open_split(HeldOut { fraction: 0.5, at_most: 4 }).1.unwrap().len(), 4);
    assert!(open_split(HeldOut { fraction: 0.0, at_most: 4 }).1.is_none());
    let (all, none) = split(open(&spec(&dir.join("cat"))).unwrap(), HeldOut::default());
    assert_eq!((all.len(), none.is_none()), (30, true));
}

// ---- lists

fn list(dir: &Path, text: impl AsRef<[u8]>) -> String {
    std::fs::write(dir.join("list.txt"), text).unwrap();
    format!("list:{}", dir.join("list.txt").display())
}

#[test]
fn a_list_names_images_relative_to_itself() {
    let dir = folder("list");
    save(&dir, "sub/my photo 3.png", picture(5, 4, 1));
    save(&dir, "b.png", picture(5, 4, 2));
    let absolute = dir.join("b.png");
    let text = format!("# two images\r\n\r\nsub/my photo 3.png\r\n  {}\nb.png", absolute.display());
    let source = open(&list(&dir, text)).unwrap();
    assert_eq!(names(&source), ["sub/my photo 3.png", absolute.to_str().unwrap(), "b.png"]);
    assert_eq!(
        (source.load(0).unwrap(), source.load(1).unwrap()),
        (picture(5, 4, 1).into(), picture(5, 4, 2).into())
    );
    assert_eq!((source.classes().len(), source.label(0)), (0, None));
    assert!(split(source, HeldOut::default()).1.is_none());
}

#[test]
fn a_list_has_labels_behind_its_paths() {
    let dir = folder("list-labels");
    let open_list = |text: &str| open(&list(&dir, text)).unwrap();
    // Whole numbers, in the order of numbers; every separator.
    let source = open_list("a b.jpg\t10\nc.JPG 9\nd e.png,2\nf.tif , 2\n07/x y,10\nimages/00017 9\n");
    assert_eq!(source.classes(), ["2", "9", "10"]);
    assert_eq!(labels(&source), ["10", "9", "2", "2", "10", "9"]);
    assert_eq!(names(&source), ["a b.jpg", "c.JPG", "d e.png", "f.tif", "07/x y", "images/00017"]);
    // Names, with spaces.
    let source =
        open_list("a.jpg golden retriever\nb.jpg,cat\nno ending\tcat\nmy 2.jpg file.png golden retriever");
    assert_eq!(source.classes(), ["cat", "golden retriever"]);
    assert_eq!(labels(&source), ["golden retriever", "cat", "cat", "golden retriever"]);
    assert_eq!(source.name(3), "my 2.jpg file.png");
    // Numbers written in two ways are one class.
    assert_eq!(open_list("a.jpg 1\nb.jpg 01\nc.jpg -3").classes(), ["-3", "1"]);
    let many: String = (0..50).map(|i| format!("{i}.png {}\n", i % 5)).collect();
    let (train, held_out) = split(open_list(&many), HeldOut::default());
    assert_eq!((train.len(), held_out.unwrap().len()), (45, 5));
}

#[test]
fn a_bad_list_is_an_error_that_names_the_line() {
    let dir = folder("list-bad");
    let message = |text: &[u8]| open(&list(&dir, text)).err().unwrap().to_string();
    assert!(message(b"# x\na.jpg 3\nb.jpg 4\n\nc.jpg\n").contains("line 5 has no label, but line 2 has one"));
    assert!(message(b"a.jpg\nb.jpg\tcat\n").contains("line 1 has no label, but line 2 has one"));
    assert!(message(b"# nothing\n\n").contains("names no images"));
    assert!(message(b"caf\xe9.jpg\n").contains("UTF-8"));
    let missing = format!("list:{}", dir.join("nowhere.txt").display());
    assert!(open(&missing).err().unwrap().to_string().contains("no such list"));
    // What is not there is found when it is read.
    let source = open(&list(&dir, "gone.jpg")).unwrap();
    let bad = source.load(0).unwrap_err();
    assert_eq!((bad.name.as_str(), bad.kind), ("gone.jpg", BadKind::Missing));
}

// ---- CIFAR

/// Writes a version with `count` pictures a file; the class of picture i is i, its pixels are i, i + 1 and i
/// + 2.
fn write_cifar(dir: &Path, count: u8, label_bytes: usize, files: &[&str], names: &str, classes: usize) {
    let labels: String = (0..classes).map(|i| format!("class {i}\n")).collect();
    std::fs::write(dir.join(names), labels + "\n").unwrap();
    for file in files {
        let record = |i: u8| {
            let planes = (0..3).flat_map(|channel| [i + channel; 1024]);
            vec![0; label_bytes - 1].into_iter().chain([i]).chain(planes).collect::<Vec<u8>>()
        };
        std::fs::write(dir.join(file), (0..count).flat_map(record).collect::<Vec<u8>>()).unwrap();
    }
}

fn cifar10(name: &str) -> PathBuf {
    let dir = folder(name);
    let batches: Vec<String> = (1..=5).map(|i| format!("data_batch_{i}.bin")).collect();
    let mut files: Vec<&str> = batches.iter().map(String::as_str).collect();
    files.push("test_batch.bin");
    write_cifar(&dir, 3, 1, &files, "batches.meta.txt", 10);
    dir
}

#[test]
fn both_versions_of_cifar_have_their_test_part_held_out() {
    let ten = cifar10("cifar10");
    let hundred = folder("cifar100");
    let inner = hundred.join("cifar-100-binary");
    std::fs::create_dir(&inner).unwrap();
    write_cifar(&inner, 4, 2, &["train.bin", "test.bin"], "fine_label_names.txt", 100);
    for (kind, dir, train_len, test_len, classes) in
        [("cifar10", &ten, 15, 3, 10), ("cifar100", &hundred, 4, 4, 100)]
    {
        let source = open(&format!("{kind}:{}", dir.display())).unwrap();
        let (train, test) = split(source, HeldOut::default());
        let test = test.unwrap();
        assert_eq!((train.len(), test.len(), train.classes().len()), (train_len, test_len, classes));
        assert_eq!((train.name(0), test.name(2)), ("train/0".into(), "test/2".into()));
        assert_eq!(test.classes()[test.label(2).unwrap() as usize], "class 2");
        let image = train.load(1).unwrap();
        let pixel = &image.values()[3 * (17 * 32 + 31)..][..3];
        assert_eq!((image.dimensions(), pixel), ((32, 32), &[1, 2, 3][..]));
    }
}

#[test]
fn a_bad_cifar_says_what_is_expected() {
    let dir = cifar10("cifar-bad");
    let message = || open(&format!("cifar10:{}", dir.display())).err().unwrap().to_string();
    let batch = dir.join("data_batch_3.bin");
    let whole = std::fs::read(&batch).unwrap();
    std::fs::write(&batch, &whole[..4000]).unwrap();
    assert!(message().contains("data_batch_3.bin: has 4000 bytes, not a whole number of 3073-byte records"));
    std::fs::write(&batch, [&[10], &whole[1..]].concat()).unwrap();
    assert!(message().contains("data_batch_3.bin: has a label 10, over 9"));
    std::fs::remove_file(&batch).unwrap();
    assert!(message().contains("data_batch_3.bin: no such file"));
    std::fs::write(dir.join("batches.meta.txt"), "cat\n").unwrap();
    assert!(message().contains("batches.meta.txt: has 1 class names, not 10"));
}
