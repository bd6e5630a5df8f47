// What kernels share that go through a matrix row by row; the plan is made by src/ops/rows.rs.
// A team works on a row together: a subgroup that is a workgroup (SUBGROUP), a workgroup (WORKGROUP), or an
// invocation by itself (ALONE). Its TEAM members take units in turn. Where KEEP, a row has at most KEEP units
// a member and stays in registers, so that it is read once; where EXACT, it has as many.
// The including shader includes grid.wgsl.
#include "units.wgsl"
#ifdef WORKGROUP
#include "reduce.wgsl"
#endif

#ifdef ALONE
const TEAM: u32 = 1u;
fn team_index(workgroup: u32, lane: u32) -> u32 { return workgroup * WG + lane; }
fn member(lane: u32) -> u32 { return 0u; }
fn team_sum(value: f32, lane: u32) -> f32 { return value; }
fn team_max(value: f32, lane: u32) -> f32 { return value; }
#else
const TEAM: u32 = WG;
fn team_index(workgroup: u32, lane: u32) -> u32 { return workgroup; }
fn member(lane: u32) -> u32 { return lane; }
#ifdef SUBGROUP
// A tree: subgroupAdd may add one after the other, which loses more to rounding.
fn team_sum(value: f32, lane: u32) -> f32 {
    var total = value;
    for (var width = 1u; width < TEAM; width = width * 2u) { total += subgroupShuffleXor(total, width); }
    return total;
}
fn team_max(value: f32, lane: u32) -> f32 { return subgroupMax(value); }
#else
fn team_sum(value: f32, lane: u32) -> f32 { return workgroup_sum(value, lane); }
fn team_max(value: f32, lane: u32) -> f32 { return workgroup_max(value, lane); }
#endif
#endif

// Units that a member takes of a row of `units`.
fn steps(units: u32) -> u32 {
#ifdef KEEP
    return KEEP;
#else
    return (units + TEAM - 1u) / TEAM;
#endif
}

fn inside(unit: u32, units: u32) -> bool {
#ifdef EXACT
    return true;
#else
    return unit < units;
#endif
}
