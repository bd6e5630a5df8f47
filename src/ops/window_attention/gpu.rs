//! Window attention on a GPU: the three kernels of `window_attention.wgsl`, and the sums that follow.

use super::Windows;
use super::call::Call;
use crate::autograd::Target;
use crate::error::Result;
use crate::gpu::{Caps, GpuDevice, Kernel, Shader, params, shader};
use crate::ops::attention::{Pass, Plan, Problem, Variant, in_vectors, plans, vector_choices};
use crate::ops::reduce::column_sum;
use crate::ops::rows::summing_teams;
use crate::tensor::{DType, Tensor, activation_types, convert, fill, half_define};

const ATTENTION: Shader = shader!("window_attention.wgsl", like kernels_like);
const GRADIENTS: Shader = shader!("window_gradients.wgsl", kernels);
/// Invocations of a workgroup in the sums.
const WG: u32 = 64;
/// Elements that the parts of the windows may sum dS into: below 10 MiB where windows have 49 tokens.
const SUMS: usize = 16 << 20;
/// Tokens of the other side that are handled together: a vector of pairs.
const STEP: u32 = 4;
/// Rows that an invocation sums for the row of padding.
const PADDING_ROWS: usize = 256;

params!(WindowParams {
    heads: u32,
    rows: u32,
    windows: u32,
    per_part: u32,
    qkv_offset: u32,
    qkv_stride: u32,
    out_offset: u32,
    out_stride: u32,
    dout_offset: u32,
    dout_stride: u32,
    dqkv_offset: u32,
    dqkv_stride: u32,
    saved_offset: u32,
    sums_offset: u32,
    index_offset: u32,
    bias_offset: u32,
    padded: bool,
    scale: f32,
});

params!(SpreadParams { heads: u32, window: u32, pairs_offset: u32, bias_offset: u32, bias_stride: u32 });

params!(FoldParams {
    heads: u32,
    window: u32,
    key_first: bool,
    sums_offset: u32,
    out_offset: u32,
    out_stride: u32,
    accumulate: bool,
});

params!(PaddingParams {
    heads: u32,
    head_dim: u32,
    rows: u32,
    first: u32,
    last: u32,
    per_part: u32,
    out_offset: u32,
    qkv_offset: u32,
    qkv_stride: u32,
    dout_offset: u32,
    dout_stride: u32,
    saved_offset: u32,
    scale: f32,
});

/// Tokens that an invocation owns at most in the forward pass: all of a window of seven, so that what streams
/// is read once.
const MOST_OWNED: u32 = 7;
/// Largest head for which it does: with heads of 32 first use would last more than two seconds, as with the
/// backward pass.
const WHOLE_WINDOW_HEAD: u32 = 16;

/// The plan of one of the kernels, in steps of a vector of pairs.
fn plan_of(plan: &Plan, pass: Pass, window: usize, dtype: DType) -> Plan {
    let plan = Plan { step: STEP, ..plan.clone() }.of(pass, dtype);
    let all = (window * window).div_ceil(plan.lanes as usize) as u32;
    let whole = pass == Pass::Forward && plan.own == 4 && plan.head_dim <= WHOLE_WINDOW_HEAD;
    match plan.variant {
        Variant::Broadcast if whole && (4..=MOST_OWNED).contains(&all) => Plan { own: all, ..plan },
        _ => plan,
    }
}

fn kernel(plan: &Plan, pass: Pass, window: usize, vec4: bool, dtype: DType) -> Kernel {
    let (entry, flags) = pass.names();
    let mut defines = plan_of(plan, pass, window, dtype).defines(vec4);
    defines.push(("WINDOW", window as u32));
    defines.extend(half_define(dtype));
    defines.extend(flags.iter().map(|flag| (*flag, 1)));
    Kernel::new::<WindowParams>(ATTENTION, entry, defines)
}

fn spread_kernel() -> Kernel {
    Kernel::new::<SpreadParams>(GRADIENTS, "spread_bias", vec![("WG", WG), ("SPREAD_BIAS", 1)])
}

fn fold_kernel() -> Kernel {
    Kernel::new::<FoldParams>(GRADIENTS, "fold_bias", vec![("WG", WG), ("FOLD_BIAS", 1)])
}

fn padding_kernel(dtype: DType) -> Kernel {
    let mut defines = vec![("WG", WG), ("SUM_PADDING", 1)];
    defines.extend(half_define(dtype));
    Kernel::new::<PaddingParams>(GRADIENTS, "sum_padding", defines)
}

/// Whether one kernel makes all of the backward pass. It reads and computes everything once, but adds up over
/// subgroups.
fn at_once(plan: &Plan, vec4: bool) -> bool {
    plan.variant == Variant::Broadcast && vec4
}

/// All variants for some heads and windows, one of every kind.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    let sizes = [(4, 2), (16, 7), (32, 7), (32, 12)];
    let of_sizes = sizes.into_iter().flat_map(|(head_dim, window)| kernels_of(head_dim, window, caps));
    let padding = activation_types(caps).map(padding_kernel);
    [spread_kernel(), fold_kernel()].into_iter().chain(padding).chain(of_sizes).collect()
}

/// All variants for heads and windows of the sizes that `kernel` has.
fn kernels_like(kernel: &Kernel, caps: &Caps) -> Vec<Kernel> {
    match (kernel.define("HEAD"), kernel.define("WINDOW")) {
        (Some(head_dim), Some(window)) => kernels_of(head_dim as usize, window as usize, caps),
        _ => Vec::new(),
    }
}

fn kernels_of(head_dim: usize, window: usize, caps: &Caps) -> Vec<Kernel> {
    let mut all = Vec::new();
    for plan in plans(&Problem { groups: Vec::new(), heads: 1, head_dim, half: false }, caps) {
        for (dtype, &vec4) in
            activation_types(caps).flat_map(|d| vector_choices(head_dim).iter().map(move |v| (d, v)))
        {
            all.extend(Pass::ALL.map(|pass| kernel(&plan, pass, window, vec4, dtype)));
            all.extend(at_once(&plan, vec4).then(|| kernel(&plan, Pass::Backward, window, vec4, dtype)));
        }
    }
    all
}

fn params(call: &Call) -> Result<WindowParams> {
    let (rx, ro) = (call.qkv.rows("window_attention")?, call.out.rows("window_attention")?);
    Ok(WindowParams {
        heads: call.heads,
        rows: call.windows.rows(),
        windows: call.windows.count(),
        per_part: 1,
        qkv_offset: rx.offset,
        qkv_stride: rx.stride,
        out_offset: ro.offset,
        out_stride: ro.stride,
        saved_offset: call.saved.layout().offset,
        index_offset: call.windows.index.layout().offset,
        padded: call.windows.is_padded(),
        scale: call.scale,
        ..Default::default()
    })
}

/// Elements of a row of pairs of tokens.
fn pitch(windows: &Windows) -> usize {
    windows.window().pow(2).next_multiple_of(STEP as usize)
}

/// `[2, heads, tokens, pitch]`: the bias of every pair of tokens, for owned queries and for owned keys. Made
/// for either pass: it is small beside what a pass reads, but kept from forward to backward it would be there
/// for every block at once.
fn spread_bias(call: &Call, gpu: &GpuDevice) -> Result<Tensor> {
    let tokens = call.windows.window().pow(2);
    let shape = [2, call.heads, tokens, pitch(&call.windows)];
    let pairs = Tensor::empty(call.bias.device(), &shape, DType::F32)?;
    let bias = call.bias.rows("window_attention")?;
    let params = SpreadParams {
        heads: call.heads,
        window: call.windows.window(),
        pairs_offset: pairs.layout().offset,
        bias_offset: bias.offset,
        bias_stride: bias.stride,
    };
    let grid = gpu.caps().grid(pairs.elements().div_ceil(WG as usize));
    gpu.dispatch(&spread_kernel(), &[&pairs, &call.bias], &params, grid)?;
    Ok(pairs)
}

/// Workgroups for so many windows or parts.
fn workgroups(call: &Call, plan: &Plan, pass: Pass, items: usize) -> usize {
    let window = call.windows.window();
    items * call.heads * window.pow(2).div_ceil(plan_of(plan, pass, window, call.qkv.dtype()).rows())
}

pub(super) fn forward(call: &Call, gpu: &GpuDevice, plan: &Plan) -> Result<()> {
    let bias = spread_bias(call, gpu)?;
    let tensors = [&call.out, &call.saved, &call.qkv, &call.windows.index, &bias];
    let rows = [call.qkv.rows("window_attention")?, call.out.rows("window_attention")?];
    let vec4 = in_vectors(call.head_dim, &rows);
    let kernel = kernel(plan, Pass::Forward, call.windows.window(), vec4, call.qkv.dtype());
    let grid = gpu.caps().grid(workgroups(call, plan, Pass::Forward, call.windows.count()));
    call.say_flops(2);
    let params = WindowParams { bias_offset: bias.layout().offset, ..params(call)? };
    gpu.dispatch(&kernel, &tensors, &params, grid)
}

pub(super) fn backward(
    call: &Call,
    gpu: &GpuDevice,
    plan: &Plan,
    dout: &Tensor,
    dqkv: &Tensor,
    dbias: Option<Target>,
) -> Result<()> {
    let windows = &call.windows;
    let (rd, rg) = (dout.rows("window_attention")?, dqkv.rows("window_attention")?);
    let pairs = call.heads * windows.window().pow(2) * pitch(windows);
    // parts that sum on their own, times heads: enough to fill a device, few where summing them up is not for
    // nothing
    let most = (summing_teams(gpu.caps()) / call.heads).min(SUMS / pairs).max(1);
    let per_part = windows.count().div_ceil(most);
    let parts = windows.count().div_ceil(per_part);
    let sums = Tensor::empty(dqkv.device(), &[parts, pairs], DType::F32)?;
    let bias = spread_bias(call, gpu)?;
    let params = WindowParams {
        bias_offset: bias.layout().offset,
        per_part,
        dout_offset: rd.offset,
        dout_stride: rd.stride,
        dqkv_offset: rg.offset,
        dqkv_stride: rg.stride,
        sums_offset: sums.layout().offset,
        ..params(call)?
    };
    let rows = [rd, rg, call.qkv.rows("window_attention")?, call.out.rows("window_attention")?];
    let vec4 = in_vectors(call.head_dim, &rows);
    let kernel = |pass| kernel(plan, pass, windows.window(), vec4, call.qkv.dtype());
    let index = &windows.index;
    let tensors = [dqkv, &call.saved, &sums, &call.qkv, dout, &call.out, index, &bias];
    let at_once = at_once(plan, vec4);
    if at_once {
        call.say_flops(5);
        gpu.dispatch(&kernel(Pass::Backward), &tensors, &params, gpu.caps().grid(parts * call.heads))?;
    } else {
        let grid = gpu.caps().grid(workgroups(call, plan, Pass::BackwardQ, parts));
        call.say_flops(3);
        gpu.dispatch(&kernel(Pass::BackwardQ), &tensors, &params, grid)?;
        let grid = gpu.caps().grid(workgroups(call, plan, Pass::BackwardKv, windows.count()));
        let tensors = [dqkv, &call.saved, &call.qkv, dout, index, &bias];
        call.say_flops(4);
        gpu.dispatch(&kernel(Pass::BackwardKv), &tensors, &params, grid)?;
    }
    sum_padding(call, gpu, dout, dqkv)?;
    dbias.map_or(Ok(()), |target| fold_bias(call, gpu, (&sums, at_once), &target))
}

/// `sums` are of pairs with the key or the query first.
fn fold_bias(
    call: &Call,
    gpu: &GpuDevice,
    (sums, key_first): (&Tensor, bool),
    target: &Target,
) -> Result<()> {
    let total = match sums.dim(0) {
        1 => sums.clone(),
        _ => {
            let total = Tensor::empty(sums.device(), &[sums.dim(1)], DType::F32)?;
            column_sum(sums, &total, 1.0, false)?;
            total
        }
    };
    let out = target.tensor.rows("window_attention")?;
    let params = FoldParams {
        heads: call.heads,
        window: call.windows.window(),
        key_first,
        sums_offset: total.layout().offset,
        out_offset: out.offset,
        out_stride: out.stride,
        accumulate: target.accumulate,
    };
    let grid = gpu.caps().grid((out.rows * out.cols).div_ceil(WG as usize));
    gpu.dispatch(&fold_kernel(), &[&target.tensor, &total], &params, grid)
}

/// The gradient of the row of padding: none for its q, since padded queries are dropped. It is summed in
/// single precision.
fn sum_padding(call: &Call, gpu: &GpuDevice, dout: &Tensor, dqkv: &Tensor) -> Result<()> {
    if !call.windows.is_padded() {
        return Ok(());
    }
    let (rx, rd) = (call.qkv.rows("window_attention")?, dout.rows("window_attention")?);
    let width = call.heads * call.head_dim;
    let last = call.windows.rows();
    let row = dqkv.slice(0, last..last + 1)?.reshape(&[3 * width])?;
    let sums = match row.dtype() {
        DType::F32 => row.clone(),
        _ => Tensor::empty(row.device(), &[3 * width], DType::F32)?,
    };
    fill(&sums, 0)?;
    let kv = sums.slice(0, width..3 * width)?;
    for range in &call.windows.padded {
        let per_part = PADDING_ROWS.max(range.len().div_ceil(gpu.caps().grid_dimension as usize));
        let count = range.len().div_ceil(per_part);
        let parts = Tensor::empty(dqkv.device(), &[count, 2 * width], DType::F32)?;
        let params = PaddingParams {
            heads: call.heads,
            head_dim: call.head_dim,
            rows: last,
            first: range.start,
            last: range.end,
            per_part,
            out_offset: parts.layout().offset,
            qkv_offset: rx.offset,
            qkv_stride: rx.stride,
            dout_offset: rd.offset,
            dout_stride: rd.stride,
            saved_offset: call.saved.layout().offset,
            scale: call.scale,
        };
        let grid = [(2 * width).div_ceil(WG as usize), count, 1];
        gpu.dispatch(&padding_kernel(dout.dtype()), &[&parts, &call.qkv, dout, &call.saved], &params, grid)?;
        column_sum(&parts, &kv, 1.0, true)?;
    }
    if row.dtype() == DType::F32 { Ok(()) } else { convert(&row, &sums, None, false) }
}
