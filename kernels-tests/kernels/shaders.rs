//! Every variant of every shader is valid WGSL and translates to SPIR-V, without a GPU.

use poa_gpu::gpu::{Caps, Cooperative, emit_spirv, validate};
use poa_gpu::ops;
use poa_gpu::optim::{adamw, sgd};

#[test]
fn every_variant_validates_and_translates() {
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
    for caps in [minimal, rich, software] {
        let mut kernels = ops::kernels(&caps);
        kernels.extend(adamw::kernels(&caps));
        kernels.extend(sgd::kernels(&caps));
        assert!(kernels.len() >= 16, "only {} kernels are listed", kernels.len());
        for kernel in kernels {
            validate(&kernel, &caps).unwrap();
            let words = emit_spirv(&kernel, &caps).unwrap();
            assert_eq!(words[0], 0x0723_0203, "SPIR-V's magic number");
        }
    }
}
