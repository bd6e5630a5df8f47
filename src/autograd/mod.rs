//! Reverse-mode differentiation over a tape. Operations record a closure that turns the cotangents of their
//! outputs into those of their inputs; closures run once, last first, and free what they saved.
//!
//! Gradients of activations are written by the first operation that contributes and added to by later ones;
//! gradients of parameters are always added to, in place, through the slice of the parameter that was used.
//!
//! An operation names its inputs once, to [`Tape::record`], and on the way back gets one [`InputGradient`]
//! for each, in the same order. One that is wanted and that the operation does not settle is an error, so no
//! gradient can be forgotten.

mod arrival;
mod gradient;

pub use arrival::{Arrival, Listener, Listeners};
pub use gradient::{InputGradient, Target};

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::profile;
use crate::tensor::Tensor;
use arrival::FirstUses;
use gradient::{Cotangents, Gradient, Slot};

/// A value under the tape: a tensor and where its gradient goes.
#[derive(Clone)]
pub struct Var {
    value: Tensor,
    gradient: Gradient,
}

impl Var {
    /// A value without gradient.
    pub fn constant(value: Tensor) -> Self {
        Self { value, gradient: Gradient::None }
    }

    /// A parameter: gradients are added to `gradient`, a view shaped like `value`, and `arrival` notes when
    /// one arrives.
    pub fn parameter(value: Tensor, gradient: Tensor, arrival: Rc<Arrival>) -> Self {
        debug_assert_eq!(value.shape(), gradient.shape());
        Self { value, gradient: Gradient::Parameter(gradient, arrival) }
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Whether a gradient is wanted.
    pub fn is_tracked(&self) -> bool {
        !matches!(self.gradient, Gradient::None)
    }

    /// A view of a parameter or constant. Views of activations are operations (they need a gradient of their
    /// own).
    pub fn view(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let gradient = match &self.gradient {
            Gradient::None => Gradient::None,
            Gradient::Parameter(t, arrival) => Gradient::Parameter(f(t)?, arrival.clone()),
            Gradient::Slot(_) => {
                return Err(Error::shape(
                    "view",
                    "a view of an activation loses its gradient; use an operation",
                ));
            }
        };
        Ok(Self { value: f(&self.value)?, gradient })
    }
}

type Backward = Box<dyn FnOnce(&Cotangents) -> Result<()>>;

struct Node {
    name: &'static str,
    /// The slot of the output.
    output: usize,
    backward: Backward,
}

/// The record of what was computed.
pub struct Tape {
    recording: bool,
    /// Whether segments keep their input alone and are computed again on the way back.
    recomputing: bool,
    nodes: RefCell<Vec<Node>>,
    slots: Cell<usize>,
    /// Of a tape that tells when the gradients of parameters are complete: not of one that runs a segment anew.
    first_uses: Option<Rc<FirstUses>>,
}

impl Tape {
    /// A tape that records.
    pub fn new() -> Self {
        Self { recording: true, first_uses: Some(Rc::default()), ..Self::no_grad() }
    }

    /// A tape that records, and of every [`Tape::segment`] keeps the input alone (activation checkpointing,
    /// Chen et al. 2016): less memory for one more forward pass. The gradients are the same to the bit.
    pub fn recomputing() -> Self {
        Self { recomputing: true, ..Self::new() }
    }

    /// A tape that records nothing: operations save nothing and work in place where they can.
    pub fn no_grad() -> Self {
        Self {
            recording: false,
            recomputing: false,
            nodes: RefCell::default(),
            slots: Cell::new(0),
            first_uses: None,
        }
    }

    /// Whether an operation on `inputs` must save what its gradient needs.
    pub fn needs<'v, V: Into<Option<&'v Var>>>(&self, inputs: impl IntoIterator<Item = V>) -> bool {
        self.recording && inputs.into_iter().any(|v| v.into().is_some_and(Var::is_tracked))
    }

    fn slot(&self, value: Tensor) -> (Var, usize) {
        let id = self.slots.get();
        self.slots.set(id + 1);
        let (device, shape, dtype) = (value.device().clone(), value.shape().to_vec(), value.dtype());
        (Var { value, gradient: Gradient::Slot(Rc::new(Slot { id, device, shape, dtype })) }, id)
    }

    /// A value whose gradient is wanted; read it from [`Gradients::get`] after [`Self::backward`].
    pub fn leaf(&self, value: Tensor) -> Var {
        if self.recording { self.slot(value).0 } else { Var::constant(value) }
    }

    /// Records an operation with one output. `backward` gets the gradients that are asked of it, one for each
    /// of `inputs` and in their order (an input that may be missing is an `Option<&Var>`), and the output's
    /// cotangent; it is not called where none arrives. Without a tracked input nothing is recorded.
    pub fn record<'v, V: Into<Option<&'v Var>>, const N: usize>(
        &self,
        name: &'static str,
        inputs: [V; N],
        output: Tensor,
        backward: impl FnOnce([InputGradient; N], Tensor) -> Result<()> + 'static,
    ) -> Var {
        let inputs = inputs.map(V::into);
        self.note_uses(inputs.into_iter().flatten());
        if !self.needs(inputs) {
            return Var::constant(output);
        }
        let wanted = inputs.map(|v| v.map_or(Gradient::None, |v| v.gradient.clone()));
        self.push(name, output, move |cotangents, dy| {
            let mut input = 0..;
            backward(wanted.map(|g| InputGradient::new(cotangents, g, input.next())), dy)
        })
    }

    /// As [`Self::record`] with as many inputs as there happen to be.
    pub fn record_list(
        &self,
        name: &'static str,
        inputs: &[&Var],
        output: Tensor,
        backward: impl FnOnce(Vec<InputGradient>, Tensor) -> Result<()> + 'static,
    ) -> Var {
        self.note_uses(inputs.iter().copied());
        if !self.needs(inputs.iter().copied()) {
            return Var::constant(output);
        }
        let wanted: Vec<_> = inputs.iter().map(|v| v.gradient.clone()).collect();
        self.push(name, output, move |cotangents, dy| {
            let each = wanted.into_iter().enumerate();
            backward(each.map(|(i, g)| InputGradient::new(cotangents, g, Some(i))).collect(), dy)
        })
    }

    /// Notes the parameters among the inputs of the node that is about to be recorded.
    fn note_uses<'v>(&self, inputs: impl Iterator<Item = &'v Var>) {
        let Some(uses) = &self.first_uses else { return };
        if self.recording {
            uses.at.set(self.nodes.borrow().len());
        }
        for input in inputs {
            if let Gradient::Parameter(_, arrival) = &input.gradient {
                uses.note(arrival);
            }
        }
    }

    fn push(
        &self,
        name: &'static str,
        output: Tensor,
        backward: impl FnOnce(&Cotangents, Tensor) -> Result<()> + 'static,
    ) -> Var {
        let (var, id) = self.slot(output);
        let backward: Backward = Box::new(move |cotangents| match cotangents.take(id) {
            Some(cotangent) => backward(cotangents, cotangent),
            None => Ok(()),
        });
        self.nodes.borrow_mut().push(Node { name, output: id, backward });
        var
    }

    /// Runs `f`, a part of a network with one input and one output, whose activations a recomputing tape does
    /// not keep. `f` must do the same each time: what is random in it is drawn before.
    pub fn segment(&self, input: &Var, f: impl Fn(&Tape, &Var) -> Result<Var> + 'static) -> Result<Var> {
        if !self.recording || !self.recomputing {
            return f(self, input);
        }
        self.note_uses(std::iter::once(input));
        // its parameters are this node's
        let inner = Tape { first_uses: self.first_uses.clone(), ..Tape::no_grad() };
        let output = f(&inner, &Var::constant(input.value.clone()))?;
        let (saved, wanted) = (input.value.clone(), input.gradient.clone());
        // also where the input is a constant: what `f` brings with it has gradients
        Ok(self.push("segment", output.value, move |cotangents, dy| {
            let tape = Tape { first_uses: None, ..Tape::new() };
            let leaf = tape.leaf(saved);
            let output = f(&tape, &leaf)?;
            let gradient = tape.backward(vec![(&output, dy)])?.take(&leaf);
            gradient.map_or(Ok(()), |gradient| cotangents.add(&wanted, gradient))
        }))
    }

    /// Propagates `seeds` (a value and its cotangent each) back to leaves and parameters.
    ///
    /// Errors are those of the operations, with the operation named. It is one too if an operation does not
    /// settle the gradient of an input.
    pub fn backward(self, seeds: Vec<(&Var, Tensor)>) -> Result<Gradients> {
        let cotangents = Cotangents::default();
        for (var, cotangent) in seeds {
            if cotangent.shape() != var.value.shape() {
                let problem = format!("cotangent {cotangent:?} of a value {:?}", var.value);
                return Err(Error::shape("backward", problem));
            }
            cotangents.add(&var.gradient, cotangent)?;
        }
        for (node, Node { name, output, backward }) in self.nodes.into_inner().into_iter().enumerate().rev() {
            let span = profile::gradient(name);
            let done = backward(&cotangents).and_then(|()| cotangents.check_settled());
            done.map_err(|e| e.during(format!("backward of {name} (output {output})")))?;
            drop(span);
            self.first_uses.as_ref().map_or(Ok(()), |uses| uses.passed(node))?;
        }
        Ok(Gradients { slots: cotangents.slots.into_inner() })
    }
}

impl Default for Tape {
    fn default() -> Self {
        Self::new()
    }
}

/// What [`Tape::backward`] leaves: the gradients of leaves.
pub struct Gradients {
    slots: HashMap<usize, Tensor>,
}

impl Gradients {
    /// The gradient of a leaf, if one arrived.
    pub fn get<'a>(&'a self, leaf: &'a Var) -> Option<&'a Tensor> {
        match &leaf.gradient {
            Gradient::Slot(slot) => self.slots.get(&slot.id),
            Gradient::Parameter(tensor, _) => Some(tensor),
            Gradient::None => None,
        }
    }

    fn take(mut self, leaf: &Var) -> Option<Tensor> {
        match &leaf.gradient {
            Gradient::Slot(slot) => self.slots.remove(&slot.id),
            _ => None,
        }
    }
}
