// As eights.wgsl, where A is windows over pixels (window.wgsl): an eight lies along the channels of a pixel, whichever
// way A lies. Without WIDE its channels are read one by one, as far as there are any.

// The windows of an invocation's eights.
var<private> spots: array<Spot, A_EIGHTS>;
#ifdef A_ALONG_M
// Rows are channels; K runs over the windows, which an invocation follows from tile to tile.
var<private> stride: Spot;
#else
// Rows are windows, the groups of K are the taps, K runs over the channels. Where the pixels under a tap begin.
var<private> pixels: array<u32, A_EIGHTS>;
#endif

// Those channels of a pixel from one on that come before the last; none where there is no pixel.
fn a_eight(pixel: u32, channel: u32, last: u32) -> Fetched {
    if pixel == OUTSIDE || channel >= last { return Fetched(); }
    let from_ = p.a_offset + pixel + channel;
#ifdef WIDE
    return Fetched(a[from_ / 8u].low, a[from_ / 8u].high);
#else
    var all: Fetched;
    for (var e = 0u; e < 4u; e++) {
        if channel + e < last { all.low[e] = a[from_ + e]; }
        if channel + e + 4u < last { all.high[e] = a[from_ + e + 4u]; }
    }
    return all;
#endif
}

// Rows past the edge repeat the last one.
fn find_left(job: Job, lane: u32) {
#ifdef A_ALONG_M
    stride = spot(BK);
#repeat T A_EIGHTS
    spots[$T] = spot(job.first + a_place(lane + $Tu * WG).y);
#end
#else
#repeat T A_EIGHTS
    spots[$T] = spot(min(job.row + a_place(lane + $Tu * WG).x, p.m - 1u));
#end
#endif
}

// Tiles are read one after the other, all of a tap before those of the next.
fn fetch_left(job: Job, group: u32, k0: u32, lane: u32) {
#ifdef A_ALONG_M
#repeat T A_EIGHTS
    let at$T = a_place(lane + $Tu * WG);
    let pixel$T = select(OUTSIDE, tap_at(spots[$T], job.batch), k0 + at$T.y < job.last);
    next_a[$T] = a_eight(pixel$T, job.row + at$T.x, p.m);
    spots[$T] = later(spots[$T], stride);
#end
#else
    if k0 == job.first {
#repeat T A_EIGHTS
        pixels[$T] = tap_at(spots[$T], group);
#end
    }
#repeat T A_EIGHTS
    next_a[$T] = a_eight(pixels[$T], k0 + a_place(lane + $Tu * WG).y, job.last);
#end
#endif
}
