//! Distillation from a frozen teacher as a user starts it: from files to a number, whatever the families and the device; its
//! loss is PyTorch's, it resumes to the bit, goes over ranks, and says what is wrong before the long work starts.

#[path = "support/program.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use poa_gpu::collective::Collective;
use poa_gpu::files::checkpoint::{checkpoints_in, find};
use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::ops;
use poa_gpu::ops::queue_distillation::QueueDistillation;
use poa_gpu::tasks::distill::Queue;
use poa_gpu::tensor::{DType, Device, Tensor};
use safetensors::SafeTensors;
use support::{Folder, SMALL, printed, program, refused, result, text};

const RECORD: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/fixtures/distill/record.safetensors"));

fn devices() -> [Device; 2] {
    [Device::cpu(), ops::open(&DeviceChoice::Gpu).expect("kernels-tests/run installs a software adapter")]
}

/// In double precision by PyTorch (`benches/peers/pytorch/queue_distillation.py`), with the same image in the queue twice and
/// others that are nearly it: at τt = 1e-4 these share the target.
#[test]
fn the_loss_and_its_gradient_are_those_of_pytorch() {
    let record = SafeTensors::deserialize(RECORD).unwrap();
    for device in devices() {
        device.set_fences(true);
        for case in 0..4 {
            let bytes = |name: &str| record.tensor(&format!("{case}.{name}")).unwrap();
            let doubles = |name: &str| bytemuck::pod_collect_to_vec::<u8, f64>(bytes(name).data());
            // columns of a wider matrix, behind other rows
            let laid = |name: &str| {
                let view = bytes(name);
                let [rows, width] = [view.shape()[0], view.shape()[1]];
                let values = bytemuck::pod_collect_to_vec::<u8, f32>(view.data());
                let mut wide = vec![f32::NAN; (rows + 2) * (width + 3)];
                for (row, of) in values.chunks(width).enumerate() {
                    wide[(row + 1) * (width + 3) + 2..][..width].copy_from_slice(of);
                }
                let wide = Tensor::from_slice(&device, &[rows + 2, width + 3], &wide).unwrap();
                wide.slice(0, 1..rows + 1).unwrap().slice(1, 2..width + 2).unwrap()
            };
            let (student, teacher, queue) = (laid("student"), laid("teacher"), laid("queue"));
            let [student_temp, teacher_temp] = doubles("temperatures")[..] else { panic!() };
            // all rows at once, two and one at a time
            let row = (queue.dim(0) + 1).next_multiple_of(4) * 4;
            for budget in [None, Some(2 * row), Some(1)] {
                let gradient = Tensor::empty(&device, student.shape(), DType::F32).unwrap();
                let loss = Tensor::from_slice(&device, &[1], &[1.5_f32]).unwrap();
                let call = QueueDistillation {
                    student: &student,
                    teacher: &teacher,
                    queue: &queue,
                    student_temp,
                    teacher_temp,
                    budget,
                };
                call.run(&loss, true, &gradient, 0.5).unwrap();
                let (found, wanted) = (f64::from(loss.item().unwrap()) - 1.5, doubles("loss")[0]);
                assert!(
                    (found - wanted).abs() < 1e-5 * wanted.max(1.0),
                    "{case} {budget:?}: {found}, {wanted}"
                );
                let wanted = doubles("gradient");
                let most = wanted.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
                for (found, wanted) in gradient.to_vec::<f32>().unwrap().into_iter().zip(wanted) {
                    let difference = (2.0 * f64::from(found) - wanted).abs();
                    assert!(difference < 1e-5 * most.max(1e-3), "{case} {budget:?}: {found}, {wanted} / 2");
                }
                assert!(gradient.fences_intact().unwrap() && loss.fences_intact().unwrap());
            }
        }
    }
}

/// Nothing overflows where one similarity is a thousand temperatures above all others, and the student is opposite.
#[test]
fn a_small_temperature_makes_no_number_that_is_not_finite() {
    for device in devices() {
        let of =
            |rows: &[[f32; 2]]| Tensor::from_slice(&device, &[rows.len(), 2], rows.as_flattened()).unwrap();
        let (student, teacher) = (of(&[[-1.0, 0.0], [0.0, 1.0]]), of(&[[1.0, 0.0], [0.0, 1.0]]));
        let queue = of(&[[-1.0, 0.0], [0.0, -1.0], [0.0, -1.0]]);
        let [loss, gradient] =
            [&[1][..], &[2, 2]].map(|shape| Tensor::empty(&device, shape, DType::F32).unwrap());
        let (student_temp, teacher_temp) = (1e-3, 1e-6);
        let call = QueueDistillation {
            student: &student,
            teacher: &teacher,
            queue: &queue,
            student_temp,
            teacher_temp,
            budget: None,
        };
        call.run(&loss, false, &gradient, 1.0).unwrap();
        // the first row is certain of the wrong one, by 2 / τs, the second of the right one
        assert!((loss.item().unwrap() - 1000.0).abs() < 0.1, "{}", loss.item().unwrap());
        assert!(gradient.to_vec::<f32>().unwrap().iter().all(|v| v.is_finite()));
    }
}

#[test]
fn a_queue_forgets_its_oldest() {
    let device = Device::cpu();
    let queue = Queue::new(&device, [5, 2], 7, 0).unwrap();
    let norms = queue.entries.to_vec::<f32>().unwrap();
    assert!(norms.chunks(2).all(|row| (row[0].hypot(row[1]) - 1.0).abs() < 1e-6), "{norms:?}");
    let rows = |values: &[f32]| {
        let all: Vec<f32> = values.iter().flat_map(|v| [*v, 0.0]).collect();
        let rows = Tensor::from_slice(&device, &[values.len(), 2], &all).unwrap();
        Queue::gather(&Collective::alone(), &rows).unwrap()
    };
    let firsts =
        || -> Vec<f32> { queue.entries.to_vec::<f32>().unwrap().chunks(2).map(|row| row[0]).collect() };
    let next = queue.take(rows(&[1.0, 2.0, 3.0]), 0).unwrap();
    let next = queue.take(rows(&[4.0, 5.0, 6.0]), next).unwrap();
    assert_eq!((firsts(), next), (vec![6.0, 2.0, 3.0, 4.0, 5.0], 1));
    assert_eq!(queue.next.item().unwrap(), 1.0);
    // of more than it has rows the last ones
    let next = queue.take(rows(&[7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0]), next).unwrap();
    assert_eq!((firsts(), next), (vec![13.0, 9.0, 10.0, 11.0, 12.0], 1));
}

/// A checkpoint of a family after two steps of pre-training.
fn pretrained(folder: &Folder, recipe: &str) -> String {
    let out = folder.path(recipe);
    let mut args = vec!["-q", "train", "--config", recipe, "--device=cpu", "--steps=2", "--out", &out];
    args.extend(["train.batch_size_per_gpu=4", "data.spec=shapes:40", "evaluation.train_images=20"]);
    args.extend(["evaluation.val_images=10", "dino.head_n_prototypes=[16, 24]", "dino.head_hidden_dim=32"]);
    if recipe == "demo" {
        args.extend(SMALL);
    }
    let done = program(&args);
    assert!(done.status.success(), "{recipe}: {}", text(&done.stderr));
    out
}

const SHORT: [&str; 7] = [
    "train.batch_size_per_gpu=8",
    "train.log_every=1",
    "distill.queue=50",
    "distill.drop_path=0.1",
    "evaluation.train_images=30",
    "evaluation.val_images=20",
    "evaluation.k=[5]",
];
const FEW: [&str; 2] = ["--data=shapes:40", "--device=cpu"];

fn distil(teacher: &str, out: &str, more: &[&str]) -> String {
    let done = program(&[&["distill", "--teacher", teacher, "--out", out][..], &SHORT, more].concat());
    assert!(done.status.success(), "{more:?}: {}", text(&done.stderr));
    text(&done.stdout) + &text(&done.stderr)
}

fn losses(out: &str) -> Vec<f64> {
    result(out).0.iter().filter_map(|line| line["loss"].as_f64()).collect()
}

/// k-NN before the first step and after the last.
fn accuracies(out: &str) -> [f64; 2] {
    let (metrics, _) = result(out);
    let found: Vec<f64> = metrics
        .iter()
        .filter_map(|line| line.as_object()?.iter().find(|(key, _)| key.starts_with("knn."))?.1.as_f64())
        .collect();
    [found[0], found[found.len() - 1]]
}

/// A teacher that knows the generated images, by 150 steps, teaches a student that started from random weights; what comes of
/// it is taken by every command that takes a run.
#[test]
fn a_student_learns_what_its_teacher_knows() {
    let folder = Folder::new("distill-learns");
    let teacher = folder.path("teacher");
    let mut args =
        vec!["-q", "train", "--device=cpu", "--steps=150", "--out", &teacher, "data.spec=shapes:2000"];
    args.extend(["train.batch_size_per_gpu=32", "evaluation.train_images=400", "evaluation.val_images=200"]);
    let done = program(&args);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let out = folder.path("student");
    let more = [
        "--device=cpu",
        "--data=shapes:2000",
        "--steps=150",
        "train.batch_size_per_gpu=32",
        "distill.queue=1024",
        "distill.drop_path=0",
        "evaluation.train_images=400",
        "evaluation.val_images=200",
        "train.log_every=25",
    ];
    let told = distil(&teacher, &out, &more);
    let [before, after] = accuracies(&out);
    assert!(after > before + 0.15, "k-NN {before} before and {after} after: {told}");
    assert!(told.contains("student 48x2") && told.contains("teacher 96x3"), "{told}");
    assert!(Path::new(&out).join("knn.svg").is_file());
    // the number again, from the checkpoint
    let sets = ["--train=shapes:2000", "--train-images=400", "--val-images=200", "--device=cpu"];
    let knn = printed(&[&["eval", "knn", "--checkpoint", &out, "--k=5"][..], &sets].concat());
    assert!(knn.contains("48x2") && knn.contains(&format!("{:.1}%", 100.0 * after)), "{after}: {knn}");
    let features = folder.path("features.safetensors");
    let images = ["--data=shapes:40", "--device=cpu", "--out", &features];
    printed(&[&["features", "--checkpoint", &out][..], &images].concat());
    assert!(Path::new(&features).is_file());
    let net = folder.path("net");
    printed(&["extract", "--checkpoint", &out, "--out", &net]);
    let [own, cut] = [Path::new(&out).join("student"), net.into()]
        .map(|dir: std::path::PathBuf| std::fs::read(dir.join("model.safetensors")).unwrap());
    assert!(own == cut, "the student that the run writes is that of its checkpoint");
    let tuned = folder.path("tuned");
    let args =
        ["finetune", "--init", &out, "--out", &tuned, "--train=shapes:40", "--device=cpu", "--steps=2"];
    let done = program(&args);
    assert!(done.status.success(), "{}", text(&done.stderr));
    // and as a teacher
    distil(&out, &folder.path("again"), &[&FEW[..], &["--steps=2"]].concat());
}

/// Students of every family from teachers of every family; both devices take the same steps.
#[test]
fn every_family_learns_on_both_devices_alike() {
    let folder = Folder::new("distill-families");
    let teachers = ["demo", "demo_swin", "demo_resnet"].map(|recipe| pretrained(&folder, recipe));
    let students = [
        (0, vec!["--student=smallest"]),
        (1, vec!["--student=smallest", "--network=smallest"]),
        (2, vec!["--student=smallest", "crops.local_crops_number=2", "crops.local_crops_size=32"]),
        (1, vec!["distill.output=projection", "distill.head=1", "distill.ema=0.5"]),
    ];
    for (i, (teacher, more)) in students.iter().enumerate() {
        let [on_cpu, on_gpu] = ["cpu", "llvmpipe"].map(|device| {
            let out = folder.path(&format!("{i}-{device}"));
            let args = [&more[..], &["--data=shapes:40", "--device", device, "--steps=3"]].concat();
            distil(&teachers[*teacher], &out, &args);
            // in POA's format where timm has no such network
            assert!(Path::new(&out).join("student/model.safetensors").is_file(), "{more:?}");
            losses(&out)
        });
        assert_eq!(on_cpu.len(), 3, "{more:?}");
        for (a, b) in on_cpu.iter().zip(&on_gpu) {
            assert!((a - b).abs() < 5e-4 * a.abs(), "{more:?}: {on_cpu:?} and {on_gpu:?}");
        }
    }
    // another family than the teacher's, by sizes of its own
    let recipe = folder.path("resnet.toml");
    let sizes = "arch = \"resnet_dynamic\"\npatch_size = 4\nstem_channels = 8\nbase_channels = 8\nnum_gn_groups = 4\n\
                 min_depths = [1, 1, 1, 1]\nmax_depths = [1, 1, 2, 1]\n";
    std::fs::write(&recipe, format!("[student]\n{sizes}[distill]\nstudent = \"12x1-1-2-1\"\n")).unwrap();
    let out = folder.path("other");
    let told = distil(&teachers[0], &out, &[&FEW[..], &["--steps=2", "--config", &recipe]].concat());
    assert!(told.contains("student 12x1-1-2-1 (resnet_dynamic)"), "{told}");
    let list = printed(&["extract", "--checkpoint", &out, "--list"]);
    assert_eq!(list.lines().count(), 2, "the student is the only network: {list}");
    let knn = ["--train=shapes:40", "--train-images=20", "--val-images=10", "--k=5", "--device=cpu"];
    printed(&[&["eval", "knn", "--checkpoint", &out][..], &knn].concat());
}

/// An extracted network teaches as that of its checkpoint does.
#[test]
fn a_plain_network_teaches_like_that_of_its_checkpoint() {
    let folder = Folder::new("distill-plain");
    for (recipe, format) in
        [("demo", "timm"), ("demo", "dinov2"), ("demo_swin", "poa"), ("demo_resnet", "poa")]
    {
        let teacher = folder.path(recipe);
        if !Path::new(&teacher).exists() {
            pretrained(&folder, recipe);
        }
        let net = folder.path(&format!("{recipe}-{format}"));
        let smallest = ["--network=smallest", "--format", format, "--out", &net];
        printed(&[&["extract", "--checkpoint", &teacher][..], &smallest].concat());
        // a Swin's or ResNet's sizes are those of the settings
        let config = folder.path(&format!("{recipe}.toml"));
        let stored = std::fs::read_to_string(Path::new(&teacher).join("config.toml")).unwrap();
        let student =
            stored.split("\n[").find(|part| part.starts_with("student]") || part.starts_with("[student]"));
        let size = stored.lines().find(|line| line.starts_with("global_crops_size")).unwrap();
        std::fs::write(&config, format!("[{}\n[crops]\n{size}\n", student.unwrap().trim_start_matches('[')))
            .unwrap();
        let common = [&FEW[..], &["--steps=2", "--config", &config, "--network=smallest"]].concat();
        let [of_run, of_net] = [("run", &teacher), ("net", &net)].map(|(name, teacher)| {
            let out = folder.path(&format!("{recipe}-{format}-{name}"));
            distil(teacher, &out, &common);
            losses(&out)
        });
        for (a, b) in of_run.iter().zip(&of_net) {
            assert!((a - b).abs() < 1e-5 * a.abs(), "{recipe} {format}: {of_run:?} and {of_net:?}");
        }
    }
}

#[test]
fn a_run_that_was_cut_has_the_bits_of_one_that_was_not() {
    let folder = Folder::new("distill-resume");
    let teacher = pretrained(&folder, "demo");
    let small = ["crops.local_crops_number=2", "distill.ema=0.9", "train.accumulation_steps=2"];
    let more = [&FEW[..], &small, &["distill.epochs=6", "train.keep_checkpoints=0"]].concat();
    let [whole, cut] = ["whole", "cut"].map(|name| folder.path(name));
    distil(&teacher, &whole, &more);
    distil(&teacher, &cut, &more);
    assert_eq!(result(&whole), result(&cut), "repeated");
    let steps = checkpoints_in(Path::new(&cut).join("checkpoints")).unwrap();
    assert!(steps.len() >= 3, "{steps:?}");
    for (_, dir) in &steps[2..] {
        std::fs::remove_dir_all(dir).unwrap();
    }
    // what the queue holds, and where, is part of it
    let optimizer = TensorFile::open(steps[1].1.join("optimizer.safetensors")).unwrap();
    assert_eq!(optimizer.shape("queue.local").unwrap(), [50, 32]);
    assert_eq!(optimizer.read_f32("queue_next.global").unwrap(), [(steps[1].0 * 16 % 50) as f32]);
    let done = program(&["distill", "--out", &cut, "--resume", "--device=cpu"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("resumed after"), "{}", text(&done.stderr));
    assert_eq!(result(&whole), result(&cut), "resumed");
}

/// SIGKILL, and not an end in order; and the teacher's run going on is no other teacher, but another in its place is.
#[test]
#[cfg(unix)]
fn a_kill_loses_no_more_than_what_came_after_the_last_checkpoint() {
    let folder = Folder::new("distill-kill");
    let teacher = pretrained(&folder, "demo");
    let [out, whole] = ["killed", "whole"].map(|name| folder.path(name));
    let more = [&FEW[..], &["--steps=400"]].concat();
    distil(&teacher, &whole, &more);
    let mut child = Command::new(env!("CARGO_BIN_EXE_poa-gpu"))
        .args([&["-q", "distill", "--teacher", &teacher, "--out", &out][..], &SHORT, &more].concat())
        .spawn()
        .unwrap();
    let begun = std::time::Instant::now();
    let saved = || checkpoints_in(Path::new(&out).join("checkpoints")).map_or(0, |all| all.len());
    while saved() == 0 && begun.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(saved() > 0, "no checkpoint within a minute");
    let again = ["distill", "--out", &out, "--resume", "--device=cpu"];
    let done = program(&again);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("resumed after"), "{}", text(&done.stderr));
    assert_eq!(result(&whole), result(&out), "as if nothing had happened");
    let other = folder.path("other");
    let mut args = vec!["-q", "train", "--device=cpu", "--steps=3", "--out", &other, "data.spec=shapes:40"];
    args.extend(["train.batch_size_per_gpu=4", "evaluation.train_images=20", "evaluation.val_images=10"]);
    args.extend(SMALL);
    assert!(program(&args).status.success());
    let with = [&again[..], &["--teacher", &other, "--steps=450"]].concat();
    refused(&with, 1, &["teacher.json", "checksum", "start a run of its own"]);
}

/// The queue is fed by all ranks; two runs have the same bits.
#[test]
fn ranks_distil_together_and_repeat() {
    let folder = Folder::new("distill-ranks");
    let teacher = pretrained(&folder, "demo");
    let more = ["--devices=cpu:2", "--data=shapes:40", "--steps=5", "distill.drop_path=0"];
    let [a, b] = ["a", "b"].map(|name| folder.path(name));
    distil(&teacher, &a, &more);
    distil(&teacher, &b, &more);
    assert_eq!(result(&a), result(&b));
    assert!(Path::new(&a).join("student/model.safetensors").is_file());
    // one rank with the batch of both sees the same images in the same order, so the queue is the same but for rounding
    let alone = folder.path("alone");
    let same = [&FEW[..], &["--steps=5", "distill.drop_path=0", "train.batch_size_per_gpu=16"]].concat();
    distil(&teacher, &alone, &same);
    let [of_two, of_one] = [&a, &alone].map(|out| {
        let file = find(out.as_ref()).unwrap().dir().join("optimizer.safetensors");
        let file = TensorFile::open(file).unwrap();
        assert_eq!(file.read_f32("queue_next.global").unwrap(), [(5.0 * 16.0) % 50.0]);
        file.read_f32("queue.global").unwrap()
    });
    let worst = of_two.iter().zip(&of_one).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "{worst}");
    for (a, b) in losses(&a).into_iter().zip(losses(&alone)) {
        assert!((a - b).abs() < 1e-4 * b, "{a} and {b}");
    }
}

#[test]
fn what_cannot_be_is_said_before_the_work() {
    let folder = Folder::new("distill-refused");
    let teacher = pretrained(&folder, "demo");
    let out = folder.path("out");
    let given = |more: &[&str], status: i32, texts: &[&str]| {
        let from = if more.contains(&"--teacher") { vec![] } else { vec!["--teacher", teacher.as_str()] };
        refused(&[&["distill", "--out", &out][..], &FEW, &from, more].concat(), status, texts);
        assert!(!Path::new(&out).exists(), "{more:?} leaves no folder");
    };
    given(&["--teacher", "nowhere"], 1, &["nowhere", "no such file", "--teacher"]);
    given(&["--student=17x3"], 2, &["distill.student", "17x3"]);
    given(&["--student=all"], 2, &["distill.student", "one student learns at a time"]);
    given(&["--network=17x3"], 2, &["distill.teacher_network", "17x3"]);
    given(&["--config=seeed"], 2, &["seeed", "`seed`"]);
    given(&["distill.quue=1"], 2, &["distill.quue", "distill.queue"]);
    given(&["distill.teacher_temp=0"], 2, &["distill.teacher_temp"]);
    given(&["distill.queue=0"], 2, &["distill.queue"]);
    given(&["crops.global_crops_size=30"], 2, &["crops.global_crops_size", "32"]);
    given(&["distill.output=projection", "distill.head=2"], 2, &["distill.head", "2 heads"]);
    given(&["data.mean=[0.1, 0.2, 0.3]"], 2, &["data.mean", "teacher", "leave them out"]);
    given(&["evaluation.train=shapes:40"], 2, &["evaluation.val"]);
    let net = folder.path("net");
    printed(&["extract", "--checkpoint", &teacher, "--out", &net]);
    given(
        &["--teacher", &net, "distill.output=projection"],
        2,
        &["distill.output", "plain network", "features"],
    );
    // a run of another kind
    refused(&["distill", "--out", &teacher, "--resume"], 1, &["not of a run of `poa-gpu distill`"]);
    let student = folder.path("student");
    distil(&teacher, &student, &[&FEW[..], &["--steps=1"]].concat());
    refused(&["train", "--out", &student, "--resume"], 1, &["is of a run of `poa-gpu distill`"]);
    refused(
        &["distill", "--teacher", &teacher, "--out", &student, "--device=cpu"],
        1,
        &["already holds a run"],
    );
}
