//! Detection by torchvision (`examples/detection`) with networks that `extract` wrote, on images of shapes: the loss falls,
//! boxes are found, and average precision is what it is by hand.

#[path = "support/program.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Folder, SMALL, printed, program, text};

/// A script of the folder with these arguments, by the Python that `POA_PYTHON` names.
#[track_caller]
fn python(script: &str, args: &[&str]) -> String {
    let python = std::env::var("POA_PYTHON").unwrap_or_else(|_| "python3".into());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/detection").join(script);
    let done = Command::new(&python).arg(&path).args(args).output();
    let done = done.unwrap_or_else(|e| panic!("{python}: {e}; set POA_PYTHON"));
    assert!(done.status.success(), "{script} {args:?}: {}", text(&done.stderr));
    text(&done.stdout)
}

#[test]
#[ignore = "needs Python with torch, torchvision and timm: kernels-tests/detection"]
fn average_precision_by_hand() {
    assert!(python("check.py", &[]).contains("right"));
}

#[test]
#[ignore = "needs Python with torch, torchvision and timm: kernels-tests/detection"]
fn networks_of_all_families_learn_to_find_shapes() {
    let folder = Folder::new("detection");
    for recipe in ["demo", "demo_swin", "demo_resnet"] {
        let (run, net, out) =
            (folder.path(recipe), folder.path(&format!("{recipe}-net")), folder.path("detector"));
        let mut args = vec!["-q", "train", "--config", recipe, "--device=cpu", "--steps=2", "--out", &run];
        args.extend(["train.batch_size_per_gpu=4", "data.spec=shapes:40", "evaluation.train_images=20"]);
        args.extend([
            "evaluation.val_images=10",
            "dino.head_n_prototypes=[16, 24]",
            "dino.head_hidden_dim=32",
        ]);
        if recipe == "demo" {
            args.extend(SMALL);
        }
        if recipe == "demo_swin" {
            args.push("student.window_size=2"); // timm has Swins whose windows divide every map
        }
        if recipe == "demo_resnet" {
            // as timm's have them
            args.extend(["student.stem_channels=64", "student.base_channels=32", "student.num_gn_groups=32"]);
        }
        let done = program(&args);
        assert!(done.status.success(), "{recipe}: {}", text(&done.stderr));
        printed(&["extract", "--checkpoint", &run, "--format=timm", "--out", &net]);
        let shapes = folder.path("shapes");
        let tried = ["--shapes", &shapes, "--tiny", "--steps=12", "--device=cpu", "--out", &out];
        let told = python("detect.py", &[&[net.as_str()], &tried[..]].concat());
        assert!(told.contains("box AP") && told.contains("mask AP"), "{told}");
        let found: Value =
            serde_json::from_str(&std::fs::read_to_string(Path::new(&out).join("results.json")).unwrap())
                .unwrap();
        let losses: Vec<f64> =
            found["losses"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        assert!(losses.iter().all(|loss| loss.is_finite()));
        assert!(mean(&losses[8..]) < 0.8 * mean(&losses[..4]), "{recipe}: {losses:?}");
        let ap = found["box AP"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&ap), "{recipe}: {ap}");
    }
}
