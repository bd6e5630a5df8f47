//! Code for the processor at hand, chosen when the program runs and not when it is built: loops are compiled
//! once for every [`Arch`], and one binary is fast wherever it runs.
//!
//! What [`Arch::run`] calls is compiled for the wider instructions only as far as it is inlined. So every
//! closure that it gets, directly or through the row loops, says `#[inline(always)]`, and functions below it
//! do where they are more than a few lines; loops with long bodies are `for` loops, as the functions behind
//! `for_each` are not inlined three times.

use std::cell::Cell;
use std::sync::OnceLock;

use pulp::{Scalar, Simd, WithSimd};

use super::math::Math;

/// Instructions that code is compiled for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arch {
    /// What every processor of the target has.
    Baseline,
    /// x86-64-v3: AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    V3(pulp::x86::V3),
    /// x86-64-v4: AVX-512.
    #[cfg(target_arch = "x86_64")]
    V4(pulp::x86::V4),
    /// The best that is known for other targets.
    #[cfg(not(target_arch = "x86_64"))]
    Native(pulp::Arch),
}

thread_local! {
    static CHOSEN: Cell<Option<Arch>> = const { Cell::new(None) };
}

impl Arch {
    /// Those that this processor has, the best last, with their names.
    pub(crate) fn all() -> Vec<(&'static str, Arch)> {
        let mut all = vec![("baseline", Arch::Baseline)];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(pulp::x86::V3::try_new().map(|simd| ("v3", Arch::V3(simd))));
            all.extend(pulp::x86::V4::try_new().map(|simd| ("v4", Arch::V4(simd))));
        }
        #[cfg(not(target_arch = "x86_64"))]
        all.push(("native", Arch::Native(pulp::Arch::new())));
        all
    }

    /// The best, or what the environment's `POA_GPU_SIMD` names (`baseline`, `v3`, `v4`): a way to measure
    /// and test what other machines run.
    pub(crate) fn get() -> Arch {
        static BEST: OnceLock<Arch> = OnceLock::new();
        CHOSEN.get().unwrap_or_else(|| {
            *BEST.get_or_init(|| {
                let (all, wanted) = (Arch::all(), std::env::var("POA_GPU_SIMD").ok());
                let named = all.iter().find(|(name, _)| wanted.as_deref() == Some(name));
                named.or(all.last()).map_or(Arch::Baseline, |(_, arch)| *arch)
            })
        })
    }

    /// Calls `op` with these instructions.
    #[inline(always)]
    pub(crate) fn dispatch<Op: WithSimd>(self, op: Op) -> Op::Output {
        match self {
            Arch::Baseline => Simd::vectorize(Scalar, op),
            #[cfg(target_arch = "x86_64")]
            Arch::V3(simd) => Simd::vectorize(simd, op),
            #[cfg(target_arch = "x86_64")]
            Arch::V4(simd) => Simd::vectorize(simd, op),
            #[cfg(not(target_arch = "x86_64"))]
            Arch::Native(arch) => arch.dispatch(op),
        }
    }

    /// Calls `f`, compiled for these instructions as far as it is inlined.
    #[inline(always)]
    pub(crate) fn run<R>(self, f: impl FnOnce(Math) -> R) -> R {
        self.dispatch(Run(f))
    }
}

/// The names of the instruction sets that kernels are compiled for and this processor has, the best last.
pub fn instruction_sets() -> Vec<&'static str> {
    Arch::all().into_iter().map(|(name, _)| name).collect()
}

/// Calls `f`, in which the kernels that this thread starts on the CPU use the instruction set of this name,
/// to compare one with another. Matrix products are another crate's, which chooses for itself.
///
/// # Panics
/// If the processor does not have it.
pub fn with_instruction_set<R>(name: &str, f: impl FnOnce() -> R) -> R {
    let found = Arch::all().into_iter().find(|(n, _)| *n == name);
    let (_, arch) = found.unwrap_or_else(|| panic!("no instruction set {name} here"));
    let before = CHOSEN.replace(Some(arch));
    let result = f();
    CHOSEN.set(before);
    result
}

struct Run<F>(F);

impl<R, F: FnOnce(Math) -> R> WithSimd for Run<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> R {
        (self.0)(Math::new(S::F32_LANES > 1))
    }
}
