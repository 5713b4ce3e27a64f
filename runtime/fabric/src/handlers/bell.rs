//! Bells: flags that any thread puts up and tasks of one core wait for.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc as StdArc;
use alloc::vec::Vec;
use core::fmt;
use core::task::{Context, Poll, Waker};

use super::serve::{BELLS, set_and_ask};
use crate::core_set::bits;
use crate::fabric::Shared;
use crate::sync::{AtomicBool, AtomicU64, Ordering, Padded, mutant, relaxed_if};
use crate::{Core, CoreId, Fabric};

const WORDS: usize = if cfg!(loom) { 1 } else { 8 };
/// Bits that bells are given in turn.
const NUMBERS: usize = if cfg!(loom) { 1 } else { WORDS * 64 };

/// Which bells a core has to look at: one line.
pub(crate) struct Words([AtomicU64; WORDS]);

impl Words {
    pub(super) fn new() -> Self {
        Self(core::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// A flag per core, which any thread puts up and tasks of that core wait for. Clones are the same bell.
///
/// However often a core is rung before one of its tasks looks, it is one notification.
#[derive(Clone)]
pub struct Bell {
    inner: StdArc<Inner>,
}

struct Inner {
    shared: StdArc<Shared>,
    /// Its bit in every core's words. Beyond 512 bells share bits, and look at each other's flags in vain.
    number: usize,
    rung: Box<[Padded<AtomicBool>]>,
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").field("number", &self.inner.number).finish_non_exhaustive()
    }
}

/// A task's wait for a bell, between polls.
#[derive(Debug, Default)]
pub struct BellWait {
    ticket: Option<u64>,
}

/// The wakers that a core's tasks have left, by the bell's number.
#[derive(Default)]
pub(crate) struct Waiters {
    next: u64,
    left: BTreeMap<(usize, u64), (StdArc<Inner>, Option<Waker>)>,
}

impl Waiters {
    /// Whether the waker that was left at `place` is there, and would wake the same as `waker`.
    fn would_wake(&self, place: (usize, u64), waker: &Waker) -> bool {
        self.left.get(&place).and_then(|(_, left)| left.as_ref()).is_some_and(|left| left.will_wake(waker))
    }
}

impl Bell {
    pub(super) fn new(shared: &StdArc<Shared>) -> Self {
        let number = shared.bells.fetch_add(1, Ordering::Relaxed) as usize % NUMBERS;
        let rung = (0..shared.cores.len()).map(|_| Padded(AtomicBool::new(false))).collect();
        Self { inner: StdArc::new(Inner { shared: shared.clone(), number, rung }) }
    }

    /// Whose cores it rings.
    #[must_use]
    pub fn fabric(&self) -> Fabric {
        Fabric::of(self.inner.shared.clone())
    }

    /// How many cores can be rung.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.inner.rung.len()
    }

    /// Notifies `target`, from any thread: a task there that waits, or the next that will. Never waits; a core that has left hears nothing, unless it comes back.
    ///
    /// What was written before is visible to the task that takes the notification.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    pub fn ring(&self, target: CoreId) {
        let rung = &self.inner.rung[target.index()];
        if mutant!("handlers-ring-look-first") && rung.load(Ordering::Relaxed) {
            return;
        }
        // [handlers B1] always an RMW: a flag read as up may just have been taken. Release: with B4's acquire.
        let release = relaxed_if(mutant!("handlers-ring-relaxed"), Ordering::Release);
        if !rung.swap(true, release) {
            self.announce(target);
        }
    }

    #[cold]
    fn announce(&self, target: CoreId) {
        let (word, bit) = (self.inner.number / 64, 1 << (self.inner.number % 64));
        let shared = &self.inner.shared;
        // [handlers B2] release: who takes the bit sees the flag, also of bells that share it.
        let release = relaxed_if(mutant!("handlers-bells-relaxed"), Ordering::Release);
        if shared.core(target).handlers.bells.0.0[word].fetch_or(bit, release) & bit == 0 {
            let _ = set_and_ask(shared, target, BELLS);
        }
    }
}

impl Core {
    /// Takes this core's notification of `bell`, if there is one; else leaves the waker, to be woken when there is. `wait` belongs to one
    /// waiting task: pass the same one until this is ready, or to [`end_bell_wait`](Self::end_bell_wait).
    pub fn poll_bell(&self, bell: &Bell, wait: &mut BellWait, cx: &Context<'_>) -> Poll<()> {
        if bell.inner.take(self.id()) {
            self.end_bell_wait(bell, wait);
            return Poll::Ready(());
        }
        if let Some(ticket) = wait.ticket
            && self.handlers.waiters.borrow().would_wake((bell.inner.number, ticket), cx.waker())
        {
            return Poll::Pending;
        }
        // A waker's clone and drop may run foreign code, which may come back here: not under the borrow.
        let fresh = cx.waker().clone();
        // [handlers B4] a look after it: a pass in the middle of the clone would have found no waker. None is needed after the waker is left: who
        // rings from here on is heard in a later pass, on this thread.
        if bell.inner.take(self.id()) {
            self.end_bell_wait(bell, wait);
            return Poll::Ready(());
        }
        let mut waiters = self.handlers.waiters.borrow_mut();
        let ticket = *wait.ticket.get_or_insert_with(|| {
            waiters.next += 1;
            waiters.next
        });
        let (_, left) = waiters.left.entry((bell.inner.number, ticket)).or_insert_with(|| (bell.inner.clone(), None));
        let old = left.replace(fresh);
        drop(waiters);
        drop(old);
        Poll::Pending
    }

    /// Ends a wait, after the notification or instead of it.
    pub fn end_bell_wait(&self, bell: &Bell, wait: &mut BellWait) {
        if let Some(ticket) = wait.ticket.take() {
            let left = self.handlers.waiters.borrow_mut().left.remove(&(bell.inner.number, ticket));
            drop(left);
        }
    }

    /// [handlers B3]
    #[cold]
    pub(super) fn serve_bells(&self) {
        let own = self.id();
        let mut woken = Vec::new();
        for (word, taken) in self.shared().core(own).handlers.bells.0.0.iter().enumerate() {
            if taken.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut waiters = self.handlers.waiters.borrow_mut();
            // [handlers B3] acquire, with B2's release.
            for bit in bits(taken.swap(0, Ordering::Acquire)) {
                let number = word * 64 + bit;
                for (inner, waker) in waiters.left.range_mut((number, 0)..=(number, u64::MAX)).map(|(_, place)| place) {
                    if inner.rung[own.index()].load(Ordering::Relaxed) {
                        woken.extend(waker.take());
                    }
                }
            }
        }
        for waker in woken.into_iter().filter(|_| !mutant!("handlers-bell-no-wake")) {
            crate::contain(|| waker.wake());
        }
    }
}

impl Inner {
    /// B4.
    fn take(&self, own: CoreId) -> bool {
        let rung = &self.rung[own.index()];
        if !rung.load(Ordering::Relaxed) {
            return false;
        }
        if mutant!("handlers-notified-plain") {
            rung.store(false, Ordering::Relaxed);
            return true;
        }
        // [handlers B4] an RMW, not a store: a ring that came between look and store would find the flag up, leave it at that, and its data unseen.
        rung.swap(false, relaxed_if(mutant!("handlers-notified-relaxed"), Ordering::Acquire))
    }
}
