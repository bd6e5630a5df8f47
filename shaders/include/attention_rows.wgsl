// What the attention kernels share: rows in chunks of eight elements, those that an invocation owns, those
// that stream past STEP at a time, and what is computed of the two. The including shader binds `qkv` and, for
// FORWARD `out`, otherwise `dout` and `dqkv`, of half precision where HALF, as arrays of `Cell`: vectors
// where VEC4, which needs aligned rows and heads of a multiple of eight.
#include "act.wgsl"

#ifdef VEC4
alias Cell = vec4<Act>;
const CELL: u32 = 4u;
#else
alias Cell = Act;
const CELL: u32 = 1u;
#endif

const CHUNKS: u32 = (HEAD + 7u) / 8u;

// Eight neighbouring elements of a row.
struct Eight { a: vec4<f32>, b: vec4<f32> }
alias Row = array<Eight, CHUNKS>;

fn dot8(x: Eight, y: Eight) -> f32 { return dot(x.a, y.a) + dot(x.b, y.b); }
fn times8(x: Eight, f: f32) -> Eight { return Eight(x.a * f, x.b * f); }
// x + f·y
fn add8(x: Eight, f: f32, y: Eight) -> Eight { return Eight(x.a + f * y.a, x.b + f * y.b); }

// Chunk c of the row of `qkv` from `at`.
fn qkv8(at: u32, c: u32) -> Eight {
    let i = (at + 8u * c) / CELL;
#ifdef VEC4
    return Eight(vec4<f32>(qkv[i]), vec4<f32>(qkv[i + 1u]));
#else
#ifdef RAGGED
    let n = HEAD - 8u * c;
    let m = min(n, 8u) - 1u;
    let x = vec4(f32(qkv[i]), f32(qkv[i + min(1u, m)]), f32(qkv[i + min(2u, m)]), f32(qkv[i + min(3u, m)]));
    let y = vec4(f32(qkv[i + min(4u, m)]), f32(qkv[i + min(5u, m)]), f32(qkv[i + min(6u, m)]), f32(qkv[i + m]));
    return Eight(select(vec4(0.0), x, vec4(0u, 1u, 2u, 3u) < vec4(n)), select(vec4(0.0), y, vec4(4u, 5u, 6u, 7u) < vec4(n)));
#else
    return Eight(vec4(f32(qkv[i]), f32(qkv[i + 1u]), f32(qkv[i + 2u]), f32(qkv[i + 3u])),
                 vec4(f32(qkv[i + 4u]), f32(qkv[i + 5u]), f32(qkv[i + 6u]), f32(qkv[i + 7u])));
#endif
#endif
}

#ifndef FORWARD
// The same of `dout`.
fn dout8(at: u32, c: u32) -> Eight {
    let i = (at + 8u * c) / CELL;
#ifdef VEC4
    return Eight(vec4<f32>(dout[i]), vec4<f32>(dout[i + 1u]));
#else
#ifdef RAGGED
    let n = HEAD - 8u * c;
    let m = min(n, 8u) - 1u;
    let x = vec4(f32(dout[i]), f32(dout[i + min(1u, m)]), f32(dout[i + min(2u, m)]), f32(dout[i + min(3u, m)]));
    let y = vec4(f32(dout[i + min(4u, m)]), f32(dout[i + min(5u, m)]), f32(dout[i + min(6u, m)]), f32(dout[i + m]));
    return Eight(select(vec4(0.0), x, vec4(0u, 1u, 2u, 3u) < vec4(n)), select(vec4(0.0), y, vec4(4u, 5u, 6u, 7u) < vec4(n)));
#else
    return Eight(vec4(f32(dout[i]), f32(dout[i + 1u]), f32(dout[i + 2u]), f32(dout[i + 3u])),
                 vec4(f32(dout[i + 4u]), f32(dout[i + 5u]), f32(dout[i + 6u]), f32(dout[i + 7u])));
#endif
#endif
}
#endif

// The streaming side. Each row has two parts: `x` is q or k, `y` is v, or do where Y_IS_DO. Loops over the
// STEP rows that are handled together are unrolled, so that their numbers stay in registers, and the sums are
// read and written once for all of them.
// A number for each of the STEP rows: which of its sequence or of the matrix it is, or where it begins in
// memory.
alias Places = array<u32, STEP>;

// Where these rows of a part begin that starts at `base`.
fn places(rows: Places, base: u32, stride: u32) -> Places {
    var at = rows;
    for (var j = 0u; j < STEP; j++) { at[j] = base + at[j] * stride; }
    return at;
}

#ifdef BROADCAST
#ifdef PACKED
// Of two rows of at most sixteen elements, the vector that this invocation holds for its subgroup: one load
// for both.
alias Stream = vec4<f32>;
alias Streams = array<Stream, STEP / 2u>;

fn held_x(first: u32, second: u32, sub: u32) -> Stream {
    return vec4<f32>(qkv[select(second, first, sub < 4u) / 4u + min(sub % 4u, HEAD / 4u - 1u)]);
}
#ifdef Y_IS_DO
fn held_y(first: u32, second: u32, sub: u32) -> Stream {
    return vec4<f32>(dout[select(second, first, sub < 4u) / 4u + min(sub % 4u, HEAD / 4u - 1u)]);
}
#endif
#else
// The elements of a row that this invocation holds for its subgroup.
#ifdef VEC4
// One vector of each four chunks.
alias Stream = array<vec4<f32>, (CHUNKS + 3u) / 4u>;

fn held_x(at: u32, sub: u32) -> Stream {
    var held: Stream;
    for (var i = 0u; i < (CHUNKS + 3u) / 4u; i++) {
        held[i] = vec4<f32>(qkv[at / 4u + min(8u * i + sub, HEAD / 4u - 1u)]);
    }
    return held;
}
#ifdef Y_IS_DO
fn held_y(at: u32, sub: u32) -> Stream {
    var held: Stream;
    for (var i = 0u; i < (CHUNKS + 3u) / 4u; i++) {
        held[i] = vec4<f32>(dout[at / 4u + min(8u * i + sub, HEAD / 4u - 1u)]);
    }
    return held;
}
#endif
#else
// One of each chunk.
alias Stream = array<f32, CHUNKS>;

fn held_x(at: u32, sub: u32) -> Stream {
    var held: Stream;
    for (var c = 0u; c < CHUNKS; c++) {
        let e = 8u * c + sub;
#ifdef RAGGED
        held[c] = select(0.0, f32(qkv[at + min(e, HEAD - 1u)]), e < HEAD);
#else
        held[c] = f32(qkv[at + e]);
#endif
    }
    return held;
}
#ifdef Y_IS_DO
fn held_y(at: u32, sub: u32) -> Stream {
    var held: Stream;
    for (var c = 0u; c < CHUNKS; c++) {
        let e = 8u * c + sub;
#ifdef RAGGED
        held[c] = select(0.0, f32(dout[at + min(e, HEAD - 1u)]), e < HEAD);
#else
        held[c] = f32(dout[at + e]);
#endif
    }
    return held;
}
#endif
#endif
alias Streams = array<Stream, STEP>;
#endif

#ifdef VEC4
// Eight elements of a row, half of them each of two invocations: of `from_` and the next. Called with
// constants once loops are unrolled.
fn eight_of(v: vec4<f32>, from_: u32) -> Eight {
    return Eight(
        vec4(subgroupShuffle(v.x, from_), subgroupShuffle(v.y, from_), subgroupShuffle(v.z, from_), subgroupShuffle(v.w, from_)),
        vec4(subgroupShuffle(v.x, from_ + 1u), subgroupShuffle(v.y, from_ + 1u), subgroupShuffle(v.z, from_ + 1u), subgroupShuffle(v.w, from_ + 1u)));
}
#ifdef PACKED
fn chunk(held: ptr<function, Streams>, j: u32, c: u32) -> Eight { return eight_of((*held)[j / 2u], 4u * (j % 2u) + 2u * c); }
#else
fn chunk(held: ptr<function, Streams>, j: u32, c: u32) -> Eight { return eight_of((*held)[j][c / 4u], 2u * (c % 4u)); }
#endif
#else
fn eight_of(v: f32) -> Eight {
    return Eight(
        vec4(subgroupBroadcast(v, 0u), subgroupBroadcast(v, 1u), subgroupBroadcast(v, 2u), subgroupBroadcast(v, 3u)),
        vec4(subgroupBroadcast(v, 4u), subgroupBroadcast(v, 5u), subgroupBroadcast(v, 6u), subgroupBroadcast(v, 7u)));
}
fn chunk(held: ptr<function, Streams>, j: u32, c: u32) -> Eight { return eight_of((*held)[j][c]); }
#endif

fn stream_x(at: Places, rows: Places, sub: u32) -> Streams {
    var places = at;
    var held: Streams;
#ifdef PACKED
    for (var j = 0u; j < STEP; j += 2u) { held[j / 2u] = held_x(places[j], places[j + 1u], sub); }
#else
    for (var j = 0u; j < STEP; j++) { held[j] = held_x(places[j], sub); }
#endif
    return held;
}

#ifdef Y_IS_DO
fn stream_y(at: Places, rows: Places, sub: u32) -> Streams {
    var places = at;
    var held: Streams;
#ifdef PACKED
    for (var j = 0u; j < STEP; j += 2u) { held[j / 2u] = held_y(places[j], places[j + 1u], sub); }
#else
    for (var j = 0u; j < STEP; j++) { held[j] = held_y(places[j], sub); }
#endif
    return held;
}
#else
fn stream_y(at: Places, rows: Places, sub: u32) -> Streams { return stream_x(at, rows, sub); }
#endif
#else
// TILE rows of x, then as many of y.
var<workgroup> tiles: array<Eight, 2u * TILE * CHUNKS>;
const TILE_Y: u32 = TILE * CHUNKS;

// Where the rows start in the tiles.
alias Streams = Places;
fn chunk(starts: ptr<function, Streams>, j: u32, c: u32) -> Eight { return tiles[(*starts)[j] + c]; }

fn starts_in_tiles(first: u32, rows: Places) -> Streams {
    var numbers = rows;
    var starts: Streams;
    for (var j = 0u; j < STEP; j++) { starts[j] = first + numbers[j] % TILE * CHUNKS; }
    return starts;
}

fn stream_x(at: Places, rows: Places, sub: u32) -> Streams { return starts_in_tiles(0u, rows); }
fn stream_y(at: Places, rows: Places, sub: u32) -> Streams { return starts_in_tiles(TILE_Y, rows); }

// Nobody's place in a subgroup is asked for.
const sub: u32 = 0u;
#endif

// The rows that an invocation owns, and a number for each.
alias Rows = array<Row, OWN>;
alias Each = array<f32, OWN>;

// The row of `qkv` from `at`, times a factor.
fn read_row(at: u32, factor: f32) -> Row {
    var row: Row;
    for (var c = 0u; c < CHUNKS; c++) { row[c] = times8(qkv8(at, c), factor); }
    return row;
}

#ifdef BACKWARD_Q
// Σ out·do over owned row o of `dy`, whose part of `out` lies there.
fn dot_out(at: u32, dy: ptr<function, Rows>, o: u32) -> f32 {
    var sum = 0.0;
    for (var c = 0u; c < CHUNKS; c++) {
        let d = (*dy)[o][c];
#ifdef VEC4
        let i = at / 4u + 2u * c;
        sum += dot8(Eight(vec4<f32>(out[i]), vec4<f32>(out[i + 1u])), d);
#else
        for (var e = 0u; e < 8u; e++) {
            let other = select(d.a[e & 3u], d.b[e & 3u], e > 3u);
            if 8u * c + e < HEAD { sum += f32(out[at + 8u * c + e]) * other; }
        }
#endif
    }
    return sum;
}
#endif

// Writes (=) row o of `rows` times a factor to `out` in FORWARD and to `dqkv` otherwise, from `at` on.
fn write_row(rows: ptr<function, Rows>, o: u32, factor: f32, at: u32) {
    for (var c = 0u; c < CHUNKS; c++) {
        let value = times8((*rows)[o][c], factor);
#ifdef VEC4
        let to = at / 4u + 2u * c;
#ifdef FORWARD
        out[to] = Cell(value.a);
        out[to + 1u] = Cell(value.b);
#else
        dqkv[to] = Cell(value.a);
        dqkv[to + 1u] = Cell(value.b);
#endif
#else
        for (var e = 0u; e < 8u; e++) {
            if 8u * c + e < HEAD {
                let v = select(value.a[e & 3u], value.b[e & 3u], e > 3u);
#ifdef FORWARD
                out[at + 8u * c + e] = Act(v);
#else
                dqkv[at + 8u * c + e] = Act(v);
#endif
            }
        }
#endif
    }
}

// A number for each pair of a streaming and an owned row.
alias Pairs = array<Each, STEP>;

// Products of the owned rows and streaming row j.
fn dots(own: ptr<function, Rows>, x: ptr<function, Streams>, j: u32) -> Each {
    var result: Each;
    for (var c = 0u; c < CHUNKS; c++) {
        let e = chunk(x, j, c);
        for (var o = 0u; o < OWN; o++) { result[o] += dot8((*own)[o][c], e); }
    }
    return result;
}

#ifdef FORWARD
// The running softmax takes these scores: they become exp(score − most), where `most` may have grown. Gives
// what the sums so far shrink by.
fn take_scores(scores: ptr<function, Pairs>, most: ptr<function, Each>, total: ptr<function, Each>) -> Each {
    var shrink: Each;
    for (var o = 0u; o < OWN; o++) {
        var peak = (*most)[o];
        for (var j = 0u; j < STEP; j++) { peak = max(peak, (*scores)[j][o]); }
        shrink[o] = exp_accurate((*most)[o] - peak);
        (*most)[o] = peak;
        (*total)[o] *= shrink[o];
        for (var j = 0u; j < STEP; j++) {
            (*scores)[j][o] = exp_accurate((*scores)[j][o] - peak);
            (*total)[o] += (*scores)[j][o];
        }
    }
    return shrink;
}

// sum = shrink·sum + factor·x
fn shrink_add(sum: ptr<function, Rows>, shrink: ptr<function, Each>, factor: ptr<function, Pairs>, x: ptr<function, Streams>) {
    for (var c = 0u; c < CHUNKS; c++) {
        var e: array<Eight, STEP>;
        for (var j = 0u; j < STEP; j++) { e[j] = chunk(x, j, c); }
        for (var o = 0u; o < OWN; o++) {
            var total = times8((*sum)[o][c], (*shrink)[o]);
            for (var j = 0u; j < STEP; j++) { total = add8(total, (*factor)[j][o], e[j]); }
            (*sum)[o][c] = total;
        }
    }
}
#else
// sum += factor·x
fn add(sum: ptr<function, Rows>, factor: ptr<function, Pairs>, x: ptr<function, Streams>) {
    for (var c = 0u; c < CHUNKS; c++) {
        var e: array<Eight, STEP>;
        for (var j = 0u; j < STEP; j++) { e[j] = chunk(x, j, c); }
        for (var o = 0u; o < OWN; o++) {
            var total = (*sum)[o][c];
            for (var j = 0u; j < STEP; j++) { total = add8(total, (*factor)[j][o], e[j]); }
            (*sum)[o][c] = total;
        }
    }
}
#endif
