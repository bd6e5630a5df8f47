//! Gradients on their way back, and what an operation owes its inputs.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use crate::autograd::arrival::Arrival;
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Tensor, add_assign, fill};

/// Where the gradient of a value goes.
#[derive(Clone)]
pub(super) enum Gradient {
    /// Nowhere: a constant.
    None,
    /// Into this slot of the tape.
    Slot(Rc<Slot>),
    /// Added to this view of the parameters' gradients, which is noted.
    Parameter(Tensor, Rc<Arrival>),
}

/// Place for the gradient of an activation, which is allocated when a gradient arrives. It does not keep the
/// activation.
pub(super) struct Slot {
    pub id: usize,
    pub device: Device,
    pub shape: Vec<usize>,
    pub dtype: DType,
}

/// A place an operation writes a gradient to.
pub struct Target {
    /// Shaped like the value. Undefined contents unless `accumulate`.
    pub tensor: Tensor,
    /// Whether the gradient is to be added to what is there.
    pub accumulate: bool,
}

impl Target {
    /// The target, or in its place memory shaped like `value` whose contents nobody will read: for kernels
    /// that make several gradients at once.
    pub fn or_scratch(target: Option<Self>, value: &Tensor) -> Result<Self> {
        match target {
            Some(target) => Ok(target),
            None => {
                let tensor = Tensor::empty(value.device(), value.shape(), DType::F32)?;
                Ok(Self { tensor, accumulate: false })
            }
        }
    }
}

/// Cotangents on their way back.
#[derive(Default)]
pub(super) struct Cotangents {
    pub slots: RefCell<HashMap<usize, Tensor>>,
    /// The input of the last operation whose gradient was wanted and not settled.
    forgotten: Cell<Option<usize>>,
}

impl Cotangents {
    pub fn take(&self, slot: usize) -> Option<Tensor> {
        self.slots.borrow_mut().remove(&slot)
    }

    fn target(&self, gradient: &Gradient) -> Result<Option<Target>> {
        Ok(match gradient {
            Gradient::None => None,
            Gradient::Parameter(tensor, arrival) => {
                arrival.arrive()?;
                Some(Target { tensor: tensor.clone(), accumulate: true })
            }
            Gradient::Slot(slot) => {
                let present = self.slots.borrow().get(&slot.id).cloned();
                Some(match present {
                    Some(tensor) => Target { tensor, accumulate: true },
                    None => {
                        let tensor = Tensor::empty(&slot.device, &slot.shape, slot.dtype)?;
                        self.slots.borrow_mut().insert(slot.id, tensor.clone());
                        Target { tensor, accumulate: false }
                    }
                })
            }
        })
    }

    pub fn add(&self, gradient: &Gradient, value: Tensor) -> Result<()> {
        if let Gradient::Slot(slot) = gradient
            && !self.slots.borrow().contains_key(&slot.id)
        {
            self.slots.borrow_mut().insert(slot.id, value);
            return Ok(());
        }
        match self.target(gradient)? {
            Some(target) => add_assign(&target.tensor, &value),
            None => Ok(()),
        }
    }

    /// An error where the last operation left a gradient that was wanted.
    pub fn check_settled(&self) -> Result<()> {
        match self.forgotten.take() {
            Some(input) => Err(Error::shape(
                "tape",
                format!("the gradient of input {input} is neither written nor dismissed"),
            )),
            None => Ok(()),
        }
    }
}

/// The gradient that is asked of an operation for one of its inputs. The operation must settle it: write it,
/// hand it over, or say why there is none.
pub struct InputGradient<'a> {
    cotangents: &'a Cotangents,
    gradient: Gradient,
    /// Which of the operation's inputs.
    input: usize,
    settled: Cell<bool>,
}

impl<'a> InputGradient<'a> {
    pub(super) fn new(cotangents: &'a Cotangents, gradient: Gradient, input: Option<usize>) -> Self {
        let settled = Cell::new(matches!(gradient, Gradient::None));
        Self { cotangents, gradient, input: input.unwrap_or_default(), settled }
    }

    /// Whether the gradient is wanted.
    pub fn is_wanted(&self) -> bool {
        !matches!(self.gradient, Gradient::None)
    }

    /// Where to write the gradient now; `None` where it is not wanted. The caller must write every element
    /// (or add to every element it has a gradient for, where `accumulate`). For kernels that make several
    /// gradients at once; [`Self::write`] and [`Self::add_to`] read better where there is one.
    pub fn target(&self) -> Result<Option<Target>> {
        self.settled.set(true);
        self.cotangents.target(&self.gradient)
    }

    /// As [`Self::target`], zeroed where nothing was there yet.
    pub fn target_zeroed(&self) -> Result<Option<Target>> {
        let Some(target) = self.target()? else { return Ok(None) };
        if !target.accumulate {
            fill(&target.tensor, 0)?;
        }
        Ok(Some(Target { accumulate: true, ..target }))
    }

    /// Lets `f(gradient, accumulate)` write the gradient, or add to it where `accumulate`, if it is wanted.
    pub fn write(&self, f: impl FnOnce(&Tensor, bool) -> Result<()>) -> Result<()> {
        self.target()?.map_or(Ok(()), |t| f(&t.tensor, t.accumulate))
    }

    /// Lets `f` add to the gradient, which is zero where nothing was there yet, if it is wanted: for
    /// operations that have a gradient for some elements alone.
    pub fn add_to(&self, f: impl FnOnce(&Tensor) -> Result<()>) -> Result<()> {
        self.target_zeroed()?.map_or(Ok(()), |t| f(&t.tensor))
    }

    /// Hands over a finished gradient. The tensor may become the input's gradient itself, so the caller must
    /// not use it afterwards.
    pub fn add(&self, gradient: Tensor) -> Result<()> {
        self.settled.set(true);
        self.cotangents.add(&self.gradient, gradient)
    }

    /// Leaves the input without a gradient; the reason is for the reader.
    pub fn dismiss(&self, _reason: &str) -> Result<()> {
        self.settled.set(true);
        Ok(())
    }
}

impl Drop for InputGradient<'_> {
    fn drop(&mut self) {
        if !self.settled.get() {
            self.cotangents.forgotten.set(Some(self.input));
        }
    }
}
