// What an invocation of matmul_cooperative.wgsl reads of A, a matrix in memory: A_EIGHTS times eight elements of
// a tile into `next_a`, which lie in it where `a_place` says.
#ifdef WIDE
// Where they begin in memory at a tile's first k. Those beyond the edges repeat the last ones, whose results are
// not written.
var<private> a_at: array<u32, A_EIGHTS>;

fn find_left(job: Job, lane: u32) {
#repeat T A_EIGHTS
    let at$T = a_place(lane + $Tu * WG);
#ifdef A_ALONG_M
    a_at[$T] = job.a + a_row(min(job.row + at$T.x, p.m - 8u)) + at$T.y * p.a_k;
#else
    a_at[$T] = job.a + a_row(min(job.row + at$T.x, p.m - 1u)) + at$T.y * p.a_k;
#endif
#end
}
fn a_eight(from_: u32, inside: bool) -> Fetched {
    if !inside { return Fetched(); }
    return Fetched(a[from_ / 8u].low, a[from_ / 8u].high);
}
fn fetch_left(job: Job, group: u32, k0: u32, lane: u32) {
    let from_ = group * p.a_k_far + k0 * p.a_k;
#repeat T A_EIGHTS
    next_a[$T] = a_eight(from_ + a_at[$T], k0 + a_place(lane + $Tu * WG).y < job.last);
#end
}
#else
fn find_left(job: Job, lane: u32) {}

fn a_one(from_: u32, row: u32, k: u32, last: u32) -> In {
    if row >= p.m || k >= last { return In(); }
    return a[from_ + a_row(row) + k * p.a_k];
}
fn a_eight(from_: u32, row: u32, k: u32, last: u32) -> Fetched {
    var all: Fetched;
    for (var e = 0u; e < 4u; e++) {
#ifdef A_ALONG_M
        all.low[e] = a_one(from_, row + e, k, last);
        all.high[e] = a_one(from_, row + e + 4u, k, last);
#else
        all.low[e] = a_one(from_, row, k + e, last);
        all.high[e] = a_one(from_, row, k + e + 4u, last);
#endif
    }
    return all;
}
fn fetch_left(job: Job, group: u32, k0: u32, lane: u32) {
    for (var t = 0u; t < A_EIGHTS; t++) {
        let at = a_place(lane + t * WG);
        next_a[t] = a_eight(job.a + group * p.a_k_far, job.row + at.x, k0 + at.y, job.last);
    }
}
#endif
