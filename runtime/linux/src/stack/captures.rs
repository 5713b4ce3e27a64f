//! Stacks of cores, taken in urgent handlers.

use std::sync::Arc;

use ipiq_fabric::CoreId;
use ipiq_fabric::port::InterruptSafe;

use super::{Limits, Trace, TraceCell};
use crate::interrupt;

/// Room for a capture of each core of a set. Clones share it.
#[derive(Clone, Debug)]
pub struct Captures {
    cells: Arc<[TraceCell]>,
}

impl Captures {
    /// For `cores` cores, each with room for a copy of `stack_bytes` bytes: see [`TraceCell::new`].
    #[must_use]
    pub fn new(cores: usize, stack_bytes: usize) -> Self {
        Self { cells: (0..cores).map(|_| TraceCell::new(stack_bytes)).collect() }
    }

    /// The urgent handler that takes down what it interrupts on a core's thread; nothing where it interrupts nothing, as at the end of a
    /// [critical section](crate::interrupt::critical).
    #[must_use]
    pub fn handler(&self) -> InterruptSafe<impl Fn(CoreId) + Send + Sync + use<>> {
        let cells = self.cells.clone();
        let fill = move |core: CoreId| {
            let context = interrupt::context();
            let Some(cell) = cells.get(core.index()).filter(|_| !context.is_null()) else { return };
            // [stack L1]
            let limits = Limits::remembered();
            // SAFETY: 1. `context` tells what the handler that is running on this thread has been handed. 2. the thread wrote down its own.
            unsafe { cell.fill(context, &limits) };
        };
        // SAFETY: 1. to 3. `fill` of the cell is async-signal-safe, and both thread-local variables have neither destructor nor lazy initialisation. 4. the cell is made for it;
        // the two variables are written by what interrupts the thread, and before it is interrupted. 5. nothing else is called.
        unsafe { InterruptSafe::new(fill) }
    }

    /// Takes the last capture of `core` out, if there is one.
    ///
    /// # Panics
    ///
    /// If there is no such core.
    #[must_use]
    pub fn take(&self, core: CoreId) -> Option<Trace> {
        self.cells[core.index()].take()
    }
}
