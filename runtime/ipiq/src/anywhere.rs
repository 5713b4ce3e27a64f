//! Work that has no home.

use std::cell::Cell;
use std::future::Future;

use ipiq_executor::{JoinHandle, Remote};
use ipiq_fabric::CoreId;

use crate::Handle;
use crate::current::on_core;

/// Spawns a task on a core that has little to do, for work that is no core's own: `init` travels there and makes the future, as with [`spawn_on`](crate::spawn_on).
///
/// Of two cores that are drawn by lot it takes the one with fewer tasks to run, counting what the caller has sent there and was not received yet. So no core has to look at all others, and
/// cores that spawn at the same time seldom all pick the same one. The task stays where it is put: this spreads work that comes in small pieces, and balances nothing later. One that computes for long holds up
/// what else is on its core, unless it gives way by [`yield_if_needed`](crate::yield_if_needed); [`spawn_blocking`](crate::spawn_blocking) takes it off the cores.
///
/// ```
/// #[ipiq::main(cores = 2)]
/// async fn main() {
///     let squares: Vec<_> = (0..8u32).map(|n| ipiq::spawn_any(move || async move { n.pow(2) })).collect();
///     let mut sum = 0;
///     for square in squares {
///         sum += square.await.unwrap();
///     }
///     assert_eq!(sum, 140);
/// }
/// ```
///
/// Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
///
/// # Panics
///
/// On a thread that runs no core.
#[track_caller]
pub fn spawn_any<Init, Fut>(init: Init) -> JoinHandle<Fut::Output>
where
    Init: FnOnce() -> Fut + Send + 'static,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    let core = on_core("spawn_any", |executor| {
        let (remote, here) = (executor.remote(), executor.core().id());
        let load = |core| {
            if core == here {
                // And the caller.
                return executor.ready_tasks() + 1;
            }
            let sent = remote.fabric().pair_counters(here, core);
            remote.recent_tasks(core) + sent.sent.saturating_sub(sent.received) as usize
        };
        least_loaded(remote, load)
    });
    crate::spawn_on(core, init)
}

impl Handle {
    /// Spawns a task on a core that has little to do, as [`spawn_any`] does. What this thread has sent and was not received is not counted.
    #[track_caller]
    pub fn spawn_any<Init, Fut>(&self, init: Init) -> JoinHandle<Fut::Output>
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        let remote = self.remote();
        self.spawn_on(least_loaded(remote, |core| remote.recent_tasks(core)), init)
    }
}

/// The one of two cores, drawn by lot, with the smaller `load`; where both have left, the one of all.
fn least_loaded(remote: &Remote, load: impl Fn(CoreId) -> usize) -> CoreId {
    let cores = remote.cores() as u64;
    if cores == 1 {
        return CoreId::new(0);
    }
    let lot = draw();
    let first = below(cores, lot >> 32);
    // Any other one.
    let second = (first + 1 + below(cores - 1, lot & u64::from(u32::MAX))) % cores;
    let load = |core| if remote.has_left(core) { usize::MAX } else { load(core) };
    let [first, second] = [first, second].map(|core| CoreId::new(core as usize));
    let (of_first, of_second) = (load(first), load(second));
    if of_first.min(of_second) == usize::MAX {
        return (0..remote.cores()).map(CoreId::new).min_by_key(|core| load(*core)).unwrap_or(first);
    }
    if of_second < of_first { second } else { first }
}

/// Scales 32 bits.
fn below(bound: u64, bits: u64) -> u64 {
    (bits * bound) >> 32
}

/// Numbers that look as if by chance, of the thread's own: Marsaglia's xorshift.
fn draw() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = const { Cell::new(0) };
    }
    let mut state = STATE.get();
    if state == 0 {
        // Where the variable lies differs from thread to thread.
        let place = STATE.with(|state| std::ptr::from_ref(state).addr() as u64);
        state = place.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    STATE.set(state);
    state.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lots_fall_evenly() {
        let mut counts = [0; 5];
        (0..50_000).for_each(|_| counts[below(5, draw() >> 32) as usize] += 1);
        assert!(counts.iter().all(|count| (9_000..11_000).contains(count)), "{counts:?}");
    }
}
