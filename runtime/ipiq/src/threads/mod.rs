#![doc = include_str!("README.md")]

mod leaving;
mod returning;

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle as ThreadHandle, ThreadId};

use futures_channel::oneshot;
use ipiq_executor::Remote;
use ipiq_fabric::CoreId;

use crate::crew::{Crew, Former};
use crate::of_thread::{self, Installed, Slot};
pub use leaving::{Leaving, leave};
pub use returning::{ReturnError, Returning};

thread_local! {
    static CURRENT: Slot<Arc<Threads>> = const { RefCell::new(None) };
}

/// Makes `threads` those of the calling core's runtime until the guard is dropped.
pub(crate) fn install(threads: Arc<Threads>) -> Installed<Arc<Threads>> {
    of_thread::install(&CURRENT, threads)
}

/// Those of the calling core's runtime.
///
/// # Panics
///
/// On a thread that runs no core; `what` names the function that was called.
#[track_caller]
pub(crate) fn current(what: &str) -> Arc<Threads> {
    of_thread::get(&CURRENT, what)
}

/// One runtime's.
pub(crate) struct Threads {
    remote: Remote,
    state: Mutex<State>,
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").finish_non_exhaustive()
    }
}

struct State {
    cores: Vec<OfCore>,
    /// What starts others; `None`: the runtime has ended, or has not begun.
    crew: Option<Arc<Crew>>,
}

#[derive(Default)]
struct OfCore {
    /// `None`: not started, or somebody joins it.
    thread: Option<ThreadHandle<()>>,
    /// Who waits for its end.
    waiting: Vec<oneshot::Sender<()>>,
    /// Since the first life.
    former: Option<Former>,
    /// The thread of the last life has ended.
    is_over: bool,
}

impl Threads {
    pub(crate) fn new(remote: Remote) -> Arc<Self> {
        let cores = std::iter::repeat_with(OfCore::default).take(remote.cores()).collect();
        Arc::new(Self { remote, state: Mutex::new(State { cores, crew: None }) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_former(&self, core: CoreId, former: Former) {
        self.lock().cores[core.index()].former = Some(former);
    }

    /// Whether a thread is one of them.
    pub(crate) fn include(&self, thread: ThreadId) -> bool {
        self.lock().cores.iter().filter_map(|core| core.thread.as_ref()).any(|of_core| of_core.thread().id() == thread)
    }

    /// The threads of all cores, in their order, and what started them.
    pub(crate) fn started(&self, threads: Vec<ThreadHandle<()>>, crew: Crew) {
        let mut state = self.lock();
        state.cores.iter_mut().zip(threads).for_each(|(core, thread)| core.thread = Some(thread));
        state.crew = Some(Arc::new(crew));
    }

    /// Those that run still; whoever has them joins them. No other is started.
    pub(crate) fn take(&self) -> Vec<ThreadHandle<()>> {
        let mut state = self.lock();
        // [threads E1]
        let crew = state.crew.take();
        let threads = state.cores.iter_mut().filter_map(|core| core.thread.take()).collect();
        drop(state);
        // It has a function of the user's, which may have a handle.
        drop(crew);
        threads
    }

    /// The calling thread, which ran `core`, is about to end.
    fn end(self: &Arc<Self>, core: CoreId) {
        if !self.remote.has_left(core) {
            // It ends with the others, which the runtime joins.
            return;
        }
        let mut state = self.lock();
        let thread = state.cores[core.index()].thread.take();
        let crew = state.crew.clone();
        drop(state);
        // [threads L2]
        let ending = Ending { threads: self.clone(), core, thread };
        match crew {
            // Refused: nobody joins it, and it ends by itself.
            Some(crew) => drop(crew.blocking.push(Box::new(move || drop(ending)))),
            None => drop(ending),
        }
    }
}

/// In the closure of a core's thread: dropped last.
pub(crate) struct AtEnd {
    pub(crate) threads: Arc<Threads>,
    pub(crate) core: CoreId,
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.threads.end(self.core);
    }
}

/// A thread to be joined, and then those told who wait for that.
struct Ending {
    threads: Arc<Threads>,
    core: CoreId,
    thread: Option<ThreadHandle<()>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let this = thread::current().id();
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != this) {
            // A core's panic aborts the process; there is no error to report.
            drop(thread.join());
        }
        let mut state = self.threads.lock();
        // [threads L3]
        let of_core = &mut state.cores[self.core.index()];
        of_core.is_over = true;
        let waiting = std::mem::take(&mut of_core.waiting);
        drop(state);
        // Told by the drop of their channels.
        drop(waiting);
    }
}
