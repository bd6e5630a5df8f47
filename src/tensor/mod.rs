//! Tensors: strided views over pooled device memory. Slicing, transposing and reshaping cost nothing; kernels
//! receive offset and strides, so the slice of a parameter is read and written in place.

mod device;
mod layout;
mod pending;
mod storage;

pub use device::{Device, DeviceChoice};
pub use layout::{Layout, Rows};
pub use pending::PendingRead;
pub(crate) use storage::Storage;

use std::ops::Range;
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::profile;

/// Element type of a tensor. Every type takes four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// Unsigned integers: row indices, masks, sequence tables.
    U32,
}

/// Bytes per element of every [`DType`].
pub const ELEMENT_BYTES: usize = 4;

/// Elements kept untouched on each side of a fenced allocation (see [`Device::set_fences`]).
pub(crate) const FENCE: usize = 64;
/// Bit pattern of poisoned, never written memory: a NaN that no arithmetic produces.
pub(crate) const POISON: u32 = 0x7fc0_dead;

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

impl Tensor {
    /// A contiguous tensor of undefined contents.
    pub fn empty(device: &Device, shape: &[usize], dtype: DType) -> Result<Self> {
        let layout = Layout::contiguous(shape);
        if !device.fences() {
            let storage = Rc::new(device.allocate(layout.elements())?);
            return Ok(Self { storage, layout, dtype });
        }
        let storage = Rc::new(device.allocate(layout.elements() + 2 * FENCE)?);
        storage.write_bytes(device, 0, bytemuck::cast_slice(&vec![POISON; layout.elements() + 2 * FENCE]))?;
        Ok(Self { storage, layout: layout.shifted(FENCE), dtype })
    }

    /// A contiguous tensor of zeros.
    pub fn zeros(device: &Device, shape: &[usize], dtype: DType) -> Result<Self> {
        let tensor = Self::empty(device, shape, dtype)?;
        crate::ops::fill::fill(&tensor, 0)?;
        Ok(tensor)
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
        self.storage.write_bytes(
            self.device(),
            self.layout.offset * ELEMENT_BYTES,
            bytemuck::cast_slice(data),
        )
    }

    /// Copies the elements to the host in row-major order. On a GPU this submits and waits.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype {
            return Err(Error::shape("to_vec", format!("{:?} read from {self:?}", T::DTYPE)));
        }
        let span = self.layout.span();
        let mut raw = vec![T::zeroed(); span];
        let start = self.layout.offset * ELEMENT_BYTES;
        self.storage.read_bytes(self.device(), start, bytemuck::cast_slice_mut(&mut raw))?;
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
        let mut raw = vec![0u32; total];
        self.storage.read_bytes(self.device(), 0, bytemuck::cast_slice_mut(&mut raw))?;
        Ok(raw[..FENCE].iter().chain(&raw[total - FENCE..]).all(|&w| w == POISON))
    }

    pub(crate) fn storage(&self) -> &Rc<Storage> {
        &self.storage
    }

    pub(crate) fn with_layout(&self, layout: Layout) -> Self {
        Self { storage: self.storage.clone(), layout, dtype: self.dtype }
    }

    /// The elements from the view's first to its last, on the CPU device.
    ///
    /// A device is used from one thread and operations run one after the other, so the memory does not change under
    /// the slice as long as the operation holding it does not write to the same elements.
    pub(crate) fn cpu<T: Element>(&self) -> &[T] {
        debug_assert_eq!(T::DTYPE, self.dtype);
        profile::touch(self.elements() * ELEMENT_BYTES);
        let base = self.storage.cpu_pointer() as *const T;
        // SAFETY: the layout was checked against the storage when the view was made.
        unsafe { std::slice::from_raw_parts(base.add(self.layout.offset), self.layout.span()) }
    }

    /// As [`Self::cpu`], for writing. The operation must hold no other slice of the same elements.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn cpu_mut<T: Element>(&self) -> &mut [T] {
        debug_assert_eq!(T::DTYPE, self.dtype);
        profile::touch(self.elements() * ELEMENT_BYTES);
        let base = self.storage.cpu_pointer() as *mut T;
        // SAFETY: as above; the memory is behind a raw pointer, and see the contract in the doc comment.
        unsafe { std::slice::from_raw_parts_mut(base.add(self.layout.offset), self.layout.span()) }
    }
}

impl Tensor {
    /// The elements as bit patterns, whatever their type, on the CPU device. The contract is [`Self::cpu_mut`]'s.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn cpu_words(&self) -> &mut [u32] {
        profile::touch(self.elements() * ELEMENT_BYTES);
        let base = self.storage.cpu_pointer() as *mut u32;
        // SAFETY: as for `cpu_mut`; every type has four bytes and no invalid patterns.
        unsafe { std::slice::from_raw_parts_mut(base.add(self.layout.offset), self.layout.span()) }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}{:?} (strides {:?})", self.dtype, self.layout.shape, self.layout.strides)
    }
}
