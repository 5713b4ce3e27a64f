//! Calls, and how a core and any other thread start them.

use alloc::sync::Arc;
use core::fmt;
use core::future::Future;
use core::marker::PhantomData;
use core::panic::Location;
use core::pin::Pin;
use core::task::{Context, Poll};

use ipiq_fabric::CoreId;
use ipiq_fabric::call::Outcome;
use ipiq_fabric::urgent::InterruptSafe;

use super::everywhere::{Everywhere, Part};
use super::own::OwnPart;
use super::{
    Class, HighBroadcast, HighUnicast, LowBroadcast, LowUnicast, RemoteHighBroadcast, RemoteLowBroadcast,
    RemoteUrgentBroadcast, Ticket, UrgentBroadcast, UrgentUnicast,
};
use crate::executor::with_current;
use crate::task::Home;
use crate::{Call, Executor, JoinHandle, Remote};

/// One core's part of a high call, in the hands of the core that called.
#[must_use = "a call that is not awaited may never be sent"]
#[derive(Debug)]
pub struct HighPart<F, R>(Reach<F, R>);

#[derive(Debug)]
enum Reach<F, R> {
    Other(Call<F, R>),
    Own(OwnPart<F, R>),
}

impl<F, R> HighPart<F, R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    #[track_caller]
    fn new(executor: &Executor, target: CoreId, f: F) -> Self {
        // [xcall C1] not inside the caller's poll.
        Self(if target == executor.core().id() {
            Reach::Own(executor.own_calls().push(executor.core().tag(), f))
        } else {
            Reach::Other(executor.call(target, f))
        })
    }
}

impl<F, R> Future for HighPart<F, R>
where
    Call<F, R>: Future<Output = Outcome<R>>,
{
    type Output = Outcome<R>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Reach::Other(call) => Pin::new(call).poll(cx),
            Reach::Own(call) => Pin::new(call).poll(cx),
        }
    }
}

impl<F, R> Part for HighPart<F, R>
where
    Call<F, R>: Future<Output = Outcome<R>>,
{
    fn is_unsent(&self) -> bool {
        matches!(&self.0, Reach::Other(call) if !call.is_sent())
    }
}

/// A call that a core has issued: awaits its values; gives it a ticket. It stays on its core; its ticket may be awaited anywhere.
///
/// ```compile_fail,E0277
/// fn crosses<T: Send>() {}
/// crosses::<ipiq_executor::xcall::LowBroadcast<u32>>();
/// ```
///
/// # Cancel safety
///
/// Dropping it stops no function; values are dropped. A part that found no space in its ring before is never sent; a call that was
/// given a ticket sends all of them.
#[must_use = "a call that is not awaited and has no ticket may never be sent as a whole"]
pub struct XCall<U: Future> {
    state: State<U>,
    class: Class,
    home: Arc<Home>,
    /// Elsewhere it could be polled when its home has shut down: see [`State::Driven`].
    not_send: PhantomData<*const ()>,
}

enum State<U: Future> {
    /// Polled by who holds it.
    Held(U),
    /// Polled by a task of the ticket's home, which only the home's shutdown cancels.
    Driven(Ticket, JoinHandle<U::Output>),
    /// Its values were taken; with its ticket, if it was given one.
    Ended(Option<Ticket>),
}

// What it holds is not pinned.
impl<U: Future + Unpin> Unpin for XCall<U> {}

impl<U: Future> XCall<U> {
    /// The ticket that it was given.
    #[inline(always)]
    fn drawn(&self) -> Option<Ticket> {
        match &self.state {
            State::Held(_) => None,
            State::Driven(ticket, _) => Some(*ticket),
            State::Ended(ticket) => *ticket,
        }
    }
}

impl<U: Future> fmt::Debug for XCall<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XCall").field("class", &self.class).field("ticket", &self.drawn()).finish_non_exhaustive()
    }
}

impl<U: Future + Unpin> Future for XCall<U> {
    type Output = U::Output;

    /// # Panics
    ///
    /// If polled again after it was ready.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let output = match &mut self.state {
            State::Held(call) => core::task::ready!(Pin::new(call).poll(cx)),
            State::Driven(_, task) => match core::task::ready!(Pin::new(task).poll(cx)) {
                Ok(output) => output,
                // Only a core that shuts down cancels the task, and it polls the holder of the call no more.
                Err(_) => return Poll::Pending,
            },
            State::Ended(_) => panic!("a call was polled after it was ready"),
        };
        self.state = State::Ended(self.drawn());
        Poll::Ready(output)
    }
}

impl<U: Future + Unpin + 'static> XCall<U> {
    /// The call's name, by which any task of any core awaits its end; the same each time.
    ///
    /// The first time it hands the call to a task of the calling core, which becomes the call's home: it goes on when this is dropped.
    ///
    /// # Panics
    ///
    /// On a thread that runs no core of the runtime.
    #[track_caller]
    pub fn ticket(&mut self) -> Ticket {
        let drawn_at = Location::caller();
        if let Some(ticket) = self.drawn() {
            return ticket;
        }
        let home = self.home.clone();
        let drawn =
            with_current(&*home.port, |executor| executor.is_peer(&home).then(|| self.draw(executor, drawn_at)));
        drawn.flatten().expect("a ticket is drawn in a task of the call's runtime: draw it there, and send it here")
    }

    fn draw(&mut self, executor: &Executor, drawn_at: &'static Location<'static>) -> Ticket {
        let table = executor.xcalls().clone();
        // [xcall K1]
        let ticket = table.issue(self.class, executor.core().id());
        let call = match core::mem::replace(&mut self.state, State::Ended(Some(ticket))) {
            State::Held(call) => call,
            State::Driven(..) | State::Ended(_) => {
                table.finish(ticket);
                return ticket;
            }
        };
        let task = executor.spawn_at(drawn_at, async move {
            let output = call.await;
            // [xcall K2]
            table.finish(ticket);
            output
        });
        self.state = State::Driven(ticket, task);
        ticket
    }
}

impl<P, R, E> XCall<Everywhere<P>>
where
    P: Part<Output = Result<R, E>>,
{
    /// Awaits the call and folds the values of all cores into one, in ascending order of cores.
    ///
    /// # Errors
    ///
    /// The first core's error, if there is one.
    ///
    /// # Cancel safety
    ///
    /// As dropping the call.
    #[doc(alias = "map_reduce")]
    pub async fn fold<A>(self, init: A, mut fold: impl FnMut(A, R) -> A) -> Result<A, E> {
        let mut answers = self.await.into_iter();
        answers.try_fold(init, |so_far, (_, answer)| answer.map(|value| fold(so_far, value)))
    }
}

/// Calls of the core's own code.
impl Executor {
    fn xcall<U: Future>(&self, class: Class, call: U) -> XCall<U> {
        XCall { state: State::Held(call), class, home: self.home().clone(), not_send: PhantomData }
    }

    fn everywhere<P: Part>(&self, part: impl FnMut(CoreId) -> P) -> Everywhere<P> {
        self.xcalls().count_broadcast();
        let cores = self.core().cores();
        // [xcall C1]
        Everywhere::new(cores, (self.core().id().index() + 1) % cores, part)
    }

    /// Runs a clone of `f` on every core, between two of its polls; on this one too.
    pub fn high_broadcast<F, R>(&self, f: F) -> HighBroadcast<F, R>
    where
        F: FnOnce() -> R + Clone + Send + 'static,
        R: Send + 'static,
    {
        self.xcall(Class::High, self.everywhere(|target| HighPart::new(self, target, f.clone())))
    }

    /// Runs `f` on `target`, between two of its polls, also if that is this core.
    ///
    /// # Panics
    ///
    /// If there is no core `target`.
    #[track_caller]
    pub fn high_unicast<F, R>(&self, target: CoreId, f: F) -> HighUnicast<F, R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        self.xcalls().count_unicast();
        self.xcall(Class::High, HighPart::new(self, target, f))
    }

    /// Runs a clone of `f` on every core, in the middle of whatever each does; on this one inside this call, after the others have been told.
    pub fn urgent_broadcast<F, R>(&self, f: InterruptSafe<F>) -> UrgentBroadcast<R>
    where
        F: Fn(CoreId) -> R + Clone + Send + 'static,
        R: Send + 'static,
    {
        // [xcall C1] the own core is the last.
        self.xcall(Class::High, self.everywhere(|target| self.core().call_urgent(target, f.clone())))
    }

    /// Runs `f` on `target`, in the middle of whatever it does; if that is this core, inside this call.
    ///
    /// # Panics
    ///
    /// If there is no core `target`.
    #[track_caller]
    pub fn urgent_unicast<F, R>(&self, target: CoreId, f: InterruptSafe<F>) -> UrgentUnicast<R>
    where
        F: Fn(CoreId) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.xcalls().count_unicast();
        self.xcall(Class::High, self.core().call_urgent(target, f))
    }

    /// Spawns on every core the future that a clone of `init` makes there; on this one too. Each task was spawned at `spawned_at`.
    pub fn low_broadcast<Init, Fut>(
        &self,
        spawned_at: &'static Location<'static>,
        init: Init,
    ) -> LowBroadcast<Fut::Output>
    where
        Init: FnOnce() -> Fut + Clone + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        self.xcall(Class::Low, self.everywhere(|target| self.spawn_on_at(spawned_at, target, init.clone())))
    }

    /// Spawns on `target` the future that `init` makes there. The task was spawned at `spawned_at`.
    ///
    /// # Panics
    ///
    /// If there is no core `target`.
    #[track_caller]
    pub fn low_unicast<Init, Fut>(
        &self,
        spawned_at: &'static Location<'static>,
        target: CoreId,
        init: Init,
    ) -> LowUnicast<Fut::Output>
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        self.xcalls().count_unicast();
        self.xcall(Class::Low, self.spawn_on_at(spawned_at, target, init))
    }
}

/// Calls from any thread.
impl Remote {
    /// Runs a clone of `f` on every core, between two of its polls.
    pub fn high_broadcast<F, R>(&self, f: F) -> RemoteHighBroadcast<R>
    where
        F: FnOnce() -> R + Clone + Send + 'static,
        R: Send + 'static,
    {
        Everywhere::new(self.cores(), 0, |target| self.call_on(target, f.clone()))
    }

    /// Runs a clone of `f` on every core, in the middle of whatever each does.
    pub fn urgent_broadcast<F, R>(&self, f: InterruptSafe<F>) -> RemoteUrgentBroadcast<R>
    where
        F: Fn(CoreId) -> R + Clone + Send + 'static,
        R: Send + 'static,
    {
        Everywhere::new(self.cores(), 0, |target| self.call_urgent(target, f.clone()))
    }

    /// Spawns on every core the future that a clone of `init` makes there.
    #[track_caller]
    pub fn low_broadcast<Init, Fut>(&self, init: Init) -> RemoteLowBroadcast<Fut::Output>
    where
        Init: FnOnce() -> Fut + Clone + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        let spawned_at = Location::caller();
        Everywhere::new(self.cores(), 0, |target| self.spawn_on_at(spawned_at, target, init.clone()))
    }
}
