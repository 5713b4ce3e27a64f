//! The threads, and the queue before them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::{self, JoinHandle as ThreadHandle};
use std::time::Duration;

use ipiq_fabric::contain;

/// Jobs that may wait for a worker.
pub(super) const QUEUE: usize = 1024;
/// How long a worker waits for a job.
const PATIENCE: Duration = Duration::from_secs(10);

/// It catches its closure's panic itself.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// What a worker does first.
type OnStart = Arc<dyn Fn() + Send + Sync>;

/// Why a job was not queued; here it is again, to be dropped outside the lock.
pub(crate) enum Refused {
    Full(Job),
    Ended(Job),
    /// Nobody would run it.
    NoThread(Job, io::Error),
}

/// The threads that a runtime's blocking closures run on.
pub(crate) struct Pool {
    state: Mutex<State>,
    /// A job has come, or the end.
    come: Condvar,
    /// The last worker has gone.
    gone: Condvar,
    most: usize,
    patience: Duration,
    told: Arc<Told>,
}

/// What the state was last, for those who do not take the lock; written under it.
#[derive(Default)]
struct Told {
    workers: AtomicUsize,
    waiting: AtomicUsize,
    queued: AtomicUsize,
}

/// Tells what a pool does, without its lock, and without keeping it.
pub(crate) struct BlockingReader(Arc<Told>);

impl BlockingReader {
    pub(crate) fn read(&self) -> BlockingLoad {
        let Told { workers, waiting, queued } = &*self.0;
        BlockingLoad {
            threads: workers.load(Ordering::Relaxed),
            idle: waiting.load(Ordering::Relaxed),
            queued: queued.load(Ordering::Relaxed),
        }
    }
}

/// What the pool of a runtime's blocking closures does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockingLoad {
    /// Threads there are now.
    pub threads: usize,
    /// Those of them that wait for a closure.
    pub idle: usize,
    /// Closures that wait for a thread.
    pub queued: usize,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("most", &self.most).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Workers that run, waiting or not.
    workers: usize,
    waiting: usize,
    /// Who waits for space, by place, in the order in which they came.
    short_of_space: BTreeMap<u64, Waker>,
    next_place: u64,
    ended: bool,
    threads: Vec<ThreadHandle<()>>,
    /// Until the end: handles keep the pool, and must not keep what this has.
    on_start: Option<OnStart>,
}

impl Pool {
    /// A pool of at most `most` threads, none of which is there yet. Each runs `on_start` first.
    pub(crate) fn new(most: usize, on_start: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Self::with_patience(most, PATIENCE, on_start)
    }

    pub(super) fn with_patience(
        most: usize,
        patience: Duration,
        on_start: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { on_start: Some(Arc::new(on_start)), ..State::default() }),
            come: Condvar::new(),
            gone: Condvar::new(),
            most,
            patience,
            told: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of a user's runs under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job, and sees to it that it is taken.
    pub(crate) fn push(self: &Arc<Self>, job: Job) -> Result<(), Refused> {
        let mut state = self.lock();
        let pushed = self.push_into(&mut state, job);
        self.tell(&state);
        pushed
    }

    fn tell(&self, state: &State) {
        self.told.workers.store(state.workers, Ordering::Relaxed);
        self.told.waiting.store(state.waiting, Ordering::Relaxed);
        self.told.queued.store(state.jobs.len(), Ordering::Relaxed);
    }

    pub(crate) fn reader(&self) -> BlockingReader {
        BlockingReader(self.told.clone())
    }

    /// A place among those who wait for space.
    pub(super) fn place(self: Arc<Self>) -> Place {
        let mut state = self.lock();
        let number = state.next_place;
        state.next_place += 1;
        drop(state);
        Place { pool: self, number }
    }

    fn push_into(self: &Arc<Self>, state: &mut State, job: Job) -> Result<(), Refused> {
        if state.ended {
            return Err(Refused::Ended(job));
        }
        if state.jobs.len() == QUEUE {
            return Err(Refused::Full(job));
        }
        // [blocking Q1]
        state.jobs.push_back(job);
        if state.waiting >= state.jobs.len() {
            self.come.notify_one();
        } else if state.workers < self.most
            && let Err(error) = self.start_worker(state)
            && state.workers == 0
        {
            // [blocking Q5]
            return Err(Refused::NoThread(state.jobs.pop_back().expect("just queued"), error));
        }
        Ok(())
    }

    fn start_worker(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let (pool, on_start) = (self.clone(), state.on_start.clone());
        let thread = thread::Builder::new().name("ipiq-blocking".into()).spawn(move || pool.work(on_start))?;
        state.workers += 1;
        state.threads.retain(|thread| !thread.is_finished());
        state.threads.push(thread);
        Ok(())
    }

    /// A worker, from start to end.
    fn work(&self, on_start: Option<OnStart>) {
        // [blocking Q0]
        contain(|| on_start.iter().for_each(|on_start| on_start()));
        drop(on_start);
        while let Some((job, woken)) = self.next() {
            woken.into_values().for_each(|waker| contain(|| waker.wake()));
            contain(job);
        }
    }

    /// The next job, and who can come again; `None`: the worker ends.
    fn next(&self) -> Option<(Job, BTreeMap<u64, Waker>)> {
        let mut state = self.lock();
        loop {
            // [blocking Q3]
            if let Some(job) = state.jobs.pop_front() {
                let has_space = state.jobs.len() <= QUEUE / 2;
                let woken = if has_space { std::mem::take(&mut state.short_of_space) } else { BTreeMap::new() };
                self.tell(&state);
                return Some((job, woken));
            }
            if state.ended {
                break;
            }
            state.waiting += 1;
            self.tell(&state);
            let (mut again, waited) =
                self.come.wait_timeout(state, self.patience).unwrap_or_else(PoisonError::into_inner);
            again.waiting -= 1;
            // [blocking Q4] what came at the last moment is not left.
            if waited.timed_out() && again.jobs.is_empty() {
                state = again;
                break;
            }
            state = again;
        }
        state.workers -= 1;
        if state.workers == 0 {
            self.gone.notify_all();
        }
        self.tell(&state);
        None
    }

    /// Ends the pool: drops what is queued. Does not wait.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        // [blocking Q6]
        state.ended = true;
        let (jobs, woken) = (std::mem::take(&mut state.jobs), std::mem::take(&mut state.short_of_space));
        let on_start = state.on_start.take();
        self.tell(&state);
        drop(state);
        self.come.notify_all();
        drop(on_start);
        jobs.into_iter().for_each(|job| contain(|| drop(job)));
        woken.into_values().for_each(|waker| contain(|| waker.wake()));
    }

    /// Waits for the threads of a pool that has ended, unless the caller is one.
    pub(crate) fn join(&self) {
        let threads = std::mem::take(&mut self.lock().threads);
        let this = thread::current().id();
        // [blocking Q6]
        if threads.iter().all(|thread| thread.thread().id() != this) {
            // They contain the panics of what they run.
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }

    /// Waits until a pool that has ended has no workers, for so long at most. Returns how many there are.
    pub(crate) fn wait_for_end(&self, limit: Duration) -> usize {
        let waited = self.gone.wait_timeout_while(self.lock(), limit, |state| state.workers > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.workers
    }

    /// How many workers run a job.
    pub(crate) fn busy(&self) -> usize {
        let state = self.lock();
        state.workers - state.waiting
    }

    /// How many threads there are.
    #[cfg(test)]
    pub(super) fn workers(&self) -> usize {
        self.lock().workers
    }
}

/// Of one who waits for space.
pub(super) struct Place {
    pool: Arc<Pool>,
    number: u64,
}

impl Place {
    /// As [`Pool::push`]; wakes `waker`, and none that was left here before, when there may be space, if there is none.
    pub(super) fn push_or_wait(&self, job: Job, waker: &Waker) -> Result<(), Refused> {
        // Foreign code, as far as this knows, also the destructor of the one before: not under the lock.
        let waker = waker.clone();
        let mut state = self.pool.lock();
        let pushed = self.pool.push_into(&mut state, job);
        self.pool.tell(&state);
        if matches!(pushed, Err(Refused::Full(_))) {
            // [blocking Q2]
            let before = state.short_of_space.insert(self.number, waker);
            drop(state);
            drop(before);
        }
        pushed
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.pool.lock().short_of_space.remove(&self.number);
        drop(left);
    }
}
