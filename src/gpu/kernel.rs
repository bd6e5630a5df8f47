//! Kernels as hashable values: a shader, an entry point and the constants it is built with. The same value is
//! the pipeline key and what the tests enumerate.

use naga::valid::{Capabilities, ValidationFlags, Validator};

use super::{Caps, preprocess};
use crate::error::{Error, Result};

/// A WGSL file; made by the `shader!` macro.
#[derive(Clone, Copy)]
pub struct Shader {
    /// Path below `shaders/`.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
    /// Whether an adapter with these capabilities may be asked for this kernel of the shader: whether the
    /// family lists it.
    pub lists: fn(&Kernel, &Caps) -> bool,
}

impl std::fmt::Debug for Shader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A file of `shaders/` and the function that lists the kernels made of it, `fn(&Caps) -> Vec<Kernel>`.
/// Kernels built for the sizes of a network have too many variants for one list: theirs is `like fn(&Kernel,
/// &Caps) -> Vec<Kernel>`, of those with the sizes that a kernel has.
macro_rules! shader {
    ($name:literal, like $kernels:path) => {
        $crate::gpu::Shader {
            name: $name,
            source: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $name)),
            lists: |kernel, caps| $kernels(kernel, caps).contains(kernel),
        }
    };
    ($name:literal, $kernels:path) => {
        $crate::gpu::Shader {
            name: $name,
            source: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $name)),
            lists: |kernel, caps| $kernels(caps).contains(kernel),
        }
    };
}
pub(crate) use shader;

/// Constants a kernel is built with: `const NAME: u32 = value;`, also visible to `#ifdef`.
pub type Defines = Vec<(&'static str, u32)>;

/// One kernel variant.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The file.
    pub shader: Shader,
    /// The entry point.
    pub entry: &'static str,
    /// The constants.
    pub defines: Defines,
    /// Fields of the parameter struct on the Rust side.
    pub params: &'static [Param],
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        self.shader.name == other.shader.name && self.entry == other.entry && self.defines == other.defines
    }
}
impl Eq for Kernel {}
impl std::hash::Hash for Kernel {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.shader.name, self.entry, &self.defines).hash(state);
    }
}

/// Type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// `u32`
    U32,
    /// `f32`
    F32,
}

/// A field of a parameter struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name, the same in Rust and WGSL.
    pub name: &'static str,
    /// Type.
    pub kind: ParamKind,
}

/// Small values that travel with a dispatch; made by the `params!` macro.
pub trait Params {
    /// The fields in order.
    const FIELDS: &'static [Param];

    /// The fields as kernels read them; the name of a field that 32 bits do not hold where there is one.
    fn words(&self) -> Result<Vec<u32>, &'static str>;
}

/// A value of the host as the 32 bits of a parameter.
pub(crate) trait Word {
    /// The bits, if they are enough.
    fn word(self) -> Option<u32>;
}

impl Word for usize {
    fn word(self) -> Option<u32> {
        self.try_into().ok()
    }
}

impl Word for isize {
    fn word(self) -> Option<u32> {
        i32::try_from(self).ok().map(i32::cast_unsigned)
    }
}

impl Word for bool {
    fn word(self) -> Option<u32> {
        Some(self.into())
    }
}

impl Word for f32 {
    fn word(self) -> Option<u32> {
        Some(self.to_bits())
    }
}

/// Declares a parameter struct: its WGSL counterpart is `struct Params` of the shader, and building a kernel
/// fails where names, types or order differ. On the host a `u32` is a `usize`; a dispatch checks that it
/// fits. An `i32` is an `isize` and a `bool` a `bool`; in WGSL both are a `u32`, the one below zero wrapped
/// around.
macro_rules! params {
    (@kind f32) => { $crate::gpu::ParamKind::F32 };
    (@kind $other:ident) => { $crate::gpu::ParamKind::U32 };
    (@host u32) => { usize };
    (@host i32) => { isize };
    (@host bool) => { bool };
    (@host f32) => { f32 };
    ($(#[$doc:meta])* $name:ident { $($field:ident : $kind:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct $name { $(pub(crate) $field: $crate::gpu::params!(@host $kind)),* }
        impl $crate::gpu::Params for $name {
            const FIELDS: &'static [$crate::gpu::Param] = &[$($crate::gpu::Param {
                name: stringify!($field), kind: $crate::gpu::params!(@kind $kind),
            }),*];

            fn words(&self) -> Result<Vec<u32>, &'static str> {
                Ok(vec![$($crate::gpu::Word::word(self.$field).ok_or(stringify!($field))?),*])
            }
        }
    };
}
pub(crate) use params;

/// A composed and validated kernel.
pub(super) struct Composed {
    pub(super) source: String,
    /// The bindings of group 0.
    pub(super) bindings: Vec<Binding>,
}

/// A storage buffer as a kernel declares it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Binding {
    /// Whether the kernel writes to it.
    pub(super) write: bool,
    /// Bytes of its elements' scalars where they are floats; integers are read as bits of anything.
    pub(super) float: Option<u8>,
}

impl Kernel {
    /// A kernel of `shader` that takes parameters of type `P`.
    pub fn new<P: Params>(shader: Shader, entry: &'static str, defines: Defines) -> Self {
        Self { shader, entry, defines, params: P::FIELDS }
    }

    /// The value of a constant.
    pub fn define(&self, name: &str) -> Option<u32> {
        self.defines.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }

    /// Whether its family lists it for these capabilities, as everything that is launched must be: what is
    /// not listed is not validated.
    pub fn is_listed(&self, caps: &Caps) -> bool {
        (self.shader.lists)(self, caps)
    }

    pub(super) fn broken(&self, what: impl std::fmt::Display) -> Error {
        Error::Device(format!("kernel {}:{} {:?}: {what}", self.shader.name, self.entry, self.defines))
    }

    pub(super) fn compose(&self, caps: &Caps) -> Result<Composed> {
        let mut flags = Vec::new();
        flags.extend(caps.immediates.then_some("IMMEDIATES"));
        flags.extend(caps.subgroups.then_some("SUBGROUPS"));
        let source = preprocess::expand(self.shader.name, self.shader.source, &self.defines, &flags)?;
        let module =
            naga::front::wgsl::parse_str(&source).map_err(|e| self.broken(e.emit_to_string(&source)))?;
        let mut wanted = Capabilities::IMMEDIATES;
        wanted.set(Capabilities::SUBGROUP, caps.subgroups);
        wanted.set(Capabilities::SHADER_FLOAT16, caps.f16);
        wanted.set(Capabilities::COOPERATIVE_MATRIX, caps.cooperative.any());
        Validator::new(ValidationFlags::all(), wanted)
            .validate(&module)
            .map_err(|e| self.broken(e.emit_to_string(&source)))?;
        if !module.entry_points.iter().any(|e| e.name == self.entry) {
            return Err(self.broken("no such entry point"));
        }
        self.check_params(&module)?;
        let mut bindings: Vec<Binding> = Vec::new();
        for (_, variable) in module.global_variables.iter() {
            let naga::AddressSpace::Storage { access } = variable.space else { continue };
            let binding = variable.binding.ok_or_else(|| self.broken("a storage buffer without binding"))?;
            let at = binding.binding as usize;
            if bindings.len() <= at {
                bindings.resize(at + 1, Binding::default());
            }
            let scalar = match &module.types[variable.ty].inner {
                naga::TypeInner::Array { base, .. } => match &module.types[*base].inner {
                    naga::TypeInner::Struct { members, .. } => module.types[members[0].ty].inner.scalar(),
                    inner => inner.scalar(),
                },
                _ => None,
            };
            bindings[at] = Binding {
                write: access.contains(naga::StorageAccess::STORE),
                float: scalar.filter(|s| s.kind == naga::ScalarKind::Float).map(|s| s.width),
            };
        }
        Ok(Composed { source, bindings })
    }

    /// The WGSL `struct Params` must be the Rust one: same names, types and offsets.
    fn check_params(&self, module: &naga::Module) -> Result<()> {
        let members = module.types.iter().find_map(|(_, t)| match (&t.name, &t.inner) {
            (Some(name), naga::TypeInner::Struct { members, .. }) if name == "Params" => Some(members),
            _ => None,
        });
        let members = members.ok_or_else(|| self.broken("no struct Params"))?;
        let wgsl: Vec<_> = members
            .iter()
            .map(|m| {
                let kind = match module.types[m.ty].inner {
                    naga::TypeInner::Scalar(naga::Scalar::U32) => Some(ParamKind::U32),
                    naga::TypeInner::Scalar(naga::Scalar::F32) => Some(ParamKind::F32),
                    _ => None,
                };
                (m.name.as_deref().unwrap_or(""), kind, m.offset)
            })
            .collect();
        let rust: Vec<_> =
            self.params.iter().enumerate().map(|(i, p)| (p.name, Some(p.kind), 4 * i as u32)).collect();
        if wgsl != rust {
            return Err(self.broken(format!("struct Params is {wgsl:?} in WGSL and {rust:?} in Rust")));
        }
        Ok(())
    }
}

/// A kernel's full WGSL text, valid for an adapter with these capabilities.
pub fn compose(kernel: &Kernel, caps: &Caps) -> Result<String> {
    Ok(kernel.compose(caps)?.source)
}

/// A number that is another one where the text of these shaders, or of what shaders share, is.
pub fn digest(shaders: &[Shader]) -> u32 {
    let shared = preprocess::INCLUDES.iter().map(|(_, source)| *source);
    let texts = shaders.iter().map(|shader| shader.source).chain(shared);
    texts.fold(0, |sum, text| crc32c::crc32c_append(sum, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::Params;

    params!(Fields { rows: u32, top: i32, accumulate: bool, scale: f32 });

    #[test]
    fn parameters_are_words_and_what_does_not_fit_is_named() {
        let fields = Fields { rows: 7, top: -1, accumulate: true, scale: 0.5 };
        assert_eq!(fields.words(), Ok(vec![7, u32::MAX, 1, 0.5f32.to_bits()]));
        assert_eq!(Fields { rows: 1 << 32, ..fields }.words(), Err("rows"));
        assert_eq!(Fields { top: 1 << 31, ..fields }.words(), Err("top"));
    }
}
