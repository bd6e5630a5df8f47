// Numbers a row from runs of rows: of a run's i-th row, the row of the trunk, the branch's factor, and the branch's row by
// trunk row, each where the run says. What is ABSENT as a place is not written; as the branch's row it is itself
// written, for rows that the branch leaves out. The runs write apart from each other.
// Grid: a workgroup a run, folded. Workgroup: WG.
#include "params.wgsl"
#include "grid.wgsl"

struct Params { runs: u32, runs_offset: u32, out_offset: u32, }

@group(0) @binding(0) var<storage, read_write> out: array<u32>;
// rows_at, factor_at, inverse_at, trunk, branch, count, factor
@group(0) @binding(1) var<storage, read> runs: array<u32>;

const ABSENT: u32 = 0xffffffffu;

@compute @workgroup_size(WG)
fn expand(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let run = workgroup_index(wid, nwg);
    if run >= p.runs { return; }
    let at = p.runs_offset + 7u * run;
    let rows_at = runs[at];
    let factor_at = runs[at + 1u];
    let inverse_at = runs[at + 2u];
    let trunk = runs[at + 3u];
    let branch = runs[at + 4u];
    let count = runs[at + 5u];
    let factor = runs[at + 6u];
    for (var i = lane; i < count; i += WG) {
        if rows_at != ABSENT { out[p.out_offset + rows_at + i] = trunk + i; }
        if factor_at != ABSENT { out[p.out_offset + factor_at + i] = factor; }
        if inverse_at != ABSENT { out[p.out_offset + inverse_at + i] = select(branch + i, ABSENT, branch == ABSENT); }
    }
}
