//! Long computations that do not hold up updates.

use std::cell::Cell;
use std::sync::Arc;

use ipiq_driver::Driver;
use ipiq_executor::Preemptible;

use crate::blocking::Pool;
use crate::current::on_core;
use crate::{blocking, core_cache, driver, home, of_thread};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread, which runs a core, is in the middle of a section.
pub(crate) fn is_inside() -> bool {
    INSIDE.get()
}

/// Until it is dropped, what the thread's core has beside its executor cannot be reached either.
struct Hidden {
    _home: home::Hidden,
    _driver: of_thread::Hidden<Driver>,
    _blocking: of_thread::Hidden<Arc<Pool>>,
}

impl Hidden {
    fn new() -> Self {
        INSIDE.set(true);
        Self { _home: home::hide(), _driver: driver::hide(), _blocking: blocking::hide() }
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// Runs `f` on this core, between two of its polls, as code in whose middle the core can be reached: updates of [`Replicated`](crate::Replicated) values and invalidations of
/// [`CoreCache`](crate::CoreCache)s are acknowledged at once on the core's behalf, by an interrupt, and carried out when `f` has ended, before anything else runs on the core.
/// Functions of [`shootdown_prompt`](crate::shootdown_prompt) run there and then.
///
/// For long computations on a core. In a poll, or in a closure of [`call_on`](crate::call_on), one that takes 200 ms makes everyone who updates a value wait for as long; here it makes them wait
/// for some microseconds. `f` is sent away from its task: it is `Send`, and within it the thread runs no core. [`CoreLocal`](crate::CoreLocal)s and [`ForeignBox`](crate::ForeignBox)es of the core
/// cannot be reached, and [`Runtime::wait`](crate::Runtime::wait) refuses to wait. So it cannot read a copy that has been promised to be gone; what a
/// program keeps in thread-local variables of its own it must leave alone. Everything else on the core waits until `f` has ended, messages, stops but for [prompt](crate::pause_prompt) ones, and
/// [`shootdown`](crate::shootdown())s that are not prompt included.
///
/// ```
/// use ipiq::Replicated;
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let limit = Replicated::new(1);
///     let watched = limit.clone();
///     let task = ipiq::spawn_on(ipiq::CoreId::new(1), move || async move {
///         let limit = watched.local();
///         let sum = ipiq::preemptible(|| (1..=1000u64).sum::<u64>()).await.unwrap();
///         (sum, limit.get() <= 2)
///     });
///     limit.replace(2).await?;
///     assert_eq!(task.await?, (500_500, true));
///     Ok(())
/// }
/// ```
///
/// Where a core [cannot be interrupted](crate::Builder::interrupts) it acknowledges when `f` begins and when it has ended. If cloning a value panics afterwards, the core keeps
/// its old copy until the next update, and who updated is not told.
///
/// The idea is the kernels' lazy shootdown: a CPU that does not use a mapping need not drop it before it does.
///
/// # Errors
///
/// The future resolves to [`CallError`](crate::CallError) if `f` panicked, or the core shuts down before it has begun.
///
/// # Cancel safety
///
/// Dropped before `f` has begun, it does not run. Nothing cuts it short later.
///
/// # Panics
///
/// On a thread that runs no core.
#[track_caller]
pub fn preemptible<F, R>(f: F) -> Preemptible<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: 'static,
{
    let f = move || {
        let _hidden = Hidden::new();
        f()
    };
    on_core("preemptible", |executor| executor.preemptible(f, core_cache::settle))
}
