//! The gradients of parameters as they arrive: which have, and which are complete while the way back goes on.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use crate::error::Result;

/// Is told of the gradients of parameters while a tape is recorded and on the way back.
pub trait Listener {
    /// The parameter of this number is used on the tape: a gradient will come, and be complete later.
    fn used(&self, parameter: usize);
    /// All gradients that the tape has for it are added up. It is the caller that runs [`super::Tape::backward`].
    fn complete(&self, parameter: usize) -> Result<()>;
    /// A gradient is about to be added to the parameter; an error where it was complete already.
    fn arrives(&self, parameter: usize) -> Result<()>;
}

/// Where the parameters of one network find who listens.
#[derive(Default)]
pub struct Listeners(RefCell<Option<Rc<dyn Listener>>>);

impl Listeners {
    /// From now on `listener` is told, or nobody.
    pub fn set(&self, listener: Option<Rc<dyn Listener>>) {
        *self.0.borrow_mut() = listener;
    }

    fn get(&self) -> Option<Rc<dyn Listener>> {
        self.0.borrow().clone()
    }
}

/// Whether the gradient of one parameter has arrived.
#[derive(Default)]
pub struct Arrival {
    touched: Cell<bool>,
    parameter: usize,
    listeners: Rc<Listeners>,
}

impl Arrival {
    /// That of a parameter with this number.
    pub fn of(parameter: usize, listeners: &Rc<Listeners>) -> Self {
        Self { touched: Cell::new(false), parameter, listeners: listeners.clone() }
    }

    /// Notes that a gradient has arrived.
    pub fn touch(&self) {
        self.touched.set(true);
    }

    /// A gradient arrives on the way back: notes it, and tells who listens.
    pub(super) fn arrive(&self) -> Result<()> {
        self.touch();
        self.listeners.get().map_or(Ok(()), |listener| listener.arrives(self.parameter))
    }

    /// Whether one has.
    pub fn touched(&self) -> bool {
        self.touched.get()
    }

    /// Whether one has since this was last asked.
    pub fn take(&self) -> bool {
        self.touched.replace(false)
    }
}

/// Where a tape's parameters were used first. The way back is the other way round, so their gradients are complete
/// when it has come there.
#[derive(Default)]
pub(super) struct FirstUses {
    known: RefCell<HashSet<*const Arrival>>,
    /// By the number of the node, which grows.
    list: RefCell<Vec<(usize, Rc<Arrival>)>>,
    /// The node that is being recorded.
    pub at: Cell<usize>,
}

impl FirstUses {
    /// A parameter is used by the node that is being recorded.
    pub fn note(&self, arrival: &Rc<Arrival>) {
        let Some(listener) = arrival.listeners.get() else { return };
        if self.known.borrow_mut().insert(Rc::as_ptr(arrival)) {
            self.list.borrow_mut().push((self.at.get(), arrival.clone()));
            listener.used(arrival.parameter);
        }
    }

    /// The way back has come past a node.
    pub fn passed(&self, node: usize) -> Result<()> {
        loop {
            let complete = self.list.borrow_mut().pop_if(|(first, _)| *first >= node);
            let Some((_, arrival)) = complete else { return Ok(()) };
            if let Some(listener) = arrival.listeners.get() {
                listener.complete(arrival.parameter)?;
            }
        }
    }
}
