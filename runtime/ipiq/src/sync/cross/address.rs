//! A core as others reach it.

use ipiq_executor::{JoinHandle, Remote, with_current};
use ipiq_fabric::{CoreId, Message, contain};
use ipiq_linux::port::LinuxPort;

use crate::current::on_core;
use crate::sync::Closed;

/// A core of a runtime, reached from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    remote: Remote,
    core: CoreId,
    life: u64,
}

impl Address {
    /// The calling core.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core; `what` names the function that was called.
    #[track_caller]
    pub(crate) fn here(what: &str) -> Self {
        on_core(what, |executor| {
            let core = executor.core();
            Self { remote: executor.remote().clone(), core: core.id(), life: core.life() }
        })
    }

    pub(crate) fn core(&self) -> CoreId {
        self.core
    }

    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Whether it has left since, and kept nothing, back or not.
    pub(crate) fn has_left(&self) -> bool {
        self.remote.has_left(self.core) || self.remote.fabric().life(self.core) != self.life
    }

    /// Which core of this runtime the caller is on.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core of it; `what` names the function that was called.
    #[track_caller]
    pub(crate) fn caller(&self, what: &str) -> CoreId {
        let here = on_core(what, |executor| {
            executor.remote().fabric().is_same(self.remote.fabric()).then(|| executor.core().id())
        });
        here.unwrap_or_else(|| panic!("`{what}` is called on the cores of the runtime that it was made on"))
    }

    /// Runs `f` there, between two polls, in order with what the calling core has sent there before; at once if the caller is there. Never waits. If the core has left,
    /// `f` is dropped. On a thread that runs no core of the runtime, in order with what that thread has sent.
    pub(crate) fn post(&self, f: impl FnOnce(CoreId) + Send + 'static) {
        self.post_to(self.core, f);
    }

    /// As [`post`](Self::post), to another core of the same runtime.
    pub(crate) fn post_to(&self, target: CoreId, f: impl FnOnce(CoreId) + Send + 'static) {
        // [cross P1] what panics there is a destructor or a waker of a user's.
        let f = move |source| contain(move || f(source));
        let mut f = Some(f);
        with_current(LinuxPort::thread(), |executor| {
            if executor.remote().fabric().is_same(self.remote.fabric())
                && let Some(f) = f.take()
            {
                executor.core().send_or_list(target, move |_, source| f(source));
            }
        });
        if let Some(f) = f {
            // A core that has left gives it back, to be dropped here.
            drop(self.remote.fabric().post(target, Message::foreign(move |_, source| f(source))));
        }
    }

    /// Awaits `init`'s future as a task there; dropped, ends it.
    ///
    /// # Panics
    ///
    /// With the panic of the future.
    pub(crate) async fn run<Init, Fut, R>(&self, init: Init) -> Result<R, Closed>
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<R, Closed>> + 'static,
        R: Send + 'static,
    {
        // [cross P2]
        let mut task = Abort(self.remote.spawn_on(self.core, init));
        match (&mut task.0).await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The core has left, or shuts down.
                Err(_) => Err(Closed),
            },
        }
    }
}

/// A task that ends with who awaits it.
struct Abort<R>(JoinHandle<R>);

impl<R> Drop for Abort<R> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
