//! The threads, and the queue before them.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::{self, JoinHandle as ThreadHandle};
use std::time::Duration;

use ipiq_fabric::contain;
use ipiq_linux::interrupt::Interrupts;

use super::CURRENT;

/// Jobs that may wait for a worker.
pub(super) const QUEUE: usize = 1024;
/// How long a worker waits for a job.
const PATIENCE: Duration = Duration::from_secs(10);

/// It catches its closure's panic itself.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// Why a job was not queued.
pub(super) enum Refused {
    /// Here it is again.
    Full(Job),
    /// It was dropped.
    Ended,
    /// It was dropped: nobody would run it.
    NoThread(io::Error),
}

/// The threads that a runtime's blocking closures run on.
pub(crate) struct Pool {
    state: Mutex<State>,
    /// A job has come, or the end.
    come: Condvar,
    most: usize,
    patience: Duration,
    interrupts: Option<Arc<Interrupts>>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Workers that run, waiting or not.
    workers: usize,
    waiting: usize,
    /// Who waits for space.
    short_of_space: Vec<Waker>,
    ended: bool,
    threads: Vec<ThreadHandle<()>>,
}

impl Pool {
    /// A pool of at most `most` threads, none of which is there yet.
    pub(crate) fn new(most: usize, interrupts: Option<Arc<Interrupts>>) -> Arc<Self> {
        Self::with_patience(most, PATIENCE, interrupts)
    }

    pub(super) fn with_patience(most: usize, patience: Duration, interrupts: Option<Arc<Interrupts>>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), come: Condvar::new(), most, patience, interrupts })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of a user's runs under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job, and sees to it that it is taken.
    pub(super) fn push(self: &Arc<Self>, job: Job) -> Result<(), Refused> {
        self.push_into(&mut self.lock(), job)
    }

    /// As [`push`](Self::push); wakes `waker` when there may be space, if there is none.
    pub(super) fn push_or_wait(self: &Arc<Self>, job: Job, waker: &Waker) -> Result<(), Refused> {
        // Foreign code, as far as this knows: not under the lock.
        let waker = waker.clone();
        let mut state = self.lock();
        let pushed = self.push_into(&mut state, job);
        if matches!(pushed, Err(Refused::Full(_))) {
            // [blocking Q2]
            state.short_of_space.push(waker);
        }
        pushed
    }

    fn push_into(self: &Arc<Self>, state: &mut State, job: Job) -> Result<(), Refused> {
        if state.ended {
            return Err(Refused::Ended);
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
            state.jobs.pop_back();
            return Err(Refused::NoThread(error));
        }
        Ok(())
    }

    fn start_worker(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let pool = self.clone();
        let thread = thread::Builder::new().name("ipiq-blocking".into()).spawn(move || pool.work())?;
        state.workers += 1;
        state.threads.retain(|thread| !thread.is_finished());
        state.threads.push(thread);
        Ok(())
    }

    /// A worker, from start to end.
    fn work(&self) {
        if let Some(interrupts) = &self.interrupts {
            interrupts.keep_out();
        }
        while let Some((job, woken)) = self.next() {
            woken.into_iter().for_each(|waker| contain(|| waker.wake()));
            contain(job);
        }
    }

    /// The next job, and who can come again; `None`: the worker ends.
    fn next(&self) -> Option<(Job, Vec<Waker>)> {
        let mut state = self.lock();
        loop {
            // [blocking Q3]
            if let Some(job) = state.jobs.pop_front() {
                let has_space = state.jobs.len() <= QUEUE / 2;
                let woken = if has_space { std::mem::take(&mut state.short_of_space) } else { Vec::new() };
                return Some((job, woken));
            }
            if state.ended {
                break;
            }
            state.waiting += 1;
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
        None
    }

    /// Ends the pool: drops what is queued. Does not wait.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        // [blocking Q6]
        state.ended = true;
        let (jobs, woken) = (std::mem::take(&mut state.jobs), std::mem::take(&mut state.short_of_space));
        drop(state);
        self.come.notify_all();
        jobs.into_iter().for_each(|job| contain(|| drop(job)));
        woken.into_iter().for_each(|waker| contain(|| waker.wake()));
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

    /// How many threads there are.
    #[cfg(test)]
    pub(super) fn workers(&self) -> usize {
        self.lock().workers
    }
}

/// While it lives, the pool is that of the calling thread's core.
pub(crate) struct Installed(());

impl Installed {
    pub(crate) fn new(pool: Arc<Pool>) -> Self {
        CURRENT.set(Some(pool));
        Self(())
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}
