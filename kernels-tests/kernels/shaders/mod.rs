//! Every variant of every shader, for adapters of every kind, without a GPU: valid WGSL that fits the
//! adapter, and translates into what its driver takes.
//!
//! - `profiles.rs` the adapters
//! - `paths.rs` the languages, and wgpu's options for each
//! - `structure.rs` what naga lets pass and drivers do not
//! - `hlsl.rs` what naga writes for DX12, written out for Slang
//! - `msl.rs` clang over what naga writes for Metal; needs `clang`
//! - `spirv.rs` Khronos' validator over what naga writes; needs `spirv-val`

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

use naga::AddressSpace::{Storage, WorkGroup};
use poa_gpu::gpu::{Caps, Kernel, compose};
use poa_gpu::{ops, optim};
use rayon::prelude::*;

mod hlsl;
mod msl;
mod paths;
mod profiles;
mod spirv;
mod structure;

use paths::{Path, Translated, uses_subgroups};
use profiles::{Profile, profiles};
use structure::Validated;

/// Everything that an adapter may be asked for.
fn kernels(caps: &Caps) -> Vec<Kernel> {
    [ops::kernels(caps), optim::kernels(caps)].concat()
}

/// A text that is compiled, and who may ask for it.
struct Variant {
    kernel: Kernel,
    source: String,
    /// Which of the profiles.
    profiles: BTreeSet<usize>,
}

impl Variant {
    fn name(&self) -> String {
        format!("{} {} {:?}", self.kernel.shader.name, self.kernel.entry, self.kernel.defines)
    }

    /// Whether hardware would be given it: tests and benchmarks alone have both gradients of attention's keys
    /// and values made at once there. Heads beyond 64 have more numbers than registers, and spill.
    fn is_for_hardware(&self) -> bool {
        let both = self.kernel.entry == "backward_kv"
            && ["KEYS_ALONE", "VALUES_ALONE"].iter().all(|name| self.kernel.define(name).is_none());
        match self.kernel.define("HEAD") {
            Some(head) => head <= 48 || head <= 64 && !both,
            None => !self.is_stand_in(),
        }
    }

    /// Registers that it may take.
    fn registers(&self) -> u32 {
        if self.kernel.entry == "tiled" { HALF_THE_REGISTERS } else { REGISTERS }
    }

    /// Whether it only stands in for tensor cores, in these tests: it runs nowhere else.
    fn is_stand_in(&self) -> bool {
        self.kernel.define("PLAIN").is_some()
    }
}

/// What all tests here look at, composed and validated once: a text that several kernels or profiles share is
/// there once.
fn variants() -> &'static [Variant] {
    static VARIANTS: OnceLock<Vec<Variant>> = OnceLock::new();
    VARIANTS.get_or_init(|| {
        // what a kernel's text and its validation depend on beside the kernel
        let key = |caps: &Caps| [caps.immediates, caps.subgroups, caps.f16, caps.cooperative.any()];
        let mut asked: HashMap<_, (Caps, BTreeSet<usize>)> = HashMap::new();
        for (i, profile) in profiles().into_iter().enumerate() {
            for kernel in kernels(&profile.caps) {
                let by = asked.entry((kernel, key(&profile.caps)));
                by.or_insert_with(|| (profile.caps.clone(), BTreeSet::new())).1.insert(i);
            }
        }
        let asked: Vec<_> = asked.into_iter().collect();
        let composed = asked.into_par_iter().map(|((kernel, _), (caps, profiles))| {
            let source = compose(&kernel, &caps).unwrap();
            Variant { kernel, source, profiles }
        });
        let mut unique: HashMap<_, Variant> = HashMap::new();
        for variant in composed.collect::<Vec<_>>() {
            let same = unique.entry((variant.kernel.entry, variant.source.clone()));
            same.and_modify(|same| same.profiles.extend(&variant.profiles)).or_insert(variant);
        }
        let mut all: Vec<_> = unique.into_values().collect();
        all.sort_by_cached_key(Variant::name);
        all
    })
}

/// What a test looks for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Check {
    /// Limits of the adapters that may ask.
    Limits,
    /// Components of shared vectors that are written alone.
    Components,
    /// Arrays that are given as a type of another name.
    Arrays,
    /// Subgroups that are taken to be of another size, or of other invocations, than they may be.
    Subgroups,
    /// More numbers than hardware has registers for.
    Registers,
    /// Translation.
    Path(Path),
}

/// What is wrong with the variants, all of it: modules are parsed once for all tests.
fn findings() -> &'static [(Check, String)] {
    static FINDINGS: OnceLock<Vec<(Check, String)>> = OnceLock::new();
    FINDINGS.get_or_init(|| {
        let profiles = profiles();
        variants().par_iter().flat_map_iter(|variant| examine(variant, &profiles)).collect()
    })
}

fn examine(variant: &Variant, profiles: &[Profile]) -> Vec<(Check, String)> {
    let validated = Validated::new(&variant.source);
    let mut found = Vec::new();
    let mut report = |check, what: String| found.push((check, format!("{}: {what}", variant.name())));
    for profile in variant.profiles.iter().map(|i| &profiles[*i]) {
        for excess in beyond(&validated.module, &profile.caps) {
            report(Check::Limits, format!("{excess}, {}", profile.name));
        }
        if let Some(why) = mistakes_subgroups(variant, &validated, &profile.caps) {
            report(Check::Subgroups, format!("{why}, {}", profile.name));
        }
        if !profile.caps.software && variant.is_for_hardware() && validated.kept() > variant.registers() {
            report(Check::Registers, format!("{} numbers, {}", validated.kept(), profile.name));
        }
        for path in profile.paths {
            if let Some(lack) = path.lacks(&variant.source) {
                report(Check::Path(*path), format!("{} has no {lack} there", profile.name));
            }
        }
    }
    // what stands in for tensor cores runs on llvmpipe alone, whose SPIR-V writes one component
    let written = validated.component_writes();
    if !written.is_empty() && !variant.is_stand_in() {
        report(Check::Components, format!("{written:?}"));
    }
    let changed = validated.changes_of_type();
    if !changed.is_empty() {
        report(Check::Arrays, format!("{changed:?}"));
    }
    for path in Path::ALL.into_iter().filter(|path| path.lacks(&variant.source).is_none()) {
        match path.translate(&validated.module, &validated.info, variant.kernel.entry) {
            Ok(Translated::Text(text)) if !text.contains(variant.kernel.entry) => {
                report(Check::Path(path), "no entry point".into());
            }
            Ok(_) => {}
            Err(why) => report(Check::Path(path), why),
        }
    }
    found
}

/// What a variant takes for granted of subgroups and an adapter does not promise.
fn mistakes_subgroups(variant: &Variant, validated: &Validated, caps: &Caps) -> Option<String> {
    let cooperative = variant.source.contains("enable wgpu_cooperative_matrix");
    if !cooperative && !uses_subgroups(&variant.source) {
        return None;
    }
    if !validated.takes_numbers_apart().is_empty() {
        return Some("an invocation's number is taken for its place in a subgroup".into());
    }
    let workgroup = validated.module.entry_points[0].workgroup_size.iter().product::<u32>();
    // laid out for the largest, and told how many there may be
    let laid_out = (variant.kernel.define("LEAST"), variant.kernel.define("SUBGROUP"));
    if cooperative && laid_out == (Some(caps.subgroup_size.0), Some(caps.subgroup_size.1)) {
        let whole = workgroup.is_multiple_of(caps.subgroup_size.1);
        return (!whole).then(|| format!("a workgroup of {workgroup} in {:?}", caps.subgroup_size));
    }
    match caps.fixed_subgroup_size() {
        None => Some(format!("subgroups of {:?} invocations", caps.subgroup_size)),
        Some(size) if cooperative && (size != 32 || workgroup % 32 != 0) => {
            Some(format!("small matrices in subgroups of {size}"))
        }
        // teams are a subgroup that is a workgroup
        Some(size) if !cooperative && workgroup != size => {
            Some(format!("a workgroup of {workgroup} where subgroups have {size}"))
        }
        Some(_) => None,
    }
}

/// Registers of 32 bits that an invocation has at most, less some for addresses and what is computed.
const REGISTERS: u32 = 255 - 24;

/// As many where two workgroups of 256 are to share the 65,536 registers of a core.
const HALF_THE_REGISTERS: u32 = 128 - 16;

/// What of a module an adapter does not allow.
fn beyond(module: &naga::Module, caps: &Caps) -> Vec<String> {
    let globals = || module.global_variables.iter().map(|(_, variable)| variable);
    let memory =
        globals().filter(|v| v.space == WorkGroup).map(|v| module.types[v.ty].inner.size(module.to_ctx()));
    let invocations = module.entry_points.iter().map(|e| e.workgroup_size.iter().product::<u32>()).max();
    let bound = globals().filter(|v| matches!(v.space, Storage { .. })).count() as u32;
    let of = [
        ("bytes of workgroup memory", memory.sum(), caps.workgroup_bytes),
        ("invocations", invocations.unwrap_or(0), caps.workgroup_size),
        ("storage buffers", bound, caps.storage_buffers),
    ];
    let beyond = of.into_iter().filter(|(_, has, most)| has > most);
    beyond.map(|(what, has, most)| format!("{has} {what} of {most}")).collect()
}

/// Fails with what was found, the first of it in words.
fn assert_none(check: Check) {
    let found: Vec<_> =
        findings().iter().filter(|(c, _)| *c == check).map(|(_, what)| what.as_str()).collect();
    let shown = found[..found.len().min(20)].join("\n");
    assert!(found.is_empty(), "{check:?}: {} of {} variants:\n{shown}", found.len(), variants().len());
}

#[test]
fn every_variant_is_valid_and_fits_its_adapter() {
    for (i, profile) in profiles().iter().enumerate() {
        let of = variants().iter().filter(|variant| variant.profiles.contains(&i)).count();
        println!("{of} variants of {}", profile.name);
        assert!(of >= 16, "only {of} variants of {}", profile.name);
    }
    println!("{} variants together", variants().len());
    assert_none(Check::Limits);
}

#[test]
fn every_variant_translates_to_spirv() {
    assert_none(Check::Path(Path::SpirV));
}

#[test]
fn every_variant_translates_to_msl() {
    [Path::Msl24, Path::Msl31].map(Check::Path).into_iter().for_each(assert_none);
}

#[test]
fn every_variant_translates_to_hlsl() {
    let paths = [Path::Hlsl51, Path::Hlsl60, Path::Hlsl62, Path::Hlsl66];
    paths.map(Check::Path).into_iter().for_each(assert_none);
}

/// A write of a component may touch the whole vector (gpuweb/gpuweb#2112), as it does on Metal and DX12:
/// where invocations share the vector, others' components are lost.
#[test]
fn no_shared_vector_is_written_by_components() {
    assert_none(Check::Components);
}

/// naga takes an array type and an alias of it for two types in SPIR-V, and what is given from one to the
/// other is malformed there, though naga itself does not mind.
#[test]
fn arrays_keep_their_type() {
    assert_none(Check::Arrays);
}

#[test]
fn subgroups_are_taken_as_they_come() {
    assert_none(Check::Subgroups);
}

/// NVIDIA's compilers spill what goes beyond, and loops that are not unrolled make it worse.
#[test]
fn what_an_invocation_keeps_fits_into_registers() {
    assert_none(Check::Registers);
}

#[test]
fn every_shader_is_listed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let names = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
    let there: BTreeSet<String> = names.filter(|name| name.ends_with(".wgsl")).collect();
    let listed: BTreeSet<String> = variants().iter().map(|v| v.kernel.shader.name.to_string()).collect();
    assert_eq!(listed, there);
}

#[test]
fn what_is_listed_is_what_the_family_lists() {
    for Profile { caps, .. } in profiles() {
        let mut last = "";
        for kernel in kernels(&caps) {
            // one of each family is enough: the lists are the same
            if std::mem::replace(&mut last, kernel.shader.name) != kernel.shader.name {
                assert!(kernel.is_listed(&caps), "{kernel:?}");
            }
        }
    }
    let caps = Caps::minimal();
    let first = kernels(&caps).remove(0);
    let stranger = Kernel { defines: vec![("STRANGE", 1)], ..first };
    assert!(!stranger.is_listed(&caps));
}
