//! The token sequence of a ViT: patch embeddings with masked ones replaced, a cls token in front, positions
//! added; between the cls token and the patches registers, where there are some, without position (Darcet et al. 2023).
//! Crops of several sizes are packed one group after the other into one matrix.

use crate::autograd::{InputGradient, Tape, Var};
use crate::cpu::{NOWHERE, Places, for_rows, for_some_rows};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::reduce::column_sum;
use crate::profile;
use crate::tensor::{CpuRead, DType, Device, Tensor, activation_types, add_assign, copy, half_define};

const SHADER: Shader = shader!("tokens.wgsl", kernels);
const WG: u32 = 256;

params!(TokenParams {
    crops: u32,
    registers: u32,
    patches: u32,
    cols: u32,
    out_offset: u32,
    patch_offset: u32,
    patch_stride: u32,
    position_offset: u32,
    position_stride: u32,
    cls_offset: u32,
    cls_position_offset: u32,
    mask_token_offset: u32,
    mask_offset: u32,
    register_offset: u32,
    register_stride: u32,
    accumulate: bool,
});

/// Crops of one size.
#[derive(Clone)]
pub struct TokenGroup {
    /// Number of crops n.
    pub crops: usize,
    /// Embedded patches `[n·N, width]`, crop by crop.
    pub patches: Var,
    /// Position embeddings of the patches `[N, width]`.
    pub positions: Var,
    /// `u32 [n·N]`, nonzero where a patch is replaced by the mask token.
    pub mask: Option<Tensor>,
}

impl TokenGroup {
    fn patches_per_crop(&self) -> usize {
        self.positions.value().dim(0)
    }

    /// Tokens, with so many a crop before its patches.
    fn rows(&self, before: usize) -> usize {
        self.crops * (self.patches_per_crop() + before)
    }

    /// The mask, on the CPU device.
    fn cpu_mask(&self) -> Result<Option<CpuRead<'_, u32>>> {
        self.mask.as_ref().map(|m| m.cpu_read::<u32>("tokens")).transpose()
    }
}

/// The tokens that are the same for all crops, `[width]` each.
#[derive(Clone)]
pub struct TokenParameters {
    /// The cls token.
    pub cls: Var,
    /// Its position embedding.
    pub cls_position: Var,
    /// What stands for masked patches.
    pub mask_token: Var,
    /// Registers `[R, width]`, R ≥ 1, which have no position.
    pub registers: Option<Var>,
}

impl TokenParameters {
    /// Tokens of a crop before its patches.
    fn before(&self) -> usize {
        1 + self.registers.as_ref().map_or(0, |r| r.value().dim(0))
    }
}

#[derive(Clone, Copy)]
enum Pass {
    Forward,
    BackwardPatches,
    BackwardShared,
}

/// Registers make a difference to the kernel of the forward pass alone: it reads them.
fn kernel(pass: Pass, masked: bool, registers: bool, dtype: DType) -> Kernel {
    let (entry, flag) = match pass {
        Pass::Forward => ("forward", "FORWARD"),
        Pass::BackwardPatches => ("backward_patches", "BACKWARD_PATCHES"),
        Pass::BackwardShared => ("backward_shared", "BACKWARD_SHARED"),
    };
    let mut defines = vec![("WG", WG), (flag, 1)];
    defines.extend(masked.then_some(("MASKED", 1)));
    defines.extend(registers.then_some(("REGISTERS", 1)));
    defines.extend(half_define(dtype));
    Kernel::new::<TokenParams>(SHADER, entry, defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    let mut all = Vec::new();
    for dtype in activation_types(caps) {
        for pass in [Pass::Forward, Pass::BackwardPatches, Pass::BackwardShared] {
            all.extend([false, true].map(|masked| kernel(pass, masked, false, dtype)));
        }
        all.extend([false, true].map(|masked| kernel(Pass::Forward, masked, true, dtype)));
    }
    all
}

/// Packed tokens `[Σ n·(1 + R + N), width]`: per crop the cls token, the registers, then its patches. On a GPU the
/// embedded patches may be of half precision; then the tokens are as well.
pub fn tokens(tape: &Tape, groups: &[TokenGroup], shared: &TokenParameters) -> Result<Var> {
    let _span = profile::operation("tokens");
    let width = shared.cls.value().elements();
    for g in groups {
        let (p, pos) = (g.patches.value(), g.positions.value());
        let mask = g.mask.as_ref().is_none_or(|m| m.elements() == p.dim(0) && m.dtype() == DType::U32);
        if p.dim(1) != width || pos.dim(1) != width || p.dim(0) != g.crops * pos.dim(0) || !mask {
            let problem = format!("{} crops of patches {p:?}, positions {pos:?}, mask {:?}", g.crops, g.mask);
            return Err(Error::shape("tokens", problem));
        }
    }
    if let Some(r) = shared.registers.as_ref().map(Var::value)
        && (r.shape().len() != 2 || r.dim(0) == 0 || r.dim(1) != width)
    {
        return Err(Error::shape("tokens", format!("registers {r:?} beside a cls token of {width}")));
    }
    let before = shared.before();
    let rows = groups.iter().map(|g| g.rows(before)).sum();
    let dtype = groups.first().map_or(DType::F32, |g| g.patches.value().dtype());
    let out = Tensor::empty(shared.cls.value().device(), &[rows, width], dtype)?;
    let mut at = 0;
    for g in groups {
        let count = g.rows(before);
        forward(g, shared, &out.slice(0, at..at + count)?)?;
        at += count;
    }
    let mut inputs = vec![&shared.cls, &shared.cls_position, &shared.mask_token];
    inputs.extend(&shared.registers);
    let registers = shared.registers.is_some();
    inputs.extend(groups.iter().flat_map(|g| [&g.patches, &g.positions]));
    let groups = groups.to_vec();
    Ok(tape.record_list("tokens", &inputs, out, move |gradients, dy| {
        let (shared, of_groups) = gradients.split_at(3 + usize::from(registers));
        let [dcls, dcls_position, dmask_token, dregisters @ ..] = shared else {
            unreachable!("three tokens are shared")
        };
        if groups.iter().all(|g| g.mask.is_none()) {
            dmask_token.dismiss("no patch is masked")?;
        }
        let mut at = 0;
        for (group, gradients) in groups.iter().zip(of_groups.chunks_exact(2)) {
            let count = group.rows(before);
            let dy = dy.slice(0, at..at + count)?;
            at += count;
            gradients[0].write(|dx, accumulate| backward_patches(group, before, &dy, dx, accumulate))?;
            // sums over the crops: row 0 the cls token, then the registers, the positions, and the masked part of
            // each position
            let n = group.patches_per_crop();
            let masked = if group.mask.is_some() { n } else { 0 };
            let sums = Tensor::empty(dy.device(), &[before + n + masked, width], DType::F32)?;
            backward_shared(group, before, &dy, &sums)?;
            let cls = sums.slice(0, 0..1)?.reshape(&[width])?;
            put(dcls, &cls)?;
            put(dcls_position, &cls)?;
            for dregister in dregisters {
                put(dregister, &sums.slice(0, 1..before)?)?;
            }
            put(&gradients[1], &sums.slice(0, before..before + n)?)?;
            if masked > 0 {
                let sums = sums.slice(0, before + n..before + 2 * n)?;
                dmask_token.write(|dx, accumulate| column_sum(&sums, dx, 1.0, accumulate))?;
            }
        }
        Ok(())
    }))
}

fn put(gradient: &InputGradient, value: &Tensor) -> Result<()> {
    gradient.write(|to, accumulate| if accumulate { add_assign(to, value) } else { copy(to, value) })
}

fn gpu_params(group: &TokenGroup, before: usize, packed: &Tensor, patches: &Tensor) -> Result<TokenParams> {
    let rp = patches.rows("tokens")?;
    Ok(TokenParams {
        crops: group.crops,
        registers: before - 1,
        patches: group.patches_per_crop(),
        cols: rp.cols,
        out_offset: packed.layout().offset,
        patch_offset: rp.offset,
        patch_stride: rp.stride,
        mask_offset: group.mask.as_ref().map_or(0, |m| m.layout().offset),
        ..Default::default()
    })
}

fn forward(group: &TokenGroup, shared: &TokenParameters, out: &Tensor) -> Result<()> {
    let (patches, positions) = (group.patches.value(), group.positions.value());
    let (rp, rs) = (patches.rows("tokens")?, positions.rows("tokens")?);
    let (n, width, before) = (group.patches_per_crop(), rp.cols, shared.before());
    let registers = shared.registers.as_ref().map(Var::value);
    let rr = registers.map(|r| r.rows("tokens")).transpose()?;
    match out.device() {
        Device::Cpu(_) => {
            let (patches, positions) =
                (&*patches.cpu_read::<f32>("tokens")?, &*positions.cpu_read::<f32>("tokens")?);
            let (cls, cls_position) = (
                &*shared.cls.value().cpu_read::<f32>("tokens")?,
                &*shared.cls_position.value().cpu_read::<f32>("tokens")?,
            );
            let (token, mask) = (&*shared.mask_token.value().cpu_read::<f32>("tokens")?, group.cpu_mask()?);
            let mask = mask.as_deref();
            let registers = registers.map(|r| r.cpu_read::<f32>("tokens")).transpose()?;
            let (registers, register_stride) = (registers.as_deref(), rr.map_or(0, |r| r.stride));
            for_rows(
                out.cpu_rows_mut::<f32>("tokens")?.rows_mut(),
                #[inline(always)]
                |_, r, row| {
                    let (crop, t) = (r / (n + before), r % (n + before));
                    if let Some(registers) = registers.filter(|_| (1..before).contains(&t)) {
                        row.copy_from_slice(&registers[(t - 1) * register_stride..][..width]);
                        return;
                    }
                    let (value, position) = match t.checked_sub(before) {
                        None => (cls, cls_position),
                        Some(t) => {
                            let at = crop * n + t;
                            let masked = mask.is_some_and(|m| m[at] != 0);
                            let value = if masked { token } else { &patches[at * rp.stride..] };
                            (value, &positions[t * rs.stride..])
                        }
                    };
                    row.iter_mut().zip(value.iter().zip(position)).for_each(|(o, (v, p))| *o = v + p);
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params = TokenParams {
                position_offset: rs.offset,
                position_stride: rs.stride,
                cls_offset: shared.cls.value().layout().offset,
                cls_position_offset: shared.cls_position.value().layout().offset,
                mask_token_offset: shared.mask_token.value().layout().offset,
                register_offset: rr.map_or(0, |r| r.offset),
                register_stride: rr.map_or(0, |r| r.stride),
                ..gpu_params(group, before, out, patches)?
            };
            let mut tensors = vec![out, patches, positions, shared.cls.value(), shared.cls_position.value()];
            if let Some(mask) = &group.mask {
                tensors.extend([shared.mask_token.value(), mask]);
            }
            tensors.extend(registers);
            let grid = gpu.caps().grid((group.rows(before) * width).div_ceil(WG as usize));
            let kernel = kernel(Pass::Forward, group.mask.is_some(), registers.is_some(), out.dtype());
            gpu.dispatch(&kernel, &tensors, &params, grid)
        }
    }
}

fn backward_patches(
    group: &TokenGroup,
    before: usize,
    dy: &Tensor,
    dpatches: &Tensor,
    accumulate: bool,
) -> Result<()> {
    let (rd, rp) = (dy.rows("tokens")?, dpatches.rows("tokens")?);
    let n = group.patches_per_crop();
    match dy.device() {
        Device::Cpu(_) => {
            let (dy, mask) = (&*dy.cpu_read::<f32>("tokens")?, group.cpu_mask()?);
            let mask = mask.as_deref();
            for_rows(
                dpatches.cpu_rows_mut::<f32>("tokens")?.rows_mut(),
                #[inline(always)]
                |_, at, row| {
                    let masked = mask.is_some_and(|m| m[at] != 0);
                    let d = &dy[(at + (at / n + 1) * before) * rd.stride..][..rd.cols];
                    for (o, d) in row.iter_mut().zip(d) {
                        *o = if accumulate { *o } else { 0.0 } + if masked { 0.0 } else { *d };
                    }
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params = TokenParams { accumulate, ..gpu_params(group, before, dy, dpatches)? };
            let mut tensors = vec![dpatches, dy];
            tensors.extend(&group.mask);
            let grid = gpu.caps().grid((rp.rows * rp.cols).div_ceil(WG as usize));
            gpu.dispatch(
                &kernel(Pass::BackwardPatches, group.mask.is_some(), false, dy.dtype()),
                &tensors,
                &params,
                grid,
            )
        }
    }
}

fn backward_shared(group: &TokenGroup, before: usize, dy: &Tensor, sums: &Tensor) -> Result<()> {
    let rd = dy.rows("tokens")?;
    let (crops, n, width) = (group.crops, group.patches_per_crop(), rd.cols);
    match dy.device() {
        Device::Cpu(_) => {
            let (dy, mask) = (&*dy.cpu_read::<f32>("tokens")?, group.cpu_mask()?);
            let mask = mask.as_deref();
            let mut sums = sums.cpu_rows_mut::<f32>("tokens")?;
            let (totals, masked) = sums.rows_mut().split_rows_at(before + n);
            // where there is a mask, patch t has row t of the masked parts, and what comes before patches none
            let rows: Vec<u32> = std::iter::repeat_n(NOWHERE, before).chain(0..n as u32).collect();
            let places = mask.map(|_| Places::new("tokens", rows, n)).transpose()?;
            let masked = places.as_ref().map(|places| masked.scattered(places));
            for_some_rows(
                before + n,
                width * crops,
                (totals, masked),
                #[inline(always)]
                |_, t, (total, masked)| {
                    let mut masked = masked.flatten();
                    total.fill(0.0);
                    if let Some(m) = masked.as_deref_mut() {
                        m.fill(0.0);
                    }
                    for crop in 0..crops {
                        let d = &dy[(crop * (before + n) + t) * rd.stride..][..width];
                        total.iter_mut().zip(d).for_each(|(o, d)| *o += d);
                        if let (Some(m), Some(mask)) = (masked.as_deref_mut(), mask)
                            && mask[crop * n + t - before] != 0
                        {
                            m.iter_mut().zip(d).for_each(|(o, d)| *o += d);
                        }
                    }
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params =
                TokenParams { position_offset: sums.layout().offset, ..gpu_params(group, before, dy, dy)? };
            let mut tensors = vec![sums, dy];
            tensors.extend(&group.mask);
            let grid = gpu.caps().grid(((before + n) * width).div_ceil(WG as usize));
            gpu.dispatch(
                &kernel(Pass::BackwardShared, group.mask.is_some(), false, dy.dtype()),
                &tensors,
                &params,
                grid,
            )
        }
    }
}
