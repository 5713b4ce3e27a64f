#![doc = include_str!("README.md")]

mod gate;
mod serve;
mod table;
#[cfg(all(test, not(loom)))]
pub(crate) mod tests;

use alloc::boxed::Box;
use alloc::sync::Arc as StdArc;
use core::fmt;
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::task::{Context, Poll};

use crate::fabric::Shared;
use crate::handlers::{TriggerError, Unregistered};
use crate::sync::{Ordering, fence, mutant};
use crate::{Core, CoreId, CoreSet, Fabric};

pub use gate::Gate;
pub(crate) use serve::{Counts, Line, arrive_anew, await_calls, leave, trigger_calls, trigger_freeze, trigger_section};
pub(crate) use table::Table;
pub use table::{MAX_URGENT, TableFull, UrgentId};

use serve::Marked;

/// A function that may run between any two instructions of a thread: what urgent handlers and calls are made of.
#[derive(Clone, Copy)]
pub struct InterruptSafe<F>(F);

impl<F> InterruptSafe<F> {
    /// Promises that `f` may interrupt anything.
    ///
    /// `f` is given the core that it runs on. It may use atomics, memory that no interrupted code uses in any other way, triggers of urgent handlers, and
    /// system calls that signal handlers may make. What it returns is used, and dropped, outside of interrupts.
    ///
    /// # Safety
    ///
    /// Whenever `f` is called:
    ///
    /// 1. It allocates and frees no memory.
    /// 2. It takes no lock, and waits for nothing that the interrupted thread, or any other thread that may be interrupted so, has to do.
    /// 3. It uses no thread-local variable that has a destructor or is initialised when it is first used.
    /// 4. It touches no `Cell`, `RefCell` or other memory that interrupted code may be in the middle of using, outside of
    ///    [critical sections](Gate::critical), but atomics; nothing of a runtime but triggers of urgent handlers.
    /// 5. It calls nothing of which these conditions are not known to hold: formatting, printing and most of the standard library are of that kind.
    ///
    /// Beyond that, for the good of the core: it ends soon, needs little stack (a few KiB), and does not panic, which would abort the process. Dropping it
    /// needs no promise, for that is done outside of interrupts.
    pub const unsafe fn new<R>(f: F) -> Self
    where
        F: Fn(CoreId) -> R,
    {
        Self(f)
    }

    pub(crate) fn into_inner(self) -> F {
        self.0
    }

    /// The function: for one that calls it, and makes the same promise.
    pub const fn get(&self) -> &F {
        &self.0
    }
}

impl<F> fmt::Debug for InterruptSafe<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InterruptSafe").finish()
    }
}

/// Urgent handlers, from any thread.
impl Fabric {
    /// Registers `f`, which any core runs when it is triggered there: at once, in the middle of whatever it does, where the machine can interrupt it.
    ///
    /// On one core no other urgent handler runs meanwhile. When all cores have left, every handler is unregistered, also one that is registered then.
    ///
    /// # Errors
    ///
    /// [`TableFull`] if [`MAX_URGENT`] are registered.
    pub fn register_urgent<F>(&self, f: InterruptSafe<F>) -> Result<UrgentId, TableFull>
    where
        F: Fn(CoreId) + Send + Sync + 'static,
    {
        let shared = self.shared();
        let registered = shared.urgent.register(Box::new(f.0)).or_else(|f| {
            // [urgent R1] slots whose end nobody awaits.
            shared.urgent.registered().for_each(|id| _ = table::advance(shared, id));
            shared.urgent.register(f).map_err(|_| TableFull)
        });
        let id = registered?;
        // [urgent R4] the last core fences and looks at the slots: it finds this one, or this finds it gone.
        if !mutant!("urgent-register-no-fence") {
            fence(Ordering::SeqCst);
        }
        if shared.is_deserted() && !mutant!("urgent-register-kept") {
            end(shared, id);
        }
        Ok(id)
    }

    /// Runs the handler on `target`, at least once after this call; triggers of one handler on one core that has not begun to run it are one.
    ///
    /// Callable everywhere, inside wakers and urgent handlers too. Never allocates and never waits, but for a look of less than a microsecond at a core that has nothing to
    /// do. What was written before is visible to the handler. A core that leaves may not run it.
    ///
    /// # Errors
    ///
    /// [`TriggerError`] if the handler was unregistered, or the target has left.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    pub fn trigger_urgent(&self, id: UrgentId, target: CoreId) -> Result<(), TriggerError> {
        let shared = &**self.shared();
        let under_way = shared.urgent.enter(id)?;
        let reached = serve::trigger(shared, id.bit(), target);
        drop(under_way);
        if reached { Ok(()) } else { Err(TriggerError::Gone) }
    }

    /// The core that accepts interrupts on the calling thread, whatever the thread is in the middle of: also in a [preemptible section](crate::preemptible).
    #[must_use]
    pub fn interruptible_core(&self) -> Option<CoreId> {
        let shared = self.shared();
        let gate = shared.port.gate();
        // SAFETY: 1. a port's gate lives as long as its thread, which is the calling one.
        unsafe { gate.as_ref() }.and_then(|gate| gate.core_of(StdArc::as_ptr(shared)))
    }

    /// [`trigger_urgent`](Self::trigger_urgent) for each core of `set`. Returns for how many; those that have left are skipped. Where the calling thread
    /// runs a core of the set, it is interrupted last.
    ///
    /// # Errors
    ///
    /// [`Unregistered`].
    ///
    /// # Panics
    ///
    /// If the set has a core that the fabric does not have.
    pub fn trigger_urgent_set(&self, id: UrgentId, set: &CoreSet) -> Result<usize, Unregistered> {
        let shared = &**self.shared();
        let under_way = shared.urgent.enter(id)?;
        let (mut marked, mut busy, mut resting) = (0, CoreSet::empty(), CoreSet::empty());
        for target in set.iter() {
            match serve::mark(shared, id.bit(), target) {
                Marked::Gone => continue,
                Marked::Done => {}
                Marked::Interrupt => busy.insert(target),
                Marked::Watch => resting.insert(target),
            }
            marked += 1;
        }
        // All bits first: those who look by themselves do so while the others are interrupted.
        busy.iter().for_each(|target| _ = serve::interrupt(shared, target));
        let late = resting.iter().filter(|&target| !serve::watch(shared, id.bit(), target));
        late.for_each(|target| _ = serve::interrupt(shared, target));
        drop(under_way);
        Ok(marked)
    }

    /// Unregisters an urgent handler: no trigger is accepted from here on. When the future is ready, all that were have run, and the handler is not
    /// running and will not run on any core.
    ///
    /// # Errors
    ///
    /// [`Unregistered`] if it was before.
    pub fn unregister_urgent(&self, id: UrgentId) -> Result<Unregister, Unregistered> {
        let shared = self.shared();
        shared.urgent.retire(id)?;
        Ok(Unregister { shared: shared.clone(), id })
    }
}

/// Interrupts.
impl Core {
    /// Accepts interrupts of the calling thread until the guard is dropped: urgent handlers run on this core in the middle of what it does. Without
    /// this, and on a machine that has no interrupts, they run in drains.
    ///
    /// `None`: the machine has none, or another core accepts those of this thread.
    #[must_use = "interrupts are accepted until the guard is dropped"]
    pub fn accept_interrupts(&self) -> Option<Accepting<'_>> {
        let gate = self.gate()?;
        let entered = gate.enter(StdArc::as_ptr(self.shared()), self.id());
        if entered && !mutant!("urgent-accept-no-look") {
            // [urgent A1] an interrupt that came before found nobody, and holds up the next.
            gate.arrive();
        }
        entered.then_some(Accepting { core: self, not_send: PhantomData })
    }

    /// [urgent A1] Also without a guard's drop, which may have been forgotten.
    pub(crate) fn refuse_interrupts(&self) {
        if let Some(gate) = self.gate() {
            gate.leave(StdArc::as_ptr(self.shared()), self.id());
        }
    }

    /// Says whether this core finds nothing to do, tick after tick: urgent triggers then give it a moment to look by itself before they interrupt it. A hint; a
    /// plain store.
    #[inline(always)]
    pub fn set_resting(&self, resting: bool) {
        self.own().counts.resting.set(u64::from(resting));
    }
}

/// While it lives, a core accepts interrupts: see [`Core::accept_interrupts`].
#[must_use]
pub struct Accepting<'a> {
    core: &'a Core,
    not_send: PhantomData<*const ()>,
}

impl fmt::Debug for Accepting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepting").field("core", &self.core.id()).finish_non_exhaustive()
    }
}

impl Drop for Accepting<'_> {
    fn drop(&mut self) {
        self.core.refuse_interrupts();
    }
}

/// [urgent A2]: what was registered may hold the fabric.
pub(crate) fn all_have_left(shared: &Shared) {
    shared.urgent.registered().for_each(|id| end(shared, id));
}

/// Unregisters a handler of a fabric without cores, whoever has begun to.
fn end(shared: &Shared, id: UrgentId) {
    // [urgent A2] an error: it was retired before.
    let _ = shared.urgent.retire(id);
    let mut turn = 0;
    // All that it can wait for is a trigger between two instructions.
    while !table::advance(shared, id) {
        shared.port.relax(turn);
        turn += 1;
    }
}

/// An unregistration under way; ready when the handler does not run and will not run any more, on any core.
///
/// It has begun, whether it is polled or not: triggers are errors already. Where an interrupt is still under way it wakes its task at once, to be polled again: nothing can be
/// woken from within an interrupt. Where a core is to run the handler when it looks by itself, that core wakes the task then.
///
/// # Cancel safety
///
/// Dropping it leaves the function where it is, unused, until a later registration needs the slot, or every core has left.
#[must_use = "only its end says that the handler no longer runs"]
pub struct Unregister {
    shared: StdArc<Shared>,
    id: UrgentId,
}

impl fmt::Debug for Unregister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unregister").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Unregister {
    /// Goes as far as it can without waiting. Returns whether it has ended.
    pub fn advance(&mut self) -> bool {
        table::advance(&self.shared, self.id)
    }
}

impl Future for Unregister {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.advance() {
            return Poll::Ready(());
        }
        let (shared, bit) = (&*self.shared, self.id.bit());
        // [urgent U5]
        if !shared.urgent.is_being_triggered(self.id) && serve::leave_waker(shared, bit, cx.waker()) {
            // [urgent U5] its other half, and that of [urgent A3].
            return if self.advance() { Poll::Ready(()) } else { Poll::Pending };
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
