// Grids of more than 65,535 workgroups are folded into two dimensions; this undoes it. The last row of the
// folded grid may be ragged: compare the result with the number of workgroups that are meant.
fn workgroup_index(id: vec3<u32>, count: vec3<u32>) -> u32 {
    return id.x + id.y * count.x;
}
