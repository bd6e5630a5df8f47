//! What naga writes for Vulkan, before Khronos' validator: naga does not check it.
//!
//! One thing is excused, by mending it before the validator looks, which would stop there and say nothing of
//! the rest: naga decorates arrays and structures outside of buffers with a layout
//! (VUID-StandaloneSpirv-None-10684, gfx-rs/wgpu issue 7696, its pull request 9295). Where no module needs
//! that any longer, the test fails.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use rayon::prelude::*;

use super::paths::{Path, Translated};
use super::structure::Validated;
use super::{Variant, variants};

/// Needs a `spirv-val` that knows cooperative matrices, of 2024 or newer: `kernels-tests/spirv` gets one and
/// runs this.
#[test]
#[ignore = "needs spirv-val"]
fn the_validator_of_spirv_accepts_every_variant() {
    let program = std::env::var("POA_TEST_SPIRV_VAL").unwrap_or("spirv-val".into());
    // several texts become one module: names and unused functions do not reach it
    let (seen, state) = (Mutex::new(HashSet::new()), RandomState::new());
    let is_new =
        |words: &Vec<u32>| seen.lock().expect("no thread panics with it").insert(state.hash_one(words));
    let modules = variants().par_iter().map(|variant| (words(variant), variant));
    let judged = modules.filter(|(words, _)| is_new(words)).map(|(words, variant)| {
        let mended = without_layouts(&words);
        let refused = spirv_val(&program, &mended).err().map(|why| format!("{}: {why}", variant.name()));
        (refused, mended.len() < words.len())
    });
    let judged: Vec<_> = judged.collect();
    let mended = judged.iter().filter(|(_, mended)| *mended).count();
    let refused: Vec<_> = judged.iter().filter_map(|(refused, _)| refused.as_deref()).collect();
    println!("{} modules of {} variants, {mended} mended", judged.len(), variants().len());
    let shown = refused[..refused.len().min(20)].join("\n");
    assert!(refused.is_empty(), "{} of {} modules are refused:\n{shown}", refused.len(), judged.len());
    assert!(mended > 0, "naga gives no layouts outside of buffers any longer: take the exception out");
}

fn words(variant: &Variant) -> Vec<u32> {
    let validated = Validated::new(&variant.source);
    match Path::SpirV.translate(&validated.module, &validated.info, variant.kernel.entry) {
        Ok(Translated::Words(words)) => words,
        Ok(Translated::Text(_)) => unreachable!("SPIR-V is words"),
        Err(why) => panic!("{}: {why}", variant.name()),
    }
}

/// What `spirv-val` says against a module, by Vulkan's rules.
fn spirv_val(program: &str, words: &[u32]) -> Result<(), String> {
    let mut run = Command::new(program)
        .args(["--target-env", "vulkan1.3", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("`{program}` of spirv-tools does not start: {e}; see kernels-tests/spirv")
        });
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    run.stdin.take().expect("piped").write_all(&bytes).expect("spirv-val reads its input");
    let output = run.wait_with_output().expect("spirv-val ends");
    let why = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{} ({})", why.lines().next().unwrap_or("no reason given"), output.status)),
    }
}

/// The parts of SPIR-V that say where a type has a layout.
mod spv {
    pub const HEADER: usize = 5;
    pub const TYPE_ARRAY: u32 = 28;
    pub const TYPE_RUNTIME_ARRAY: u32 = 29;
    pub const TYPE_STRUCT: u32 = 30;
    pub const TYPE_POINTER: u32 = 32;
    pub const DECORATE: u32 = 71;
    pub const MEMBER_DECORATE: u32 = 72;
    pub const ARRAY_STRIDE: u32 = 6;
    pub const OFFSET: u32 = 35;
    /// Storage classes of buffers: uniform, push constants, storage.
    pub const OF_BUFFERS: [u32; 3] = [2, 9, 12];
}

/// The instructions after the header.
fn instructions(words: &[u32]) -> impl DoubleEndedIterator<Item = &[u32]> {
    let (mut all, mut at) = (Vec::new(), spv::HEADER);
    while at < words.len() {
        let length = (words[at] >> 16) as usize;
        all.push(&words[at..at + length]);
        at += length;
    }
    all.into_iter()
}

/// The module without strides and offsets of types that are in no buffer.
fn without_layouts(words: &[u32]) -> Vec<u32> {
    let opcode = |instruction: &[u32]| instruction[0] & 0xffff;
    let mut in_buffers = HashSet::new();
    // a type stands after the types that it is made of, so a walk backwards sees what contains it first
    for instruction in instructions(words).rev() {
        match (opcode(instruction), instruction) {
            (spv::TYPE_POINTER, [_, _, class, to]) if spv::OF_BUFFERS.contains(class) => {
                in_buffers.insert(*to);
            }
            (spv::TYPE_ARRAY | spv::TYPE_RUNTIME_ARRAY, [_, id, of, ..]) if in_buffers.contains(id) => {
                in_buffers.insert(*of);
            }
            (spv::TYPE_STRUCT, [_, id, members @ ..]) if in_buffers.contains(id) => {
                in_buffers.extend(members)
            }
            _ => {}
        }
    }
    let unwanted = |instruction: &[u32]| match (opcode(instruction), instruction) {
        (spv::DECORATE, [_, id, spv::ARRAY_STRIDE, ..]) => !in_buffers.contains(id),
        (spv::MEMBER_DECORATE, [_, id, _, spv::OFFSET, ..]) => !in_buffers.contains(id),
        _ => false,
    };
    let kept = instructions(words).filter(|instruction| !unwanted(instruction)).flatten();
    words[..spv::HEADER].iter().chain(kept).copied().collect()
}

#[test]
fn layouts_outside_of_buffers_are_taken_out_alone() {
    let shader = "@group(0) @binding(0) var<storage, read_write> out: array<vec2<f32>>; \
                  var<workgroup> shared_: array<f32, 8>; \
                  @compute @workgroup_size(8) fn main(@builtin(local_invocation_index) i: u32) { \
                  shared_[i] = 1.0; out[i] = vec2(shared_[7u - i]); }";
    let validated = Validated::new(shader);
    let Ok(Translated::Words(words)) = Path::SpirV.translate(&validated.module, &validated.info, "main")
    else {
        panic!("it does not translate")
    };
    let strides = |words: &[u32]| {
        let stride = |i: &&[u32]| i[0] & 0xffff == spv::DECORATE && i[2] == spv::ARRAY_STRIDE;
        instructions(words).filter(stride).map(|i| i[3]).collect::<Vec<_>>()
    };
    let mended = without_layouts(&words);
    let mut before = strides(&words);
    before.sort_unstable();
    assert_eq!((before, strides(&mended)), (vec![4, 8], vec![8]));
    assert_eq!(mended.len(), words.len() - 4, "and nothing else");
}
