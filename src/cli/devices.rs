//! `poa-gpu devices`: every device, its limits, and the kernel variants it would use.

use crate::cpu::start_threads;
use crate::error::Result;
use crate::gpu::adapters;
use crate::memory::gib;
use crate::ops;
use crate::tensor::Device;

pub(super) fn run() -> Result<()> {
    start_threads()?;
    let all = adapters();
    for (i, a) in all.iter().enumerate() {
        let c = &a.caps;
        say!("{i}: {} ({}, {})", a.name, a.kind, a.backend);
        say!("   driver          {}", a.driver);
        if let Some(bytes) = a.memory {
            say!("   memory          {:.1} GiB", gib(bytes));
        }
        say!("   largest tensor  {} MiB", c.max_binding_bytes >> 20);
        say!(
            "   workgroups      {} invocations, {} KiB of memory; {} storage buffers a kernel",
            c.workgroup_size,
            c.workgroup_bytes >> 10,
            c.storage_buffers
        );
        let subgroups = match c.subgroups {
            true if c.subgroup_size.0 == c.subgroup_size.1 => format!("of {}", c.subgroup_size.0),
            true => format!("of {} to {}", c.subgroup_size.0, c.subgroup_size.1),
            false => "none".into(),
        };
        let yes = |b: bool| if b { "yes" } else { "no" };
        say!(
            "   features        subgroups {subgroups}; 16-bit floats {}; tensor cores {}{}; immediates {}; timestamps {}",
            yes(c.f16),
            match (c.cooperative.sixteen, c.cooperative.eight) {
                (true, true) => "16×16, 8×8",
                (true, false) => "16×16",
                (false, true) => "8×8",
                (false, false) => "no",
            },
            if c.cooperative.eight_single { ", 8×8 of single precision" } else { "" },
            yes(c.immediates),
            yes(c.timestamps)
        );
        for (what, variant) in ops::chosen_variants(c) {
            say!("   {what:<15} {variant}");
        }
        if a.caps.software {
            say!("   a software adapter: used only with --device gpu, {i} or its name");
        }
    }
    say!("cpu: {}", Device::cpu().describe());
    if all.is_empty() {
        say!("no GPU adapter found; a Vulkan, Metal or DX12 driver brings one");
    }
    Ok(())
}
