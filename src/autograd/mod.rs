//! Reverse-mode differentiation over a tape. Operations record a closure that turns the cotangents of their outputs
//! into those of their inputs; closures run once, last first, and free what they saved.
//!
//! Gradients of activations are written by the first operation that contributes and added to by later ones;
//! gradients of parameters are always added to, in place, through the slice of the parameter that was used.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::ops;
use crate::profile;
use crate::tensor::Tensor;

/// Where the gradient of a value goes.
#[derive(Clone)]
enum Gradient {
    /// Nowhere: a constant.
    None,
    /// Into the tape's slot of this number.
    Slot(usize),
    /// Added to this view of the parameters' gradients; the flag says that it happened.
    Parameter(Tensor, Rc<Cell<bool>>),
}

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

    /// A parameter: gradients are added to `gradient`, a view shaped like `value`, and `touched` is set when one
    /// arrives.
    pub fn parameter(value: Tensor, gradient: Tensor, touched: Rc<Cell<bool>>) -> Self {
        debug_assert_eq!(value.shape(), gradient.shape());
        Self { value, gradient: Gradient::Parameter(gradient, touched) }
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Whether a gradient is wanted.
    pub fn is_tracked(&self) -> bool {
        !matches!(self.gradient, Gradient::None)
    }

    /// A view of a parameter or constant. Views of activations are operations (they need a gradient of their own).
    pub fn view(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let gradient = match &self.gradient {
            Gradient::None => Gradient::None,
            Gradient::Parameter(t, touched) => Gradient::Parameter(f(t)?, touched.clone()),
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

type Backward = Box<dyn FnOnce(&mut Gradients) -> Result<()>>;

struct Node {
    name: &'static str,
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
}

impl Tape {
    /// A tape that records.
    pub fn new() -> Self {
        Self { recording: true, recomputing: false, nodes: RefCell::default(), slots: Cell::new(0) }
    }

    /// A tape that records, and of every [`Tape::segment`] keeps the input alone (activation checkpointing, Chen et al.
    /// 2016): less memory for one more forward pass. The gradients are the same to the bit.
    pub fn recomputing() -> Self {
        Self { recomputing: true, ..Self::new() }
    }

    /// A tape that records nothing: operations save nothing and work in place where they can.
    pub fn no_grad() -> Self {
        Self { recording: false, ..Self::new() }
    }

    /// Whether an operation on `inputs` must save what its gradient needs.
    pub fn needs(&self, inputs: &[&Var]) -> bool {
        self.recording && inputs.iter().any(|v| v.is_tracked())
    }

    fn slot(&self, value: Tensor) -> Var {
        let id = self.slots.get();
        self.slots.set(id + 1);
        Var { value, gradient: Gradient::Slot(id) }
    }

    /// A value whose gradient is wanted; read it from [`Gradients::get`] after [`Self::backward`].
    pub fn leaf(&self, value: Tensor) -> Var {
        if self.recording { self.slot(value) } else { Var::constant(value) }
    }

    /// Records an operation with one output. `backward` gets the gradients and the output's cotangent; it is not
    /// called where none arrives. Without a tracked input nothing is recorded.
    pub fn record(
        &self,
        name: &'static str,
        inputs: &[&Var],
        output: Tensor,
        backward: impl FnOnce(&mut Gradients, Tensor) -> Result<()> + 'static,
    ) -> Var {
        if !self.needs(inputs) {
            return Var::constant(output);
        }
        let var = self.slot(output);
        let Gradient::Slot(id) = var.gradient else { unreachable!("just made") };
        let backward: Backward = Box::new(move |g| match g.slots.remove(&id) {
            Some(cotangent) => backward(g, cotangent),
            None => Ok(()),
        });
        self.nodes.borrow_mut().push(Node { name, output: id, backward });
        var
    }

    /// Runs `f`, a part of a network with one input and one output, whose activations a recomputing tape does not
    /// keep. `f` must do the same each time: what is random in it is drawn before.
    pub fn segment(&self, input: &Var, f: impl Fn(&Tape, &Var) -> Result<Var> + 'static) -> Result<Var> {
        if !self.recording || !self.recomputing {
            return f(self, input);
        }
        let output = f(&Tape::no_grad(), &Var::constant(input.value.clone()))?;
        let segment = self.slot(output.value);
        let Gradient::Slot(id) = segment.gradient else { unreachable!("just made") };
        let input = input.clone();
        let backward: Backward = Box::new(move |g| {
            let Some(cotangent) = g.slots.remove(&id) else { return Ok(()) };
            let tape = Tape::new();
            let leaf = tape.leaf(input.value.clone());
            let output = f(&tape, &leaf)?;
            let mut inner = tape.backward(vec![(&output, cotangent)])?;
            let Gradient::Slot(leaf) = leaf.gradient else { unreachable!("a recording tape's leaf") };
            inner.slots.remove(&leaf).map_or(Ok(()), |gradient| g.add(&input, gradient))
        });
        self.nodes.borrow_mut().push(Node { name: "segment", output: id, backward });
        Ok(segment)
    }

    /// Propagates `seeds` (a value and its cotangent each) back to leaves and parameters.
    pub fn backward(self, seeds: Vec<(&Var, Tensor)>) -> Result<Gradients> {
        let mut gradients = Gradients { slots: HashMap::new() };
        for (var, cotangent) in seeds {
            if cotangent.shape() != var.value.shape() {
                let problem = format!("cotangent {cotangent:?} of a value {:?}", var.value);
                return Err(Error::shape("backward", problem));
            }
            gradients.add(var, cotangent)?;
        }
        for node in self.nodes.into_inner().into_iter().rev() {
            let (name, output) = (node.name, node.output);
            let _span = profile::gradient(name);
            (node.backward)(&mut gradients)
                .map_err(|e| Error::shape("backward", format!("of {name} (output {output}): {e}")))?;
        }
        Ok(gradients)
    }
}

impl Default for Tape {
    fn default() -> Self {
        Self::new()
    }
}

/// A place an operation writes a gradient to.
pub struct Target {
    /// Shaped like the value. Undefined contents unless `accumulate`.
    pub tensor: Tensor,
    /// Whether the gradient is to be added to what is there.
    pub accumulate: bool,
}

/// Cotangents on their way back.
pub struct Gradients {
    slots: HashMap<usize, Tensor>,
}

impl Gradients {
    /// Where to write the gradient of `var`; `None` where it is not wanted. The caller must write every element
    /// (or add to every element it has a gradient for, where `accumulate`).
    pub fn target(&mut self, var: &Var) -> Result<Option<Target>> {
        Ok(match &var.gradient {
            Gradient::None => None,
            Gradient::Parameter(tensor, touched) => {
                touched.set(true);
                Some(Target { tensor: tensor.clone(), accumulate: true })
            }
            Gradient::Slot(id) => match self.slots.get(id) {
                Some(tensor) => Some(Target { tensor: tensor.clone(), accumulate: true }),
                None => {
                    let (device, shape) = (var.value.device(), var.value.shape());
                    let tensor = Tensor::empty(device, shape, var.value.dtype())?;
                    self.slots.insert(*id, tensor.clone());
                    Some(Target { tensor, accumulate: false })
                }
            },
        })
    }

    /// As [`Self::target`], zeroed where nothing was there yet: for operations that write only some elements.
    pub fn target_zeroed(&mut self, var: &Var) -> Result<Option<Tensor>> {
        let Some(target) = self.target(var)? else { return Ok(None) };
        if !target.accumulate {
            ops::fill::fill(&target.tensor, 0)?;
        }
        Ok(Some(target.tensor))
    }

    /// Hands over a finished gradient of `var`. The tensor may become the slot itself, so the caller must not use
    /// it afterwards.
    pub fn add(&mut self, var: &Var, gradient: Tensor) -> Result<()> {
        match &var.gradient {
            Gradient::None => Ok(()),
            Gradient::Parameter(tensor, touched) => {
                touched.set(true);
                ops::elementwise::add_assign(tensor, &gradient)
            }
            Gradient::Slot(id) => match self.slots.get(id) {
                Some(tensor) => ops::elementwise::add_assign(tensor, &gradient),
                None => {
                    self.slots.insert(*id, gradient);
                    Ok(())
                }
            },
        }
    }

    /// The gradient of a leaf, if one arrived.
    pub fn get<'a>(&'a self, leaf: &'a Var) -> Option<&'a Tensor> {
        match &leaf.gradient {
            Gradient::Slot(id) => self.slots.get(id),
            Gradient::Parameter(tensor, _) => Some(tensor),
            Gradient::None => None,
        }
    }
}
