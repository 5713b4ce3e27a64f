//! Variables of a task.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::mem::swap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use pin_project_lite::pin_project;

/// Declares variables that a future has while it is polled: see [`LocalKey`].
///
/// ```
/// ipiq::task_local! {
///     /// Who asks.
///     pub static USER: String;
///     static REQUEST: u64;
/// }
///
/// #[ipiq::main(cores = 1)]
/// async fn main() {
///     let answer = USER.scope("ada".to_owned(), async {
///         ipiq::yield_now().await;
///         REQUEST.scope(7, async { USER.with(|user| format!("{user}: {}", REQUEST.get())) }).await
///     });
///     assert_eq!(answer.await, "ada: 7");
///     assert!(USER.try_with(|_| ()).is_err());
/// }
/// ```
#[macro_export]
macro_rules! task_local {
    () => {};
    ($(#[$attribute:meta])* $visible:vis static $name:ident: $kind:ty; $($rest:tt)*) => {
        $crate::task_local!($(#[$attribute])* $visible static $name: $kind);
        $crate::task_local!($($rest)*);
    };
    ($(#[$attribute:meta])* $visible:vis static $name:ident: $kind:ty) => {
        $(#[$attribute])*
        $visible static $name: $crate::LocalKey<$kind> = {
            ::std::thread_local! {
                static SLOT: ::std::cell::RefCell<::std::option::Option<$kind>> =
                    const { ::std::cell::RefCell::new(::std::option::Option::None) };
            }
            $crate::LocalKey::of(SLOT)
        };
    };
}

/// A variable of a task, declared by [`task_local!`](crate::task_local!).
///
/// [`scope`](Self::scope) gives it a value for one future; [`with`](Self::with) reads it in whatever that future runs on its core. A scope inside of a scope hides the outer
/// value. Spawned tasks and calls to other cores have none of it: what is to go along is given to them, in a scope of their own.
///
/// The idea is tokio's.
pub struct LocalKey<T: 'static> {
    slot: thread::LocalKey<RefCell<Option<T>>>,
}

impl<T> fmt::Debug for LocalKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKey").finish_non_exhaustive()
    }
}

impl<T> LocalKey<T> {
    /// For the macro.
    #[doc(hidden)]
    #[must_use]
    pub const fn of(slot: thread::LocalKey<RefCell<Option<T>>>) -> Self {
        Self { slot }
    }

    /// `future`, with `value` in the variable whenever it is polled, and while it is dropped.
    ///
    /// What was there before is there again after each poll, also after one that panics. Where it is dropped inside of [`with`](Self::with) of the same variable, what it drops finds the
    /// value of that `with`.
    ///
    /// # Cancel safety
    ///
    /// That of `future`.
    pub fn scope<F: Future>(&'static self, value: T, future: F) -> TaskLocalFuture<T, F> {
        TaskLocalFuture { key: self, value: Some(value), future: Some(future) }
    }

    /// Runs `f` with `value` in the variable.
    ///
    /// # Panics
    ///
    /// Inside of [`with`](Self::with) of the same variable.
    pub fn sync_scope<R>(&'static self, value: T, f: impl FnOnce() -> R) -> R {
        self.during(&mut Some(value), f)
    }

    /// Runs `f` with the value.
    ///
    /// # Panics
    ///
    /// If it has none: see [`try_with`](Self::try_with).
    #[track_caller]
    pub fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        match self.try_with(f) {
            Ok(value) => value,
            Err(error) => panic!("{error}"),
        }
    }

    /// Runs `f` with the value, if there is one.
    ///
    /// # Errors
    ///
    /// [`NotInScope`] outside of every [`scope`](Self::scope) of the variable.
    pub fn try_with<R>(&'static self, f: impl FnOnce(&T) -> R) -> Result<R, NotInScope> {
        let looked = self.slot.try_with(|slot| slot.borrow().as_ref().map(f));
        looked.ok().flatten().ok_or(NotInScope(()))
    }

    /// A clone of the value.
    ///
    /// # Panics
    ///
    /// If it has none.
    #[track_caller]
    pub fn get(&'static self) -> T
    where
        T: Clone,
    {
        self.with(T::clone)
    }

    /// Runs `f` while what is in `value` and what is in the variable have changed places.
    fn during<R>(&'static self, value: &mut Option<T>, f: impl FnOnce() -> R) -> R {
        self.exchange(value);
        let _back = Back { key: self, value };
        f()
    }

    /// Whether this is inside of `with`, where no value can take another one's place.
    fn is_read(&'static self) -> bool {
        self.slot.try_with(|slot| slot.try_borrow_mut().is_err()).unwrap_or(false)
    }

    fn exchange(&'static self, value: &mut Option<T>) {
        // A thread that ends may have the variable no more; nobody can read it then.
        let _ = self.slot.try_with(|slot| match slot.try_borrow_mut() {
            Ok(mut slot) => swap(&mut *slot, value),
            Err(_) => panic!("a scope of a task-local variable is begun or polled outside of its `with`"),
        });
    }
}

struct Back<'a, T: 'static> {
    key: &'static LocalKey<T>,
    value: &'a mut Option<T>,
}

impl<T> Drop for Back<'_, T> {
    fn drop(&mut self) {
        self.key.exchange(self.value);
    }
}

pin_project! {
    /// A future with a value in a task-local variable, from [`LocalKey::scope`].
    ///
    /// # Cancel safety
    ///
    /// That of the future.
    #[must_use = "futures do nothing unless polled"]
    pub struct TaskLocalFuture<T: 'static, F> {
        key: &'static LocalKey<T>,
        value: Option<T>,
        #[pin]
        future: Option<F>,
    }

    impl<T: 'static, F> PinnedDrop for TaskLocalFuture<T, F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some() && !this.key.is_read() {
                this.key.during(this.value, || this.future.set(None));
            }
        }
    }
}

impl<T, F> fmt::Debug for TaskLocalFuture<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskLocalFuture").finish_non_exhaustive()
    }
}

impl<T, F: Future> Future for TaskLocalFuture<T, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        this.key.during(this.value, || {
            let future = this.future.as_mut().as_pin_mut();
            let polled = future.expect("a future is not polled after it was ready").poll(cx);
            if polled.is_ready() {
                this.future.set(None);
            }
            polled
        })
    }
}

/// A task-local variable was read outside of every scope of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotInScope(());

impl fmt::Display for NotInScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the task-local variable has no value here: `scope` gives it one, for the future that it is given")
    }
}

impl Error for NotInScope {}
