//! Schedules and parameter groups against the recorded numbers of the official code.

use std::path::Path;

use poa_gpu::models::{resnet, swin, vit};
use poa_gpu::optim::groups::{LayerRule, param_group};
use poa_gpu::optim::schedules::Schedules;
use poa_gpu::poa::schedules::TeacherSchedules;
use poa_gpu::recipes::Config;
use serde_json::Value;

fn fixture(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures").join(path);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

#[test]
fn schedules_equal_the_record() {
    let record = fixture("schedules/vit_ee1200.json");
    let mut config = Config::recipe("vit_ee1200").unwrap();
    config.resolve(32).unwrap();
    let c = &record["config"];
    assert_eq!(c["lr"].as_f64().unwrap(), config.optim.lr);
    assert_eq!(c["epochs"].as_u64().unwrap() as usize, config.optim.epochs);
    assert_eq!(c["iter_num_scale"].as_f64().unwrap(), config.optim.iter_num_scale);
    let schedules = Schedules::new(&config.optim, &config.length());
    let teacher = TeacherSchedules::new(&config);
    let iterations = record["iterations"].as_array().unwrap();
    assert_eq!(iterations.len(), 14);
    let curves: [(&str, &dyn Fn(usize) -> f64); 5] = [
        ("lr", &|t| schedules.lr(t)),
        ("last_layer_lr", &|t| schedules.last_layer_lr(t)),
        ("weight_decay", &|t| schedules.weight_decay(t)),
        ("teacher_momentum", &|t| teacher.momentum(t)),
        ("teacher_temp", &|t| teacher.temp(t)),
    ];
    for (name, curve) in curves {
        for (t, expected) in iterations.iter().zip(record[name].as_array().unwrap()) {
            let (t, expected) = (t.as_u64().unwrap() as usize, expected.as_f64().unwrap());
            let got = curve(t);
            assert!(
                (got - expected).abs() <= 1e-9 * expected.abs(),
                "{name} at {t}: {got}, expected {expected}"
            );
        }
    }
}

#[test]
fn schedules_without_warm_up_stay_finite() {
    let mut config = Config::recipe("bench_tiny").unwrap();
    config.resolve(1).unwrap();
    let schedules = Schedules::new(&config.optim, &config.length());
    let teacher = TeacherSchedules::new(&config);
    assert_eq!(schedules.lr(0), config.optim.lr);
    assert_eq!(schedules.last_layer_lr(0), config.optim.lr);
    assert_eq!(teacher.temp(0), config.teacher.teacher_temp);
    assert_eq!(schedules.lr(1_000_000), config.optim.min_lr);
}

#[test]
fn groups_of_a_resnet_equal_the_record() {
    let record = fixture("resnet/fixture.json");
    let depths: Vec<usize> = serde_json::from_value(record["student"]["max_depths"].clone()).unwrap();
    let rule = resnet::layer_rule(depths.try_into().unwrap());
    let decay = record["optim"]["layerwise_decay"].as_f64().unwrap();
    let close = |a: f64, b: &Value| (a - b.as_f64().unwrap()).abs() <= 1e-12;
    for (name, expected) in record["param_groups"].as_object().unwrap() {
        let got = param_group(name, &rule, decay, 0.2);
        assert!(close(got.lr_multiplier, &expected["lr_multiplier"]), "{name}: {got:?}, expected {expected}");
        assert!(close(got.wd_multiplier, &expected["wd_multiplier"]), "{name}: {got:?}, expected {expected}");
        assert_eq!(got.is_last_layer, expected["is_last_layer"].as_bool().unwrap(), "{name}");
    }
}

#[test]
fn groups_equal_the_record() {
    let record = fixture("vit/fixture.json");
    let depth = record["student"]["max_depth"].as_u64().unwrap() as usize;
    check_groups(&record, &vit::layer_rule(depth), 79);
}

#[test]
fn groups_of_swin_equal_the_record() {
    let record = fixture("swin/fixture.json");
    let depths = record["student"]["max_depths"].as_array().unwrap();
    let depths: Vec<usize> = depths.iter().map(|d| d.as_u64().unwrap() as usize).collect();
    check_groups(&record, &swin::layer_rule(depths.try_into().unwrap()), 142);
}

fn check_groups(record: &Value, rule: &LayerRule, count: usize) {
    let decay = record["optim"]["layerwise_decay"].as_f64().unwrap();
    let patch = record["optim"]["patch_embed_lr_mult"].as_f64().unwrap();
    let groups = record["param_groups"].as_object().unwrap();
    assert_eq!(groups.len(), count);
    let close = |a: f64, b: &Value| (a - b.as_f64().unwrap()).abs() <= 1e-12;
    for (name, expected) in groups {
        let got = param_group(name, rule, decay, patch);
        assert!(close(got.lr_multiplier, &expected["lr_multiplier"]), "{name}: {got:?}, expected {expected}");
        assert!(close(got.wd_multiplier, &expected["wd_multiplier"]), "{name}: {got:?}, expected {expected}");
        assert_eq!(got.is_last_layer, expected["is_last_layer"].as_bool().unwrap(), "{name}");
        assert!(name.starts_with(&format!("{}.", got.module)));
        assert!(["backbone", "dino_head"].contains(&got.module.as_str()));
    }
}
