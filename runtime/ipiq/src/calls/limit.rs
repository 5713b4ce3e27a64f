//! How many calls may be outstanding.

use std::sync::atomic::{AtomicU64, Ordering};

use super::chain;

/// How many async calls of one core to another may be outstanding, and what happens to one too many.
///
/// Those of [`call_async_on`](crate::call_async_on) and of a shard's [`call_async`](crate::sharded::On::call_async) count; closures that do not await are over too soon to need it, and tasks that are
/// spawned are nobody's calls.
///
/// It holds for each pair of cores, each [service](crate::sharded::Sharded) and each depth of calls inside of calls: a call made by the closure of another one does not wait for
/// that one's slot. So calls that go in a circle do not wait for themselves.
///
/// ```
/// use ipiq::{CoreId, Limit, Runtime};
///
/// let runtime = Runtime::builder().cores(2).call_limit(Limit::reject(1)).build()?;
/// runtime.block_on(|| async {
///     let first = ipiq::call_async_on(CoreId::new(1), async || ipiq::yield_now().await);
///     let second = ipiq::call_async_on(CoreId::new(1), async || ipiq::yield_now().await);
///     assert!(second.await.unwrap_err().is_over_limit());
///     first.await.unwrap();
/// });
/// # Ok::<(), ipiq::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    most: u32,
    waits: bool,
}

impl Limit {
    /// How deep calls inside of calls may go. One that is deeper is [refused](crate::CallError::is_circular).
    pub const DEEPEST: usize = chain::DEEPEST as usize;

    /// At most `calls`; one more is refused at once, with an [error](crate::CallError::is_over_limit) that says so.
    ///
    /// # Panics
    ///
    /// If `calls` is 0, or above 2³² - 1.
    #[must_use]
    #[track_caller]
    pub const fn reject(calls: usize) -> Self {
        Self { most: most(calls), waits: false }
    }

    /// At most `calls`; one more waits in line until another has ended, which is when that one's future is ready or dropped. So who begins several calls polls them together, or awaits them in
    /// the order in which they were made: one that waits in line, and is awaited before those that have been sent, would wait for ever.
    ///
    /// # Panics
    ///
    /// If `calls` is 0, or above 2³² - 1.
    #[must_use]
    #[track_caller]
    pub const fn wait(calls: usize) -> Self {
        Self { most: most(calls), waits: true }
    }

    pub(super) fn most(self) -> usize {
        self.most as usize
    }

    pub(super) fn waits(self) -> bool {
        self.waits
    }
}

#[track_caller]
const fn most(calls: usize) -> u32 {
    assert!(calls > 0 && calls <= u32::MAX as usize, "a limit of calls is between 1 and 2^32 - 1");
    calls as u32
}

impl Default for Limit {
    /// 1,024, and who comes too much waits.
    fn default() -> Self {
        Self::wait(1024)
    }
}

/// A limit that any thread may change.
pub(crate) struct SharedLimit(AtomicU64);

impl Default for SharedLimit {
    fn default() -> Self {
        Self(AtomicU64::new(pack(Limit::default())))
    }
}

impl SharedLimit {
    pub(crate) fn get(&self) -> Limit {
        // Relaxed: nothing else is told by it.
        let word = self.0.load(Ordering::Relaxed);
        Limit { most: word as u32, waits: word >> 32 != 0 }
    }

    pub(crate) fn set(&self, limit: Limit) {
        self.0.store(pack(limit), Ordering::Relaxed);
    }
}

fn pack(limit: Limit) -> u64 {
    u64::from(limit.waits) << 32 | u64::from(limit.most)
}
