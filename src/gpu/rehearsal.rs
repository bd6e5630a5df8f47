//! What a device would have to do. A rehearsal goes through a step with all its shapes and plans, allocates nothing,
//! runs nothing, and keeps an account: memory, dispatches and uploads of networks that this machine could not hold.

use std::collections::HashSet;

use super::Kernel;
use super::stream::Load;
use crate::profile::Work;

/// The account of a rehearsal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Dispatches.
    pub dispatches: usize,
    /// Times that they were handed over.
    pub submissions: usize,
    /// Writes from the host.
    pub uploads: usize,
    /// Their bytes.
    pub uploaded: usize,
    /// Arithmetic and memory traffic of all dispatches.
    pub work: Work,
    /// The dispatch that would take longest on a slow adapter: its kernel, and what it has to do.
    pub longest: Option<(Kernel, Work)>,
    /// The kernels, each once, in the order of their first use.
    pub kernels: Vec<Kernel>,
    seen: HashSet<Kernel>,
    load: Load,
}

impl Tally {
    pub(super) fn dispatch(&mut self, kernel: &Kernel, work: Work) {
        self.dispatches += 1;
        if !self.seen.contains(kernel) {
            self.seen.insert(kernel.clone());
            self.kernels.push(kernel.clone());
        }
        self.submissions += usize::from(self.load.must_go_before(work));
        self.submissions += usize::from(self.load.must_go_after(work));
        self.work.flops += work.flops;
        self.work.bytes += work.bytes;
        if self.longest.as_ref().is_none_or(|(_, most)| Load::seconds_of(*most) < Load::seconds_of(work)) {
            self.longest = Some((kernel.clone(), work));
        }
    }

    pub(super) fn submit(&mut self) {
        self.submissions += usize::from(!self.load.is_empty());
        self.load = Load::default();
    }
}
