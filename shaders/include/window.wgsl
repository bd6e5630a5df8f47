// The operand A of a convolution: windows over the pixels of images, of which no copy is made. A window
// stands at every place of a grid of grid_h×grid_w in every image, `step` pixels apart, the first with its
// first tap over pixel (top, left), which may lie outside (numbers below zero wrap around, and are then
// larger than any size); what lies outside of the map of height×width is zero.
//   rows of A are windows             K runs over the channels of a tap, its groups are the taps
//   columns are (A_ALONG_M)           K runs over the windows, the batch is the tap, rows are channels

const OUTSIDE: u32 = 0xffffffffu;

// A place of the grid.
struct Spot { image: u32, y: u32, x: u32 }

fn spot(index: u32) -> Spot {
    let row = index / p.grid_w;
    return Spot(row / p.grid_h, row % p.grid_h, index % p.grid_w);
}

// The spot as many places after `s` as `by` is after the first.
fn later(s: Spot, by: Spot) -> Spot {
    let x = s.x + by.x;
    let over_x = select(0u, 1u, x >= p.grid_w);
    let y = s.y + by.y + over_x;
    let over_y = select(0u, 1u, y >= p.grid_h);
    return Spot(s.image + by.image + over_y, y - over_y * p.grid_h, x - over_x * p.grid_w);
}

// Where the pixel under a tap begins, from a_offset; OUTSIDE where there is none.
fn tap_at(s: Spot, tap: u32) -> u32 {
    let y = s.y * p.step + p.top + tap / p.taps_x;
    let x = s.x * p.step + p.left + tap % p.taps_x;
    if y >= p.height || x >= p.width { return OUTSIDE; }
    return s.image * p.a_image + y * p.a_row + x * p.a_pixel;
}

fn b_col(j: u32) -> u32 { return j * p.b_n; }
fn c_col(j: u32) -> u32 { return j; }

// Where a group of K begins in B.
fn b_group(group: u32) -> u32 { return (group / p.taps_x) * p.b_tap_y + (group % p.taps_x) * p.b_tap_x; }

fn c_row(i: u32) -> u32 {
#ifdef A_ALONG_M
    return i * p.c_m;
#else
    let s = spot(i);
    return s.image * p.c_image + s.y * p.c_row + s.x * p.c_m;
#endif
}
