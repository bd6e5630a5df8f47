//! Recipes: the embedded ones, round trips, and errors that name the key and what would work.

use std::path::{Path, PathBuf};

use clap::Parser;
use poa_gpu::cli::args::{Cli, Command};
use poa_gpu::cli::eval::{EvalArgs, neighbours};
use poa_gpu::data::settings::Blur;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::models::Student;
use poa_gpu::optim::schedules::Schedules;
use poa_gpu::optim::settings::ScalingRule;
use poa_gpu::poa::schedules::TeacherSchedules;
use poa_gpu::poa::settings::{Centering, KoleoMix};
use poa_gpu::recipes::Config;

use poa_gpu::train::metrics::{MetricsLog, TrainLog, history, number, timestamp};
use poa_gpu::train::progress::{Progress, Shown, readable};
use poa_gpu::train::run_folder::RunFolder;
use poa_gpu::weights::networks::choose;

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("poa-gpu-config-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn demo(overrides: &[&str]) -> Result<Config, String> {
    let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
    let mut config = Config::load("demo", &overrides).map_err(|e| e.to_string())?;
    config.resolve(1).map_err(|e| e.to_string())?;
    Ok(config)
}

/// The error of one override must hold every one of these texts.
fn fails(setting: &str, texts: &[&str]) {
    let error = demo(&[setting]).expect_err(setting);
    println!("{setting:50} {error}");
    for text in texts {
        assert!(error.contains(text), "{setting}: `{error}` does not say `{text}`");
    }
    assert!(!error.contains('\n'), "{setting}: `{error}` is longer than a line");
}

#[test]
fn recipes_are_valid_and_round_trip() {
    assert!(Config::recipe_names().count() >= 4);
    for name in Config::recipe_names() {
        let mut config = Config::recipe(name).unwrap();
        config.resolve(1).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(config.optim.lr > 0.0);
        let text = config.to_toml().unwrap();
        let again = Config::from_toml(&text, Path::new("again")).unwrap();
        assert_eq!(config, again, "{name}");
        assert_eq!(text, again.to_toml().unwrap());
    }
}

#[test]
fn the_papers_recipe_is_the_default() {
    let mut config = Config::recipe("vit_ee1200").unwrap();
    assert_eq!(config, Config::default());
    config.resolve(32).unwrap();
    assert!((config.optim.lr - 0.005).abs() < 1e-15);
    assert_eq!(config.total_steps(), 276_800);
    assert_eq!(config.ibot_start_step(), 24_000);
    assert_eq!(config.plan().save_every, 16_000);
}

#[test]
fn overrides_take_toml_or_plain_text() {
    let config = demo(&[
        "optim.epochs=7",
        "optim.base_lr = 1",
        "dino.head_n_prototypes=[16, 32]",
        "dino.koleo=sum",
        "crops.blur=\"code\"",
        "train.centering=centering",
        "optim.scaling_rule=linear",
        "data.spec=17",
        "crops.color_jitter=[0, 0.1, 0, 0]",
        "student.drop_path_uniform=false",
    ])
    .unwrap();
    assert_eq!(config.optim.epochs, 7);
    assert_eq!(config.optim.base_lr, 1.0);
    assert_eq!(config.optim.lr, 64.0 / 1024.0);
    assert_eq!(config.dino.heads.head_n_prototypes, [16, 32]);
    assert_eq!(config.dino.koleo, KoleoMix::Sum);
    assert_eq!(config.crops.blur, Blur::Code);
    assert_eq!(config.crops.blur.probabilities(), [0.0, 0.9, 0.5]);
    assert_eq!(config.step.centering, Centering::Centering);
    assert_eq!(config.optim.scaling_rule, ScalingRule::Linear);
    assert_eq!(config.data.spec, "17");
    let Student::Vit(student) = &config.student else { panic!("the demo is a ViT") };
    assert!(!student.drop_path_uniform);
}

#[test]
fn unknown_keys_name_the_nearest() {
    fails("student.patchsize=8", &["`student.patchsize`", "did you mean `student.patch_size`"]);
    fails("optim.learning_rate=8", &["`optim.learning_rate`", "no such key", "`optim.base_lr`"]);
    fails("train.warmup_epochs=8", &["did you mean `optim.warmup_epochs`"]);
    fails("train.epoch_length=8", &["`train.OFFICIAL_EPOCH_LENGTH`"]);
    fails("ibot.start_epoch=8", &["`optim.ibot_activate_epochs`"]);
    fails("studnet.patch_size=8", &["did you mean `student.patch_size`"]);
    fails("x=1", &["`x`", "sections are"]);
    fails("optim=1", &["`optim`", "is a section"]);
    fails("data.zzz=1", &["`data.zzz`", "max_bad_fraction"]);
    fails("optimizer.zzz=1", &["did you mean `optim`"]);
    fails("optim.lr.x=1", &["`optim.lr.x`"]);
    fails("nothing", &["section.key=value"]);
}

#[test]
fn wrong_types_say_what_is_expected() {
    fails("optim.epochs=ten", &["`optim.epochs`", "whole number", "\"ten\""]);
    fails("optim.epochs=1.5", &["`optim.epochs`", "whole number", "1.5"]);
    fails("optim.epochs=-1", &["`optim.epochs`", "0 or more", "-1"]);
    fails("optim.base_lr=[1]", &["`optim.base_lr`", "a number", "[1]"]);
    fails("dino.head_n_prototypes=1024", &["`dino.head_n_prototypes`", "a list", "1024"]);
    fails("dino.head_n_prototypes=[1, \"a\"]", &["`dino.head_n_prototypes`", "a list"]);
    fails("dino.head_n_prototypes=[1, -5]", &["`dino.head_n_prototypes`", "0 or more"]);
    fails("crops.global_crops_scale=[0.5]", &["`crops.global_crops_scale`", "[0.5]"]);
    fails("crops.global_crops_scale=[0.1, 0.2, 0.5]", &["`crops.global_crops_scale`"]);
    fails("crops.blur=papr", &["`crops.blur`", "papr", "`paper`"]);
    fails("student.drop_path_uniform=1", &["`student.drop_path_uniform`", "true or false"]);
    fails("train.seed=99999999999999999999", &["`train.seed`"]);
}

#[test]
fn impossible_values_name_one_that_works() {
    fails("student.arch=vit", &["`student.arch`", "vit_dynamic", "swin_dynamic", "resnet_dynamic"]);
    fails("student.max_embed_dim=100", &["`student.max_embed_dim`", "student.head_dim", "112"]);
    fails("student.min_embed_dim=112", &["`student.min_embed_dim`", "96"]);
    fails("student.min_embed_dim=0", &["`student.min_embed_dim`"]);
    for key in ["student.max_embed_dim", "student.max_depth"] {
        fails(&format!("{key}=1"), &[key, "lower the one or raise the other"]);
    }
    let problem = demo(&["train.batch_size_per_gpu=0"]).unwrap_err();
    assert!(problem.contains("`train.batch_size_per_gpu`") && !problem.contains("min_lr"), "{problem}");
    fails("student.width_interval=2", &["`student.max_embed_dim`", "112"]);
    fails("student.depth_interval=4", &["`student.max_depth`", "6"]);
    fails("student.min_depth=6", &["`student.min_depth`"]);
    fails("student.head_dim=0", &["`student.head_dim`"]);
    fails("student.patch_size=0", &["`student.patch_size`"]);
    fails("student.width_interval=0", &["`student.width_interval`"]);
    fails("student.net_select_scale=0.5", &["`student.net_select_scale`", "3"]);
    fails("student.fixed_network=50x3", &["`student.fixed_network`", "48x2", "96x3"]);
    fails("student.qkv_bias=false", &["`student.qkv_bias`", "true"]);
    fails("crops.local_crops_size=20", &["`crops.local_crops_size`", "student.patch_size", "24"]);
    fails("crops.local_crops_scale=[0.4, 0.1]", &["`crops.local_crops_scale`", "smallest first"]);
    fails("crops.color_jitter=[0.4, 0.4, 0.2, 0.9]", &["`crops.color_jitter`", "hue"]);
    fails("train.batch_size_per_gpu=1", &["`train.batch_size_per_gpu`", "KoLeo", "koleo_loss_weight"]);
    fails("dino.student_temp=0", &["`dino.student_temp`", "0.1"]);
    fails("dino.student_temp=nan", &["`dino.student_temp`"]);
    fails("dino.lambda_ie=1.1", &["`dino.lambda_ie`", "0 to 1"]);
    fails("dino.head_n_prototypes=[16, 0]", &["`dino.head_n_prototypes`"]);
    fails("dino.head_nlayers=2", &["`dino.head_nlayers`", "3"]);
    fails("ibot.mask_ratio_min_max=[0.5, 0.1]", &["`ibot.mask_ratio_min_max`"]);
    fails("ibot.mask_sample_probability=0", &["`ibot.mask_sample_probability`", "ibot.loss_weight"]);
    fails("teacher.momentum_teacher=1.5", &["`teacher.momentum_teacher`", "0.992"]);
    fails("optim.warmup_epochs=10", &["`optim.warmup_epochs`", "optim.epochs"]);
    fails("optim.min_lr=1", &["`optim.min_lr`", "learning rate"]);
    fails("optim.iter_num_scale=0", &["`optim.iter_num_scale`"]);
    fails("evaluation.k=[3000]", &["`evaluation.k`", "train_images"]);
    fails("evaluation.networks=[\"huge\"]", &["`evaluation.networks`", "intact"]);
    demo(&["train.batch_size_per_gpu=1", "dino.koleo_loss_weight=0"]).unwrap();
    demo(&["evaluation.networks=[\"smallest\", \"64x3\"]", "student.fixed_network=96x3"]).unwrap();
}

#[test]
fn keys_of_another_family_are_refused() {
    fails("student.window_size=8", &["`student.window_size`", "swin_dynamic", "vit_dynamic", "leave it out"]);
    fails("student.max_depths=[1, 1, 3, 1]", &["`student.max_depths`", "swin_dynamic and resnet_dynamic"]);
    fails("student.window_size=-1", &["`student.window_size`", "0 or more"]);
    fails("student.windowsize=8", &["did you mean `student.window_size`"]);
    // what says nothing may stand: the default, and 0
    demo(&["student.window_size=7", "student.ibot_scale_factor=0"]).unwrap();
    let error = demo(&["student.arch=swin_dynamic"]).unwrap_err();
    for key in ["`student.min_depth`", "`student.max_depth`", "`student.layerscale`"] {
        assert!(error.contains(key), "the demo's {key} is not a Swin's: {error}");
    }
    let mut config = Config::load("demo_resnet", &["student.drop_path_rate=0.0".into()]).unwrap();
    config.resolve(1).unwrap();
    let error = Config::load("demo_resnet", &["student.qkv_bias=false".into()]).unwrap_err().to_string();
    assert!(error.contains("`student.qkv_bias`") && error.contains("resnet_dynamic"), "{error}");
}

#[test]
fn heads_that_no_kernel_takes_are_refused() {
    let wide = |head: usize| {
        let sizes = [("head_dim", head), ("min_embed_dim", head), ("max_embed_dim", 2 * head)];
        demo(&sizes.map(|(key, value)| format!("student.{key}={value}")).each_ref().map(String::as_str))
    };
    wide(128).unwrap();
    let error = wide(192).unwrap_err();
    assert!(error.contains("`student.head_dim`") && error.contains("1 to 128"), "{error}");
}

#[test]
fn all_that_is_wrong_is_named_at_once() {
    let error = demo(&["optim.epochs=ten", "optim.lrr=1", "student.window_size=8"]).unwrap_err();
    assert!(error.starts_with("3 settings are wrong:"), "{error}");
    for text in ["`optim.epochs` must be a whole number", "`optim.lrr`", "`student.window_size`"] {
        assert!(error.contains(text), "{error}");
    }
    let error = demo(&["student.head_dim=0", "dino.student_temp=0", "optim.epochs=0"]).unwrap_err();
    assert!(error.starts_with("3 settings are wrong:") && error.lines().count() == 4, "{error}");
}

#[test]
fn keys_ranges_and_relations_are_named_together() {
    // a key that does not exist, a wrong type, a range, a relation
    let wrong = ["optim.lrr=1", "train.seed=x", "dino.student_temp=0", "crops.local_crops_size=20"];
    let error = demo(&wrong).unwrap_err();
    for text in
        ["4 settings are wrong", "`optim.lr`", "`train.seed`", "`dino.student_temp`", "for example 24"]
    {
        assert!(error.contains(text), "{error}");
    }
    // what is in doubt is not the reason to complain of something else: the patch size is meant to be 20
    let error = demo(&["student.patchsize=20", "crops.local_crops_size=20"]).unwrap_err();
    assert!(error.contains("`student.patchsize`") && !error.contains("local_crops"), "{error}");
    let error = demo(&["student.arch=swin_dynamc", "student.window_size=8"]).unwrap_err();
    assert!(error.contains("did you mean `swin_dynamic`") && !error.contains("window_size"), "{error}");
    // a shorter run of the demo: everything that is too long for it, with what would be right
    let error = demo(&["optim.epochs=1"]).unwrap_err();
    let keys: Vec<&str> = error.split('`').skip(1).step_by(2).collect();
    let fixes: Vec<String> = keys.iter().map(|key| format!("{key}=0")).collect();
    let all: Vec<&str> = ["optim.epochs=1"].into_iter().chain(fixes.iter().map(String::as_str)).collect();
    demo(&all).unwrap_or_else(|e| panic!("{error}, and then {e}"));
    // an unknown section, an unknown key and the command line
    let dir = scratch("at-once");
    let path = dir.join("my.toml");
    std::fs::write(&path, "[optimiser]\nbase_lr = 1\n[teacher]\ntemp = 0.1\nteacher_temp = \"warm\"\n")
        .unwrap();
    let error = Config::load(path.to_str().unwrap(), &["student.heads=3".into()]).unwrap_err().to_string();
    for text in [
        "4 settings",
        "`optimiser`",
        "`teacher.temp`",
        "(in ",
        "`teacher.teacher_temp` must be",
        "`student.heads`",
    ] {
        assert!(error.contains(text), "{error}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_is_no_toml_is_told_from_it() {
    let dir = scratch("formats");
    let fails = |name: &str, content: &[u8], texts: &[&str]| {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        let error = Config::load(path.to_str().unwrap(), &[]).expect_err(name).to_string();
        for text in texts.iter().chain(&[name]) {
            assert!(error.contains(text), "{name}: `{error}` does not say `{text}`");
        }
        assert!(!error.contains('\n'), "{error}");
    };
    let yaml = b"# official\nstudent:\n  arch: vit_dynamic\n  patch_size: 16\noptim:\n  epochs: 100\n";
    fails(
        "a.yaml",
        yaml,
        &["is YAML, and recipes are TOML", "`[student]` for `student:`", "--print-default"],
    );
    fails("b.toml", yaml, &["is YAML"]);
    fails("c.yml", b"---\n- a\n", &["is YAML"]);
    fails("d.json", b"{\"student\": {\"patch_size\": 16}}", &["is JSON", "`[student]`"]);
    // a slip is no other format
    fails("e.toml", b"[optim]\nepochs: 3\n", &["is not TOML: line 2, column 7"]);
    fails(
        "f.toml",
        b"[optim]\nepochs = 3\n[train]\nseed = = 1\nlog_every = [1\n",
        &["line 4, column 8", "; line 5"],
    );
    fails("g.toml", b"[optim]\nepochs = 3\nepochs = 4\n", &["line 3, column 1", "duplicate key"]);
    fails(
        "h.toml",
        "\u{feff}[optim]\r\n\tepochs = 1\r\n\tepocs = 2\r\n".as_bytes(),
        &["did you mean `optim.epochs`"],
    );
    let wide: Vec<u8> = "[optim]\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fails("i.toml", &[&[0xff, 0xfe], &wide[..]].concat(), &["UTF-16; save it as UTF-8"]);
    fails("j.toml", b"[optim]\nepochs = 3 # caf\xe9\n", &["not UTF-8 text: line 2"]);
    fails("k.toml", &vec![b'#'; (16 << 20) + 1], &["16 MiB"]);
    std::fs::create_dir_all(dir.join("run.toml")).unwrap();
    let folder = |texts: &[&str]| {
        let error = Config::load(dir.join("run.toml").to_str().unwrap(), &[]).unwrap_err().to_string();
        texts.iter().for_each(|t| assert!(error.contains(t), "{error}"));
    };
    folder(&["run.toml: is a folder", "give the TOML file"]);
    std::fs::write(dir.join("run.toml/config.toml"), "").unwrap();
    folder(&["give the recipe in it", "run.toml/config.toml"]);
    // tabs, a mark in front and other line ends are TOML
    let path = dir.join("good.toml");
    std::fs::write(&path, "\u{feff}[train]\r\n\tseed\t=\t3\r\n").unwrap();
    assert_eq!(Config::load(path.to_str().unwrap(), &[]).unwrap().train.seed, 3);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn unknown_variants_list_what_is_known() {
    fails(
        "student.arch=vit",
        &["`vit_dynamic`", "`swin_dynamic`", "`resnet_dynamic`", "did you mean `vit_dynamic`?"],
    );
    fails("train.precision=fp32", &["`f32`", "`mixed`", "did you mean `f32`?"]);
    fails("train.centering=sinkhorn", &["`sinkhorn_knopp`", "`centering`", "did you mean `sinkhorn_knopp`?"]);
    fails("optim.scaling_rule=sqare", &["`sqrt_wrt_1024`", "`linear_wrt_1024`", "`none`"]);
    fails("dino.koleo=halb", &["`half`", "`sum`", "did you mean `half`?"]);
    let parse = |words: &str| Cli::try_parse_from(words.split(' ')).unwrap_err().to_string();
    for (words, texts) in [
        ("poa-gpu completions zhs", &["bash", "zsh", "fish", "did you mean", "similar"][..]),
        (
            "poa-gpu extract --checkpoint a --out b --format tim",
            &["did you mean `timm`?", "timm, dinov2, poa and onnx"],
        ),
        ("poa-gpu exract", &["extract"]),
        ("poa-gpu eval knm", &["knn"]),
    ] {
        let error = parse(words);
        assert!(
            texts.iter().filter(|text| error.contains(**text)).count() >= texts.len().div_ceil(2),
            "{error}"
        );
    }
    let data = |spec: &str| match poa_gpu::data::open(spec, &Default::default()) {
        Err(e) => e.to_string(),
        Ok(_) => panic!("{spec}"),
    };
    for (spec, meant) in
        [("foldr:x", "`folder`"), ("cifar:x", "`cifar10"), ("shape", "`shapes`"), ("tar:x", "webdataset:")]
    {
        let error = data(spec);
        assert!(error.contains(meant) && error.contains("`list:FILE`"), "{error}");
    }
}

#[test]
fn several_values_come_in_any_way() {
    let knn = |words: &str| {
        let words = format!("poa-gpu eval knn --checkpoint c --train t {words}");
        match Cli::try_parse_from(words.split(' ')).unwrap_or_else(|e| panic!("{e}")).command {
            Command::Eval(EvalArgs::Knn(args)) => {
                (neighbours(&args.k, 0).unwrap(), args.common.network, args.common.out)
            }
            _ => panic!("not knn"),
        }
    };
    for ks in ["--k 5 200", "--k 5,200", "--k 5 --k 200", "--k=5 --k=200", "--k 5, 200"] {
        assert_eq!(knn(ks).0, [5, 200], "{ks}");
        assert_eq!(knn(&format!("{ks} --out o")).2.unwrap().to_str(), Some("o"), "{ks}");
    }
    assert_eq!(knn("--out o").0, [10, 20, 100, 200]);
    assert_eq!(neighbours(&["7,7", "3"], 0).unwrap(), [7, 3]);
    for (texts, images, said) in [
        (&["ten"][..], 0, "`ten` is no whole number"),
        (&["20000"], 0, "1 to 10000: so many neighbours"),
        (&["0"], 0, "must be 1"),
        (&["50"], 40, "--train-images 40; let it be 40 or less"),
        (&[","], 0, "no number"),
    ] {
        let error = neighbours(texts, images).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let grid = Config::recipe("demo").unwrap().backbone().unwrap().grid().clone();
    for words in ["--network 48x2 intact", "--network 48x2,intact", "--network 48x2 --network intact"] {
        let (ks, networks, _) = knn(&format!("{words} --k 7"));
        assert_eq!((ks, choose(&grid, &networks).unwrap().len()), (vec![7], 2), "{words}");
    }
    let bench = |words: &str| match Cli::try_parse_from(words.split(' ')).unwrap().command {
        Command::Bench(args) => args.filters,
        _ => panic!("not bench"),
    };
    assert_eq!(bench("poa-gpu bench matmul,step adamw"), ["matmul", "step", "adamw"]);
    // what follows the options is not theirs
    let Command::Visualize(args) =
        Cli::try_parse_from("poa-gpu visualize --checkpoint c --network small a.jpg b.jpg".split(' '))
            .unwrap()
            .command
    else {
        panic!("not visualize")
    };
    assert_eq!((args.images.len(), args.subject.network.as_str()), (2, "small"));
    let Command::Train(args) =
        Cli::try_parse_from("poa-gpu train --data shapes optim.epochs=5 train.seed=1".split(' '))
            .unwrap()
            .command
    else {
        panic!("not train")
    };
    assert_eq!(args.settings.len(), 2);
}

#[test]
fn a_configuration_that_an_earlier_version_stored_loads() {
    let text = include_str!("recipes/stored.toml");
    let mut config = Config::from_stored(text, Path::new("config.toml")).unwrap();
    config.resolve(1).unwrap();
    let Student::Swin(student) = &config.student else { panic!("a Swin was stored") };
    assert_eq!((student.window_size, student.max_depths), (4, [1, 1, 3, 1]));
    // as bytes, what it always was
    assert_eq!(config.step.prototype_chunk_bytes, 4096);
    assert_eq!(config.optim.lr, 0.002);
    // what it holds of other families is not written again
    let again = config.to_toml().unwrap();
    assert!(!again.contains("layerscale") && again.contains("window_size = 4"), "{again}");
    assert_eq!(Config::from_toml(&again, Path::new("again")).unwrap(), config);
    // as a recipe of one's own it says too much: a Swin that drops paths uniformly, and a chunk in another
    // unit
    let error = Config::from_toml(text, Path::new("mine.toml")).unwrap_err().to_string();
    assert!(error.contains("`student.drop_path_uniform`") && error.contains("2 settings"), "{error}");
    assert!(error.contains("`train.prototype_chunk_bytes`") && error.contains("bytes of logits"), "{error}");
    let text = text.replace("drop_path_uniform = false", "drop_path_uniform = true");
    let text = text.replace("prototype_chunk = 4096", "prototype_chunk = 0");
    assert_eq!(Config::from_toml(&text, Path::new("mine.toml")).unwrap().student, config.student);
}

/// Section and name of every key in a recipe's text, those in comments too, and the line before it.
fn keys(text: &str) -> Vec<(String, String, String)> {
    let (mut section, mut before, mut all) = (String::new(), String::new(), Vec::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_string();
        } else if let Some((key, _)) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")
            && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            all.push((section.clone(), key.to_string(), before.clone()));
        }
        before = line.to_string();
    }
    all
}

#[test]
fn the_default_recipe_says_every_key_and_what_it_means() {
    let text = Config::default_recipe().unwrap();
    assert_eq!(Config::from_toml(&text, Path::new("default")).unwrap(), Config::default());
    let printed = keys(&text);
    for (section, key, before) in &printed {
        assert!(before.starts_with("# "), "{section}.{key} has no comment: {before}");
    }
    let said = |section: &str, key: &str| printed.iter().any(|(s, k, _)| s == section && k == key);
    for family in Student::families() {
        let config = Config { student: family, ..Config::default() };
        for (section, key, _) in keys(&config.to_toml().unwrap()) {
            assert!(said(&section, &key), "{section}.{key} is not printed");
        }
    }
    assert!(printed.len() > 90, "{}", printed.len());
}

/// The text of the Rust files under a folder, without their tests and the functions that check ranges.
fn sources(dir: &Path, text: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = std::fs::read_to_string(&path).unwrap();
            let file = file.split("#[cfg(test)]").next().unwrap();
            let mut checks = false;
            for line in file.lines() {
                checks |= line.contains("fn check(") || line.contains("fn check_");
                if !checks {
                    text.push_str(line);
                    text.push('\n');
                }
                checks &= line != "    }";
            }
        }
    }
}

#[test]
fn every_key_is_read_somewhere() {
    /// Keys of the official recipe that can have one value alone, which a check demands.
    const FIXED: [&str; 4] = ["qkv_bias", "proj_bias", "ffn_bias", "head_nlayers"];
    let mut text = String::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    for (section, key, _) in keys(&Config::default_recipe().unwrap()) {
        let field = if key == "OFFICIAL_EPOCH_LENGTH" { "epoch_length" } else { &key };
        let access = format!(".{field}");
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let read = text.split(&access).skip(1).any(ends);
        assert!(read || key == "arch" || FIXED.contains(&field), "{section}.{key} is read nowhere");
    }
    for key in FIXED {
        let setting =
            if key == "head_nlayers" { "dino.head_nlayers=2".into() } else { format!("student.{key}=false") };
        assert!(demo(&[&setting]).unwrap_err().contains("must be"), "{setting}");
    }
}

#[test]
fn files_are_named_in_errors() {
    let dir = scratch("files");
    let path = dir.join("mine.toml");
    std::fs::write(&path, "[optim]\nepochs = 3\nwarmup_epochs = 1\n[teacher]\nteacher_tmp = 0.1\n").unwrap();
    let error = Config::load(path.to_str().unwrap(), &[]).unwrap_err().to_string();
    assert!(error.contains("teacher.teacher_temp") && error.contains("mine.toml"), "{error}");
    std::fs::write(&path, "[optim\n").unwrap();
    let error = Config::load(path.to_str().unwrap(), &[]).unwrap_err().to_string();
    assert!(error.contains("is not TOML") && error.contains("mine.toml"), "{error}");
    std::fs::write(&path, "epochs = 3\n").unwrap();
    let error = Config::load(path.to_str().unwrap(), &[]).unwrap_err().to_string();
    assert!(error.contains("optim.epochs"), "{error}");
    std::fs::write(&path, "[optim]\nepochs = 3\nwarmup_epochs = 1\n").unwrap();
    let config = Config::load(path.to_str().unwrap(), &["optim.epochs=4".into()]).unwrap();
    assert_eq!((config.optim.epochs, config.optim.warmup_epochs), (4, 1));
    let error = Config::load("dmo", &[]).unwrap_err().to_string();
    assert!(error.contains("did you mean `demo`") || error.contains("Did you mean `demo`"), "{error}");
    assert!(Config::load("./absent.toml", &[]).unwrap_err().to_string().contains("absent.toml"));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn fewer_steps_run_the_whole_recipe() {
    let config = demo(&["train.total_steps=100"]).unwrap();
    assert_eq!(config.total_steps(), 100);
    assert_eq!(config.steps_of_epochs(1), 10);
    let schedules = Schedules::new(&config.optim, &config.length());
    assert_eq!(schedules.lr(0), 0.0);
    assert_eq!(schedules.lr(9), config.optim.lr);
    assert!(schedules.lr(99) < 0.05 * config.optim.lr);
    for steps in ["train.total_steps=1", "train.total_steps=3"] {
        let config = demo(&[steps]).unwrap();
        let schedules = Schedules::new(&config.optim, &config.length());
        let teacher = TeacherSchedules::new(&config);
        assert!((0..5).all(|t| schedules.lr(t).is_finite() && teacher.temp(t) > 0.0));
        assert_eq!(config.plan().save_every, 1);
    }
}

#[test]
fn the_command_line() {
    let parse = |words: &str| Cli::try_parse_from(words.split(' '));
    let Command::Train(args) =
        parse("poa-gpu train --steps 20 --seed 3 --device NVIDIA optim.epochs=5 --data noise")
            .unwrap()
            .command
    else {
        panic!("not train")
    };
    assert_eq!(args.run.device, DeviceChoice::Name("NVIDIA".into()));
    assert_eq!(args.recipe(), "demo");
    let config = args.load_config(1).unwrap();
    assert_eq!((config.total_steps(), config.train.seed, config.optim.epochs), (20, 3, 5));
    assert_eq!(config.data.spec, "noise");
    let Command::Verify(args) = parse("poa-gpu verify a b --device 1 --dump x").unwrap().command else {
        panic!("not verify")
    };
    assert_eq!((args.dirs.len(), args.device), (2, DeviceChoice::Index(1)));
    assert!(matches!(parse("poa-gpu devices").unwrap().command, Command::Devices));
    assert!(parse("poa-gpu train --steps 0").is_err());
    assert!(parse("poa-gpu train --steps -1").is_err());
    assert!(parse("poa-gpu train --seed 18446744073709551615").is_err());
    assert!(parse("poa-gpu tran").is_err());
}

#[test]
fn a_run_folder_belongs_to_one_run() {
    let dir = scratch("run");
    let config = demo(&[]).unwrap();
    let out = dir.join("a/b");
    let text = config.to_toml().unwrap();
    let run = RunFolder::create(Some(&out), "demo", &text).unwrap();
    assert!(run.checkpoints().is_dir());
    assert_eq!(Config::load(run.config().to_str().unwrap(), &[]).unwrap(), config);
    let again = || RunFolder::create(Some(&out), "demo", &text).map_err(|e| e.to_string());
    // settings alone may be a person's own
    assert!(again().unwrap_err().contains("already holds a run"));
    std::fs::write(out.join("train.log"), "").unwrap();
    assert!(again().unwrap_err().contains("another process"), "locked");
    assert!(RunFolder::open(&out).unwrap_err().to_string().contains("another process"), "locked");
    drop(run);
    // a run that has begun and done no step is in nobody's way
    let run = again().unwrap();
    std::fs::write(run.metrics(), "{\"step\":0,\"loss\":7.5}\n").unwrap();
    drop(run);
    let error = again().unwrap_err();
    assert!(error.contains("already holds a run") && error.contains("--out"), "{error}");
    RunFolder::open(&out).unwrap();
    assert!(RunFolder::open(&dir).is_err());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn metrics_read_back_to_the_same_bits() {
    let dir = scratch("metrics");
    let path = dir.join("metrics.jsonl");
    let values = [0.1 + 0.2, 1e-310, -0.0, 12345678.9, f64::MAX];
    let mut log = MetricsLog::open(&path, 0).unwrap();
    for (step, &x) in values.iter().enumerate() {
        log.write(step, &[("loss", number(x)), ("network", "48x3".into())], &[("images_per_second", 3.5)])
            .unwrap();
    }
    log.write(5, &[("loss", number(f64::NAN))], &[]).unwrap();
    let bytes = log.synced_bytes().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    for (line, x) in text.lines().zip(values) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["loss"].as_f64().unwrap().to_bits(), x.to_bits());
        assert_eq!(value["time"]["images_per_second"], 3.5);
    }
    assert!(text.lines().nth(5).unwrap().contains("\"NaN\""));
    assert_eq!(bytes, text.len() as u64);
    // what came after a checkpoint goes, a line that was cut off too
    std::fs::write(&path, format!("{text}{{\"step\": 6, \"lo")).unwrap();
    drop(MetricsLog::open(&path, bytes).unwrap());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(history(&path, "lo").len(), 5, "a number that is none is no number");
    let three: usize = text.lines().take(3).map(|line| line.len() + 1).sum();
    let mut log = MetricsLog::open(&path, three as u64).unwrap();
    log.write(3, &[("loss", number(1.0)), ("knn.48x2.10", number(0.5))], &[]).unwrap();
    assert_eq!(history(&path, "knn."), [(3, "knn.48x2.10".to_string(), 0.5)]);
    let steps: Vec<_> = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [0, 1, 2, 3]);

    let path = dir.join("train.log");
    TrainLog::open(&path).unwrap().line("one\ntwo").unwrap();
    TrainLog::open(&path).unwrap().line("three").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
    let at = |s| timestamp(std::time::UNIX_EPOCH + std::time::Duration::from_secs(s));
    assert_eq!(at(0), "1970-01-01 00:00:00Z");
    assert_eq!(at(951_827_696), "2000-02-29 12:34:56Z");
    assert_eq!(at(4_107_542_399), "2100-02-28 23:59:59Z");
    assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00Z");
    assert_eq!(at(1_798_761_599), "2026-12-31 23:59:59Z");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn progress_measures_speed() {
    let mut progress = Progress::new(1003, 1, 64);
    assert_eq!(progress.images_per_second(), 0.0);
    progress.step(2, Some(Shown { loss: 3.5, waiting: 0.25 }), 1e-3);
    progress.step(3, None, 1e-3);
    assert!(progress.images_per_second() > 0.0);
    // ten pauses of 20 ms are still to come
    let without = progress.left(3);
    std::thread::sleep(std::time::Duration::from_millis(20));
    progress.pause_over(100);
    let pauses = progress.left(3).saturating_sub(without).as_secs_f64();
    assert!((0.2..2.0).contains(&pauses), "{pauses}");
    progress.finish();
    let text = |s| readable(std::time::Duration::from_secs(s));
    assert_eq!([text(12), text(200), text(3900), text(183_600)], ["12s", "3m 20s", "1h 05m", "2d 03h"]);
}

#[test]
fn sizes_of_a_resnet_name_ones_that_work() {
    let problem = |setting: &str| {
        let mut config = Config::load("demo_resnet", &[setting.to_string()]).unwrap();
        let error = config.resolve(1).expect_err(setting).to_string();
        assert!(!error.contains('\n'), "{setting}: `{error}` is longer than a line");
        error
    };
    for (setting, texts) in [
        ("student.base_channels=6", ["student.base_channels", "example 8"]),
        ("student.stem_channels=17", ["student.stem_channels", "example 20"]),
        ("student.num_gn_groups=0", ["student.num_gn_groups", "example 32"]),
        ("student.width_interval=3", ["student.width_interval", "example 1"]),
        ("student.min_depths=[1, 3, 1, 1]", ["student.min_depths", "example [1, 2, 2, 1]"]),
        ("student.max_depths=[1, 2, 0, 1]", ["student.max_depths", "example [3, 8, 36, 3]"]),
        ("student.depth_interval=2", ["student.depth_interval", "example 1"]),
        ("student.patch_size=8", ["student.patch_size", "must be 4"]),
        ("student.strides=[2, 2, 2, 2]", ["student.strides", "example [1, 2, 2, 2]"]),
        ("student.ibot_scale_factor=3", ["student.ibot_scale_factor", "example 2"]),
        ("crops.global_crops_size=48", ["crops.global_crops_size", "example 64"]),
    ] {
        let error = problem(setting);
        for text in texts {
            assert!(error.contains(text), "{setting}: `{error}` does not say `{text}`");
        }
    }
}
