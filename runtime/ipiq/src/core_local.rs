//! A value of which every core makes its own.

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use ipiq_executor::Remote;
use ipiq_fabric::CoreSet;

use crate::Handle;
use crate::current::on_core;
use crate::deadline::detached;
use crate::home::{self, Number};

/// A variable of which every core has its own value, made when it is first asked for there, used and dropped there only: it need be neither `Send` nor `Sync`.
///
/// What a `thread_local!` is for threads, but made in a function, dropped with its owner, and while the core can still be asked who it is. Clones are the same
/// variable; when the last one is dropped every core drops its value, at the latest when the runtime ends. For values that other cores call, see
/// [`Sharded`](crate::sharded::Sharded).
///
/// ```
/// use std::cell::Cell;
///
/// use ipiq::{CoreId, CoreLocal};
///
/// #[ipiq::main(cores = 2)]
/// async fn main() {
///     let hits = CoreLocal::new(|| Cell::new(0));
///     hits.get().set(7);
///     let theirs = hits.clone();
///     let elsewhere = ipiq::spawn_on(CoreId::new(1), move || async move { theirs.get().replace(9) });
///     assert_eq!(elsewhere.await.unwrap(), 0);
///     assert_eq!(hits.get().get(), 7);
/// }
/// ```
///
/// What [`get`](Self::get) returns stays on its core:
///
/// ```compile_fail,E0277
/// # async fn f(hits: ipiq::CoreLocal<u32>) {
/// let own = hits.get();
/// ipiq::call_on(ipiq::CoreId::new(1), move || *own).await;
/// # }
/// ```
pub struct CoreLocal<T: 'static> {
    variable: Arc<Variable<T>>,
}

struct Variable<T> {
    remote: Remote,
    number: Arc<Number>,
    make: Box<dyn Fn() -> T + Send + Sync>,
    /// The cores that have made a value.
    made: Mutex<CoreSet>,
}

impl<T> Clone for CoreLocal<T> {
    fn clone(&self) -> Self {
        Self { variable: self.variable.clone() }
    }
}

impl<T> fmt::Debug for CoreLocal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreLocal").finish_non_exhaustive()
    }
}

impl<T> CoreLocal<T> {
    /// A variable of the cores of the caller's runtime, whose values `make` makes. [`Handle::core_local`] does the same on any thread.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core.
    #[must_use]
    #[track_caller]
    pub fn new(make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        on_core("CoreLocal::new", |executor| Self::on(executor.remote().clone(), make))
    }

    fn on(remote: Remote, make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        let (number, made) = (Arc::new(Number::draw()), Mutex::default());
        Self { variable: Arc::new(Variable { remote, number, make: Box::new(make), made }) }
    }

    /// The calling core's value, made now if it was not asked for before.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core of the variable's runtime; and with the panic of what makes the value, which is then not made. When the runtime ends, a destructor of a value that asks
    /// for a variable whose value was dropped has it made again; when that has gone on for a few rounds, it panics.
    #[must_use]
    #[track_caller]
    pub fn get(&self) -> CoreRef<T> {
        let variable = &*self.variable;
        if let Some(value) = home::get(variable.number.key()) {
            return CoreRef { value };
        }
        let here = on_core("CoreLocal::get", |executor| {
            executor.remote().fabric().is_same(variable.remote.fabric()).then(|| executor.core().id())
        });
        let here = here.expect("a core-local is used on the cores of its own runtime");
        // [home T3]
        assert!(
            !home::is_over(variable.number.key()),
            "a core-local was asked for again and again while its core dropped its values"
        );
        // What it spawns is the core's, and not of the call that asks first.
        let value = Rc::new(detached(|| (variable.make)()));
        // Making it may have asked for it.
        if let Some(value) = home::get(variable.number.key()) {
            return CoreRef { value };
        }
        home::put(&variable.number, value.clone());
        variable.made.lock().unwrap_or_else(PoisonError::into_inner).insert(here);
        CoreRef { value }
    }
}

impl<T> Drop for Variable<T> {
    fn drop(&mut self) {
        let made = *self.made.get_mut().unwrap_or_else(PoisonError::into_inner);
        for core in made {
            let key = self.number.key();
            // [home T5] a core that has left has dropped it.
            drop(self.remote.call_on(core, move || drop(home::take(key))));
        }
    }
}

/// The calling core's value of a [`CoreLocal`]. It stays on its core; the value lives as long as it, if the variable does not.
pub struct CoreRef<T> {
    value: Rc<T>,
}

impl<T> Clone for CoreRef<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone() }
    }
}

impl<T> Deref for CoreRef<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for CoreRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl Handle {
    /// A variable of the runtime's cores: [`CoreLocal::new`] for threads that run no core.
    pub fn core_local<T>(&self, make: impl Fn() -> T + Send + Sync + 'static) -> CoreLocal<T> {
        CoreLocal::on(self.remote().clone(), make)
    }
}
