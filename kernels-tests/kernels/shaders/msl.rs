//! What naga writes for Metal, before clang: Apple's compiler is clang with another language, and a header
//! stands in for what that has more (`metal.h`). It finds types and names that do not fit, not what Metal
//! forbids beyond C++.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path as File, PathBuf};
use std::process::Command;

use rayon::prelude::*;

use super::paths::{Path, Translated};
use super::structure::Validated;
use super::variants;

/// Texts that one run of clang takes, which starts for longer than it reads one.
const TOGETHER: usize = 100;

/// Needs a clang of 14 or newer; `kernels-tests/msl` runs this.
#[test]
#[ignore = "needs clang"]
fn clang_accepts_every_variant_in_msl() {
    let program = std::env::var("POA_TEST_CLANG").unwrap_or("clang".into());
    let folder = std::env::temp_dir().join(format!("poa-msl-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for temporary files");
    let texts = variants().par_iter().flat_map_iter(|variant| {
        let validated = Validated::new(&variant.source);
        let paths =
            [Path::Msl24, Path::Msl31].into_iter().filter(|path| path.lacks(&variant.source).is_none());
        paths.map(move |path| {
            match path.translate(&validated.module, &validated.info, variant.kernel.entry) {
                // the first line names the version
                Ok(Translated::Text(text)) => {
                    (text.split_once('\n').unwrap_or_default().1.to_string(), variant.name())
                }
                Ok(Translated::Words(_)) => unreachable!("MSL is text"),
                Err(why) => panic!("{}: {why}", variant.name()),
            }
        })
    });
    // most are the same in both versions
    let (versions, texts): (Vec<_>, BTreeMap<_, _>) = texts.map(|(text, name)| ((), (text, name))).unzip();
    let texts: Vec<_> = texts.into_iter().collect();
    let refused: Vec<_> = texts
        .par_chunks(TOGETHER)
        .enumerate()
        .filter_map(|(i, texts)| clang(&program, &folder.join(format!("{i}.cpp")), texts).err())
        .collect();
    println!("{} texts of {} translations of {} variants", texts.len(), versions.len(), variants().len());
    let shown: Vec<_> = refused.iter().flat_map(|why| why.lines()).take(60).collect();
    assert!(refused.is_empty(), "clang refuses:\n{}\nthe texts are in {folder:?}", shown.join("\n"));
    std::fs::remove_dir_all(&folder).expect("the folder can be removed");
}

/// The text with Metal's meaning of numbers: those without suffix are not double.
fn single(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 16);
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.');
        let end = rest[start..].find(word).map_or(rest.len(), |n| start + n);
        let number = &rest[start..end];
        out.push_str(&rest[..end]);
        let fraction = number.starts_with(|c: char| c.is_ascii_digit()) && number.contains('.');
        if fraction && number.ends_with(|c: char| c.is_ascii_digit()) {
            out.push('f');
        }
        rest = &rest[end..];
    }
    out + rest
}

#[test]
fn numbers_are_single_where_they_have_no_suffix() {
    assert_eq!(
        single("a.x * 0.5 + b_1.y[2] - 1.0h * 3.0f + 7u;"),
        "a.x * 0.5f + b_1.y[2] - 1.0h * 3.0f + 7u;"
    );
}

/// What clang says against some texts, each with the name of its variant.
fn clang(program: &str, file: &File, texts: &[(String, String)]) -> Result<(), String> {
    let mut all = String::new();
    for (i, (text, name)) in texts.iter().enumerate() {
        let text = single(&text.replace("#include <", "// #include <"));
        let name = name.replace('"', "");
        write!(all, "namespace of_{i} {{\n#line 1 \"{name}\"\n{text}\n}}\n").expect("a string grows");
    }
    std::fs::write(file, all).expect("the folder of temporary files can be written to");
    let header = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/kernels/shaders/metal.h");
    let output = Command::new(program)
        .args([
            "-x",
            "c++",
            "-target",
            "aarch64-linux-gnu",
            "-std=c++17",
            "-fsyntax-only",
            "-ferror-limit=3",
            "-w",
            "-include",
        ])
        .args([&header, &PathBuf::from(file)])
        .output()
        .unwrap_or_else(|e| panic!("`{program}` does not start: {e}; see kernels-tests/msl"));
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
