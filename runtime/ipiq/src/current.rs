//! What code on a core does: spawn, call, ask where it is.

use std::borrow::Cow;
use std::future::Future;
use std::panic::Location;

use ipiq_executor::{Executor, JoinHandle, Named, Synchronize, TaskName, with_current};
use ipiq_fabric::{CoreId, assert_core};
use ipiq_linux::port::LinuxPort;

use crate::calls::{self, AsyncCall, Call};
use crate::{Cores, Handle, blocking, shutdown, stalls, threads};

/// Runs `f` with the calling thread's executor.
///
/// # Panics
///
/// On a thread that runs no core; `what` names the function that was called.
#[inline(always)]
#[track_caller]
pub(crate) fn on_core<R>(what: &str, f: impl FnOnce(&Executor) -> R) -> R {
    match with_current(LinuxPort::thread(), f) {
        Some(value) => value,
        None => outside(what),
    }
}

/// Panics, at the caller's line, unless the calling core's runtime has all of `cores`; `what` names the function that was called.
#[track_caller]
pub(crate) fn assert_cores(what: &str, cores: impl IntoIterator<Item = CoreId>) {
    let count = on_core(what, |executor| executor.core().cores());
    for core in cores {
        assert_core(core, count);
    }
}

/// Panics, at the caller's line, because `what` was called on a thread that runs no core.
#[cold]
#[track_caller]
pub(crate) fn outside(what: &str) -> ! {
    panic!(
        "`{what}` was called on a thread that runs no core: call it inside a task, for example one started by `Runtime::block_on` or a `Handle`"
    )
}

/// The handle of the calling core's runtime.
///
/// # Panics
///
/// On a thread that runs no core; `what` names the function that was called.
#[track_caller]
pub(crate) fn here(what: &str) -> Handle {
    let remote = on_core(what, |executor| executor.remote().clone());
    Handle::new(remote, stalls::current(what), shutdown::current(what), threads::current(what), blocking::current(what))
}

/// At the line of the caller, which a closure's caller is not.
#[cold]
#[track_caller]
fn no_such_core(core: CoreId, cores: usize) -> ! {
    assert_core(core, cores);
    unreachable!("{core} is not one of {cores}")
}

/// Spawns a task on the calling core. The future need not be `Send`; it is polled and dropped on this core only.
///
/// A panic of the task reaches its [`JoinHandle`] and nobody else. Under a [deadline](crate::deadline) the task ends when that has passed, with an error that
/// [says so](crate::JoinError::is_deadline).
///
/// # Panics
///
/// On a thread that runs no core.
#[inline]
#[track_caller]
pub fn spawn_local<Fut>(future: Fut) -> JoinHandle<Fut::Output>
where
    Fut: Future + 'static,
{
    let spawned_at = Location::caller();
    on_core("spawn_local", |executor| {
        // [calls D2]
        let is_set = calls::context::is_set();
        if is_set {
            calls::spawn_in_context(executor, spawned_at, future)
        } else {
            executor.spawn_at(spawned_at, future)
        }
    })
}

/// Spawns a task on `core`: `init` travels there and makes the future, which need not be `Send` and never leaves.
///
/// Never waits: if the ring to `core` is full the task waits in order on this core. Tasks that one core spawns on another
/// start in the order in which they were spawned. Under a [deadline](crate::deadline) the task ends when that has passed, with an error that
/// [says so](crate::JoinError::is_deadline).
///
/// `init` may be an async closure, too. The task has a life of its own, whoever awaits it; one that ends with its caller's future is a [`call_async_on`].
///
/// ```
/// use std::rc::Rc;
///
/// use ipiq::CoreId;
///
/// #[ipiq::main(cores = 2)]
/// async fn main() {
///     let task = ipiq::spawn_on(CoreId::new(1), async || {
///         let shared = Rc::new(20); // Never leaves core 1.
///         ipiq::yield_now().await;
///         *shared + 1
///     });
///     assert_eq!(task.await.unwrap(), 21);
/// }
/// ```
///
/// # Panics
///
/// On a thread that runs no core, and if there is no core `core`.
#[inline]
#[track_caller]
pub fn spawn_on<Init, Fut>(core: CoreId, init: Init) -> JoinHandle<Fut::Output>
where
    Init: FnOnce() -> Fut + Send + 'static,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    spawn_on_at(Location::caller(), core, init)
}

/// [`spawn_on`], for a caller that knows better where the task is spawned.
#[inline]
#[track_caller]
pub(crate) fn spawn_on_at<Init, Fut>(
    spawned_at: &'static Location<'static>,
    core: CoreId,
    init: Init,
) -> JoinHandle<Fut::Output>
where
    Init: FnOnce() -> Fut + Send + 'static,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    let spawned = on_core("spawn_on", |executor| {
        let remote = executor.remote();
        if core.index() >= remote.cores() {
            return Err(remote.cores());
        }
        // [calls D2]
        Ok(if calls::context::is_set() {
            calls::spawn_on_in_context(executor, spawned_at, core, init)
        } else {
            executor.spawn_on_at(spawned_at, core, init)
        })
    });
    match spawned {
        Ok(task) => task,
        Err(cores) => no_such_core(core, cores),
    }
}

/// Runs `f` on `core`, between two of its polls, and brings its value back.
///
/// `f` should be short: it holds up everything else on that core. It must not block; to await there, use [`call_async_on`]. The request
/// is sent at once; if the ring to `core` is full, when the future is polled and there is space. Requests of one core to another start
/// in the order in which they were sent. On the calling
/// core itself `f` runs at once, inside `call_on`.
///
/// # Errors
///
/// The future resolves to [`CallError`](crate::CallError) if `f` panicked, the core has left, or the current [deadline](crate::deadline) has passed.
///
/// # Cancel safety
///
/// Dropping the future does not stop `f`; its value is dropped.
///
/// # Panics
///
/// On a thread that runs no core, and if there is no core `core`.
#[doc(alias = "submit_to")]
#[inline]
#[track_caller]
pub fn call_on<F, R>(core: CoreId, f: F) -> Call<F, R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    let called = on_core("call_on", |executor| {
        let cores = executor.core().cores();
        if core.index() >= cores {
            return Err(cores);
        }
        // [calls D2]
        let is_set = calls::context::is_set();
        Ok(if is_set { calls::call_before(executor, core, f) } else { Call::plain(executor.call(core, f)) })
    });
    match called {
        Ok(call) => call,
        Err(cores) => no_such_core(core, cores),
    }
}

/// Runs the async closure `f` on `core`, as a task there, and brings its value back. What `f` makes need not be `Send`: it is made, polled and dropped there.
///
/// It is the caller's: dropped with the future, and ended with the caller's [deadline](crate::deadline). A task with a life of its own is a [`spawn_on`], and a closure that does
/// not await a [`call_on`]. The call is sent at once, unless as many are outstanding as the [limit](crate::Limit) allows: then it waits in line, or is refused, as the
/// limit says. [`Builder::call_limit`](crate::Builder::call_limit) sets it; unless told otherwise it is 1,024, and one more waits.
///
/// ```
/// use std::rc::Rc;
///
/// use ipiq::{CallError, CoreId};
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), CallError> {
///     let base = 20;
///     let sum = ipiq::call_async_on(CoreId::new(1), async move || {
///         let shared = Rc::new(base + 1);
///         ipiq::yield_now().await;
///         *shared
///     });
///     assert_eq!(sum.await?, 21);
///     Ok(())
/// }
/// ```
///
/// # Errors
///
/// The future resolves to [`CallError`](crate::CallError) if `f` panicked, the core has left or shuts down, the current [deadline](crate::deadline) has passed, the
/// [limit](crate::Limit) refuses it, or calls inside of calls are too deep, as when they [go in a circle](crate::CallError::is_circular).
///
/// # Cancel safety
///
/// Dropping the future cancels what runs on `core`: it is dropped there in place of its next poll. It gives up a place in line.
///
/// # Panics
///
/// On a thread that runs no core, and if there is no core `core`.
#[doc(alias = "submit_to")]
#[track_caller]
pub fn call_async_on<F, R>(core: CoreId, f: F) -> AsyncCall<F, R>
where
    F: AsyncFnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    assert_cores("call_async_on", [core]);
    let spawned_at = Location::caller();
    on_core("call_async_on", |executor| AsyncCall::new(executor, spawned_at, core, None, f))
}

/// Waits until everything that this core has sent so far has been executed on every other core.
///
/// Closures of [`call_on`] have run then, whether anybody awaits them or not, and tasks of [`spawn_on`] have arrived in their core's queue; what those
/// tasks do, and what the closures sent on, is not waited for. Nor is a call whose request still waits for space: it was not sent. Cores that leave
/// are skipped. It takes one message each way per core that has something outstanding, and as long as the slowest one's current poll.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// use ipiq::CoreId;
///
/// #[ipiq::main(cores = 3)]
/// async fn main() {
///     let flushed = Arc::new(AtomicU32::new(0));
///     for core in 0..3 {
///         let flushed = flushed.clone();
///         // Nobody awaits the answers one by one.
///         drop(ipiq::call_on(CoreId::new(core), move || flushed.fetch_add(1, Ordering::Relaxed)));
///     }
///     ipiq::synchronize().await;
///     assert_eq!(flushed.load(Ordering::Relaxed), 3);
/// }
/// ```
///
/// The idea is DragonFly's `lwkt_synchronize_ipiqs`, which waits until the messages have begun; this waits until they have ended.
///
/// # Cancel safety
///
/// Dropping the future ends the wait; what was sent is executed all the same.
///
/// # Panics
///
/// On a thread that runs no core.
#[track_caller]
pub fn synchronize() -> Synchronize {
    on_core("synchronize", Executor::synchronize)
}

/// The core that runs the caller.
///
/// # Panics
///
/// On a thread that runs no core.
#[must_use]
#[inline]
#[track_caller]
pub fn core_id() -> CoreId {
    on_core("core_id", |executor| executor.core().id())
}

/// How many cores the caller's runtime has.
///
/// # Panics
///
/// On a thread that runs no core.
#[must_use]
#[track_caller]
pub fn core_count() -> usize {
    on_core("core_count", |executor| executor.core().cores())
}

/// The cores of the caller's runtime, in ascending order.
///
/// ```
/// #[ipiq::main(cores = 3)]
/// async fn main() -> Result<(), ipiq::CallError> {
///     let mut sum = 0;
///     for core in ipiq::cores() {
///         sum += ipiq::call_on(core, || ipiq::core_id().index()).await?;
///     }
///     assert_eq!(sum, 0 + 1 + 2);
///     Ok(())
/// }
/// ```
///
/// # Panics
///
/// On a thread that runs no core.
#[track_caller]
pub fn cores() -> Cores {
    on_core("cores", |executor| Cores::first(executor.core().cores()))
}

/// The handle of the caller's runtime.
///
/// # Panics
///
/// On a thread that runs no core.
#[must_use]
#[track_caller]
pub fn handle() -> Handle {
    here("handle")
}

/// Whether the running task should give way: its turn has taken a [time slice](crate::Builder::time_slice), or another core has asked this one to stop, to
/// run a handler, or to carry out a shootdown.
///
/// It costs one relaxed load, so a loop may ask on every pass. It goes on saying yes until the task's poll ends. `false` on a thread that
/// runs no core.
///
/// ```
/// # async fn sum(numbers: &[u64]) -> u64 {
/// let mut sum = 0;
/// for number in numbers {
///     sum += number;
///     if ipiq::should_yield() {
///         ipiq::yield_now().await;
///     }
/// }
/// # sum
/// # }
/// ```
#[must_use]
#[inline]
pub fn should_yield() -> bool {
    with_current(LinuxPort::thread(), |executor| executor.core().should_yield()).unwrap_or(false)
}

/// [`yield_now`](crate::yield_now) if [`should_yield`] says so; otherwise goes on at once.
///
/// # Cancel safety
///
/// Nothing is lost when it is dropped.
#[inline]
pub async fn yield_if_needed() {
    if should_yield() {
        crate::yield_now().await;
    }
}

/// Gives a future a name, by which [`task_name`] knows it while it is polled. The name goes with the future, wherever it is spawned.
///
/// ```
/// #[ipiq::main(cores = 1)]
/// async fn main() {
///     let indexer = ipiq::named("indexer", async { ipiq::task_name().unwrap().text().to_owned() });
///     assert_eq!(ipiq::spawn_local(indexer).await.unwrap(), "indexer");
///     assert!(ipiq::task_name().is_none());
/// }
/// ```
///
/// # Cancel safety
///
/// That of `future`.
#[track_caller]
pub fn named<F>(name: impl Into<Cow<'static, str>>, future: F) -> Named<F>
where
    F: Future,
{
    Named::new(name, LinuxPort::thread(), future)
}

/// The innermost [name](named()) of what is being polled on this thread.
#[must_use]
pub fn task_name() -> Option<TaskName> {
    with_current(LinuxPort::thread(), Executor::task_name).flatten()
}
