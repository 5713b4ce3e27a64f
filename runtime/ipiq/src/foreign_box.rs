//! A value of one core in the hands of others.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use ipiq_executor::{Remote, with_current};
use ipiq_fabric::CoreId;
use ipiq_fabric::call::CallError;
use ipiq_linux::port::LinuxPort;

use crate::current::on_core;
use crate::home::{self, BoxName};

/// A value that stays on the core where it was made, its *home*, while the box travels: used and dropped there only, so it need be neither `Send` nor `Sync`.
///
/// The box may be sent to any core and any thread, and dropped there: its value is dropped at home, a moment later; at the latest when the runtime ends.
///
/// ```
/// use std::cell::RefCell;
/// use std::rc::Rc;
///
/// use ipiq::{CallError, CoreId, ForeignBox};
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), CallError> {
///     let log = Rc::new(RefCell::new(Vec::new()));
///     let foreign = ForeignBox::new(log.clone());
///     let elsewhere = ipiq::spawn_on(CoreId::new(1), move || async move {
///         assert!(foreign.try_with(|_| ()).is_none());
///         foreign.call(|log| log.borrow_mut().push("from core 1")).await
///     });
///     elsewhere.await.unwrap()?;
///     assert_eq!(*log.borrow(), ["from core 1"]);
///     Ok(())
/// }
/// ```
///
/// The idea is Seastar's `foreign_ptr`.
#[doc(alias = "foreign_ptr")]
pub struct ForeignBox<T: 'static> {
    owner: Arc<Owner<T>>,
}

/// Of a value in its core's table: the box, and calls to it that are on their way. The last one has the value dropped.
struct Owner<T: 'static> {
    remote: Remote,
    home: CoreId,
    name: BoxName,
    value: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for ForeignBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignBox").field("home", &self.home()).finish_non_exhaustive()
    }
}

impl<T> ForeignBox<T> {
    /// Puts `value` into a box whose home is the calling core.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[must_use]
    #[track_caller]
    pub fn new(value: T) -> Self {
        let (remote, home) = on_core("ForeignBox::new", |executor| (executor.remote().clone(), executor.core().id()));
        let name = home::put_boxed(Rc::new(value));
        Self { owner: Arc::new(Owner { remote, home, name, value: PhantomData }) }
    }

    /// The core that has the value.
    #[must_use]
    pub fn home(&self) -> CoreId {
        self.owner.home
    }

    /// Whether the caller is on the value's core.
    #[must_use]
    pub fn is_home(&self) -> bool {
        self.try_with(|_| ()).is_some()
    }

    /// Runs `f` with the value, if the caller is on its core.
    pub fn try_with<R>(&self, f: impl FnOnce(&T) -> R) -> Option<R> {
        self.owner.with(f)
    }

    /// Runs `f` with the value on its core, between two polls, and brings the answer back; at once if the caller is there.
    ///
    /// # Errors
    ///
    /// The future resolves to [`CallError`] if `f` panicked, or the core has left, whether it is back or not.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop `f`, once it is sent, nor does dropping the box; its answer is dropped.
    ///
    /// # Panics
    ///
    /// When called on a thread that runs no core of the value's runtime.
    #[track_caller]
    pub fn call<F, R>(&self, f: F) -> impl Future<Output = Result<R, CallError>> + use<'_, T, F, R>
    where
        F: FnOnce(&T) -> R + Send + 'static,
        R: Send + 'static,
    {
        let same =
            on_core("ForeignBox::call", |executor| executor.remote().fabric().is_same(self.owner.remote.fabric()));
        assert!(same, "a foreign box is called on the cores of its value's runtime");
        // [home T5] the value is there, also when the box is dropped meanwhile, unless the core has begun to drop what it has.
        let owner = self.owner.clone();
        let call = crate::call_on(self.home(), move || owner.with(f));
        async move { call.await?.ok_or_else(CallError::gone) }
    }

    /// Takes the value out, on its core.
    ///
    /// # Errors
    ///
    /// The box, if the caller is not on the value's core, or inside a [`call`](Self::call) to it.
    pub fn try_into_inner(self) -> Result<T, Self> {
        home::open_boxed::<T>(self.owner.name).ok_or(self)
    }
}

impl<T> Owner<T> {
    /// Runs `f` with the value, on its core.
    fn with<R>(&self, f: impl FnOnce(&T) -> R) -> Option<R> {
        // Another thread's table has no box of this identity.
        home::get_boxed::<T>(self.name).map(|value| f(&value))
    }
}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        let name = self.name;
        if let Some(value) = home::take_boxed::<T>(name) {
            return drop(value);
        }
        let at_home = with_current(LinuxPort::thread(), |executor| {
            executor.core().id() == self.home && executor.remote().fabric().is_same(self.remote.fabric())
        });
        if at_home == Some(true) {
            // It was taken before.
            return;
        }
        // [home T5] a core that has left has dropped it.
        drop(self.remote.call_on(self.home, move || drop(home::take_boxed::<T>(name))));
    }
}
