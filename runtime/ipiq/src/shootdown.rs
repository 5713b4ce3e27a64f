//! Something executed on every core, at once.

use ipiq_executor::{PendingShootdown, Shootdown};
use ipiq_fabric::urgent::InterruptSafe;
use ipiq_fabric::{Core, CoreId};

use crate::Handle;
use crate::current::on_core;

/// Runs `f` on every core of the caller's runtime as soon as each looks at its messages, and says when all have. The own part runs at once.
///
/// Many cores may do this at a time: nobody waits for anybody else's. Requests of one core are carried out in order, each when the one before has
/// been acknowledged by all. `f` should be short and must not block; to await there, use [`spawn_on`](crate::spawn_on). A core in the middle of a
/// poll, or of a [`preemptible`](crate::preemptible()) section, runs it when that ends; one that sleeps is woken. [`shootdown_prompt`] does not wait for sections.
///
/// ```
/// use std::cell::Cell;
///
/// thread_local!(static EPOCH: Cell<u64> = const { Cell::new(0) });
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), ipiq::ShootdownError> {
///     let cores = ipiq::shootdown(|| EPOCH.set(7)).await?;
///     assert_eq!(cores, 2);
///     Ok(())
/// }
/// ```
///
/// The future stays on the calling core: the core that collects the acknowledgements hands the outcome to its own task, without an atomic, so the future is not
/// [`Send`]. [`Handle::shootdown`] returns one that may be awaited anywhere.
///
/// The idea is FreeBSD's parallel TLB shootdown.
///
/// # Errors
///
/// The future resolves to [`ShootdownError`](crate::ShootdownError) if `f` panicked on a core (the others have run it), or the runtime
/// has stopped.
///
/// # Cancel safety
///
/// Dropping the future stops nothing. So who drops futures instead of awaiting them bounds how many are under way.
///
/// # Panics
///
/// On a thread that runs no core.
#[track_caller]
pub fn shootdown<F: Fn() + Send + Sync + 'static>(f: F) -> PendingShootdown {
    on_core("shootdown", |executor| executor.shootdown(move |_: &Core| f()))
}

/// As [`shootdown`], for a function that may interrupt what it likes: a core in the middle of a [`preemptible`](crate::preemptible()) section runs it there and then, by an interrupt, and does not keep
/// the caller waiting until the section ends.
///
/// `f` is given the core that it runs on. Outside of sections it runs as a shootdown's function does, where the core looks at its messages; [`xcall::urgent::broadcast`](crate::xcall::urgent::broadcast) interrupts polls, too.
/// Prompt shootdowns of one core are carried out in order, and wait for none that are not prompt: one that waits for the end of a long poll holds up those after it, and the core's invalidations of a
/// [`CoreCache`](crate::CoreCache). What `f` captures is dropped on the core that initiates it, outside of interrupts. A panic in `f` ends the process.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
///
/// use ipiq::CoreId;
/// use ipiq::urgent::InterruptSafe;
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let begun = Arc::new(AtomicBool::new(false));
///     let limits = Arc::new([AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)]);
///     let (is_begun, mine) = (begun.clone(), limits.clone());
///     // Computes up to its core's limit.
///     let task = ipiq::spawn_on(CoreId::new(1), move || async move {
///         ipiq::preemptible(move || {
///             is_begun.store(true, Ordering::Relaxed);
///             while mine[1].load(Ordering::Relaxed) > 1000 {}
///         })
///         .await
///     });
///     while !begun.load(Ordering::Relaxed) {
///         ipiq::yield_now().await;
///     }
///     // SAFETY: it stores to an atomic, and nothing else.
///     let f = unsafe { InterruptSafe::new(move |core: CoreId| limits[core.index()].store(1000, Ordering::Relaxed)) };
///     assert_eq!(ipiq::shootdown_prompt(f).await?, 2);
///     task.await??;
///     Ok(())
/// }
/// ```
///
/// The idea is the kernels': a CPU is interrupted for a shootdown wherever it is.
///
/// # Errors
///
/// The future resolves to [`ShootdownError`](crate::ShootdownError) if the runtime has stopped.
///
/// # Cancel safety
///
/// As [`shootdown`].
///
/// # Panics
///
/// On a thread that runs no core.
#[track_caller]
pub fn shootdown_prompt<F: Fn(CoreId) + Send + Sync + 'static>(f: InterruptSafe<F>) -> PendingShootdown {
    on_core("shootdown_prompt", |executor| executor.shootdown_prompt(f))
}

impl Handle {
    /// Runs `f` on every core, in the middle of its [`preemptible`](crate::preemptible()) sections too: [`shootdown_prompt`] for threads that run no core. One of the cores initiates it, for all such threads the same one, when it looks at its
    /// messages; [`broadcast_urgent`](Self::broadcast_urgent) needs none for that. The future may be awaited anywhere.
    ///
    /// # Errors
    ///
    /// As [`shootdown_prompt`].
    ///
    /// # Cancel safety
    ///
    /// As [`shootdown`].
    pub fn shootdown_prompt<F: Fn(CoreId) + Send + Sync + 'static>(&self, f: InterruptSafe<F>) -> Shootdown {
        self.remote().shootdown_prompt(f)
    }

    /// Runs `f` on every core: [`shootdown`] for threads that run no core. One of the cores initiates it. The future may be awaited anywhere.
    ///
    /// # Errors
    ///
    /// As [`shootdown`].
    ///
    /// # Cancel safety
    ///
    /// As [`shootdown`].
    pub fn shootdown<F: Fn() + Send + Sync + 'static>(&self, f: F) -> Shootdown {
        self.remote().shootdown(move |_: &Core| f())
    }
}
