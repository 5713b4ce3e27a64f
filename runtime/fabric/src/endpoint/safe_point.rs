//! Safe points: where nothing of a task or a message is on the core's stack.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::cell::{Cell, RefCell};
use core::fmt;

use super::Core;
use crate::contain;
use crate::doorbell::Ask;

/// What a core has put off to its next safe point, in order.
pub(super) type Deferred = RefCell<VecDeque<Box<dyn FnOnce(&SafePoint<'_>)>>>;

/// Proof that the core is at a safe point: no poll of a task and no function of a message is on its stack below whoever holds
/// this, so nobody there holds a reference that was given out "until the next safe point".
///
/// Only [`Core::safe_point`] makes one. It is lent, never owned, and cannot leave the thread.
pub struct SafePoint<'a> {
    core: &'a Core,
}

impl fmt::Debug for SafePoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SafePoint").field("core", &self.core.id()).finish()
    }
}

impl<'a> SafePoint<'a> {
    /// The core that is at the safe point.
    #[must_use]
    pub fn core(&self) -> &'a Core {
        self.core
    }
}

/// What a safe point found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Nothing was asked for.
    Nothing,
    /// Something was, and was done.
    Something,
    /// The same, and the turn before had taken its [slice](crate::slice).
    SliceOver,
}

/// What was asked for and is not served yet. A message that panics in a stop unwinds through here: then the core is asked again, for who asked waits.
struct Taken<'a> {
    core: &'a Core,
    left: Cell<u64>,
}

impl Taken<'_> {
    fn has(&self, what: Ask) -> bool {
        self.left.get() & what as u64 != 0
    }

    fn is_served(&self, what: Ask) {
        self.left.set(self.left.get() & !(what as u64));
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for what in [Ask::Stop, Ask::Update, Ask::Deferred].into_iter().filter(|&what| self.has(what)) {
            // [doorbell A1] by the core itself, which has seen the request (A2) and is awake.
            self.core.own().doorbell.ask_awake(what);
        }
    }
}

impl Core {
    /// Serves what may be served at a safe point only: stops, the end of a slice, and what was put off by [`at_safe_point`](Self::at_safe_point).
    /// One load when there is nothing.
    ///
    /// The core's loop calls it every tick, also while it shuts down and while it waits for others: a core that runs and does not come
    /// here holds up everyone who wants it to stop. One that has left is waited for by nobody. While the core is stopped this
    /// does not return; it *runs messages* then as far as the stop allows.
    ///
    /// # Safety
    ///
    /// 1. No poll of a task, no function of a message and no function of a safe point is on the calling thread's stack: the
    ///    core's outermost loop calls this itself.
    /// 2. Nothing else below on that stack holds a reference that was given out until the core's next safe point.
    ///
    /// ```compile_fail,E0133
    /// fn inside_a_message(core: &ipiq_fabric::Core, _: ipiq_fabric::CoreId) {
    ///     core.safe_point();
    /// }
    /// ```
    #[inline(always)]
    pub unsafe fn safe_point(&self) -> Served {
        if self.wants_safe_point() { self.serve_safe_point() } else { Served::Nothing }
    }

    /// Whether something waits for the core's next safe point: a loop that polls tasks ends its turn early then.
    #[must_use]
    #[inline(always)]
    pub fn wants_safe_point(&self) -> bool {
        // [slice C2]
        self.own().doorbell.is_asked(Ask::AT_SAFE_POINTS)
    }

    #[cold]
    fn serve_safe_point(&self) -> Served {
        assert!(self.nesting.get() == 0, "a safe point inside a function of a message");
        let taken = Taken { core: self, left: Cell::new(0) };
        let take = || taken.left.set(self.own().doorbell.take_asked(Ask::AT_SAFE_POINTS));
        if self.own().doorbell.is_asked(Ask::Stop as u64) {
            // [doorbell A2] once the lead has its answer; the order is looked at again after that.
            self.obey(take);
        }
        if taken.left.get() == 0 {
            // [doorbell A2] [slice C3]
            take();
            if taken.has(Ask::Stop) {
                self.obey(|| ());
            }
        }
        let here = SafePoint { core: self };
        if taken.has(Ask::Stop) {
            self.lead_if_wanted(&here);
            taken.is_served(Ask::Stop);
        }
        if taken.has(Ask::Update) {
            self.serve_updates();
            taken.is_served(Ask::Update);
        }
        if taken.has(Ask::Deferred) {
            taken.is_served(Ask::Deferred);
            // What is put off meanwhile waits for the next safe point.
            let deferred = self.deferred.take();
            deferred.into_iter().for_each(|f| contain(|| f(&here)));
        }
        if taken.has(Ask::Slice) { Served::SliceOver } else { Served::Something }
    }

    /// Puts `f` off to this core's next safe point: runs it there, after what was put off before. From anywhere on the core's
    /// thread, also inside a function of a message or a poll.
    ///
    /// A panic of `f` reaches nobody. If the core leaves first, `f` is dropped, not run.
    pub fn at_safe_point(&self, f: impl FnOnce(&SafePoint<'_>) + 'static) {
        self.deferred.borrow_mut().push_back(Box::new(f));
        // [doorbell A1]
        self.own().doorbell.ask_awake(Ask::Deferred);
    }

    /// The core leaves: no safe point comes any more.
    pub(super) fn drop_deferred(&self) {
        let deferred = self.deferred.take();
        deferred.into_iter().for_each(|f| contain(|| drop(f)));
    }
}
