//! Doorbells: what wakes a task on another core.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use ipiq_executor::{Executor, with_current};
use ipiq_fabric::handlers::{Bell, BellWait};
use ipiq_fabric::{CoreId, assert_core};
use ipiq_linux::port::LinuxPort;

use crate::Handle;
use crate::current::on_core;

/// Wakes tasks on chosen cores: a notification per core, which any thread gives and a task of that core takes.
///
/// However often a core is rung before a task there takes the notification, it is one: after it, look for everything that
/// there may be. A ring before anybody waits is kept. Clones are the same doorbell; it works as long as one of them exists, and costs a runtime
/// nothing while it is not rung.
///
/// Ringing a core that was rung already costs one atomic operation; the first ring wakes the core if it sleeps. The idea is tokio's
/// `Notify`, one per core, on the pending words of NetBSD's `ipi(9)`.
///
/// ```
/// use ipiq::CoreId;
/// use ipiq::ipi::Doorbell;
///
/// #[ipiq::main(cores = 2)]
/// async fn main() {
///     let doorbell = Doorbell::new();
///     let waiting = ipiq::spawn_on(CoreId::new(1), {
///         let doorbell = doorbell.clone();
///         move || async move { doorbell.notified().await }
///     });
///     doorbell.ring(CoreId::new(1));
///     waiting.await.unwrap();
/// }
/// ```
#[derive(Clone)]
pub struct Doorbell {
    bell: Bell,
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").finish_non_exhaustive()
    }
}

impl Doorbell {
    /// A doorbell for the cores of the calling core's runtime.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core; see [`Handle::doorbell`].
    #[must_use]
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it belongs to the runtime it is made in")]
    pub fn new() -> Self {
        on_core("Doorbell::new", |executor| Self { bell: executor.remote().fabric().bell() })
    }

    /// Notifies `core`: a task there that waits, or the next that will. From any thread; never waits.
    ///
    /// What the caller wrote before is visible to the task that takes the notification. A core that has left hears nothing.
    ///
    /// # Panics
    ///
    /// If there is no core `core`.
    #[track_caller]
    pub fn ring(&self, core: CoreId) {
        assert_core(core, self.bell.cores());
        self.bell.ring(core);
    }

    /// Notifies every core.
    pub fn ring_all(&self) {
        (0..self.bell.cores()).for_each(|core| self.bell.ring(CoreId::new(core)));
    }

    /// Waits for a notification of the calling core, and takes it. Several tasks may wait: one of them takes it, the others go on waiting.
    ///
    /// # Cancel safety
    ///
    /// A notification is taken only by a poll that returns ready: dropping the future loses none.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core; and when polled, on another core than where it was made or one of another runtime.
    #[track_caller]
    pub fn notified(&self) -> Notified<'_> {
        let here = on_core("Doorbell::notified", |executor| {
            executor.remote().fabric().is_same(&self.bell.fabric()).then(|| executor.core().id())
        });
        let Some(core) = here else {
            panic!("this doorbell is another runtime's: wait for it in a task of the runtime that it was made for")
        };
        Notified { bell: &self.bell, core, wait: BellWait::default(), not_send: PhantomData }
    }
}

impl Handle {
    /// A [`Doorbell`] for this runtime's cores.
    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        Doorbell { bell: self.remote().fabric().bell() }
    }
}

/// A task's wait for its core's notification: see [`Doorbell::notified`].
#[must_use = "futures do nothing unless polled"]
pub struct Notified<'a> {
    bell: &'a Bell,
    core: CoreId,
    wait: BellWait,
    not_send: PhantomData<*const ()>,
}

impl fmt::Debug for Notified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notified").field("core", &self.core).finish_non_exhaustive()
    }
}

impl Unpin for Notified<'_> {}

impl Notified<'_> {
    /// With the core that it was made on, if the calling thread still runs it.
    fn at_home<R>(&mut self, f: impl FnOnce(&Executor, &Bell, &mut BellWait) -> R) -> Option<R> {
        let Self { bell, core, wait, .. } = self;
        with_current(LinuxPort::thread(), |executor| (executor.core().id() == *core).then(|| f(executor, bell, wait)))
            .flatten()
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.at_home(|executor, bell, wait| executor.core().poll_bell(bell, wait, cx));
        polled.expect("a notification is awaited on the core that asked for it")
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        // Elsewhere there is no wait to end.
        let _ = self.at_home(|executor, bell, wait| executor.core().end_bell_wait(bell, wait));
    }
}
