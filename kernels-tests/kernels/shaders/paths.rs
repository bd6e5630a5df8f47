//! The ways from WGSL to a driver, each with the options that wgpu 30 gives naga for our pipelines: no
//! runtime checks (`create_shader_module_trusted`), workgroup memory as it is, and the places of bindings
//! that its backends count out.

use std::collections::BTreeMap;

use naga::back::{hlsl, msl, pipeline_constants::process_overrides, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy::Unchecked};
use naga::valid::ModuleInfo;
use naga::{AddressSpace, Module, ResourceBinding, ShaderStage::Compute, StorageAccess};

/// A language in one of its versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// SPIR-V 1.6, of Vulkan 1.3.
    SpirV,
    Msl24,
    Msl31,
    /// Shader model 5.1, FXC's.
    Hlsl51,
    Hlsl60,
    Hlsl62,
    Hlsl66,
}

/// What a driver gets.
pub enum Translated {
    Words(Vec<u32>),
    Text(String),
}

impl Path {
    pub const ALL: [Self; 7] =
        [Self::SpirV, Self::Msl24, Self::Msl31, Self::Hlsl51, Self::Hlsl60, Self::Hlsl62, Self::Hlsl66];

    /// What a shader uses that no adapter on this path has, so that it is not asked for there.
    pub fn lacks(self, source: &str) -> Option<&'static str> {
        let hlsl = matches!(self, Self::Hlsl51 | Self::Hlsl60 | Self::Hlsl62 | Self::Hlsl66);
        let has = |what: &str| source.contains(what);
        match () {
            () if hlsl && has("enable wgpu_cooperative_matrix") => Some("cooperative matrices"),
            // Metal's simdgroup matrices
            () if self != Self::SpirV && has("coop_mat16x16") => Some("cooperative matrices of 16"),
            () if matches!(self, Self::Hlsl51 | Self::Hlsl60) && has("enable f16") => Some("halves"),
            () if self == Self::Hlsl51 && has("subgroup") && uses_subgroups(source) => Some("subgroups"),
            () => None,
        }
    }

    /// Translates the entry point of a module as wgpu does. What naga has not thought of is a panic there,
    /// and an error here.
    pub fn translate(self, module: &Module, info: &ModuleInfo, entry: &str) -> Result<Translated, String> {
        std::panic::catch_unwind(|| self.write(module, info, entry)).unwrap_or_else(|panic| {
            Err(match panic.downcast_ref::<String>() {
                Some(text) => format!("naga panics: {text}"),
                None => "naga panics".into(),
            })
        })
    }

    fn write(self, module: &Module, info: &ModuleInfo, entry: &str) -> Result<Translated, String> {
        let (module, info) =
            process_overrides(module, info, Some((Compute, entry)), &Default::default()).map_err(text)?;
        let uses = Uses::of(&module);
        match self {
            Self::SpirV => spirv(&module, &info, entry, &uses).map(Translated::Words),
            Self::Msl24 => metal(&module, &info, entry, &uses, (2, 4)).map(Translated::Text),
            Self::Msl31 => metal(&module, &info, entry, &uses, (3, 1)).map(Translated::Text),
            Self::Hlsl51 => dx12(&module, &info, entry, &uses, hlsl::ShaderModel::V5_1),
            Self::Hlsl60 => dx12(&module, &info, entry, &uses, hlsl::ShaderModel::V6_0),
            Self::Hlsl62 => dx12(&module, &info, entry, &uses, hlsl::ShaderModel::V6_2),
            Self::Hlsl66 => dx12(&module, &info, entry, &uses, hlsl::ShaderModel::V6_6),
        }
    }
}

/// Subgroup operations and numbers, and not the word in a comment.
pub fn uses_subgroups(source: &str) -> bool {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.into_iter().any(|line| {
        line.contains("subgroup_")
            || line
                .match_indices("subgroup")
                .any(|(i, _)| line[i + 8..].starts_with(|c: char| c.is_ascii_uppercase()))
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What a module takes from outside.
struct Uses {
    immediates: bool,
    /// Bindings of storage buffers in group 0, and whether they are written to.
    storage: BTreeMap<u32, bool>,
    /// Whether the parameters are a uniform buffer: group 1, binding 0.
    uniform: bool,
}

impl Uses {
    fn of(module: &Module) -> Self {
        let mut uses = Self { immediates: false, storage: BTreeMap::new(), uniform: false };
        for (_, variable) in module.global_variables.iter() {
            match (variable.space, &variable.binding) {
                (AddressSpace::Immediate, _) => uses.immediates = true,
                (AddressSpace::Storage { access }, Some(binding)) => {
                    uses.storage.insert(binding.binding, access.contains(StorageAccess::STORE));
                }
                (AddressSpace::Uniform, Some(_)) => uses.uniform = true,
                _ => {}
            }
        }
        uses
    }
}

const PARAMETERS: ResourceBinding = ResourceBinding { group: 1, binding: 0 };

fn operand(binding: u32) -> ResourceBinding {
    ResourceBinding { group: 0, binding }
}

const UNCHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: Unchecked,
    buffer: Unchecked,
    image_load: Unchecked,
    binding_array: Unchecked,
};

/// wgpu-hal's vulkan/adapter.rs and `compile_stage` of vulkan/device.rs, for the features that we ask for.
fn spirv(module: &Module, info: &ModuleInfo, entry: &str, uses: &Uses) -> Result<Vec<u32>, String> {
    use spv::Capability as C;
    let capabilities = [
        C::Shader,
        C::Matrix,
        C::Sampled1D,
        C::Image1D,
        C::ImageQuery,
        C::DerivativeControl,
        C::StorageImageExtendedFormats,
        C::GroupNonUniform,
        C::GroupNonUniformVote,
        C::GroupNonUniformArithmetic,
        C::GroupNonUniformBallot,
        C::GroupNonUniformShuffle,
        C::GroupNonUniformShuffleRelative,
        C::GroupNonUniformQuad,
        C::Float16,
        C::CooperativeMatrixKHR,
        C::VulkanMemoryModel,
    ];
    let bindings =
        uses.storage.keys().map(|binding| operand(*binding)).chain(uses.uniform.then_some(PARAMETERS));
    let place = |at: ResourceBinding| {
        let info =
            spv::BindingInfo { descriptor_set: at.group, binding: at.binding, binding_array_size: None };
        (at, info)
    };
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        fake_missing_bindings: false,
        binding_map: bindings.map(place).collect(),
        capabilities: Some(capabilities.into_iter().collect()),
        bounds_check_policies: UNCHECKED,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        ray_query_initialization_tracking: false,
        use_storage_input_output_16: true,
        debug_info: None,
        task_dispatch_limits: None,
        mesh_shader_primitive_indices_clamp: false,
        trace_ray_argument_validation: true,
        emit_int_div_checks: false,
    };
    let pipeline = spv::PipelineOptions { shader_stage: Compute, entry_point: entry.into() };
    spv::write_vec(module, info, &options, Some(&pipeline)).map_err(text)
}

/// `create_pipeline_layout` and `load_shader` of wgpu-hal's metal/device.rs: immediates first, then the
/// groups one after the other, then the sizes of buffers.
fn metal(
    module: &Module,
    info: &ModuleInfo,
    entry: &str,
    uses: &Uses,
    lang_version: (u8, u8),
) -> Result<String, String> {
    let mut slots = 0..;
    let mut next = || slots.next().expect("slots do not end");
    let mut resources =
        msl::EntryPointResources { immediates_buffer: uses.immediates.then(&mut next), ..Default::default() };
    let mut bind = |at, mutable| {
        let target = msl::BindTarget { buffer: Some(next()), mutable, ..Default::default() };
        resources.resources.insert(at, target);
    };
    uses.storage.iter().for_each(|(binding, written)| bind(operand(*binding), *written));
    if uses.uniform {
        bind(PARAMETERS, false);
    }
    resources.sizes_buffer = Some(next());
    let options = msl::Options {
        lang_version,
        per_entry_point_map: [(entry.to_string(), resources)].into(),
        inline_samplers: Vec::new(),
        spirv_cross_compatibility: false,
        fake_missing_bindings: false,
        bounds_check_policies: UNCHECKED,
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        task_dispatch_limits: None,
        mesh_shader_primitive_indices_clamp: false,
        emit_int_div_checks: false,
        ray_query_initialization_tracking: false,
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((Compute, entry.into())),
        allow_and_force_point_size: false,
        vertex_pulling_transform: true,
        vertex_buffer_mappings: Vec::new(),
        binding_array_length_map: Default::default(),
    };
    let (source, reflection) = msl::write_string(module, info, &options, &pipeline).map_err(text)?;
    reflection.entry_point_names[0].as_ref().map_err(text)?;
    Ok(source)
}

/// `create_pipeline_layout` and `compile_stage` of wgpu-hal's dx12/device.rs: immediates are root constants
/// in a space of their own, buffers that are read SRVs, those that are written UAVs, parameters with an
/// offset a CBV.
fn dx12(
    module: &Module,
    info: &ModuleInfo,
    entry: &str,
    uses: &Uses,
    shader_model: hlsl::ShaderModel,
) -> Result<Translated, String> {
    let [mut constants, mut read, mut written] = [hlsl::BindTarget::default(); 3];
    let take = |target: &mut hlsl::BindTarget| {
        let taken = *target;
        target.register += 1;
        taken
    };
    let immediates_target = uses.immediates.then(|| take(&mut constants));
    constants.space += u8::from(uses.immediates);
    let mut binding_map = hlsl::BindingMap::default();
    for (binding, writes) in &uses.storage {
        binding_map.insert(operand(*binding), take(if *writes { &mut written } else { &mut read }));
    }
    if uses.uniform {
        let target = hlsl::BindTarget { restrict_indexing: true, ..take(&mut constants) };
        binding_map.insert(PARAMETERS, target);
    }
    let options = hlsl::Options {
        shader_model,
        binding_map,
        fake_missing_bindings: false,
        special_constants_binding: Some(constants),
        immediates_target,
        dynamic_storage_buffer_offsets_targets: Default::default(),
        zero_initialize_workgroup_memory: false,
        restrict_indexing: false,
        sampler_heap_target: Default::default(),
        sampler_buffer_binding_map: Default::default(),
        external_texture_binding_map: Default::default(),
        force_loop_bounding: false,
        task_dispatch_limits: None,
        mesh_shader_primitive_indices_clamp: false,
        ray_query_initialization_tracking: false,
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((Compute, entry.into())) };
    let mut source = String::new();
    let reflection =
        hlsl::Writer::new(&mut source, &options, &pipeline).write(module, info, None).map_err(text)?;
    reflection.entry_point_names[0].as_ref().map_err(text)?;
    Ok(Translated::Text(source))
}
