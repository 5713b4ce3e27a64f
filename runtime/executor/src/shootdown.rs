//! Shootdowns and updates of replicas, from any thread.

use alloc::sync::Arc;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use futures_channel::oneshot;
use ipiq_fabric::preemptible::Notes;
use ipiq_fabric::shootdown::{EarlyAck, Operation, PendingShootdown, ShootdownError, Source};
use ipiq_fabric::urgent::InterruptSafe;
use ipiq_fabric::{Core, CoreId, CoreSet, Message};

use crate::executor::with_current;
use crate::{Executor, Remote};

type Outcome = Result<usize, ShootdownError>;

/// Ready when every core has acknowledged, with how many cores that were. May be awaited anywhere.
///
/// # Cancel safety
///
/// Dropping it stops nothing: the operation is executed on every core.
#[must_use = "the outcome says whether it was executed everywhere"]
pub struct Shootdown {
    receiver: oneshot::Receiver<Outcome>,
}

impl fmt::Debug for Shootdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shootdown").finish_non_exhaustive()
    }
}

impl Future for Shootdown {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.receiver).poll(cx).map(|received| match received {
            Ok(outcome) => outcome,
            Err(oneshot::Canceled) => Err(ShootdownError::gone()),
        })
    }
}

/// Says the outcome; dropped unsaid, it says "gone".
struct Sender(oneshot::Sender<Outcome>);

impl Sender {
    fn done(self) -> impl FnOnce(&Core, Outcome) + 'static {
        // Whoever awaited it may have gone.
        move |_, outcome| drop(self.0.send(outcome))
    }
}

impl Executor {
    /// Executes `op` on every core, in its drains, initiated by this one: see [`Core::shootdown`].
    pub fn shootdown<O: Operation + 'static>(&self, op: O) -> PendingShootdown {
        PendingShootdown::new(self.core(), &CoreSet::first(self.core().cores()), op)
    }

    /// Executes `f` on every core, in its drains, and in the middle of its [preemptible sections](Self::preemptible): see [`Core::start_shootdown_prompt`].
    pub fn shootdown_prompt<F: Fn(CoreId) + Send + Sync + 'static>(&self, f: InterruptSafe<F>) -> PendingShootdown {
        PendingShootdown::prompt(self.core(), &CoreSet::first(self.core().cores()), f)
    }
}

impl Remote {
    /// Executes `op` on every core, in its drains: see [`Core::shootdown`]. A core of the runtime initiates it itself, for any other thread
    /// the first core that runs does.
    ///
    /// On a runtime that has been told to stop it is not executed at all, unless the caller is one of its cores.
    pub fn shootdown<O: Operation + 'static>(&self, op: O) -> Shootdown {
        self.initiate(move |core, sender| core.start_shootdown(&CoreSet::first(core.cores()), op, sender.done()))
    }

    /// As [`shootdown`](Self::shootdown), for an operation that a core may acknowledge just before it executes it.
    pub fn shootdown_early<O: EarlyAck>(&self, op: O) -> Shootdown {
        self.initiate(move |core, sender| core.start_shootdown_early(&CoreSet::first(core.cores()), op, sender.done()))
    }

    /// As [`shootdown`](Self::shootdown), for an operation that makes a core forget its part of something: in the middle of a
    /// [preemptible section](Executor::preemptible) a core sets its note instead, at once.
    pub fn shootdown_noting<O: Operation + 'static>(&self, op: O, notes: &Arc<Notes>) -> Shootdown {
        let notes = notes.clone();
        self.initiate(move |core, sender| {
            core.start_shootdown_noting(&CoreSet::first(core.cores()), op, &notes, sender.done());
        })
    }

    /// As [`shootdown`](Self::shootdown), for an operation that may interrupt what it likes: a core in the middle of a
    /// [preemptible section](Executor::preemptible) executes it at once.
    pub fn shootdown_prompt<F: Fn(CoreId) + Send + Sync + 'static>(&self, f: InterruptSafe<F>) -> Shootdown {
        self.initiate(move |core, sender| {
            core.start_shootdown_prompt(&CoreSet::first(core.cores()), f, sender.done());
        })
    }

    /// Brings every core's replica of `source` up to date: see [`Core::start_update`].
    pub fn update<S: Source>(&self, source: &Arc<S>) -> Shootdown {
        let source = source.clone();
        self.initiate(move |core, sender| core.start_update(&source, sender.done()))
    }

    fn initiate(&self, start: impl FnOnce(&Core, Sender) + Send + 'static) -> Shootdown {
        let (sender, receiver) = oneshot::channel();
        let mut start = Some((start, Sender(sender)));
        let home = self.home(CoreId::new(0));
        with_current(&**self.fabric().port(), |executor| {
            if executor.is_peer(home)
                && let Some((start, sender)) = start.take()
            {
                start(executor.core(), sender);
            }
        });
        if let Some((start, sender)) = start
            && !self.lifecycle().is_stopping()
        {
            self.post_to_any(Message::foreign(move |core, _| start(core, sender)));
        }
        Shootdown { receiver }
    }

    /// Runs `message` on the first core that has not left; drops it if there is none.
    fn post_to_any(&self, mut message: Message) {
        for core in (0..self.cores()).map(CoreId::new) {
            match self.fabric().post(core, message) {
                Ok(()) => return,
                Err(gone) => message = gone.0,
            }
        }
    }
}
