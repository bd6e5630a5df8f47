//! Adapters as wgpu describes them, one of every kind that asks for kernels of its own.

use poa_gpu::gpu::{Caps, Cooperative};

use super::paths::Path;

/// An adapter, and what it is reached through.
pub struct Profile {
    pub name: &'static str,
    pub caps: Caps,
    /// All of its kernels take these paths.
    pub paths: &'static [Path],
}

/// Small matrices of these sizes, whose attention works as well.
fn cooperative(sixteen: bool, eight: bool) -> Cooperative {
    Cooperative { sixteen, eight, eight_single: eight, attention: true }
}

/// What Vulkan and DX12 name as the largest binding, in whole vectors.
const LARGEST_BINDING: usize = (1 << 31) - 16;

/// All of them. Limits are those that wgpu reports: of Vulkan what drivers say, of Metal and DX12 what its
/// backends write down.
pub fn profiles() -> Vec<Profile> {
    let minimal = Caps::minimal();
    // NVIDIA's, on Vulkan; with more sizes of small matrices than it has, so that all are seen
    let rich = Caps {
        subgroups: true,
        subgroup_size: (32, 32),
        f16: true,
        cooperative: cooperative(true, true),
        immediates: true,
        timestamps: true,
        workgroup_bytes: 48 * 1024,
        workgroup_size: 1024,
        max_binding_bytes: LARGEST_BINDING,
        storage_buffers: 16,
        ..minimal.clone()
    };
    let plain = Caps { cooperative: Cooperative::default(), ..rich.clone() };
    let software =
        Caps { software: true, subgroup_size: (8, 8), workgroup_bytes: 32 * 1024, ..plain.clone() };
    let metal = Caps {
        cooperative: cooperative(false, true),
        workgroup_bytes: 32 * 1024,
        max_binding_bytes: u32::MAX as usize / 16 * 16,
        storage_buffers: 31,
        ..rich.clone()
    };
    let profile = |name, caps, paths| Profile { name, caps, paths };
    vec![
        profile("minimal", minimal, &Path::ALL),
        profile("rich", rich.clone(), &[Path::SpirV]),
        // llvmpipe at 256 bits, at 128 and at 512; SwiftShader is as the second
        profile("software", software.clone(), &[Path::SpirV]),
        profile(
            "software of 4",
            Caps { subgroup_size: (4, 4), f16: false, ..software.clone() },
            &[Path::SpirV],
        ),
        profile("software of 16", Caps { subgroup_size: (16, 16), ..software }, &[Path::SpirV]),
        // RDNA, whose compiler takes either size
        profile(
            "wave64",
            Caps {
                subgroup_size: (32, 64),
                cooperative: cooperative(true, false),
                workgroup_bytes: 64 * 1024,
                ..rich.clone()
            },
            &[Path::SpirV],
        ),
        // Apple's processors, and those of others in older machines
        profile("Metal", metal.clone(), &[Path::Msl24, Path::Msl31]),
        profile("Metal of others", Caps { subgroup_size: (4, 64), ..metal }, &[Path::Msl24, Path::Msl31]),
        profile("DX12", Caps { workgroup_bytes: 32 * 1024, ..plain.clone() }, &[Path::Hlsl62, Path::Hlsl66]),
        profile(
            "DX12 without halves",
            Caps { subgroup_size: (8, 128), f16: false, workgroup_bytes: 32 * 1024, ..plain.clone() },
            &[Path::Hlsl60, Path::Hlsl62, Path::Hlsl66],
        ),
        // without dxcompiler.dll wgpu takes the system's old compiler
        profile(
            "DX12 with FXC",
            Caps { subgroups: false, f16: false, workgroup_bytes: 32 * 1024, ..plain.clone() },
            &[Path::Hlsl51],
        ),
        // Adreno's and Mali's, with the least of everything
        profile("mobile", mobile(&plain, 64), &[Path::SpirV]),
        profile("mobile of 16", mobile(&plain, 16), &[Path::SpirV]),
    ]
}

fn mobile(plain: &Caps, subgroup: u32) -> Caps {
    let minimal = Caps::minimal();
    Caps {
        subgroup_size: (subgroup, subgroup),
        workgroup_bytes: minimal.workgroup_bytes,
        workgroup_size: minimal.workgroup_size,
        max_binding_bytes: minimal.max_binding_bytes,
        storage_buffers: minimal.storage_buffers,
        ..plain.clone()
    }
}
