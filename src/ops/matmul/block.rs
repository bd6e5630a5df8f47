//! A product of three matrices in memory, as all products on the CPU come down to.

/// A matrix in memory: its first element, distance of rows, distance of columns.
#[derive(Clone, Copy)]
pub(super) struct At<P> {
    pub first: P,
    pub row: usize,
    pub col: usize,
}

impl<T> At<*mut T> {
    pub fn place(&self, row: usize, col: usize) -> *mut T {
        self.first.wrapping_add(row * self.row + col * self.col)
    }
}

impl<T> At<*const T> {
    pub fn place(&self, row: usize, col: usize) -> *const T {
        self.first.wrapping_add(row * self.row + col * self.col)
    }
}

impl<P> At<P> {
    fn t(self) -> Self {
        Self { first: self.first, row: self.col, col: self.row }
    }
}

/// C (+)= α·A·B with A `[m, k]`, B `[k, n]` and C `[m, n]`.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub c: At<*mut f32>,
    pub a: At<*const f32>,
    pub b: At<*const f32>,
    pub alpha: f32,
    pub accumulate: bool,
    /// Whether all cores take part, or this thread alone.
    pub all_cores: bool,
    /// Whether A and B may be rounded to bfloat16.
    pub bf16: bool,
}

// SAFETY: a description; who multiplies the block answers for its memory.
unsafe impl<P> Sync for At<P> {}

impl Block {
    /// The same product by columns: Cᵀ (+)= α·Bᵀ·Aᵀ.
    pub fn t(self) -> Self {
        Self { m: self.n, n: self.m, c: self.c.t(), a: self.b.t(), b: self.a.t(), ..self }
    }
}
