// What a lane of matmul_broadcast.wgsl reads of A, a matrix in memory: for four steps of K and every eight
// rows a vector into `left` (its row and four k, or where A_VEC4 and A_ALONG_M its k and four rows), for a
// single step one element.

var<private> row_at: array<u32, BLOCKS>;
#ifdef A_VEC4
#ifdef A_ALONG_M
var<private> quad_at: array<u32, BLOCKS>;
#endif
#endif
var<private> group_at: u32;

// Rows past the edge repeat the last one.
fn find_rows(job: Job, lane: u32) {
    for (var i = 0u; i < BLOCKS; i++) {
        row_at[i] = job.a + a_row(min(job.row + 8u * i + lane, p.m - 1u));
#ifdef A_VEC4
#ifdef A_ALONG_M
        quad_at[i] = job.a + (lane % 4u) * p.a_k + a_row(min(job.row + 8u * i + (lane & 4u), p.m - 4u));
#endif
#endif
    }
}

fn enter_group(job: Job, group: u32) {
    group_at = group * p.a_k_far;
}

fn load_four(k: u32) {
    for (var i = 0u; i < BLOCKS; i++) {
#ifdef A_VEC4
#ifdef A_ALONG_M
        left[i] = vec4<f32>(a[(quad_at[i] + group_at + k * p.a_k) / 4u]);
#else
        left[i] = vec4<f32>(a[(row_at[i] + group_at + k) / 4u]);
#endif
#else
        let from_ = row_at[i] + group_at + k * p.a_k;
        left[i] = vec4<f32>(vec4(a[from_], a[from_ + p.a_k], a[from_ + 2u * p.a_k], a[from_ + 3u * p.a_k]));
#endif
    }
}

fn load_one(job: Job, k: u32) {
    for (var i = 0u; i < BLOCKS; i++) {
        left[i].x = a_element(row_at[i] + group_at + k * p.a_k);
    }
}
