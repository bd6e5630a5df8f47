//! Elastic grids, block ids and the draw cycle against the recorded lists of the official code.

use std::collections::BTreeMap;
use std::path::Path;

use poa_gpu::models::grid::{DrawCycle, ElasticGrid, Network, block_ids};
use poa_gpu::models::resnet::{self, resnet_grid};
use poa_gpu::models::swin::{self, swin_grid};
use poa_gpu::models::vit::{self, vit_grid};
use poa_gpu::poa::draws::{Draws, drop_path};
use poa_gpu::recipes::Config;
use poa_gpu::rng::{Purpose, stream};
use poa_gpu::share::Share;
use serde_json::{Value, json};

fn fixture(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures").join(path);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

fn size(config: &Value, key: &str) -> usize {
    config[key].as_u64().unwrap_or_else(|| panic!("{key}")) as usize
}

/// A family's settings from a record, which must say each of these keys.
fn settings<T: serde::de::DeserializeOwned>(record: &Value, keys: &[&str]) -> T {
    let said = keys.iter().map(|key| (key.to_string(), record[*key].clone()));
    serde_json::from_value(Value::Object(said.collect())).unwrap()
}

fn vit_of(student: &Value) -> vit::Settings {
    let keys = ["min_embed_dim", "max_embed_dim", "min_depth", "max_depth", "head_dim", "width_interval"];
    settings(student, &[&keys[..], &["depth_interval", "net_select_scale"]].concat())
}

fn compare(record: &Value, grid: &ElasticGrid, as_json: impl Fn(Network) -> Value) {
    let mine: Vec<Value> = grid.entries().iter().map(|&(n, m)| json!([as_json(n), m])).collect();
    assert_eq!(&Value::Array(mine), &record["multiplicity"]);
    assert_eq!(grid.entries().len(), size(record, "distinct"));
    assert_eq!(grid.places(), size(record, "drawn_per_cycle"));
    assert_eq!(grid.cycle() + 1, grid.places());
}

#[test]
fn grids_equal_the_record() {
    let record = fixture("elastic/grids.json");
    let grid = vit_grid(&vit_of(&record["vit"]["config"])).unwrap();
    assert_eq!(grid, vit_grid(&vit::Settings::default()).unwrap());
    assert_eq!((grid.entries().len(), grid.places()), (143, 573));
    compare(&record["vit"], &grid, |n| json!([n.width, n.depth]));

    let keys = ["min_embed_dim", "max_embed_dim", "min_s3_depth", "max_depths", "head_dim"];
    let steps = ["width_interval", "depth_interval", "net_select_scale"];
    let swin: swin::Settings = settings(&record["swin"]["config"], &[&keys[..], &steps].concat());
    let grid = swin_grid(&swin).unwrap();
    assert_eq!((grid.entries().len(), grid.places()), (39, 89));
    compare(&record["swin"], &grid, |n| json!([n.width, n.depth]));

    let keys = ["min_depths", "max_depths", "base_channels", "num_gn_groups"];
    let resnet: resnet::Settings = settings(&record["resnet"]["config"], &[&keys[..], &steps].concat());
    let grid = resnet_grid(&resnet).unwrap();
    assert_eq!((grid.entries().len(), grid.places()), (465, 699));
    let widths = |n: Network| [1, 2, 4, 8].map(|factor| factor * n.width);
    compare(&record["resnet"], &grid, |n| json!([widths(n), n.stages]));
}

#[test]
fn network_ids_equal_the_record() {
    let record = fixture("vit/fixture.json");
    let grid = vit_grid(&vit_of(&record["student"])).unwrap();
    let list: Vec<Value> =
        (0..grid.places()).map(|id| grid.at(id)).map(|n| json!([n.width, n.depth])).collect();
    assert_eq!(Value::Array(list), record["networks"]);
    for step in record["steps"].as_array().unwrap() {
        let network = grid.at(size(step, "network_id"));
        assert_eq!(json!([network.width, network.depth]), step["network"]);
    }
}

#[test]
fn block_ids_equal_the_record() {
    let record = fixture("elastic/grids.json");
    let cases = record["block_ids"].as_object().unwrap();
    assert!(cases.len() >= 9);
    for (case, expected) in cases {
        let (total, depth) = case.split_once("->").unwrap();
        let ids = block_ids(total.parse().unwrap(), depth.parse().unwrap());
        assert_eq!(json!(ids), *expected, "{case}");
    }
    assert_eq!(block_ids(5, 1), [0]);
    assert_eq!(block_ids(1, 1), [0]);
    assert_eq!(block_ids(6, 6), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_cycle_draws_every_place_but_the_last_once() {
    let grid = vit_grid(&vit::Settings::default()).unwrap();
    let cycle = grid.cycle();
    let draws = DrawCycle::new(grid.clone(), 7);
    let mut orders = Vec::new();
    for round in 0..3 {
        let order: Vec<usize> = (0..cycle).map(|i| draws.id_at(round * cycle + i)).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..cycle).collect::<Vec<_>>());
        orders.push(order);
    }
    assert!(orders[0] != orders[1] && orders[1] != orders[2], "each cycle is shuffled anew");
    let mut counts = BTreeMap::new();
    for step in 0..cycle {
        *counts.entry(draws.network_at(step).to_string()).or_insert(0) += 1;
    }
    for (network, multiplicity) in grid.entries() {
        let expected = multiplicity - usize::from(*network == grid.intact());
        assert_eq!(counts.get(&network.to_string()).copied().unwrap_or(0), expected, "{network}");
    }
    // The same on every machine and in every version: a resumed run depends on it.
    let again = DrawCycle::new(grid.clone(), 7);
    assert!((0..50).rev().all(|step| again.id_at(step) == orders[0][step]));
    let other = DrawCycle::new(grid, 8);
    assert!((0..50).any(|step| other.id_at(step) != orders[0][step]));
    assert_eq!(orders[0][..6], PINNED);
}

/// The first draws of seed 7 from the paper's grid.
const PINNED: [usize; 6] = [208, 66, 28, 293, 546, 110];

/// Rank 0 draws what a run of one rank does; every other has cycles of its own, none of them another's.
#[test]
fn ranks_draw_by_themselves() {
    let grid = vit_grid(&vit::Settings::default()).unwrap();
    let cycle = grid.cycle();
    let mut orders: Vec<Vec<usize>> = Vec::new();
    for rank in [0, 1, 2, 3, 255, 256, 1 << 40] {
        let draws = DrawCycle::new(grid.clone(), 7).of_rank(rank);
        for round in 0..3 {
            let order: Vec<usize> = (0..cycle).map(|i| draws.id_at(round * cycle + i)).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..cycle).collect::<Vec<_>>());
            assert!(!orders.contains(&order), "cycle {round} of rank {rank} was there before");
            orders.push(order);
        }
    }
    assert_eq!(orders[0][..6], PINNED);
    // nor those of other seeds
    let other = DrawCycle::new(grid, 8).of_rank(1);
    let other: Vec<usize> = (0..cycle).map(|i| other.id_at(i)).collect();
    assert!(!orders.contains(&other));
}

#[test]
fn ranks_share_a_network_where_they_are_told_to() {
    let mut config = Config::recipe("vit_ee1200").unwrap();
    let grid = config.backbone().unwrap().grid().clone();
    let networks = |config: &Config, share| -> Vec<Network> {
        let draws = Draws::new(config, &grid, share).unwrap();
        (0..50).map(|step| draws.at(step)).collect()
    };
    let ranks = [Share { rank: 0, ranks: 2 }, Share { rank: 1, ranks: 2 }];
    let one = networks(&config, Share::ALL);
    let own = ranks.map(|share| networks(&config, share));
    assert!(own[0] == one && own[1] != one);
    config.apply(&["train.network_per_rank=false"]).unwrap();
    assert!(ranks.iter().all(|share| networks(&config, *share) == one));
}

/// No two micro-batches of a step have the same stochastic depth, whichever rank they are on.
#[test]
fn ranks_have_stochastic_depth_of_their_own() {
    let mut config = Config::recipe("demo").unwrap();
    config.apply(&["train.accumulation_steps=3", "train.seed=7"]).unwrap();
    let all = (0..4).flat_map(|rank| (0..3).map(move |index| (Share { rank, ranks: 4 }, index)));
    let all: Vec<_> = all.map(|(share, index)| drop_path(&config, share, 5, index)).collect();
    for (number, rng) in all.iter().enumerate() {
        assert!(*rng == stream(7, Purpose::DropPath, 5, number as u64));
        assert!(!all[..number].contains(rng));
    }
    assert!(drop_path(&config, Share::ALL, 5, 2) == all[2]);
}

#[test]
fn a_grid_of_one_draws_the_intact_network() {
    let mut one = vit::Settings::default();
    one.attention.min_embed_dim = one.attention.max_embed_dim;
    one.min_depth = one.max_depth;
    one.elastic.net_select_scale = 1.0;
    let draws = DrawCycle::new(vit_grid(&one).unwrap(), 0);
    assert_eq!(draws.grid().places(), 1);
    assert_eq!(draws.network_at(5), draws.grid().intact());
}
