//! Tensors: strided views over pooled device memory. Slicing, transposing and reshaping cost nothing; kernels
//! receive offset and strides, so the slice of a parameter is read and written in place. What has no gradient
//! of its own stands here too: filling, copies, addition, scaling, conversion.

mod cast;
mod device;
mod elementwise;
mod fill;
mod kernels;
mod launch;
mod pending;
mod storage;
mod strided_copy;
mod views;

pub use cast::{convert, to_type};
pub use device::{Bf16Products, Device};
pub(crate) use elementwise::Elementwise;
pub use elementwise::{add_assign, add_scaled, copy, scale};
pub use fill::fill;
pub use kernels::kernels;
pub(crate) use launch::{WG, activation_types, common_rows, flat_rows, half_define, vec4_aligned};
pub use pending::PendingRead;
pub use strided_copy::strided_copy;
pub(crate) use views::{CpuRead, CpuRowsMut};

use std::ops::Range;
use std::rc::Rc;

use crate::error::{Error, Result};
pub use crate::layout::{Layout, Rows};
use storage::Storage;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision: activations and the operands of products in mixed precision, on a GPU.
    F16,
    /// Unsigned integers: row indices, masks, sequence tables.
    U32,
}

impl DType {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Bytes of a single-precision or integer element: what sizes are reckoned with.
pub const ELEMENT_BYTES: usize = 4;

/// Elements kept untouched on each side of a fenced allocation (see [`Device::set_fences`]).
pub(crate) const FENCE: usize = 64;
/// Bit pattern of poisoned, never written memory: a NaN that no arithmetic produces.
pub(crate) const POISON: u32 = 0x7fc0_dead;
/// The same in half precision.
pub(crate) const POISON_HALF: u16 = 0xfead;

/// A view over device memory. Cloning is cheap and shares the memory.
#[derive(Clone)]
pub struct Tensor {
    storage: Rc<Storage>,
    layout: Layout,
    dtype: DType,
}

/// Rust types that tensors hold.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// The matching tensor type.
    const DTYPE: DType;
}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for u32 {
    const DTYPE: DType = DType::U32;
}
impl Element for half::f16 {
    const DTYPE: DType = DType::F16;
}

impl Tensor {
    /// A contiguous tensor of undefined contents.
    pub fn empty(device: &Device, shape: &[usize], dtype: DType) -> Result<Self> {
        let layout = Layout::contiguous(shape);
        if !device.fences() {
            let storage = Rc::new(Storage::new(device, layout.elements() * dtype.bytes())?);
            return Ok(Self { storage, layout, dtype });
        }
        let count = layout.elements() + 2 * FENCE;
        let storage = Rc::new(Storage::new(device, count * dtype.bytes())?);
        match dtype.bytes() {
            2 => storage.write_bytes(0, bytemuck::cast_slice(&vec![POISON_HALF; count]))?,
            _ => storage.write_bytes(0, bytemuck::cast_slice(&vec![POISON; count]))?,
        }
        Ok(Self { storage, layout: layout.shifted(FENCE), dtype })
    }

    /// Copies host data into a new contiguous tensor.
    pub fn from_slice<T: Element>(device: &Device, shape: &[usize], data: &[T]) -> Result<Self> {
        let tensor = Self::empty(device, shape, T::DTYPE)?;
        tensor.upload(data)?;
        Ok(tensor)
    }

    /// Overwrites a contiguous tensor with host data of as many elements.
    pub fn upload<T: Element>(&self, data: &[T]) -> Result<()> {
        if !self.layout.is_contiguous() || self.layout.elements() != data.len() || T::DTYPE != self.dtype {
            return Err(Error::shape(
                "upload",
                format!("{} elements of {:?} into {self:?}", data.len(), T::DTYPE),
            ));
        }
        self.storage.write_bytes(self.layout.offset * self.dtype.bytes(), bytemuck::cast_slice(data))
    }

    /// Copies the elements to the host in row-major order. On a GPU this submits and waits.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype {
            return Err(Error::shape("to_vec", format!("{:?} read from {self:?}", T::DTYPE)));
        }
        let span = self.layout.span();
        let mut raw = vec![T::zeroed(); span];
        let start = self.layout.offset * self.dtype.bytes();
        self.storage.read_bytes(start, bytemuck::cast_slice_mut(&mut raw))?;
        if self.layout.is_contiguous() {
            return Ok(raw);
        }
        Ok(self.layout.indices().map(|i| raw[i]).collect())
    }

    /// The single element of a one-element `f32` tensor.
    pub fn item(&self) -> Result<f32> {
        let v = self.to_vec::<f32>()?;
        match v.as_slice() {
            [x] => Ok(*x),
            _ => Err(Error::shape("item", format!("one element expected, got {self:?}"))),
        }
    }

    /// Lengths of the dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.layout.shape
    }

    /// Length of dimension `dim`.
    pub fn dim(&self, dim: usize) -> usize {
        self.layout.shape[dim]
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.layout.elements()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Offset, shape and strides.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where the tensor lives.
    pub fn device(&self) -> &Device {
        self.storage.device()
    }

    /// The view of `range` along dimension `dim`.
    pub fn slice(&self, dim: usize, range: Range<usize>) -> Result<Self> {
        Ok(self.with_layout(self.layout.slice(dim, range)?))
    }

    /// The view with two dimensions exchanged.
    pub fn transpose(&self, a: usize, b: usize) -> Self {
        self.with_layout(self.layout.transpose(a, b))
    }

    /// A vector as a matrix of `count` rows that are all the vector, without a copy.
    pub fn repeated(&self, count: usize) -> Result<Self> {
        match (self.shape(), &self.layout.strides[..]) {
            ([n], [stride]) => {
                let (shape, strides) = (vec![count, *n], vec![0, *stride]);
                Ok(self.with_layout(Layout { shape, strides, ..self.layout.clone() }))
            }
            _ => Err(Error::shape("repeated", format!("{self:?} is no vector"))),
        }
    }

    /// The view with another shape; fails where that would need a copy.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        Ok(self.with_layout(self.layout.reshape(shape)?))
    }

    /// The view as a matrix of rows: the last dimension contiguous, the others folded into one.
    pub fn rows(&self, op: &'static str) -> Result<Rows> {
        self.layout.rows().ok_or_else(|| {
            Error::shape(op, format!("rows with a contiguous last dimension expected, got {self:?}"))
        })
    }

    /// Whether no element beside the tensor's own was written, for tensors allocated with fences on.
    pub fn fences_intact(&self) -> Result<bool> {
        let total = self.layout.elements() + 2 * FENCE;
        let fences = |all: Vec<u32>, poison: u32| {
            all[..FENCE].iter().chain(&all[total - FENCE..]).all(|&w| w == poison)
        };
        let mut raw = vec![0u8; total * self.dtype.bytes()];
        self.storage.read_bytes(0, &mut raw)?;
        Ok(match self.dtype.bytes() {
            2 => fences(
                raw.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]).into()).collect(),
                POISON_HALF.into(),
            ),
            _ => fences(bytemuck::pod_collect_to_vec(&raw), POISON),
        })
    }

    pub(crate) fn storage(&self) -> &Rc<Storage> {
        &self.storage
    }

    /// The same bits as elements of another type of as many bytes.
    pub(crate) fn reinterpreted(&self, dtype: DType) -> Self {
        assert_eq!(dtype.bytes(), self.dtype.bytes(), "elements of one size");
        Self { dtype, ..self.clone() }
    }

    pub(crate) fn with_layout(&self, layout: Layout) -> Self {
        Self { storage: self.storage.clone(), layout, dtype: self.dtype }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}{:?} (strides {:?})", self.dtype, self.layout.shape, self.layout.strides)
    }
}
