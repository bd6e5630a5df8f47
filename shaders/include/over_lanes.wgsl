// Sums over the eight invocations of a subgroup, for kernels whose invocations each have a share of what the
// streaming rows get: every invocation has terms of all elements and takes the totals of some, those that it
// would hold of such a row.
// With attention_rows.wgsl, where BROADCAST and VEC4; binds `out` and `dqkv`.

const GROUPS: u32 = (CHUNKS + 3u) / 4u;
const FOURS_OF_HEAD: u32 = HEAD / 4u;

// Invocation l gets the total of terms[l]: halves are exchanged, so that each stage adds half as many as the
// one before.
fn totals(terms: array<vec4<f32>, 8>, sub: u32) -> vec4<f32> {
    var v = terms;
    for (var i = 0u; i < 4u; i++) {
        let upper = (sub & 4u) != 0u;
        v[i] = select(v[i], v[i + 4u], upper) + subgroupShuffleXor(select(v[i + 4u], v[i], upper), 4u);
    }
    for (var i = 0u; i < 2u; i++) {
        let upper = (sub & 2u) != 0u;
        v[i] = select(v[i], v[i + 2u], upper) + subgroupShuffleXor(select(v[i + 2u], v[i], upper), 2u);
    }
    let upper = (sub & 1u) != 0u;
    return select(v[0], v[1], upper) + subgroupShuffleXor(select(v[1], v[0], upper), 1u);
}

#ifdef PACKED
const ROWS_AT_ONCE: u32 = 2u;
#else
const ROWS_AT_ONCE: u32 = 1u;
#endif

// Which of the vectors of a row this invocation holds, and of which of the rows that are held at once, in
// group g.
fn held_vector(g: u32, sub: u32) -> u32 { return 8u * g + sub % (8u / ROWS_AT_ONCE); }
fn held_row(sub: u32) -> u32 { return sub / (8u / ROWS_AT_ONCE); }

// Σ out·do of each streaming row, where `y` are those of do and out's begin at `at`.
fn stream_deltas(y: ptr<function, Streams>, at: Places, sub: u32) -> array<f32, STEP> {
    var places = at;
    var deltas: array<f32, STEP>;
    for (var j = 0u; j < STEP; j += ROWS_AT_ONCE) {
        let place = select(places[j], places[j + ROWS_AT_ONCE - 1u], held_row(sub) == 1u) / 4u;
        var sum = 0.0;
        for (var g = 0u; g < GROUPS; g++) {
            let c = held_vector(g, sub);
            let z = vec4<f32>(out[place + min(c, FOURS_OF_HEAD - 1u)]);
#ifdef PACKED
            let product = dot((*y)[j / 2u], z);
#else
            let product = dot((*y)[j][g], z);
#endif
            sum += select(0.0, product, c < FOURS_OF_HEAD);
        }
        sum += subgroupShuffleXor(sum, 1u);
        sum += subgroupShuffleXor(sum, 2u);
#ifdef PACKED
        deltas[j] = subgroupShuffle(sum, 0u);
        deltas[j + 1u] = subgroupShuffle(sum, 4u);
#else
        deltas[j] = sum + subgroupShuffleXor(sum, 4u);
#endif
    }
    return deltas;
}

// Writes (=, or += where `more`) Σ over all owned rows of factor·row to the streaming rows of dqkv that begin
// at `at`, those that are `kept`.
fn give(rows: ptr<function, Rows>, factor: ptr<function, Pairs>, at: Places, kept: array<bool, STEP>, more: bool, sub: u32) {
    var places = at;
    var keep = kept;
    for (var j = 0u; j < STEP; j += ROWS_AT_ONCE) {
        let second = j + ROWS_AT_ONCE - 1u;
        let place = select(places[j], places[second], held_row(sub) == 1u) / 4u;
        let wanted = select(keep[j], keep[second], held_row(sub) == 1u);
        for (var g = 0u; g < GROUPS; g++) {
            var terms: array<vec4<f32>, 8>;
            for (var r = 0u; r < ROWS_AT_ONCE; r++) {
                for (var i = 0u; i < 4u / ROWS_AT_ONCE; i++) {
                    if 4u * g + i < CHUNKS {
                        var sum = Eight(vec4(0.0), vec4(0.0));
                        for (var o = 0u; o < OWN; o++) { sum = add8(sum, (*factor)[j + r][o], (*rows)[o][4u * g + i]); }
                        terms[4u * r + 2u * i] = sum.a;
                        terms[4u * r + 2u * i + 1u] = sum.b;
                    }
                }
            }
            let total = totals(terms, sub);
            let c = held_vector(g, sub);
            if wanted && c < FOURS_OF_HEAD {
                var sum = total;
                if more { sum += vec4<f32>(dqkv[place + c]); }
                dqkv[place + c] = Cell(sum);
            }
        }
    }
}
