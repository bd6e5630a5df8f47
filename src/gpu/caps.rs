//! What an adapter can do, read once; plans depend on this and on nothing else.

use crate::error::{Error, Result};

/// Capabilities and limits of an adapter, as far as kernels care.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// A CPU pretending to be a GPU (llvmpipe): loads are what costs, not arithmetic.
    pub software: bool,
    /// Subgroup operations are there.
    pub subgroups: bool,
    /// Smallest and largest subgroup size.
    pub subgroup_size: (u32, u32),
    /// 16-bit floats in shaders.
    pub f16: bool,
    /// Products of small matrices by a subgroup, into sums of 32 bits.
    pub cooperative: Cooperative,
    /// Small parameters can travel as immediates.
    pub immediates: bool,
    /// Timestamps can be written.
    pub timestamps: bool,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Invocations in a workgroup.
    pub workgroup_size: u32,
    /// Workgroups in one dimension of a grid.
    pub grid_dimension: u32,
    /// Bytes that one binding can cover.
    pub max_binding_bytes: usize,
    /// Storage buffers a kernel can bind.
    pub storage_buffers: u32,
}

/// Cooperative matrices (tensor cores) that an adapter multiplies, and what may use them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cooperative {
    /// 16×16 by 16×16, of 16-bit floats.
    pub sixteen: bool,
    /// 8×8 by 8×8, of 16-bit floats.
    pub eight: bool,
    /// 8×8 by 8×8, of 32-bit floats.
    pub eight_single: bool,
    /// Whether attention may use them.
    pub attention: bool,
}

impl Cooperative {
    fn of(adapter: &wgpu::Adapter) -> Self {
        use wgpu::CooperativeScalarType::{F16, F32};
        let features = adapter.features();
        if !features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            return Self::default();
        }
        let halves = features.contains(wgpu::Features::SHADER_F16);
        let all = adapter.cooperative_matrix_properties();
        let has = |n: u32, factors| {
            let is = |p: &wgpu::CooperativeMatrixProperties| {
                [p.m_size, p.n_size, p.k_size] == [n; 3] && (p.ab_type, p.cr_type) == (factors, F32)
            };
            (halves || factors == F32) && all.iter().any(is)
        };
        Self { sixteen: has(16, F16), eight: has(8, F16), eight_single: has(8, F32), attention: true }
    }

    /// Every size there may be.
    pub const ALL: Self = Self { sixteen: true, eight: true, eight_single: true, attention: true };

    /// The sizes that both have.
    pub fn and(self, other: Self) -> Self {
        Self {
            sixteen: self.sixteen && other.sixteen,
            eight: self.eight && other.eight,
            eight_single: self.eight_single && other.eight_single,
            attention: self.attention && other.attention,
        }
    }

    /// Whether any size is there.
    pub fn any(self) -> bool {
        self.sixteen || self.eight || self.eight_single
    }
}

/// Bytes that one binding can cover, of the bytes that an adapter names: bindings and buffers are whole
/// vectors of four elements, where Vulkan and DX12 name 2³¹ − 1, and elements are addressed with 32 bits.
fn whole_bindings(bytes: u64) -> usize {
    (bytes.min(u32::MAX as u64) / BINDING_UNIT * BINDING_UNIT) as usize
}

/// Smallest and largest subgroup size. Metal says it of a compiled kernel alone, so wgpu names all sizes that
/// there are; Apple's own processors have had 32 in all generations, which Apple's libraries count on as
/// well.
fn subgroup_size(info: &wgpu::AdapterInfo) -> (u32, u32) {
    match info.backend {
        wgpu::Backend::Metal if info.name.starts_with("Apple ") => (32, 32),
        _ => (info.subgroup_min_size, info.subgroup_max_size),
    }
}

/// Bytes that bindings and buffers are multiples of: a vector of four elements in single precision.
const BINDING_UNIT: u64 = 16;

/// Bytes of parameters that a kernel may take.
pub(crate) const IMMEDIATE_BYTES: u32 = 128;

/// Rounds after which llvmpipe leaves the loops of an invocation, all of them together, without a word.
const SOFTWARE_ROUNDS: usize = 65_535;

impl Caps {
    /// Rounds that an invocation may go in all of its loops together, where there is a limit.
    pub fn loop_rounds(&self) -> Option<usize> {
        self.software.then_some(SOFTWARE_ROUNDS)
    }

    /// Whether this device takes so many rounds of a loop whose number is the user's; an error that says so if not.
    pub(crate) fn check_rounds(&self, op: &'static str, rounds: usize, what: &str) -> Result<()> {
        match self.loop_rounds() {
            Some(most) if rounds > most => Err(Error::shape(
                op,
                format!("{what} of {rounds} rows; a software adapter takes {most} at most"),
            )),
            _ => Ok(()),
        }
    }

    /// The least a WebGPU adapter offers: what shaders are validated against where no adapter is there.
    pub fn minimal() -> Self {
        Self {
            software: false,
            subgroups: false,
            subgroup_size: (32, 32),
            f16: false,
            cooperative: Cooperative::default(),
            immediates: false,
            timestamps: false,
            workgroup_bytes: 16 * 1024,
            workgroup_size: 256,
            grid_dimension: 65_535,
            max_binding_bytes: 128 << 20,
            storage_buffers: 8,
        }
    }

    /// More than any adapter has: what an adapter may use where nothing is held back.
    pub fn everything() -> Self {
        Self {
            software: true,
            subgroups: true,
            subgroup_size: (u32::MAX, 0),
            f16: true,
            cooperative: Cooperative::ALL,
            immediates: true,
            timestamps: true,
            workgroup_bytes: u32::MAX,
            workgroup_size: u32::MAX,
            grid_dimension: u32::MAX,
            max_binding_bytes: usize::MAX,
            storage_buffers: u32::MAX,
        }
    }

    /// What both have. Subgroups may be of every size that either names, so that plans cannot count on one.
    pub fn within(&self, most: &Self) -> Self {
        Self {
            software: self.software && most.software,
            subgroups: self.subgroups && most.subgroups,
            subgroup_size: (
                self.subgroup_size.0.min(most.subgroup_size.0),
                self.subgroup_size.1.max(most.subgroup_size.1),
            ),
            f16: self.f16 && most.f16,
            cooperative: self.cooperative.and(most.cooperative),
            immediates: self.immediates && most.immediates,
            timestamps: self.timestamps && most.timestamps,
            workgroup_bytes: self.workgroup_bytes.min(most.workgroup_bytes),
            workgroup_size: self.workgroup_size.min(most.workgroup_size),
            grid_dimension: self.grid_dimension.min(most.grid_dimension),
            max_binding_bytes: self.max_binding_bytes.min(most.max_binding_bytes),
            storage_buffers: self.storage_buffers.min(most.storage_buffers),
        }
    }

    /// The features to ask an adapter for.
    pub(super) fn features(&self) -> wgpu::Features {
        let wanted = [
            (self.subgroups, wgpu::Features::SUBGROUP),
            (self.f16, wgpu::Features::SHADER_F16),
            (self.immediates, wgpu::Features::IMMEDIATES),
            (self.timestamps, wgpu::Features::TIMESTAMP_QUERY),
            (self.cooperative.any(), wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
        ];
        let asked = wanted.into_iter().filter(|(has, _)| *has);
        asked.fold(wgpu::Features::empty(), |all, (_, feature)| all | feature)
    }

    /// The limits to ask an adapter for that has `all`.
    pub(super) fn limits(&self, all: wgpu::Limits) -> wgpu::Limits {
        wgpu::Limits {
            max_compute_workgroup_storage_size: self.workgroup_bytes,
            max_compute_invocations_per_workgroup: self.workgroup_size,
            max_compute_workgroups_per_dimension: self.grid_dimension,
            max_storage_buffers_per_shader_stage: self.storage_buffers,
            max_storage_buffer_binding_size: self.max_binding_bytes as u64,
            max_immediate_size: if self.immediates { all.max_immediate_size } else { 0 },
            ..all
        }
    }

    pub(crate) fn of(adapter: &wgpu::Adapter) -> Self {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        Self {
            software: info.device_type == wgpu::DeviceType::Cpu,
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            subgroup_size: subgroup_size(&info),
            f16: features.contains(wgpu::Features::SHADER_F16),
            cooperative: Cooperative::of(adapter),
            immediates: features.contains(wgpu::Features::IMMEDIATES)
                && limits.max_immediate_size >= IMMEDIATE_BYTES,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_size: limits.max_compute_invocations_per_workgroup,
            grid_dimension: limits.max_compute_workgroups_per_dimension,
            max_binding_bytes: whole_bindings(
                limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
            ),
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
        }
    }

    /// Subgroup size, where it is the same for every kernel.
    pub fn fixed_subgroup_size(&self) -> Option<u32> {
        (self.subgroups && self.subgroup_size.0 == self.subgroup_size.1).then_some(self.subgroup_size.0)
    }

    /// Smallest and largest subgroup in which cooperative matrices are multiplied: kernels are laid out for the
    /// largest, and wgpu leaves it to the driver which one a kernel gets. Up to twice as many invocations as
    /// there are at least.
    pub fn cooperative_subgroups(&self) -> Option<(u32, u32)> {
        let (least, most) = self.subgroup_size;
        (self.subgroups && matches!((least, most), (32, 32 | 64) | (64, 64))).then_some((least, most))
    }

    /// Whether training in mixed precision is possible.
    pub fn mixed_precision(&self) -> bool {
        // the optimiser's pass writes the values in half precision as well
        self.f16 && self.storage_buffers >= 10
    }

    /// Folds a count of workgroups into a grid whose dimensions the adapter allows. Kernels undo it with
    /// `workgroup_index` of `include/grid.wgsl`.
    pub fn grid(&self, workgroups: usize) -> [usize; 3] {
        let limit = self.grid_dimension as usize;
        if workgroups <= limit {
            return [workgroups, 1, 1];
        }
        let y = workgroups.div_ceil(limit);
        [workgroups.div_ceil(y), y, 1]
    }
}

#[cfg(test)]
mod tests {
    use super::whole_bindings;

    #[test]
    fn bindings_are_whole_vectors() {
        assert_eq!(whole_bindings(128 << 20), 128 << 20);
        assert_eq!(whole_bindings((1 << 31) - 1), (1 << 31) - 16);
        assert_eq!(whole_bindings(1 << 40), (1 << 32) - 16);
    }
}
