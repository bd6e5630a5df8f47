// The sequences that attention.wgsl and attention_cooperative.wgsl go over: up to four groups of them; group
// i ends before workgroup end_i, starts at row first_i and has sequences of length_i rows. The including
// shader says how many ROWS of a sequence and head a workgroup takes.
struct Params {
    heads: u32, rows: u32,
    qkv_offset: u32, qkv_stride: u32,
    out_offset: u32, out_stride: u32,
    dout_offset: u32, dout_stride: u32,
    dqkv_offset: u32, dqkv_stride: u32,
    saved_offset: u32,
    end_0: u32, end_1: u32, end_2: u32, end_3: u32,
    first_0: u32, first_1: u32, first_2: u32, first_3: u32,
    length_0: u32, length_1: u32, length_2: u32, length_3: u32,
    scale: f32,
}

// What a workgroup works on: rows [start, start + ROWS) of the sequence of `length` rows from row `first`.
struct Place { first: u32, length: u32, head: u32, start: u32 }

fn workgroups() -> u32 { return p.end_3; }

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
    return Place(first + j / p.heads * length, length, j % p.heads, (i % blocks) * ROWS);
}

// Where lse (kind 0) or delta (kind 1) of a sequence's row is.
fn saved_at(kind: u32, at: Place, row: u32) -> u32 {
    return p.saved_offset + (kind * p.heads + at.head) * p.rows + at.first + row;
}
