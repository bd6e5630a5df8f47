//! Attention on a GPU: the launches of the three kernels.

use super::call::Call;
use super::plan::{AttentionParams, GROUPS, Pass, Plan, in_vectors};
use crate::error::Result;
use crate::gpu::GpuDevice;
use crate::profile;
use crate::tensor::Tensor;

/// Calls `launch(params, workgroups, operations)` for every four groups of sequences, or once for all where some tokens
/// have no query.
fn launches(
    call: &Call,
    pass: Pass,
    plan: &Plan,
    mut params: AttentionParams,
    products: usize,
    mut launch: impl FnMut(&AttentionParams, usize) -> Result<()>,
) -> Result<()> {
    if let Some(queries) = &call.queries {
        let owned = |(queries, keys)| if pass.owns_keys() { keys } else { queries };
        params.blocks = call.sequences().map(owned).max().unwrap_or(0).div_ceil(plan.rows());
        params.table_offset = queries.table.layout().offset;
        params.end_3 = queries.counts.len() * call.heads * params.blocks;
        if params.end_3 == 0 {
            return Ok(());
        }
        profile::flops(call.all_flops(products));
        return launch(&params, params.end_3);
    }
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
        profile::flops(call.flops(groups, products));
        launch(&params, end)?;
    }
    Ok(())
}

fn params(call: &Call) -> Result<AttentionParams> {
    let (rq, rk) = (call.q.rows("attention")?, call.kv.rows("attention")?);
    let ro = call.out.rows("attention")?;
    Ok(AttentionParams {
        heads: call.heads,
        rows: rq.rows,
        q_offset: rq.offset,
        q_stride: rq.stride,
        kv_offset: rk.offset,
        kv_stride: rk.stride,
        out_offset: ro.offset,
        out_stride: ro.stride,
        saved_offset: call.saved.layout().offset,
        scale: call.scale,
        ..Default::default()
    })
}

/// What a kernel binds after the tensors of all calls.
fn table(call: &Call) -> Option<&Tensor> {
    call.queries.as_ref().map(|queries| &queries.table)
}

pub(super) fn forward(call: &Call, gpu: &GpuDevice, plan: &Plan) -> Result<()> {
    let rows = [call.q.rows("attention")?, call.kv.rows("attention")?, call.out.rows("attention")?];
    let vec4 = in_vectors(call.head_dim, &rows);
    let plan = &plan.where_read(vec4);
    let kernel = plan.kernel(Pass::Forward, call.qkv.dtype(), vec4, call.queries.is_some());
    let mut tensors = vec![&call.out, &call.saved, &call.qkv];
    tensors.extend(table(call));
    let (pass, own) = (Pass::Forward, plan.of(Pass::Forward, call.qkv.dtype()));
    launches(call, pass, &own, params(call)?, 2, |params, workgroups| {
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
    let rd = dout.rows("attention")?;
    let [dq, dkv] = call.parts(dqkv)?;
    let (rdq, rdkv) = (dq.rows("attention")?, dkv.rows("attention")?);
    let (rq, rk) = (call.q.rows("attention")?, call.kv.rows("attention")?);
    let vec4 = in_vectors(call.head_dim, &[rd, rdq, rdkv, rq, rk, call.out.rows("attention")?]);
    let plan = &plan.where_read(vec4);
    for &pass in plan.backward_passes() {
        let products = match pass {
            Pass::BackwardQ | Pass::BackwardK => 3,
            Pass::BackwardV => 2,
            _ => 4,
        };
        let mut tensors = vec![dqkv, &call.saved, &call.qkv, dout];
        // the first needs the output as well, and leaves what the others read of it
        tensors.extend((pass == Pass::BackwardQ).then_some(&call.out));
        tensors.extend(table(call));
        let to = if pass.owns_keys() { rdkv } else { rdq };
        let params = AttentionParams {
            dout_offset: rd.offset,
            dout_stride: rd.stride,
            dqkv_offset: to.offset,
            dqkv_stride: to.stride,
            ..params(call)?
        };
        let kernel = plan.kernel(pass, call.qkv.dtype(), vec4, call.queries.is_some());
        launches(call, pass, &plan.of(pass, call.qkv.dtype()), params, products, |params, workgroups| {
            gpu.dispatch(&kernel, &tensors, params, gpu.caps().grid(workgroups))
        })?;
    }
    Ok(())
}
