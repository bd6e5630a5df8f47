//! The program by itself: nothing of the sources, of the environment or of a folder is needed to run it, and a published
//! crate holds all that builds it.

#[path = "support/program.rs"]
mod support;

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use support::{Folder, printed, refused, text};

/// Runs a copy of the program in an empty folder with an empty environment.
fn alone(folder: &Folder, args: &[&str]) -> Output {
    let copy = folder.0.join("bin").join(format!("poa-gpu{}", std::env::consts::EXE_SUFFIX));
    if !copy.exists() {
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_poa-gpu"), &copy).unwrap();
        std::fs::create_dir_all(folder.0.join("empty")).unwrap();
    }
    let mut command = Command::new(copy);
    command.args(args).current_dir(folder.0.join("empty")).env_clear();
    // without it Windows loads no library
    if let Some(root) = std::env::var_os("SystemRoot") {
        command.env("SystemRoot", root);
    }
    loop {
        match command.output() {
            // a child of another test has the copy open as it was written, until it becomes another program
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done.unwrap(),
        }
    }
}

#[test]
fn the_program_needs_nothing_beside_it() {
    let folder = Folder::new("installed");
    let train = [
        "train",
        "--device=cpu",
        "--steps=2",
        "data.spec=shapes:200",
        "train.batch_size_per_gpu=4",
        "evaluation.train_images=20",
        "evaluation.val_images=10",
        "dino.head_n_prototypes=[16, 24]",
    ];
    let eval = ["eval", "knn", "--checkpoint=runs/demo-1", "--train=shapes:100", "--k", "5", "--out=knn"];
    let extract = ["extract", "--checkpoint=runs/demo-1", "--out=net"];
    for args in
        [&["--version"][..], &["config"], &["verify", "--device=cpu"], &train, &eval, &extract, &["man"]]
    {
        let out = alone(&folder, args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        assert!(!out.stdout.is_empty(), "{args:?}");
    }
    let all = std::fs::read_dir(folder.0.join("empty")).unwrap();
    let mut names: Vec<_> = all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["knn", "net", "runs"]);
}

#[test]
fn the_version_says_what_was_built() {
    let short = printed(&["-V"]);
    assert_eq!(short.lines().count(), 1);
    assert!(short.starts_with(concat!("poa-gpu ", env!("CARGO_PKG_VERSION"))), "{short}");
    let long = printed(&["--version"]);
    for part in [short.trim_end(), "cli, poa, images, charts", "GPUs through:", "CPU code:     baseline"] {
        assert!(long.contains(part), "`{part}` is not in: {long}");
    }
}

/// What bash offers for the last word of a call.
#[cfg(unix)]
fn completed(script: &str, words: &[&str]) -> Vec<String> {
    let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
    let list = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let ask = format!(
        "COMP_WORDS=({list}); COMP_CWORD={}
         bound=$(complete -p poa-gpu); bound=${{bound#*-F }}; ${{bound%% *}} poa-gpu '{last}' '{before}'
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.len() - 1
    );
    let out = Command::new("bash").args(["--norc", "-c", &format!("{script}\n{ask}")]).output().unwrap();
    assert!(out.stderr.is_empty(), "{words:?}: {}", text(&out.stderr));
    text(&out.stdout).lines().map(str::to_string).collect()
}

#[cfg(unix)]
#[test]
fn bash_completes_what_follows_a_command() {
    if Command::new("bash").arg("--version").output().is_err() {
        return;
    }
    let script = printed(&["completions", "bash"]);
    let completed = |words: &[&str]| completed(&script, &[&["poa-gpu"], words].concat());
    assert!(completed(&["tra"]).contains(&"train".to_string()));
    assert_eq!(completed(&["train", "--dev"]), ["--device", "--devices"]);
    assert!(completed(&["eval", ""]).contains(&"linear".to_string()));
    assert_eq!(completed(&["eval", "knn", "--tem"]), ["--temperature"]);
    assert_eq!(completed(&["extract", "--format", ""]), ["timm", "dinov2", "poa", "transformers", "onnx"]);
}

#[test]
fn every_command_has_a_page_in_the_manual() {
    let page = printed(&["man"]);
    assert!(page.contains(".TH poa-gpu 1") && page.contains("poa\\-gpu\\-train"), "{page}");
    for command in [&["train"][..], &["eval", "knn"], &["visualize"], &["man"]] {
        let page = printed(&[&["man"], command].concat());
        let name = format!("poa-gpu-{}", command.join("-"));
        assert!(page.contains(&format!(".TH {name} 1")), "{name}: {page}");
        assert!(page.contains(".SH EXAMPLES\n.nf\n  poa\\-gpu "), "{name}: {page}");
    }
    refused(&["man", "trian"], 2, &["did you mean `train`?", "visualize"]);
}

/// What the sources include, the shaders and the recipes, and what builds them.
#[test]
fn a_published_crate_holds_what_builds_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut list = Command::new(env!("CARGO"));
    list.args(["package", "--list", "--allow-dirty", "--offline"]).current_dir(root);
    let Ok(out) = list.output() else { return };
    assert!(out.status.success(), "{}", text(&out.stderr));
    let listed = text(&out.stdout).replace('\\', "/");
    let listed: std::collections::HashSet<&str> = listed.lines().collect();
    let mut folders =
        ["src", "shaders", "configs", "kernels-tests/fixtures/vit"].map(|name| root.join(name)).to_vec();
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            assert!(listed.contains(name.as_str()), "{name} is not packed");
            count += 1;
        }
    }
    assert!(count > 100);
    assert!(["build.rs", "Cargo.toml", "README.md", "LICENSE"].iter().all(|name| listed.contains(name)));
}
