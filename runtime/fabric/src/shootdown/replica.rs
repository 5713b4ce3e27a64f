//! One core's copy of a value that all cores share, read without atomics.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::sync::Arc as StdArc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell, UnsafeCell};
use core::fmt;

use super::initiator::Done;
use super::{Lane, Operation, ShootdownError};
use crate::Core;
use crate::sync::mutant;
use crate::unwind::contain;

/// Where the replicas of a value come from.
pub trait Source: Send + Sync + 'static {
    /// What is replicated.
    type Value: Clone + Send + Sync + 'static;

    /// The value and its version. A later value has a higher version; an update is asked for after the source has it.
    ///
    /// Called on any core; it must not wait for another.
    fn current(&self) -> (u64, StdArc<Self::Value>);
}

/// One core's copy of a [`Source`]'s value, up to date after each [`Core::start_update`].
///
/// Clones are the same copy. It stays on its core; the copy is dropped there, with the last clone.
pub struct Replica<T> {
    inner: Rc<Inner<T>>,
}

struct Inner<T> {
    value: UnsafeCell<T>,
    version: Cell<u64>,
    home: Rc<Registry>,
    /// The source; its address is the key, so it is kept as long as that is in use.
    source: StdArc<dyn Any + Send + Sync>,
    /// What the source has now.
    current: Current<T>,
}

/// The version and value of a source of some type.
type Current<T> = fn(&(dyn Any + Send + Sync)) -> Option<(u64, StdArc<T>)>;

/// A replica of any type.
trait Refresh: Any {
    /// Brings it up to date.
    ///
    /// # Safety
    ///
    /// 1. On its thread, with no closure of a read on the stack.
    unsafe fn refresh(&self);
}

impl<T: Clone + 'static> Refresh for Inner<T> {
    unsafe fn refresh(&self) {
        let Some((version, fresh)) = (self.current)(&*self.source) else { return };
        // SAFETY: 1. as required here.
        unsafe { self.put(version, &fresh) };
    }
}

impl<T: Clone> Inner<T> {
    /// [shootdown Q2]: puts a clone of `fresh` in place, unless it is no newer.
    ///
    /// # Safety
    ///
    /// 1. On its thread, with no closure of a read on the stack.
    unsafe fn put(&self, version: u64, fresh: &T) {
        // [shootdown Q2] another round may have brought this version, or a later one.
        if self.version.get() >= version && !mutant!("replica-any-version") {
            return;
        }
        let fresh = T::clone(fresh);
        self.version.set(version);
        // SAFETY: 1. as required, and none is now: the clone has been made.
        let stale = core::mem::replace(unsafe { &mut *self.value.get() }, fresh);
        contain(|| drop(stale));
    }
}

/// A core's replicas, by the address of their source.
#[derive(Default)]
pub(crate) struct Registry {
    replicas: RefCell<BTreeMap<usize, Weak<dyn Refresh>>>,
}

impl Registry {
    fn find<T: 'static>(&self, key: usize) -> Option<Rc<Inner<T>>> {
        let replica: Rc<dyn Any> = self.replicas.borrow().get(&key)?.upgrade()?;
        replica.downcast().ok()
    }
}

fn key<S>(source: &StdArc<S>) -> usize {
    StdArc::as_ptr(source).addr()
}

impl<T> Drop for Inner<T> {
    fn drop(&mut self) {
        let key = StdArc::as_ptr(&self.source).cast::<()>().addr();
        let mut replicas = self.home.replicas.borrow_mut();
        // One that was made while this one was going has taken the place.
        if replicas.get(&key).is_some_and(|entry| entry.strong_count() == 0) {
            replicas.remove(&key);
        }
    }
}

impl<T> Clone for Replica<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Replica<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read(|value| f.debug_tuple("Replica").field(value).finish())
    }
}

impl<T> Replica<T> {
    /// Reads the core's copy: no atomic, no fence, no branch.
    ///
    /// The value does not change while `f` runs: replicas are updated when the poll that runs has ended.
    #[inline(always)]
    pub fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        // SAFETY: 1. the value is replaced only while `safe_point` of this core, or the end of a section, is on this thread's stack, at whose call no
        // closure of a read was; those that began since end before it is replaced.
        f(unsafe { &*self.inner.value.get() })
    }

    /// The version of the value that this core has.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.inner.version.get()
    }
}

/// Brings every core's replica of one source up to date.
struct Round<S: Source> {
    source: StdArc<S>,
    /// [shootdown Q2]: what all of them get.
    fresh: Option<(u64, StdArc<S::Value>)>,
}

impl<S: Source> Operation for Round<S> {
    fn prepare(&mut self, _initiator: &Core) {
        // [shootdown Q2]
        self.fresh = Some(self.source.current());
    }

    /// At safe points only.
    fn execute(&self, core: &Core) {
        let Some((version, fresh)) = &self.fresh else { return };
        let Some(replica) = core.shootdowns.replicas.find::<S::Value>(key(&self.source)) else { return };
        // SAFETY: 1. rounds are started on the lane of safe points only, whose row is served in `safe_point` only, on the replica's thread: no closure of a
        // read was on the stack there.
        unsafe { replica.put(*version, fresh) };
    }
}

impl Core {
    /// This core's replica of `source`: the one there is, or one made of the source's current value.
    pub fn replica<S: Source>(&self, source: &StdArc<S>) -> Replica<S::Value> {
        let registry = &self.shootdowns.replicas;
        if let Some(inner) = registry.find(key(source)) {
            return Replica { inner };
        }
        let (version, value) = source.current();
        let value = S::Value::clone(&value);
        // Cloning may have made it.
        if let Some(inner) = registry.find(key(source)) {
            return Replica { inner };
        }
        let inner = Rc::new(Inner {
            value: UnsafeCell::new(value),
            version: Cell::new(version),
            home: registry.clone(),
            source: source.clone(),
            current: |source| source.downcast_ref::<S>().map(S::current),
        });
        let weak: Weak<Inner<S::Value>> = Rc::downgrade(&inner);
        registry.replicas.borrow_mut().insert(key(source), weak);
        Replica { inner }
    }

    /// Whether the core has replicas that are still in use. One without has none that is being read.
    #[must_use]
    pub fn has_replicas(&self) -> bool {
        self.shootdowns.replicas.replicas.borrow().values().any(|entry| entry.strong_count() > 0)
    }

    /// Brings every core's replica of `source` up to date, each at its next safe point; `done` runs on this core when no core has an older
    /// value than the source had when this was called.
    ///
    /// # Errors
    ///
    /// `done` gets a [`ShootdownError`] if cloning the value panicked on some core, which then keeps its old one.
    pub fn start_update<S: Source>(
        &self,
        source: &StdArc<S>,
        done: impl FnOnce(&Self, Result<usize, ShootdownError>) + 'static,
    ) {
        let round = || Box::new(Round { source: source.clone(), fresh: None }) as Box<dyn Operation>;
        self.start_round(key(source), round, Done::Call(Box::new(done)));
    }

    /// [preemptible P6]: brings every replica of this core up to date.
    ///
    /// # Safety
    ///
    /// 1. No closure of a read is on the stack.
    pub(crate) unsafe fn refresh_replicas(&self) {
        let replicas = &self.shootdowns.replicas.replicas;
        // What is cloned and dropped may make replicas, and let go of some.
        let there: Vec<_> = replicas.borrow().values().filter_map(Weak::upgrade).collect();
        for replica in there {
            // SAFETY: 1. as required here; a core's replicas are on its thread.
            contain(|| unsafe { replica.refresh() });
            // It may be the last: a value that panics as it goes does not keep the others from it.
            contain(|| drop(replica));
        }
    }

    /// [shootdown Q1]: at a safe point, the bit taken.
    pub(crate) fn serve_updates(&self) {
        // [shootdown Q1]
        self.serve_shootdowns(Lane::AtSafePoints);
    }
}
