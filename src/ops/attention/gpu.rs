//! Attention on a GPU: the launches of the three kernels.

use super::call::Call;
use super::plan::{AttentionParams, GROUPS, Pass, Plan, SequenceGroup, in_vectors};
use crate::error::Result;
use crate::gpu::GpuDevice;
use crate::profile;
use crate::tensor::Tensor;

/// Calls `launch(params, workgroups, groups)` for every four groups of sequences.
fn launches(
    call: &Call,
    plan: &Plan,
    mut params: AttentionParams,
    mut launch: impl FnMut(&AttentionParams, usize, &[SequenceGroup]) -> Result<()>,
) -> Result<()> {
    let mut first = 0;
    for groups in call.groups.chunks(GROUPS) {
        let mut end = 0;
        // a group that is missing ends where the last one does
        let mut table = [(0, 0, 1); GROUPS];
        for (i, slot) in table.iter_mut().enumerate() {
            if let Some(group) = groups.get(i) {
                end += group.count * call.heads * group.length.div_ceil(plan.rows());
                *slot = (0, first, group.length);
                first += group.count * group.length;
            }
            slot.0 = end;
        }
        [params.end_0, params.end_1, params.end_2, params.end_3] = table.map(|t| t.0);
        [params.first_0, params.first_1, params.first_2, params.first_3] = table.map(|t| t.1);
        [params.length_0, params.length_1, params.length_2, params.length_3] = table.map(|t| t.2);
        launch(&params, end, groups)?;
    }
    Ok(())
}

fn params(call: &Call) -> Result<AttentionParams> {
    let (rx, ro) = (call.qkv.rows("attention")?, call.out.rows("attention")?);
    Ok(AttentionParams {
        heads: call.heads,
        rows: rx.rows,
        qkv_offset: rx.offset,
        qkv_stride: rx.stride,
        out_offset: ro.offset,
        out_stride: ro.stride,
        saved_offset: call.saved.layout().offset,
        scale: call.scale,
        ..Default::default()
    })
}

pub(super) fn forward(call: &Call, gpu: &GpuDevice, plan: &Plan) -> Result<()> {
    let rows = [call.qkv.rows("attention")?, call.out.rows("attention")?];
    let vec4 = in_vectors(call.head_dim, &rows);
    let plan = &plan.where_read(vec4);
    let kernel = plan.kernel(Pass::Forward, call.qkv.dtype(), vec4);
    launches(call, &plan.of(Pass::Forward, call.qkv.dtype()), params(call)?, |params, workgroups, groups| {
        profile::flops(call.flops(groups, 2));
        let tensors = [&call.out, &call.saved, &call.qkv];
        gpu.dispatch(&kernel, &tensors, params, gpu.caps().grid(workgroups))
    })
}

pub(super) fn backward(
    call: &Call,
    gpu: &GpuDevice,
    plan: &Plan,
    dout: &Tensor,
    dqkv: &Tensor,
) -> Result<()> {
    let (rd, rg) = (dout.rows("attention")?, dqkv.rows("attention")?);
    let params = AttentionParams {
        dout_offset: rd.offset,
        dout_stride: rd.stride,
        dqkv_offset: rg.offset,
        dqkv_stride: rg.stride,
        ..params(call)?
    };
    let rows = [rd, rg, call.qkv.rows("attention")?, call.out.rows("attention")?];
    let vec4 = in_vectors(call.head_dim, &rows);
    let plan = &plan.where_read(vec4);
    let tensors = [dqkv, &call.saved, &call.qkv, dout, &call.out];
    for &pass in plan.backward_passes() {
        // the first needs the output as well, and leaves what the others read of it
        let (tensors, products) = match pass {
            Pass::BackwardQ => (&tensors[..], 3),
            Pass::BackwardK => (&tensors[..4], 3),
            Pass::BackwardV => (&tensors[..4], 2),
            _ => (&tensors[..4], 4),
        };
        let kernel = plan.kernel(pass, call.qkv.dtype(), vec4);
        launches(call, &plan.of(pass, call.qkv.dtype()), params, |params, workgroups, groups| {
            profile::flops(call.flops(groups, products));
            gpu.dispatch(&kernel, tensors, params, gpu.caps().grid(workgroups))
        })?;
    }
    Ok(())
}
