#![doc = include_str!("README.md")]

mod leaving;
mod returning;

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
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
    /// Whom that thread joins, if it does nothing else.
    joined: Option<ThreadId>,
    /// Who waits for its end.
    waiting: Vec<oneshot::Sender<()>>,
    /// Who waits for a return that has failed.
    refused: Option<Refused>,
    /// Since the first life.
    former: Option<Former>,
    /// The thread of the last life has ended.
    is_over: bool,
}

/// A return that has failed, and whom to tell.
struct Refused {
    tell: oneshot::Sender<Result<(), ReturnError>>,
    error: ReturnError,
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

    /// The calling thread could not bring `core` back: it tells so when it has ended.
    pub(crate) fn refuse(&self, core: CoreId, tell: oneshot::Sender<Result<(), ReturnError>>, error: ReturnError) {
        // [threads R5]
        self.lock().cores[core.index()].refused = Some(Refused { tell, error });
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
        // A thread that is past its end, in a destructor of a thread-local variable, waits for nobody who joins it.
        let this = thread::current().id();
        let others = state.cores.iter_mut().filter(|core| core.joined != Some(this));
        let threads = others.filter_map(|core| core.thread.take()).collect();
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
        let (give, given) = mpsc::channel();
        let mut state = self.lock();
        let interrupts = state.crew.as_ref().and_then(|crew| Some(crew.interrupts.as_ref()?.1.clone()));
        let of_core = &mut state.cores[core.index()];
        let ending = Ending { threads: self.clone(), core, thread: of_core.thread.take() };
        if ending.thread.is_some() {
            // [threads L2] one of its own: those for blocking closures may all wait for this end.
            let joins = move || {
                interrupts.iter().for_each(|interrupts| interrupts.keep_out());
                drop(given.recv());
            };
            of_core.thread = thread::Builder::new().name("ipiq-leaving".into()).spawn(joins).ok();
            of_core.joined = of_core.thread.as_ref().map(|_| thread::current().id());
        }
        drop(state);
        // Where no thread takes it it is dropped here: the runtime's end joins this one, or nobody does.
        drop(give.send(ending));
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
        // Of who joined it, if the runtime's end does not have it.
        let joiner = of_core.thread.take();
        of_core.joined = None;
        let waiting = std::mem::take(&mut of_core.waiting);
        let refused = of_core.refused.take();
        drop((state, joiner));
        // [threads R5] the core may be brought back again.
        if let Some(Refused { tell, error }) = refused {
            let _ = tell.send(Err(error));
        }
        // Told by the drop of their channels.
        drop(waiting);
    }
}
