//! Which of the kernels that give the same bits makes a product fastest: asked of the adapter when such a product is
//! made for the first time, with the operands it has, and known from then on (`gpu/choices.rs`).
//!
//! The rules of [`plan`](super::plan()) were made for a large GPU; they stay the default, and decide alone into how many
//! parts K is cut, since that changes sums. The tiled kernels add up every sum in the order of K, and so do those for
//! cooperative matrices of one size; an adapter on which one has other bits all the same is not given that one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use half::f16;

use super::plan::{COOPERATIVE, TILED};
use super::{EpilogueKind, Plan, Precision, Problem, Variant, variants};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Choices, Gain, GpuDevice, cache_folder, digest};
use crate::logging;
use crate::profile;
use crate::shown::shown;
use crate::tensor::{DType, Device, Tensor, strided_copy};

/// The variable that says how the kernels of products are chosen: `timed` or, to leave it to rules alone, `rule`.
pub const VARIABLE: &str = "POA_GPU_TILES";

/// Multiply-adds above which a product is worth it.
const LEAST_WORK: usize = 1 << 24;
/// How often each kernel is timed at most, and seconds after which that is enough.
const ROUNDS: usize = 20;
const ENOUGH: f64 = 0.02;
/// What a kernel must need of the time of the one by rule to be taken instead: less is the mood of the moment.
const MARGIN: f64 = 0.97;
/// Elements that are compared to the bit.
const COMPARED: usize = 1 << 20;

/// The device, which times its products if it is a GPU, unless the environment forbids it ([`VARIABLE`]); choices are kept in the user's cache.
///
/// # Errors
/// Where the variable says something else.
pub fn by_timing(device: Device) -> Result<Device> {
    match std::env::var_os(VARIABLE).map(|wish| wish.to_string_lossy().into_owned()).as_deref() {
        None | Some("" | "timed") => by_timing_in(&device, cache_folder().as_deref()),
        Some("rule") => {}
        Some(other) => {
            return Err(Error::Usage(format!("{VARIABLE}={}: `timed` or `rule` expected", shown(other))));
        }
    }
    Ok(device)
}

/// Has a GPU time its products, and keeps the choices in this folder, or nowhere.
pub fn by_timing_in(device: &Device, folder: Option<&Path>) {
    let Device::Gpu(gpu) = device else { return };
    let (version, shaders) = (env!("CARGO_PKG_VERSION"), digest(&[TILED, COOPERATIVE]));
    let made_for = format!("{}, poa-gpu {version}, shaders {shaders:08x}", gpu.describe());
    let kernels = all(gpu.caps()).iter().map(|variant| format!("{variant:?}")).collect();
    gpu.set_choices(Arc::new(Choices::open(made_for, folder, kernels)));
}

/// What there is to choose from; a choice is a number in it.
fn all(caps: &Caps) -> Vec<Variant> {
    let mut all = variants(caps, Precision::Single);
    let halves = variants(caps, Precision::HalfToSingle);
    all.extend(halves.into_iter().filter(|variant| !variant.makes(Precision::Single)));
    all
}

/// Whether two kernels give the same bits.
fn alike(one: Variant, other: Variant) -> bool {
    match (one, other) {
        (Variant::Tiled { .. }, Variant::Tiled { .. }) => true,
        (
            Variant::Cooperative { fragment, single, .. },
            Variant::Cooperative { fragment: size, single: exact, .. },
        ) => (fragment, single) == (size, exact),
        _ => one == other,
    }
}

/// The kernel for the first stage of a product, which `make` makes in `c`: that of the plan, or one that is faster.
pub(super) fn fastest(
    gpu: &GpuDevice,
    plan: &Plan,
    problem: &Problem,
    c: &Tensor,
    make: &dyn Fn(Variant) -> Result<()>,
) -> Result<Variant> {
    let Problem { batch, m, n, k, k_groups, .. } = *problem;
    let Some(choices) = gpu.choices().filter(|_| batch * m * n * k * k_groups > LEAST_WORK) else {
        return Ok(plan.variant);
    };
    if !gpu.is_rehearsal() {
        choices.settle();
    }
    let key = key(plan, problem);
    let choice = match choices.decided(key) {
        Some(choice) => choice,
        None => {
            let decision = decide(gpu, choices, plan, problem, c, make)?;
            decision.inspect(|choice| choices.decide(key, *choice)).flatten()
        }
    };
    let chosen = choice.and_then(|number| all(gpu.caps()).get(number).copied());
    Ok(chosen.filter(|chosen| alike(*chosen, plan.variant)).unwrap_or(plan.variant))
}

/// Decides for a kernel by its number, or for the rule's; `None` where it is to be asked again, as nothing can be timed now.
fn decide(
    gpu: &GpuDevice,
    choices: &Choices,
    plan: &Plan,
    problem: &Problem,
    c: &Tensor,
    make: &dyn Fn(Variant) -> Result<()>,
) -> Result<Option<Option<usize>>> {
    let all = all(gpu.caps());
    let name = name(plan, problem);
    let known = choices.get(&name).filter(|number| all.get(*number).is_some_and(|v| alike(*v, plan.variant)));
    if known.is_some() {
        return Ok(Some(known));
    }
    // the rule's first
    let mut numbers: Vec<usize> = (0..all.len()).filter(|i| alike(all[*i], plan.variant)).collect();
    numbers.sort_by_key(|i| all[*i] != plan.variant);
    let left = choices.left();
    if numbers.len() < 2 || left.is_zero() {
        return Ok(Some(None));
    }
    if gpu.is_rehearsal() || profile::is_on() {
        return Ok(None);
    }
    let start = Instant::now();
    let candidates: Vec<Variant> = numbers.iter().map(|i| all[*i]).collect();
    // what was said of the product's arithmetic is for each dispatch
    let flops = profile::take_flops();
    let make = |variant| {
        profile::flops(flops);
        make(variant)
    };
    let times = Trial { gpu, plan, candidates, c, make: &make, end: start + left }.times()?;
    profile::flops(flops);
    let mut best = 0;
    let gain = times.map(|times| {
        let least = (0..times.len()).min_by(|i, j| times[*i].total_cmp(&times[*j])).unwrap_or(0);
        best = if times[least] < MARGIN * times[0] { least } else { 0 };
        let each = numbers.iter().zip(&times).map(|(i, t)| format!("{:?} {:.3} ms", all[*i].tile(), t * 1e3));
        logging::debug(format_args!("product {name}: {}", each.collect::<Vec<_>>().join(", ")));
        Gain { by_rule: times[0], chosen: times[best] }
    });
    choices.put(name, numbers[best], start.elapsed(), gain);
    Ok(Some(Some(numbers[best])))
}

/// A number that stands for a plan and a product of about its size.
fn key(plan: &Plan, problem: &Problem) -> u64 {
    let Problem { batch, m, n, k, k_groups, .. } = *problem;
    let mut hasher = DefaultHasher::new();
    (plan, [m, n, k].map(about), k_groups, batch).hash(&mut hasher);
    hasher.finish()
}

/// What a choice is made for: the kernel but for its tiles, and about how large the product is.
fn name(plan: &Plan, problem: &Problem) -> String {
    let Problem { batch, m, n, k, k_groups, .. } = *problem;
    let Plan { parts, a_along_m, b_along_k, a_aligned, b_aligned, c_aligned, grouped, window, wide, .. } =
        *plan;
    let [m, n, k] = [m, n, k].map(about);
    // in the order of the fields
    let layout: String = [a_along_m, b_along_k, a_aligned, b_aligned, c_aligned, grouped, window, wide]
        .map(|yes| if yes { '1' } else { '0' })
        .into_iter()
        .collect();
    // what becomes of partial sums is the second stage's
    let epilogue = if parts == 1 { plan.epilogue } else { EpilogueKind::Plain };
    let precision = plan.precision;
    format!("{m}x{n}x{k}x{k_groups} batch {batch} parts {parts} layout {layout} {precision:?} {epilogue:?}")
}

/// A length that stands for those within an eighth of it: steps have other numbers of rows each.
fn about(length: usize) -> usize {
    length.next_multiple_of((length.next_power_of_two() / 16).max(1))
}

/// A product to be made by several kernels.
struct Trial<'a> {
    gpu: &'a GpuDevice,
    plan: &'a Plan,
    /// The rule's first.
    candidates: Vec<Variant>,
    /// What is made; where the plan adds to it, it is as it was afterwards.
    c: &'a Tensor,
    make: &'a dyn Fn(Variant) -> Result<()>,
    /// When it must be over.
    end: Instant,
}

impl Trial<'_> {
    /// Seconds of each candidate, without an end for those that are out of the question; `None` where there is not the
    /// time or the memory for it.
    fn times(&self) -> Result<Option<Vec<f64>>> {
        let adds = self.plan.parts == 1 && self.plan.epilogue == EpilogueKind::Accumulate;
        let view = in_four(self.c);
        let mut before = None;
        if adds {
            let fits = fits(self.gpu, view.elements() * view.dtype().bytes());
            let copy = fits.then(|| Tensor::empty(view.device(), view.shape(), view.dtype()));
            let Some(Ok(copy)) = copy else { return Ok(None) };
            strided_copy(&copy, &view, false)?;
            before = Some(copy);
        }
        let restore = || before.as_ref().map_or(Ok(()), |before| strided_copy(&view, before, false));
        let times = self.all_times(&restore)?;
        restore()?;
        Ok(times)
    }

    fn all_times(&self, restore: &dyn Fn() -> Result<()>) -> Result<Option<Vec<f64>>> {
        let (rule, rest) = (self.candidates[0], &self.candidates[1..]);
        (self.make)(rule)?;
        let bits = sample(self.c)?;
        let mut times = vec![self.seconds(rule)?];
        let left = self.end.saturating_duration_since(Instant::now()).as_secs_f64();
        if 3.0 * times[0] * self.candidates.len() as f64 > left {
            return Ok(None);
        }
        self.build(rest);
        for variant in rest {
            restore()?;
            let why = match (self.make)(*variant).and_then(|()| sample(self.c)) {
                Ok(found) if found == bits => {
                    times.push(self.seconds(*variant)?);
                    continue;
                }
                Ok(_) => "it gives other bits".into(),
                Err(e) => e.to_string(),
            };
            logging::debug(format_args!("{variant:?} is not timed beside {rule:?}: {why}"));
            times.push(f64::INFINITY);
        }
        let mut all = 0.0;
        for _ in 1..ROUNDS {
            for (variant, time) in self.candidates.iter().zip(&mut times).filter(|(_, t)| t.is_finite()) {
                if Instant::now() > self.end {
                    return Ok(Some(times));
                }
                let seconds = self.seconds(*variant)?;
                *time = time.min(seconds);
                all += seconds;
            }
            if all > ENOUGH {
                break;
            }
        }
        Ok(Some(times))
    }

    /// Builds kernels, all at the same time.
    fn build(&self, variants: &[Variant]) {
        let Some(pipelines) = self.gpu.pipelines() else { return };
        std::thread::scope(|scope| {
            for variant in variants {
                let kernel = Plan { variant: *variant, ..*self.plan }.product();
                let pipelines = &pipelines;
                // where there can be no thread, it is built when it is used
                let _ = std::thread::Builder::new().spawn_scoped(scope, move || pipelines.prepare(&kernel));
            }
        });
    }

    /// Seconds of a kernel: by the adapter's clock, or else by the host's with the way there and back.
    fn seconds(&self, variant: Variant) -> Result<f64> {
        self.gpu.synchronize()?;
        profile::start();
        let start = Instant::now();
        let made = (self.make)(variant).and_then(|()| self.gpu.finish_timing());
        let host = start.elapsed().as_secs_f64();
        let kernels = profile::finish().kernels;
        made?;
        let adapter = kernels.first().map(|kernel| kernel.seconds).filter(|seconds| *seconds > 0.0);
        Ok(adapter.unwrap_or(host))
    }
}

/// Whether an adapter has so much memory beside what it needs.
fn fits(gpu: &GpuDevice, bytes: usize) -> bool {
    gpu.memory().is_none_or(|has| (gpu.peak_bytes() + bytes) as u64 <= has / 10 * 9)
}

/// The tensor with four dimensions, as [`strided_copy`] wants it. No C has more.
fn in_four(c: &Tensor) -> Tensor {
    let mut layout = c.layout().clone();
    while layout.shape.len() < 4 {
        layout.shape.insert(0, 1);
        layout.strides.insert(0, 0);
    }
    c.with_layout(layout)
}

/// The bits of the first rows.
fn sample(c: &Tensor) -> Result<Vec<u8>> {
    let rows = c.dim(0);
    let part = c.slice(0, 0..(COMPARED * rows / c.elements()).clamp(1, rows))?;
    Ok(match c.dtype() {
        DType::F16 => bytemuck::cast_slice(&part.to_vec::<f16>()?).to_vec(),
        _ => bytemuck::cast_slice(&part.to_vec::<f32>()?).to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Cooperative;

    /// On adapters with matrices of halves, of single precision, and of both.
    #[test]
    fn kernels_compete_with_those_that_make_the_same_product() {
        let matrices = Cooperative { sixteen: false, ..Cooperative::ALL };
        for cooperative in [
            Cooperative::ALL,
            matrices,
            Cooperative { eight: false, ..matrices },
            Cooperative { eight_single: false, ..matrices },
        ] {
            for f16 in [false, true] {
                let caps =
                    Caps { cooperative, f16, subgroups: true, subgroup_size: (32, 32), ..Caps::everything() };
                let all = all(&caps);
                for precision in [Precision::Single, Precision::HalfToSingle, Precision::Half] {
                    for by_rule in variants(&caps, precision) {
                        assert!(all.contains(&by_rule), "{by_rule:?} has no number");
                        for other in all.iter().filter(|other| alike(by_rule, **other)) {
                            assert!(other.makes(precision), "{other:?} beside {by_rule:?} for {precision:?}");
                        }
                    }
                }
            }
        }
    }
}
