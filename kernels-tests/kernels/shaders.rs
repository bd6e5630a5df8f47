//! Every variant of every shader is valid WGSL and translates to SPIR-V, without a GPU.

use std::collections::BTreeSet;
use std::path::Path;

use poa_gpu::gpu::{Caps, Cooperative, Kernel, emit_spirv, validate};
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
