//! Something executed on every core, at once.

use ipiq_executor::{PendingShootdown, Shootdown};
use ipiq_fabric::Core;

use crate::Handle;
use crate::current::on_core;

/// Runs `f` on every core of the caller's runtime as soon as each looks at its messages, and says when all have. The own part runs at once.
///
/// Many cores may do this at a time: nobody waits for anybody else's. Requests of one core are carried out in order, each when the one before has
/// been acknowledged by all. `f` should be short and must not block; to await there, use [`spawn_on`](crate::spawn_on). A core in the middle of a
/// poll runs it when that ends; one that sleeps is woken.
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

impl Handle {
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
