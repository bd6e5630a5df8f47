//! Data sets and their held-out parts; tar shards have a file of their own.

use std::path::{Path, PathBuf};

use poa_gpu::Error;
use poa_gpu::data::*;

use crate::{folder, labels, names, open, picture, save, spec};

#[test]
fn a_spec_that_names_nothing_is_a_usage_error() {
    let bad = ["", "imagenet", "folder", "folder:", "list:", "webdataset", "cifar10:"];
    for spec in bad {
        let error = open(spec).err().unwrap_or_else(|| panic!("{spec} opened"));
        assert!(matches!(error, Error::Usage(_)), "{error}");
        for kind in
            ["folder:DIR", "list:FILE", "webdataset:PATTERN", "cifar10:DIR", "cifar100:DIR", "shapes:N"]
        {
            assert!(error.to_string().contains(kind), "{error}");
        }
    }
    for (spec, words) in [
        ("shapes:0", "`shapes:0` has N = 0; N must be 1 to 4294967295"),
        ("shapes:99999999999", "N must be 1 to"),
        ("shapes:x", "is not `shapes:N`"),
        ("shapes:-1", "is not `shapes:N`"),
        ("shapes:10x4", "SIZE must be 16 to 1024"),
        ("shapes:10x32x0", "CHANNELS must be 1 to"),
        ("shapes:1x2x3x4", "is not `shapes:N`"),
    ] {
        let error = open(spec).err().unwrap_or_else(|| panic!("{spec} opened"));
        assert!(matches!(error, Error::Usage(_)) && error.to_string().contains(words), "{error}");
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
    // Images right under the folder have no label; one sub-folder is one class.
    save(&dir, "dog/deeper/y.png", picture(8, 6, 9));
    let partly = open(&spec(&dir.join("dog"))).unwrap();
    assert_eq!((partly.classes().len(), partly.label(0), partly.label(1)), (1, None, Some(0)));
    let told = partly.remarks();
    assert!(
        told.len() == 1 && told[0].starts_with("2 of 3 images have no label (a.tiff, x.jpeg):"),
        "{told:?}"
    );
    assert!(source.remarks().is_empty());
    assert!(split(partly, HeldOut { fraction: 0.5, at_most: 9 }).1.is_none());
    std::fs::remove_dir_all(dir.join("dog/deeper")).unwrap();
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

/// A list with images behind some of its lines, so that it can be opened.
fn list_of(dir: &Path, images: &[&str], text: impl AsRef<[u8]>) -> std::sync::Arc<dyn Source> {
    images.iter().for_each(|name| save(dir, name, picture(5, 4, 1)));
    open(&list(dir, text)).unwrap()
}

/// The name of every image and its label.
fn pairs(source: &std::sync::Arc<dyn Source>) -> Vec<(String, Option<&str>)> {
    let label = |i| source.label(i).map(|class| source.classes()[class as usize].as_str());
    (0..source.len()).map(|i| (source.name(i), label(i))).collect()
}

#[test]
fn a_list_has_labels_behind_its_paths() {
    let dir = folder("list-labels");
    let open_list = |text: &str| list_of(&dir, &["a.jpg", "a b.jpg", "0.png"], text);
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
    // Quotes around a path, and ends of lines of three systems.
    let source =
        open_list("\"a.jpg\",cat\r\n\"b, or \"\"c\"\".jpg\"\tbig dog\r\n\"d.jpg\" \"cat\"\r\n\"e.jpg\"\r\n");
    let found = [
        ("a.jpg".into(), Some("cat")),
        ("b, or \"c\".jpg".into(), Some("big dog")),
        ("d.jpg".into(), Some("cat")),
        ("e.jpg".into(), None),
    ];
    assert_eq!(pairs(&source), found);
    assert_eq!(names(&open_list("a.jpg\rb.jpg\r")), ["a.jpg", "b.jpg"]);
}

#[test]
fn a_list_may_name_its_columns() {
    let dir = folder("list-columns");
    let open_list = |text: &str| list_of(&dir, &["a.jpg", "x/b c.jpg"], text);
    let expected = [("a.jpg".to_string(), Some("cat")), ("x/b c.jpg".to_string(), Some("dog"))];
    for text in [
        "path,label\na.jpg,cat\nx/b c.jpg,dog\n",
        "\u{feff}Filename,Class\r\na.jpg,cat\r\n\"x/b c.jpg\",dog\r\n",
        "image_path\tlabel\na.jpg\tcat\nx/b c.jpg\tdog",
        "label;width;path\ncat;17;a.jpg\ndog;;x/b c.jpg",
        ",file,class\n0,a.jpg,cat\n1,x/b c.jpg, dog \n",
        "\tfile_name\tcategory\n0\ta.jpg\tcat\n1\tx/b c.jpg\tdog\n",
        "# made by hand\n\n \"image path\" , \"target\"\na.jpg, \"cat\"\n# nothing\n \"x/b c.jpg\" ,dog",
    ] {
        let source = open_list(text);
        assert_eq!(pairs(&source), expected, "{text}");
        assert!(source.remarks().is_empty(), "{:?}", source.remarks());
    }
    // A path with separators and quotes, one that looks like a name, labels that are missing.
    let source = open_list("path,label\n000017,7\n\"a, \"\"b\"\".jpg\",07\nc.jpg,\na.jpg\n");
    let found = [
        ("000017".into(), Some("7")),
        ("a, \"b\".jpg".into(), Some("7")),
        ("c.jpg".into(), None),
        ("a.jpg".into(), None),
    ];
    assert_eq!(pairs(&source), found);
    assert_eq!(source.remarks().len(), 1);
    assert!(source.remarks()[0].starts_with("2 of 4 images have no label (line 4, line 5):"));
    // One column has no separators; without labels that is said where there are others.
    assert_eq!(names(&open_list("filename\na.jpg\nb, c.jpg 3\n")), ["a.jpg", "b, c.jpg 3"]);
    let source = open_list("path,width\na.jpg,3\n");
    assert!(
        source.classes().is_empty() && source.remarks()[0].contains("no column of labels (label, class,")
    );
}

#[test]
fn a_list_may_be_partly_labelled() {
    let dir = folder("list-partly");
    let source = list_of(&dir, &["a.jpg"], "# x\na.jpg 3\nb.jpg 4\n\nc.jpg\nd.jpg\t\n");
    assert_eq!(source.classes(), ["3", "4"]);
    assert_eq!((0..4).map(|i| source.label(i)).collect::<Vec<_>>(), [Some(0), Some(1), None, None]);
    assert!(source.remarks()[0].contains("2 of 4 images have no label (line 5, line 6)"));
    assert!(list_of(&dir, &[], "a.jpg\nb.jpg\n").remarks().is_empty());
}

#[test]
fn a_bad_list_is_an_error_that_names_the_line() {
    let dir = folder("list-bad");
    save(&dir, "a.jpg", picture(5, 4, 1));
    let message = |text: &[u8]| {
        let message = open(&list(&dir, text)).err().unwrap().to_string();
        assert!(message.contains("list.txt: ") && !message.contains('\n'), "{message}");
        message
    };
    for (text, words) in [
        (&b"# nothing\n\n"[..], "names no images"),
        (b"path,label\n", "names no images"),
        (b"\xff\xfea\0.\0j\0p\0g\0", "is UTF-16 text; save it as UTF-8"),
        (b"a\0.\0j\0p\0g\0", "holds zero bytes"),
        (b"id,breed\na.jpg,cat\n", "line 1 (`id,breed`) seems to name columns"),
        (b"a.jpg\t3\t4\n", "1 of its 1 lines cannot be read: line 1 (`a.jpg\\t3\\t4`) has 3 columns"),
        (b"cat\ta.jpg\n", "has the path behind the label"),
        (b"path,label\na,b.jpg,cat\n", "has 3 fields, and the first line names 2 columns"),
        (b"path,label\n\"a.jpg,cat\n", "has a quote that is not closed"),
        (b"path,label\n\"a\".jpg,cat\n", "has text behind a closing quote"),
        (b"path,label\n,cat\n", "names no image"),
        (b"a.jpg \xe9\n", "has a label that is not UTF-8"),
    ] {
        let message = message(text);
        assert!(message.contains(words), "{message}");
    }
    // The first three of many.
    let text: String = (0..20).map(|i| if i % 2 == 0 { "a.jpg 1\n" } else { "\"a.jpg 1\n" }).collect();
    let message = message(text.as_bytes());
    let named = ["10 of its 20 lines", "line 2 (", "line 4 (", "line 6 ("];
    assert!(named.iter().all(|part| message.contains(part)) && !message.contains("line 8"), "{message}");

    let missing = format!("list:{}", dir.join("nowhere.txt").display());
    assert!(open(&missing).err().unwrap().to_string().contains("no such list"));
    assert!(open(&format!("list:{}", dir.display())).err().unwrap().to_string().contains("is not a file"));
    // What is not there is found when it is read.
    let source = open(&list(&dir, "a.jpg\ngone.jpg\n~/b.jpg")).unwrap();
    let bad = source.load(1).unwrap_err();
    assert_eq!((bad.name.as_str(), bad.kind), ("gone.jpg", BadKind::Missing));
    assert!(source.load(2).unwrap_err().reason.contains("`~` does not stand for the home folder"));
}

#[test]
fn a_list_of_files_that_are_elsewhere_says_where_they_were_looked_for() {
    let dir = folder("list-elsewhere");
    let message = |text: &str| open(&list(&dir, text)).err().unwrap().to_string();
    let many: String = (0..200).map(|i| format!("images/{i}.jpg {i}\n")).collect();
    let error = message(&many);
    let place = dir.canonicalize().unwrap();
    for text in [
        "none of the 100 images",
        "`images/0.jpg`",
        "relative to the folder of the list",
        place.to_str().unwrap(),
    ] {
        assert!(error.contains(text), "{error}");
    }
    for (text, words) in [
        ("~/a.jpg", "write it out"),
        ("file:///a.jpg", "write the path alone"),
        ("https://example.org/a.jpg\n", "addresses are not read"),
        ("'a.jpg'\n", "part of the name"),
        ("cat,a.jpg\n", "let the first line name them"),
        ("/nowhere/a.jpg", "is not there (`/nowhere/a.jpg`)"),
    ] {
        let error = message(text);
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }
    assert!(!message("/nowhere/a.jpg").contains("relative"));
    #[cfg(unix)]
    assert!(message("images\\a.jpg").contains("a backslash does not part folders"));
    // One of the first hundred is enough.
    save(&dir, "images/99.jpg", picture(5, 4, 1));
    assert_eq!(open(&list(&dir, many)).unwrap().len(), 200);
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_are_read_and_kept_apart() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = folder("no-text");
    for (class, name) in [("one", b"caf\xe9.png"), ("two", b"caf\xe8.png")] {
        save(&dir, &format!("{class}/a.png"), picture(5, 4, 1));
        std::fs::rename(dir.join(class).join("a.png"), dir.join(class).join(OsStr::from_bytes(name)))
            .unwrap();
    }
    let source = open(&spec(&dir)).unwrap();
    assert_eq!(names(&source), ["one/caf\\xE9.png", "two/caf\\xE8.png"]);
    assert!((0..2).all(|i| source.load(i).is_ok()));
    let source = open(&list(&dir, b"one/caf\xe9.png 1\none/caf\xe8.png 1\ntwo/caf\xe8.png 2")).unwrap();
    assert_eq!(names(&source), ["one/caf\\xE9.png", "one/caf\\xE8.png", "two/caf\\xE8.png"]);
    assert_eq!((0..3).map(|i| source.load(i).is_ok()).collect::<Vec<_>>(), [true, false, true]);
    // Nor need the path of a data set be text: its name is, with escapes.
    let odd = dir.join(OsStr::from_bytes(b"100% caf\xe9"));
    std::fs::create_dir_all(odd.join("x")).unwrap();
    for part in ["one", "two"] {
        std::fs::rename(dir.join(part), odd.join(part)).unwrap();
    }
    let given = [b"folder:", odd.as_os_str().as_bytes()].concat();
    let text = spec_text(OsStr::from_bytes(&given));
    assert!(text.starts_with("escaped:folder:") && text.ends_with("/100%25 caf%E9"), "{text}");
    let source = open(&text).unwrap();
    assert!(source.len() == 2 && source.load(0).is_ok());
    assert!(source.describe().ends_with("/100% caf\\xE9"), "{}", source.describe());
    std::fs::write(odd.join("list.txt"), b"one/caf\xe9.png 1\n").unwrap();
    let inner = text.replacen("folder:", "list:", 1) + "/list.txt";
    assert!(open(&inner).unwrap().load(0).is_ok());
    let shards = text.replacen("folder:", "webdataset:", 1) + "/{0..2}.tar";
    assert!(open(&shards).err().unwrap().to_string().contains("no such shard"), "{shards}");
    assert_eq!(spec_text(OsStr::new("folder:100% text")), "folder:100% text");
    for wrong in ["escaped:folder:50%", "escaped:folder:50%+1", "escaped:list:%zz"] {
        assert!(matches!(open(wrong).err().unwrap(), Error::Usage(text) if text.contains("%25")), "{wrong}");
    }
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
