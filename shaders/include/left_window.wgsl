// As left.wgsl, where A is windows over pixels (window.wgsl). What lies outside is read from A's first pixel
// and dropped.

#ifdef A_ALONG_M
// Rows are channels; K runs over the windows, a step of four at a time. A lane follows the window it reads:
// where A_VEC4 the (lane mod 4)th of the four, else the first, from which it goes on to the others.
var<private> channel: array<u32, BLOCKS>;
var<private> quad: array<u32, BLOCKS>;
var<private> cursor: Spot;
var<private> stride: Spot;
var<private> tap: u32;
var<private> base: u32;

// Rows past the edge repeat the last one.
fn find_rows(job: Job, lane: u32) {
    for (var i = 0u; i < BLOCKS; i++) {
        channel[i] = job.a + min(job.row + 8u * i + lane, p.m - 1u);
#ifdef A_VEC4
        quad[i] = job.a + min(job.row + 8u * i + (lane & 4u), p.m - 4u);
#endif
    }
    tap = job.batch;
#ifdef A_VEC4
    cursor = spot(job.first + lane % 4u);
    stride = spot(4u);
#else
    cursor = spot(job.first);
    stride = spot(1u);
#endif
}

fn enter_group(job: Job, group: u32) {
    base = job.a;
}

#ifdef A_VEC4
fn load_four(k: u32) {
    let pixel = tap_at(cursor, tap);
    let inside = pixel != OUTSIDE;
    let from_ = select(0u, pixel, inside);
    for (var i = 0u; i < BLOCKS; i++) {
        left[i] = select(vec4(0.0), vec4<f32>(a[(quad[i] + from_) / 4u]), inside);
    }
    cursor = later(cursor, stride);
}
#else
// The elements of all rows at the cursor, which moves on.
fn next(q: u32) {
    let pixel = tap_at(cursor, tap);
    let inside = pixel != OUTSIDE;
    let from_ = select(0u, pixel, inside);
    for (var i = 0u; i < BLOCKS; i++) {
        left[i][q] = select(0.0, f32(a[channel[i] + from_]), inside);
    }
    cursor = later(cursor, stride);
}

fn load_four(k: u32) {
    next(0u);
    next(1u);
    next(2u);
    next(3u);
}
#endif

fn load_one(job: Job, k: u32) {
    let pixel = tap_at(spot(k), tap);
    let inside = pixel != OUTSIDE;
    let from_ = select(0u, pixel, inside);
    for (var i = 0u; i < BLOCKS; i++) {
        left[i].x = select(0.0, a_element(channel[i] + from_), inside);
    }
}
#else
// Rows are windows; the groups of K are the taps, K runs over the channels.
var<private> spots: array<Spot, BLOCKS>;
var<private> row_at: array<u32, BLOCKS>;
var<private> inside: array<bool, BLOCKS>;

// Rows past the edge repeat the last one.
fn find_rows(job: Job, lane: u32) {
    for (var i = 0u; i < BLOCKS; i++) {
        spots[i] = spot(min(job.row + 8u * i + lane, p.m - 1u));
    }
}

fn enter_group(job: Job, group: u32) {
    for (var i = 0u; i < BLOCKS; i++) {
        let pixel = tap_at(spots[i], group);
        inside[i] = pixel != OUTSIDE;
        row_at[i] = job.a + select(0u, pixel, inside[i]);
    }
}

fn load_four(k: u32) {
    for (var i = 0u; i < BLOCKS; i++) {
#ifdef A_VEC4
        left[i] = select(vec4(0.0), vec4<f32>(a[(row_at[i] + k) / 4u]), inside[i]);
#else
        let from_ = row_at[i] + k;
        let four = vec4<f32>(vec4(a[from_], a[from_ + 1u], a[from_ + 2u], a[from_ + 3u]));
        left[i] = select(vec4(0.0), four, inside[i]);
#endif
    }
}

fn load_one(job: Job, k: u32) {
    for (var i = 0u; i < BLOCKS; i++) {
        left[i].x = select(0.0, a_element(row_at[i] + k), inside[i]);
    }
}
#endif
