#![doc = include_str!("README.md")]

mod bell;
mod mailbox;
mod serve;
mod table;
#[cfg(all(test, not(loom)))]
mod tests;
mod unregister;

use alloc::boxed::Box;
use alloc::sync::Arc as StdArc;
use core::cell::RefCell;

use crate::doorbell::Rung;
use crate::fabric::Shared;
use crate::sync::{Ordering, fence, mutant};
use crate::{Core, CoreId, CoreSet, Fabric};

pub use bell::{Bell, BellWait};
pub use mailbox::Multicast;
pub(crate) use serve::{Counts, Inbox, Local};
pub(crate) use table::{FOREIGN, GENERATION, Life, Table, Word};
pub use table::{HandlerId, MAX_HANDLERS, OnPanic, TableFull, TriggerError, Unregistered};
pub(crate) use unregister::Retired;
pub use unregister::Unregister;

use serve::set_and_ask;

/// T2 and T3, for a handler that is live.
fn mark(shared: &Shared, id: HandlerId, target: CoreId) -> Result<(), TriggerError> {
    match set_and_ask(shared, target, 1 << id.slot) {
        Rung::Gone => Err(TriggerError::Gone),
        Rung::Avoided if shared.is_gone(target) => Err(TriggerError::Gone),
        _ => Ok(()),
    }
}

fn unregister(shared: &StdArc<Shared>, id: HandlerId) -> Result<Unregister, Unregistered> {
    shared.handlers.retire(id)?;
    Ok(Unregister::new(shared, Retired::new(id)))
}

/// [handlers L1]: the core's doorbell has `GONE`, and the fence has been.
pub(crate) fn leave(shared: &Shared, core: CoreId) {
    mailbox::leave(shared, core);
    unregister::leave(shared, core);
}

/// [admission E3], on the core's thread, before it makes a pass.
pub(crate) fn arrive_anew(shared: &Shared, core: CoreId) {
    serve::keep_live(shared, core);
}

/// [handlers L2]: what is or was registered may hold the fabric.
pub(crate) fn all_have_left(shared: &StdArc<Shared>) {
    // [handlers L2]
    shared.handlers.live().filter(|_| !mutant!("handlers-live-kept")).for_each(|id| drop(unregister(shared, id)));
    if !mutant!("handlers-orphans-kept") {
        // [handlers L2]
        unregister::advance_orphans(shared);
    }
}

/// Handlers and bells, from any thread.
impl Fabric {
    /// Registers `f`, which any core runs when it is triggered there: between two of its polls, with its endpoint.
    ///
    /// `f` must be short and must not block. While it runs no other handler runs on its core. If it panics, the panic is counted
    /// ([`CoreCounters::handler_panics`](crate::CoreCounters::handler_panics)) and handed to `on_panic` on that core, whose own panic
    /// reaches nobody; the handler stays registered. When all cores have left, every handler is unregistered, also one that is registered then.
    ///
    /// # Errors
    ///
    /// [`TableFull`] if [`MAX_HANDLERS`] are registered.
    pub fn register_handler<F>(&self, f: F, on_panic: OnPanic) -> Result<HandlerId, TableFull>
    where
        F: Fn(&Core) + Send + Sync + 'static,
    {
        let shared = self.shared();
        let registered = shared.handlers.register(Box::new(f), on_panic).or_else(|f| {
            // Slots whose unregistration nobody waits for.
            unregister::advance_orphans(shared);
            shared.handlers.register(f, on_panic).map_err(|_| TableFull)
        });
        let id = registered?;
        // [handlers L3] the last core fences and looks at the slots: it finds this one, or this finds it gone.
        if !mutant!("handlers-register-no-fence") {
            fence(Ordering::SeqCst);
        }
        if shared.is_deserted() {
            // An error: it was found.
            drop(unregister(shared, id));
        }
        Ok(id)
    }

    /// Runs the handler on `target`, at least once after this call; triggers of one handler on one core that has not run it yet are one.
    ///
    /// Callable everywhere, inside a `Waker` too; a core's own [`trigger`](Core::trigger) costs less. Never waits, never allocates. What
    /// was written before is visible to the handler. A core that leaves before its next pass does not run it.
    ///
    /// # Errors
    ///
    /// [`TriggerError`] if the handler was unregistered, or the target has left.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    pub fn trigger(&self, id: HandlerId, target: CoreId) -> Result<(), TriggerError> {
        let shared = self.shared();
        // [handlers F1]
        let under_way = shared.handlers.enter_foreign(id).ok_or(TriggerError::Unregistered)?;
        let marked = mark(shared, id, target);
        drop(under_way);
        marked
    }

    /// [`trigger`](Self::trigger) for each core of `set`, in ascending order. Returns for how many; those that have left are skipped.
    ///
    /// # Errors
    ///
    /// [`Unregistered`].
    ///
    /// # Panics
    ///
    /// If the set has a core that the fabric does not have.
    pub fn trigger_set(&self, id: HandlerId, set: &CoreSet) -> Result<usize, Unregistered> {
        let shared = self.shared();
        let under_way = shared.handlers.enter_foreign(id).ok_or(Unregistered)?;
        let marked = set.iter().filter(|&target| mark(shared, id, target).is_ok()).count();
        drop(under_way);
        Ok(marked)
    }

    /// Unregisters a handler: no trigger is accepted from here on. When the future is ready, all that were have run, and the handler is not
    /// running and will not run on any core.
    ///
    /// # Errors
    ///
    /// [`Unregistered`] if it was before.
    pub fn unregister_handler(&self, id: HandlerId) -> Result<Unregister, Unregistered> {
        unregister(self.shared(), id)
    }

    /// Runs `f` on every core of `set`, from any thread; the future resolves to how many cores ran it.
    ///
    /// The function is sent at once, to full mailboxes when the future is polled. If the calling thread runs a core of the set, use
    /// [`Core::multicast_later`] or the future ends only after that core's next pass.
    ///
    /// # Errors
    ///
    /// The future resolves to [`CallError`](crate::call::CallError) with the first panic, after all have ended.
    ///
    /// # Panics
    ///
    /// If the set has a core that the fabric does not have.
    pub fn multicast<F>(&self, set: &CoreSet, f: F) -> Multicast<F>
    where
        F: Fn(&Core) + Send + Sync + 'static,
    {
        Multicast::new(self.shared(), None, set, f)
    }

    /// A bell that rings on the cores of this fabric.
    #[must_use]
    pub fn bell(&self) -> Bell {
        Bell::new(self.shared())
    }
}

/// Triggers.
impl Core {
    /// As [`Fabric::trigger`], from this core. On the own core the handler runs in the next drain, never inside this call.
    ///
    /// # Errors
    ///
    /// As [`Fabric::trigger`].
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    pub fn trigger(&self, id: HandlerId, target: CoreId) -> Result<(), TriggerError> {
        if !self.shared().handlers.is_live(id) {
            return Err(TriggerError::Unregistered);
        }
        mark(self.shared(), id, target)
    }

    /// [`trigger`](Self::trigger) for each core of `set`, in ascending order. Returns for how many; those that have left are skipped.
    ///
    /// # Errors
    ///
    /// [`Unregistered`].
    ///
    /// # Panics
    ///
    /// If the set has a core that the fabric does not have.
    pub fn trigger_set(&self, id: HandlerId, set: &CoreSet) -> Result<usize, Unregistered> {
        if !self.shared().handlers.is_live(id) {
            return Err(Unregistered);
        }
        Ok(set.iter().filter(|&target| mark(self.shared(), id, target).is_ok()).count())
    }

    /// [`trigger_set`](Self::trigger_set) for all cores, the own one included if `with_self`.
    ///
    /// # Errors
    ///
    /// [`Unregistered`].
    pub fn trigger_all(&self, id: HandlerId, with_self: bool) -> Result<usize, Unregistered> {
        let mut set = CoreSet::first(self.cores());
        if !with_self {
            set.remove(self.id());
        }
        self.trigger_set(id, &set)
    }

    /// Unregisters a handler and waits until it does not run and will not run any more on any core; *runs messages* meanwhile. Not for futures:
    /// see [`Fabric::unregister_handler`].
    ///
    /// # Errors
    ///
    /// [`Unregistered`] if it was before.
    ///
    /// # Panics
    ///
    /// Inside of a handler, which would wait for its own end.
    pub fn unregister_handler(&self, id: HandlerId) -> Result<(), Unregistered> {
        assert!(!self.is_in_handler(), "a handler cannot wait for the end of handlers: unregister by `Fabric`");
        let unregister = unregister(self.shared(), id)?;
        let unregister = RefCell::new(unregister);
        let (is_over, late) = (|| unregister.borrow_mut().advance(), || unregister.borrow().late());
        mailbox::wait_for_all(self, Self::serve_one_turn, is_over, late);
        Ok(())
    }

    /// [`multicast`](Self::multicast) as a future: the function is sent at once, to full mailboxes when the future is polled, and runs on the own core, if it
    /// is in the set, inside this call.
    ///
    /// # Errors
    ///
    /// The future resolves to [`CallError`](crate::call::CallError) with the first panic, after all have ended.
    ///
    /// # Panics
    ///
    /// If the set has a core that the fabric does not have.
    pub fn multicast_later<F>(&self, set: &CoreSet, f: F) -> Multicast<F>
    where
        F: Fn(&Self) + Send + Sync + 'static,
    {
        Multicast::new(self.shared(), Some(self), set, f)
    }
}
