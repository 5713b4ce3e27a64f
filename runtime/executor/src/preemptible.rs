//! Long functions in whose middle the core acknowledges updates.

use alloc::boxed::Box;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use ipiq_fabric::call::{CallError, Outcome};
use ipiq_fabric::{Core, PanicPayload, catch};

use crate::Executor;
use crate::executor::with_current;
use crate::xcall::OwnPart;

type Ran<R> = Result<R, PanicPayload>;
type Function<R> = Box<dyn FnOnce() -> Option<Ran<R>>>;

/// The value of a function that runs in a preemptible section of its core, from `preemptible`.
///
/// # Errors
///
/// It resolves to a [`CallError`] if the function panicked, or the core shuts down before it has begun.
///
/// # Cancel safety
///
/// Dropped before the function has begun, it does not run.
#[must_use = "a section that nobody awaits does not run"]
pub struct Preemptible<R>(OwnPart<Function<R>, Option<Ran<R>>>);

impl<R> fmt::Debug for Preemptible<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preemptible").finish_non_exhaustive()
    }
}

impl<R> Future for Preemptible<R> {
    type Output = Outcome<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome<R>> {
        let polled = Pin::new(&mut self.0).poll(cx);
        polled.map(|ran| ran?.ok_or_else(CallError::gone)?.map_err(CallError::panicked))
    }
}

impl Executor {
    /// Runs `f` between two polls of this core, in a [preemptible section](ipiq_fabric::preemptible), and then, before anything else runs here, `settle`, which marks as forgotten what
    /// [notes](ipiq_fabric::preemptible::Notes) tell of, and runs nothing foreign. Sections of a core run one a turn.
    ///
    /// In `f` the thread runs no core, as far as anything there can tell: what belongs to the core cannot be reached.
    pub fn preemptible<F, R>(&self, f: F, settle: impl FnOnce(&Core) + 'static) -> Preemptible<R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: 'static,
    {
        let port = self.remote().fabric().port().clone();
        let run = move || with_current(&*port, |executor| executor.run_section(f, settle));
        Preemptible(self.own_calls().push_section(Box::new(run)))
    }

    fn run_section<R>(&self, f: impl FnOnce() -> R, settle: impl FnOnce(&Core)) -> Ran<R> {
        let run = || {
            let _aside = self.step_aside();
            catch(f)
        };
        // [preemptible P5] by `settle`.
        // SAFETY: 1. only the loop runs its own queue, outside of polls and drains; for the rest see `work`. 2. `f` is `Send` and borrows nothing, so it has none of it, and it
        // finds no executor on its thread.
        unsafe { self.core().preemptible(run, settle) }
    }
}
