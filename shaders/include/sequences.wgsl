// The sequences that attention.wgsl and attention_cooperative.wgsl go over, of which a workgroup takes ROWS rows and a
// head. Every token has a query, a key and a value, and there are up to four groups of sequences: group i ends before
// workgroup end_i, starts at row first_i and has sequences of length_i rows.
// With QUERIES some tokens alone have a query, and a table at `table_offset` has four numbers for each sequence: its
// first query, its queries, its first key, its keys. Each has as many workgroups as the longest, `blocks` a head.
struct Params {
    heads: u32, rows: u32,
    q_offset: u32, q_stride: u32,
    kv_offset: u32, kv_stride: u32,
    out_offset: u32, out_stride: u32,
    dout_offset: u32, dout_stride: u32,
    dqkv_offset: u32, dqkv_stride: u32,
    saved_offset: u32,
    end_0: u32, end_1: u32, end_2: u32, end_3: u32,
    first_0: u32, first_1: u32, first_2: u32, first_3: u32,
    length_0: u32, length_1: u32, length_2: u32, length_3: u32,
    table_offset: u32, blocks: u32,
    scale: f32,
}

// What a workgroup works on: rows [start, start + ROWS) of the side that it owns, of a sequence of so many queries and
// keys from these rows on.
struct Place { query: u32, queries: u32, key: u32, keys: u32, head: u32, start: u32 }

// Rows of the side that is owned, and of the side that streams past.
#ifdef BACKWARD_KV
fn owned_rows(at: Place) -> u32 { return at.keys; }
fn other_rows(at: Place) -> u32 { return at.queries; }
#else
fn owned_rows(at: Place) -> u32 { return at.queries; }
fn other_rows(at: Place) -> u32 { return at.keys; }
#endif

fn workgroups() -> u32 { return p.end_3; }

#ifdef QUERIES
fn place(workgroup: u32) -> Place {
    let j = workgroup / p.blocks;
    let entry = p.table_offset + 4u * (j / p.heads);
    return Place(table[entry], table[entry + 1u], table[entry + 2u], table[entry + 3u], j % p.heads, (workgroup % p.blocks) * ROWS);
}
#else
fn place(workgroup: u32) -> Place {
    var from_ = 0u;
    var first = p.first_0;
    var length = p.length_0;
    if workgroup >= p.end_0 { from_ = p.end_0; first = p.first_1; length = p.length_1; }
    if workgroup >= p.end_1 { from_ = p.end_1; first = p.first_2; length = p.length_2; }
    if workgroup >= p.end_2 { from_ = p.end_2; first = p.first_3; length = p.length_3; }
    let blocks = (length + ROWS - 1u) / ROWS;
    let i = workgroup - from_;
    let j = i / blocks;
    let row = first + j / p.heads * length;
    return Place(row, length, row, length, j % p.heads, (i % blocks) * ROWS);
}
#endif

// Where the head's part of a sequence's queries, and of its keys, begins. Values follow keys.
fn queries_at(at: Place) -> u32 { return p.q_offset + at.query * p.q_stride + at.head * HEAD; }
fn keys_at(at: Place) -> u32 { return p.kv_offset + at.key * p.kv_stride + at.head * HEAD; }

// The same of outputs and of their gradients, of which there is one a query.
fn out_at(at: Place) -> u32 { return p.out_offset + at.query * p.out_stride + at.head * HEAD; }
fn dout_at(at: Place) -> u32 { return p.dout_offset + at.query * p.dout_stride + at.head * HEAD; }

// The same of the gradients of the owned side.
#ifdef BACKWARD_KV
fn dqkv_at(at: Place) -> u32 { return p.dqkv_offset + at.key * p.dqkv_stride + at.head * HEAD; }
#else
fn dqkv_at(at: Place) -> u32 { return p.dqkv_offset + at.query * p.dqkv_stride + at.head * HEAD; }
#endif

// Where lse (kind 0) or delta (kind 1) of a sequence's query is.
fn saved_at(kind: u32, at: Place, row: u32) -> u32 {
    return p.saved_offset + (kind * p.heads + at.head) * p.rows + at.query + row;
}
