//! Stopping cores.

use ipiq_executor::{Pause, Paused, Pausing, RemotePausing};
use ipiq_fabric::urgent::InterruptSafe;
use ipiq_fabric::{CoreId, CoreSet};

use crate::Handle;
use crate::current::{assert_cores, on_core};

/// Stops the cores of `plan`, each between two of its polls, runs `body` on the calling core while they stand still, then the function of
/// [`Pause::each`] on each of them, and lets them go on.
///
/// For what must see, or change, all cores at one moment: a consistent snapshot of shards, a change of who owns what. `body` need not
/// be `Send`. It should be short, and must not wait for another core: they all stand still. Pauses never overlap: one that
/// comes while another goes on takes its turn afterwards, and the calling core goes on with its work until then. A core that is in the
/// middle of a long poll delays the pause for as long as that; one that sleeps is woken; one that has left is skipped.
///
/// The future resolves to what `body` returned, and how long the pause was.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
/// use std::sync::Arc;
///
/// use ipiq::{Pause, PauseError};
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), PauseError> {
///     let counted = Arc::new(AtomicUsize::new(0));
///     let count = counted.clone();
///     let plan = Pause::all().each(move || {
///         count.fetch_add(ipiq::core_id().index() + 1, Relaxed);
///     });
///     let (stopped, times) = ipiq::pause(plan, |paused| paused.cores().len()).await?;
///     assert_eq!((stopped, counted.load(Relaxed)), (2, 3));
///     assert!(times.total >= times.stopping);
///     Ok(())
/// }
/// ```
///
/// Source of the idea: DragonFly's `lwkt_cpusync`: interlock, body, deinterlock.
///
/// # Errors
///
/// The future resolves to [`PauseError`](crate::PauseError): the plan's limit was reached, messages found no end, or the body or a function
/// panicked. Every core has been released.
///
/// # Cancel safety
///
/// Dropped before its turn has come, the pause is not carried out; later, it is carried out whole.
///
/// # Panics
///
/// On a thread that runs no core, and if the plan names a core that the runtime does not have.
#[doc(alias = "cpusync")]
#[doc(alias = "stop_the_world")]
#[track_caller]
pub fn pause<R: 'static>(plan: Pause, body: impl FnOnce(&Paused<'_>) -> R + 'static) -> Pausing<R> {
    if plan.names_cores() {
        // At the line of the caller, which a closure's caller is not.
        plan.assert_cores(on_core("pause", |executor| executor.core().cores()));
    }
    on_core("pause", |executor| executor.pause(plan, body))
}

/// Runs `f` once on every core of `cores`, on each between two of its polls, without a common stop; ready when all have. The calling
/// core, if it is among them, comes last.
///
/// Cheaper than a [`pause`], which it takes turns with: no core waits for another. While it waits the calling core runs messages, no task.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
/// use std::sync::Arc;
///
/// use ipiq::CoreId;
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), ipiq::PauseError> {
///     let seen = Arc::new(AtomicUsize::new(0));
///     let count = seen.clone();
///     let cores = [CoreId::new(0), CoreId::new(1)];
///     ipiq::pause_each(cores, move || { count.fetch_add(1, Relaxed); }).await?;
///     assert_eq!(seen.load(Relaxed), 2);
///     Ok(())
/// }
/// ```
///
/// Source of the idea: DragonFly's `lwkt_cpusync_quick`.
///
/// # Errors
///
/// The future resolves to [`PauseError`](crate::PauseError) if `f` panicked somewhere; the others have run it.
///
/// # Cancel safety
///
/// As [`pause`].
///
/// # Panics
///
/// On a thread that runs no core, and if there is no such core.
#[doc(alias = "cpusync_quick")]
#[track_caller]
pub fn pause_each(cores: impl IntoIterator<Item = CoreId>, f: impl Fn() + Send + Sync + 'static) -> Pausing<()> {
    let cores = CoreSet::from_iter(cores);
    assert_cores("pause_each", cores);
    on_core("pause_each", |executor| executor.pause_each(Some(cores), f))
}

/// As [`pause`], and does not wait for the end of [`preemptible`](crate::preemptible()) sections: a core in the middle of one is stopped there, by an interrupt, if all others of the plan stand still.
///
/// For a moment in which nothing of a runtime moves, whatever its cores compute: words that they write are read together, a table that they look into is exchanged. The frozen core may
/// be in the middle of anything, of an allocation above all, and hold the lock of it. So `body` is an [`InterruptSafe`] function, as urgent calls take: atomics, and
/// memory of its own. It is given the core that it runs on, the calling one. It must not panic: that ends the process, or, as a frozen core may hold what the message wants, stops it.
///
/// A core in the middle of a poll delays it as it does every pause. So does a section where its core [cannot be interrupted](crate::Builder::interrupts), and, as long as it lasts, a
/// [`critical`](crate::urgent::critical) section in one. [`PauseTimes::in_sections`](crate::PauseTimes::in_sections) says how many cores were stopped in one. What a section does, no step of a pause divides, but at an
/// instruction: `body` sees what was written up to there.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use ipiq::urgent::InterruptSafe;
/// use ipiq::{CoreId, Pause};
///
/// #[ipiq::main(cores = 2)]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let steps = Arc::new(AtomicU64::new(0));
///     let (count, seen) = (steps.clone(), steps.clone());
///     // Computes until it is told to end.
///     let task = ipiq::spawn_on(CoreId::new(1), move || async move {
///         ipiq::preemptible(move || while count.fetch_add(1, Ordering::Relaxed) < u64::MAX / 2 {}).await
///     });
///     while steps.load(Ordering::Relaxed) == 0 {
///         ipiq::yield_now().await;
///     }
///     // SAFETY: it exchanges an atomic, and nothing else.
///     let body = unsafe { InterruptSafe::new(move |_core| seen.swap(u64::MAX / 2, Ordering::Relaxed)) };
///     let (stands, _times) = ipiq::pause_prompt(Pause::all(), body).await?;
///     assert!(stands > 0);
///     task.await??;
///     Ok(())
/// }
/// ```
///
/// The idea is the kernels': a CPU that stops others for a moment does so by an interrupt.
///
/// # Errors
///
/// The future resolves to [`PauseError`](crate::PauseError) if the plan's limit was reached.
///
/// # Cancel safety
///
/// As [`pause`].
///
/// # Panics
///
/// On a thread that runs no core; if the plan names a core that the runtime does not have; and if it has [`Pause::each`] or [`Pause::drain`]: a core that stands in the middle of
/// something can do neither.
#[doc(alias = "stop_the_world")]
#[track_caller]
pub fn pause_prompt<F, R>(plan: Pause, body: InterruptSafe<F>) -> Pausing<R>
where
    F: Fn(CoreId) -> R + 'static,
    R: 'static,
{
    plan.assert_prompt();
    if plan.names_cores() {
        // At the line of the caller, which a closure's caller is not.
        plan.assert_cores(on_core("pause_prompt", |executor| executor.core().cores()));
    }
    on_core("pause_prompt", |executor| executor.pause_prompt(plan, body))
}

impl Handle {
    /// As [`pause_prompt`], from any thread: `body` runs on `core`, which has to come to the end of its poll, or section. The future may be awaited anywhere.
    ///
    /// # Errors
    ///
    /// As [`pause_prompt`]; also if `core` left first, or the runtime had been told to stop.
    ///
    /// # Cancel safety
    ///
    /// As [`pause`](crate::pause()).
    ///
    /// # Panics
    ///
    /// If there is no core `core`, if the plan names a core that the runtime does not have, and if it has [`Pause::each`] or [`Pause::drain`].
    #[track_caller]
    pub fn pause_prompt<F, R>(&self, core: CoreId, plan: Pause, body: InterruptSafe<F>) -> RemotePausing<R>
    where
        F: Fn(CoreId) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.remote().pause_prompt(core, plan, body)
    }

    /// As [`pause`](crate::pause()), from any thread: `body` runs on `core`. The future may be awaited anywhere, also by
    /// [`Runtime::wait`](crate::Runtime::wait) on a plain thread.
    ///
    /// ```
    /// use ipiq::{CoreId, Pause, Runtime};
    ///
    /// let runtime = Runtime::builder().cores(2).build()?;
    /// let pausing = runtime.handle().pause(CoreId::new(0), Pause::all().drain(), |paused| paused.cores().len());
    /// let (stopped, _times) = Runtime::wait(pausing)?;
    /// assert_eq!(stopped, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`pause`](crate::pause()); also if `core` left first, or the runtime had been told to stop.
    ///
    /// # Cancel safety
    ///
    /// As [`pause`](crate::pause()).
    ///
    /// # Panics
    ///
    /// If there is no core `core`, and if the plan names a core that the runtime does not have.
    #[track_caller]
    pub fn pause<R: Send + 'static>(
        &self,
        core: CoreId,
        plan: Pause,
        body: impl FnOnce(&Paused<'_>) -> R + Send + 'static,
    ) -> RemotePausing<R> {
        self.remote().pause(core, plan, body)
    }
}
