#![doc = include_str!("README.md")]

mod error;
mod future;
mod join;
mod list;
mod waker;
pub(crate) mod word;

use core::cell::Cell;
use core::future::Future;
use core::panic::Location;
use core::ptr::NonNull;
use core::task::Poll;

use alloc::sync::Arc;
use async_task::{Builder, Runnable};
use ipiq_fabric::{Core, CoreId, Fabric, Message, contain};

use crate::Executor;
use crate::executor::with_current;
use future::{Held, TaskFuture};
use word::{Abort, Word};

pub use error::JoinError;
pub use join::JoinHandle;
pub(crate) use list::TaskList;
pub use waker::{abort_by, expire_by};

/// What tasks and other threads know of a home core.
pub(crate) struct Home {
    pub(crate) id: CoreId,
    pub(crate) fabric: Fabric,
    pub(crate) port: Arc<dyn ipiq_fabric::port::Port>,
}

/// Where a task's runnable is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// In a queue, or on its way to one; its future has not been made.
    Unmade,
    /// In a queue, or on its way to one, and has not been polled.
    Unpolled,
    /// In the home's queue.
    Queued,
    /// Being polled.
    Running,
    /// Being polled, and to be queued afterwards.
    Woken,
    /// In the metadata, until a wake-up.
    Resting,
    /// As [`Running`](Self::Running), and the value is there.
    Ended,
    /// As [`Running`](Self::Running), and the error is there.
    Failed,
    /// Used up, or about to be.
    Finished,
}

impl Phase {
    #[inline(always)]
    fn has_outcome(self) -> bool {
        matches!(self, Self::Ended | Self::Failed)
    }
}

/// A task's metadata; see the table of [fields](self#state-and-who-writes-it).
pub(crate) struct Meta {
    home: Cell<NonNull<Home>>,
    word: Word,
    /// References counted at home.
    own: Cell<i16>,
    phase: Cell<Phase>,
    /// Which queue it goes to (`classes`).
    class: u8,
    /// The place in the home's list.
    place: Cell<u32>,
    resting: Cell<Option<Runnable<Self>>>,
    /// While listed: the address of the future. Once finished: see [`Kept`](waker::Kept).
    first: Cell<*const ()>,
    /// Until it has finished: its [`Kind`]. From then on: see [`Kept`](waker::Kept).
    second: Cell<*const ()>,
    spawned_at: &'static Location<'static>,
}

/// What tasks of one type have in common.
pub(crate) struct Kind {
    /// Polls a future that lies at the address: see [`poll_listed`](future::poll_listed).
    poll: unsafe fn(NonNull<()>, &Meta) -> Poll<()>,
    /// The type of the future.
    name: fn() -> &'static str,
}

impl Kind {
    /// The type of the future.
    pub(crate) fn name(&self) -> &'static str {
        (self.name)()
    }
}

// SAFETY: 1. `home` is followed only while it lives (Proof). 2. cells are used at home only, or, for a runnable that is
// unpolled, by whoever holds it, or, once the task has finished, by who drops the last reference.
unsafe impl Send for Meta {}
// SAFETY: as for `Send`; `word` is an atomic.
unsafe impl Sync for Meta {}

impl Meta {
    /// The task's home.
    pub(crate) fn home(&self) -> &Home {
        // SAFETY: 1. asked for only by a task that has been polled and is not finished, or by a reference (Proof).
        unsafe { self.home.get().as_ref() }
    }

    /// # Safety
    ///
    /// 1. The task has not finished, and the caller holds its runnable.
    #[inline(always)]
    unsafe fn kind(&self) -> &'static Kind {
        // SAFETY: 1. until then the address of a static is there.
        unsafe { &*self.second.get().cast::<Kind>() }
    }

    /// Its class's number.
    #[inline(always)]
    pub(crate) fn class(&self) -> u8 {
        self.class
    }

    /// The task ends at its next poll. By who holds its runnable, or at home.
    pub(crate) fn cancel(&self) {
        self.word.cancel();
    }

    /// By who holds the handle.
    fn abort(&self) {
        self.after(self.word.abort());
    }

    /// An abort in the middle of a poll, because the deadline has passed.
    fn expire(&self) {
        self.after(self.word.expire());
    }

    fn after(&self, abort: Abort) {
        match abort {
            Abort::Seen => {}
            // SAFETY: 1. the abort has counted it.
            Abort::Wake => unsafe { waker::Reference::counted(self) }.wake(),
        }
    }

    /// [task R1]. `false`: count it in the word, because the task has finished, or because there are so many.
    #[inline(always)]
    fn count_own(&self, change: i16) -> bool {
        match self.own.get().checked_add(change) {
            // [task R1]
            Some(own) if self.phase.get() != Phase::Finished => {
                self.own.set(own);
                true
            }
            _ => false,
        }
    }

    /// Whether it is in the home's list: it has waited, and `first` and `second` say how to poll it.
    #[inline(always)]
    fn is_listed(&self) -> bool {
        self.place.get() != list::UNLISTED
    }
}

impl Executor {
    /// [task T2], on the task's home.
    #[inline(always)]
    pub(crate) fn wake(&self, task: &Meta) {
        // [task T2]
        match task.phase.get() {
            Phase::Resting => {
                task.phase.set(Phase::Queued);
                if let Some(runnable) = task.resting.take() {
                    self.enqueue(runnable);
                }
            }
            Phase::Running => task.phase.set(Phase::Woken),
            Phase::Unmade
            | Phase::Unpolled
            | Phase::Queued
            | Phase::Woken
            | Phase::Ended
            | Phase::Failed
            | Phase::Finished => {}
        }
    }

    /// Polls a task of this home. Returns whether for the first time.
    #[inline(always)]
    pub(crate) fn poll(&self, runnable: Runnable<Meta>) -> bool {
        let meta = NonNull::from(runnable.metadata());
        // SAFETY: 1. the runnable keeps its task.
        let task = unsafe { meta.as_ref() };
        // SAFETY: 1. its runnable is not used up.
        self.activity().polls(unsafe { task.kind() }, task.spawned_at);
        let listed = task.is_listed();
        if listed {
            // [task T7]
            task.phase.set(Phase::Running);
            // SAFETY: 1. the task is listed, and the caller holds its runnable, on its home.
            if unsafe { future::poll_listed(task) }.is_pending() {
                self.rest(runnable);
                return false;
            }
        }
        // What panics here is the destructor of an output that nobody wanted, or a waker's.
        contain(|| {
            runnable.run();
        });
        !listed
    }

    /// After a poll that is pending.
    #[inline(always)]
    fn rest(&self, runnable: Runnable<Meta>) {
        let meta = NonNull::from(runnable.metadata());
        // SAFETY: 1. the runnable keeps its task; both places that it goes to do, too.
        let task = unsafe { meta.as_ref() };
        if task.phase.get() == Phase::Woken {
            task.phase.set(Phase::Queued);
            self.enqueue(runnable);
        } else {
            task.phase.set(Phase::Resting);
            task.resting.set(Some(runnable));
        }
    }
}

/// An unpolled runnable on its way to its home.
struct Delivery(Option<Runnable<Meta>>);

impl Delivery {
    /// On the target's thread. Where its loop does not run (its messages are run by hand) the task ends by T9.
    fn arrive(mut self, core: &Core) {
        with_current(core.port(), |executor| {
            if core::ptr::eq(executor.core(), core)
                && let Some(runnable) = self.0.take()
            {
                // [task T1] the home that the spawner knew may be gone.
                runnable.metadata().home.set(address(executor.home()));
                executor.count_spawned();
                // [task T2]
                executor.enqueue(runnable);
            }
        });
    }
}

impl Drop for Delivery {
    /// [task T9]
    fn drop(&mut self) {
        let Some(runnable) = self.0.take() else { return };
        finish_unpolled(runnable);
    }
}

/// [task T9]: ends a task that cannot reach its home.
pub(crate) fn finish_unpolled(runnable: Runnable<Meta>) {
    let meta = runnable.metadata();
    if meta.phase.get() != Phase::Unmade {
        // A panic has torn its home's loop down. Its future may be dropped there only, so it is leaked.
        return core::mem::forget(runnable);
    }
    // [task T9]
    meta.cancel();
    runnable.run();
}

/// Called by `async-task`: for a task that was just spawned, and at the end of the poll in which it first waited.
fn schedule(runnable: Runnable<Meta>) {
    let home = runnable.metadata().home.get();
    // SAFETY: 1. the task is not finished, so its home lives (Proof); unpolled, its spawner holds the home.
    let home_ref = unsafe { home.as_ref() };
    let mut delivery = Some(Delivery(Some(runnable)));
    with_current(&*home_ref.port, |executor| {
        if core::ptr::eq(&**executor.home(), home.as_ptr()) {
            if let Some(runnable) = delivery.take().and_then(|mut delivery| delivery.0.take()) {
                // [task T6] [task T1]
                if runnable.metadata().is_listed() { executor.rest(runnable) } else { executor.enqueue(runnable) }
            }
        } else if executor.is_peer(home_ref) {
            // [task T3]
            if let Some(delivery) = delivery.take() {
                executor.core().send_or_list(home_ref.id, move |core, _| delivery.arrive(core));
            }
        }
    });
    if let Some(delivery) = delivery {
        // [task T4] the fabric is cloned before: once it is posted, the task may end, and its home with it.
        let (fabric, id) = (home_ref.fabric.clone(), home_ref.id);
        // A home that has left gives the message back, whose drop is T9.
        drop(fabric.post(id, Message::foreign(move |core, _| delivery.arrive(core))));
    }
}

/// Where a task comes from.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    /// The place in the program.
    pub(crate) spawned_at: &'static Location<'static>,
    pub(crate) class: u8,
}

/// Not by way of a reference: [`Kept`](waker::Kept) makes a count of it.
fn address(home: &Arc<Home>) -> NonNull<Home> {
    NonNull::new(Arc::as_ptr(home).cast_mut()).expect("an `Arc` is not null")
}

fn build<Init, Fut>(
    home: &Arc<Home>,
    origin: Origin,
    phase: Phase,
    held: Held<Init, Fut>,
) -> (Runnable<Meta>, JoinHandle<Fut::Output>)
where
    Init: FnOnce() -> Fut,
    Fut: Future,
{
    let meta = Meta {
        home: Cell::new(address(home)),
        word: Word::new(),
        own: Cell::new(0),
        phase: Cell::new(phase),
        class: origin.class,
        place: Cell::new(list::UNLISTED),
        resting: Cell::new(None),
        first: Cell::new(core::ptr::null()),
        second: Cell::new(core::ptr::from_ref::<Kind>(TaskFuture::<Init, Fut>::KIND).cast()),
        spawned_at: origin.spawned_at,
    };
    // [task T1]
    let future = move |meta: &Meta| TaskFuture::new(meta, held);
    // SAFETY: 1. the future is not `Send`, but from its start on it is polled and dropped on its home thread (Proof); before,
    // it holds what the callers below require to be `Send` or never lets go from home. 2. callers require `'static`. 3. the
    // schedule function is a plain function.
    let (runnable, task) = unsafe { Builder::new().metadata(meta).spawn_unchecked(future, schedule) };
    (runnable, JoinHandle { task: Some(task) })
}

/// As yet without a future.
fn build_unmade<Init, Fut>(home: &Arc<Home>, origin: Origin, init: Init) -> (Runnable<Meta>, JoinHandle<Fut::Output>)
where
    Init: FnOnce() -> Fut + Send + 'static,
    Fut: Future + 'static,
    Fut::Output: Send,
{
    build(home, origin, Phase::Unmade, Held::init(init))
}

/// Spawns a future that is already at home.
#[inline(always)]
pub(crate) fn spawn_here<Fut>(executor: &Executor, origin: Origin, future: Fut) -> JoinHandle<Fut::Output>
where
    Fut: Future + 'static,
{
    let (runnable, handle) = build::<fn() -> Fut, Fut>(executor.home(), origin, Phase::Unpolled, Held::future(future));
    executor.count_spawned();
    executor.enqueue(runnable);
    handle
}

/// Spawns the future that `init` will make on `home`, from any thread.
#[inline(always)]
pub(crate) fn spawn_there<Init, Fut>(home: &Arc<Home>, origin: Origin, init: Init) -> JoinHandle<Fut::Output>
where
    Init: FnOnce() -> Fut + Send + 'static,
    Fut: Future + 'static,
    Fut::Output: Send,
{
    let (runnable, handle) = build_unmade(home, origin, init);
    runnable.schedule();
    handle
}

/// [task T9]: a task that is cancelled without ever being sent to `home`.
pub(crate) fn refuse<Init, Fut>(home: &Arc<Home>, origin: Origin, init: Init) -> JoinHandle<Fut::Output>
where
    Init: FnOnce() -> Fut + Send + 'static,
    Fut: Future + 'static,
    Fut::Output: Send,
{
    let (runnable, handle) = build_unmade(home, origin, init);
    finish_unpolled(runnable);
    handle
}
