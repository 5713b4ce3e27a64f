//! The runtime: its cores' threads and their end.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle as ThreadHandle, Thread};
use std::time::Instant;

use ipiq_driver::{DriverKind, Notifier};
use ipiq_executor::classes::{ClassId, ClassSpec};
use ipiq_executor::{Remote, SpinPolicy};
use ipiq_fabric::port::{Clock, FenceKind, Port};
use ipiq_fabric::{Config, CoreId, Fabric, Seat};
use ipiq_linux::clock::MonotonicClock;
use ipiq_linux::cpus;
use ipiq_linux::fork;
use ipiq_linux::inherited;
use ipiq_linux::interrupt::{DEFAULT_SIGNAL, Interrupts};
use ipiq_linux::kick::Kick;
use ipiq_linux::pin;
use ipiq_linux::placement::shares_cpus;
use ipiq_linux::port::LinuxPort;
use ipiq_linux::topology;

use crate::blocking::Pool;
use crate::builder::{BuildError, Builder, Cause};
use crate::crew::{Arrival, Crew, Former};
use crate::idle::DriverKick;
use crate::metrics::Instruments;
use crate::paused_clock::{PausedClock, PausedKick};
use crate::preemptible;
use crate::shutdown::Board;
use crate::slices::{Bell, Slices};
use crate::stalls::Inspect;
use crate::thread::Ready;
use crate::threads::Threads;
use crate::{Handle, IdlePolicy, InterruptPolicy};

/// What a runtime was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeInfo {
    /// How many cores.
    pub cores: usize,
    /// The CPU of each core; `None`: it is pinned to none, for the reason that [`Handle::topology`] tells.
    pub cpus: Vec<Option<usize>>,
    /// The kernel interface for I/O; never [`DriverKind::Auto`].
    pub driver: DriverKind,
    /// Why io_uring is not used although it was asked for first.
    pub driver_fallback: Option<String>,
    /// Which pair of fences the fabric uses.
    pub fence: FenceKind,
    /// The signal that interrupts cores for [urgent](crate::urgent) handlers; `None`: they are not interrupted.
    pub interrupt_signal: Option<i32>,
    /// Why cores, or some of them, are not interrupted although they should be if possible.
    pub interrupt_fallback: Option<String>,
}

/// A set of cores that run tasks.
///
/// A process may have several; each that is pinned uses the same CPUs unless [`Placement::Fixed`](crate::Placement::Fixed) keeps
/// them apart.
///
/// Dropping it stops it: every core drops its tasks, on its own thread, and ends; the drop returns when all have. Awaiting
/// handles resolve to "cancelled". Where its [end in phases](crate::shutdown) has begun the drop lets these come to their end first. A child that is forked without `execve` has none of its threads: there a [`Handle`] answers as if the runtime had stopped, tasks "cancelled" and calls "gone",
/// [`shutdown`](Handle::shutdown) is refused, dropping the runtime does nothing, and everything else of it is to be left alone. A runtime dropped on the thread of one of its own cores is told to stop, unless its phases do that, and not waited for.
pub struct Runtime {
    remote: Remote,
    threads: Arc<Threads>,
    blocking: Arc<Pool>,
    slices: Option<Slices>,
    inspect: Arc<Inspect>,
    board: Arc<Board>,
    info: RuntimeInfo,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Runtime {
    /// A runtime with one core per CPU and every default.
    ///
    /// # Errors
    ///
    /// As [`Builder::build`].
    pub fn new() -> Result<Self, BuildError> {
        Self::builder().build()
    }

    /// Sets up a runtime.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn start(builder: &Builder) -> Result<Self, BuildError> {
        inherited::remember();
        let allowed = cpus::allowed();
        let cores = builder.cores.unwrap_or_else(|| allowed.default_cores());
        let config = Config { cores, ring_capacity: builder.ring_capacity, ..Config::default() };
        let (interrupts, interrupt_fallback) = install(builder.interrupts)?;
        // Before the threads: the registration of the fence is cheap only now.
        let linux = LinuxPort::new(cores, builder.fence);
        let linux = Arc::new(match &interrupts {
            Some(interrupts) => linux.with_interrupts(interrupts),
            None => linux,
        });
        let (fabric, seats) = Fabric::with_watch(config, linux.clone(), builder.watch.clone())
            .map_err(|error| BuildError::new(Cause::Config(error)))?;
        let placed = builder.placement.assign(cores, &allowed, topology::machine());
        let spots = placed.map_err(|error| BuildError::new(Cause::Placement(error)))?;
        let clock = builder.paused_clock.then(|| Arc::new(PausedClock::new(cores)));
        let spin = match builder.idle {
            // Nothing that a spin ends by the clock would ever end.
            _ if builder.paused_clock => SpinPolicy::Never,
            IdlePolicy::Adaptive if shares_cpus(&spots, &allowed) => SpinPolicy::Yield,
            IdlePolicy::Adaptive => SpinPolicy::default(),
            IdlePolicy::Park => SpinPolicy::Never,
            IdlePolicy::Spin => SpinPolicy::Always,
        };
        fork::watch();
        let remote = Remote::new(&fabric);
        make_classes(&remote, &builder.classes)?;
        let bell = Arc::new(Bell::default());
        let blocking = blocking_pool(builder.blocking_threads, allowed.cpus.clone(), interrupts.clone());
        let time: Arc<dyn Clock + Send + Sync> = match &clock {
            Some(paused) => paused.clone(),
            None => Arc::new(MonotonicClock),
        };
        let instruments = Instruments::new(cores, time, blocking.reader(), allowed.clone());
        let inspect = Arc::new(Inspect::new(remote.clone(), instruments, interrupts.is_some()));
        let threads = Threads::new(remote.clone());
        let board = Board::new(remote.clone(), blocking.clone(), builder.phases.clone(), builder.paused_clock);
        let board = Arc::new(board);
        let crew = Crew {
            remote: remote.clone(),
            spots,
            pin_or_fail: builder.placement.is_demand(),
            driver: builder.driver,
            spin,
            clock: clock.clone(),
            thread_name: builder.thread_name.clone(),
            on_start: builder.on_thread_start.clone(),
            blocking: blocking.clone(),
            call_limit: builder.call_limit,
            bell: bell.clone(),
            inspect: inspect.clone(),
            board: board.clone(),
            interrupts: interrupts.clone().map(|interrupts| (linux.clone(), interrupts)),
            interrupt_or_fail: builder.interrupts != InterruptPolicy::Auto,
        };
        let mut starting = Starting::default();
        let (report, reports) = mpsc::channel();
        for seat in seats {
            starting.spawn(&crew, &threads, seat, report.clone())?;
        }
        drop(report);
        let mut info = RuntimeInfo {
            cores,
            cpus: vec![None; cores],
            driver: builder.driver,
            driver_fallback: None,
            fence: fabric.fence_kind(),
            interrupt_signal: interrupts.as_ref().map(|interrupts| interrupts.signal()),
            interrupt_fallback,
        };
        let mut first_error = None;
        for (core, result) in reports {
            match result {
                Ok(Ready { spot, pinned, notifier, driver, counters, fallback, interrupt_fallback }) => {
                    threads.set_former(core, Former { notifier: notifier.clone(), counters: counters.clone() });
                    inspect.instruments().set_driver(core, counters);
                    info.cpus[core.index()] = spot.cpu();
                    inspect.instruments().set_spot(core, spot);
                    linux.set_kicker(core, kicker(core, notifier, clock.as_ref()));
                    if let Some(pinned) = pinned {
                        linux.set_pinned(core, pinned);
                    }
                    // One core that fell back is worth knowing of.
                    if info.driver != DriverKind::Epoll {
                        info.driver = driver;
                    }
                    info.driver_fallback = info.driver_fallback.or(fallback);
                    info.interrupt_fallback = info.interrupt_fallback.or(interrupt_fallback);
                }
                Err(cause) => first_error = first_error.or(Some(cause)),
            }
        }
        if let Some(cause) = first_error {
            return Err(BuildError::new(cause));
        }
        let slices = Slices::start(inspect.clone(), builder.time_slice, builder.stalls.clone(), bell, interrupts);
        let slices = slices.map_err(|error| BuildError::new(Cause::Slices(error)))?;
        threads.started(starting.go(), crew);
        Ok(Self { remote, threads, blocking, slices, inspect, board, info })
    }

    /// What the runtime was given.
    #[must_use]
    pub fn info(&self) -> &RuntimeInfo {
        &self.info
    }

    /// The way into the runtime from other threads.
    #[must_use]
    pub fn handle(&self) -> Handle {
        let (remote, inspect) = (self.remote.clone(), self.inspect.clone());
        Handle::new(remote, inspect, self.board.clone(), self.threads.clone(), self.blocking.clone())
    }

    /// Runs the future that `init` makes as a task on core 0, and waits for its value on the calling thread.
    ///
    /// `init` is sent to core 0, and the future is made there: it need not be `Send`. Tasks that it started and did not await go on
    /// until the runtime is dropped. Several threads may call this at a time.
    ///
    /// The value comes back from core 0, so it is `Send`: an error of any kind is a `Box<dyn Error + Send + Sync>` here, where `#[ipiq::main]` takes a `Box<dyn Error>`, too.
    ///
    /// ```
    /// let runtime = ipiq::Runtime::builder().cores(1).build()?;
    /// let name = String::from("core");
    /// let text = runtime.block_on(move || async move { format!("{name} {}", ipiq::core_id().index()) });
    /// assert_eq!(text, "core 0");
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    ///
    /// # Panics
    ///
    /// With the task's panic; if the runtime is stopped meanwhile; and if the calling thread runs a core, which would wait for
    /// itself.
    #[track_caller]
    pub fn block_on<Init, Fut, T>(&self, init: Init) -> T
    where
        Init: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        assert_may_wait();
        let task = self.handle().spawn_on(CoreId::new(0), init);
        match Self::wait(task) {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(payload) => std::panic::resume_unwind(payload),
                Err(_) => panic!("the runtime was stopped while `block_on` waited"),
            },
        }
    }

    /// Waits for any future on the calling thread, which must not run a core: for handles and calls of a [`Handle`].
    ///
    /// There are no timers here. To wait no longer than so long, have a core wait beside a timer: handles and calls may be awaited anywhere.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use ipiq::{CoreId, Runtime, time};
    ///
    /// let runtime = Runtime::builder().cores(2).build()?;
    /// let call = runtime.handle().call_on(CoreId::new(1), || 7);
    /// let limit = Duration::from_secs(5);
    /// let answer = Runtime::wait(runtime.handle().spawn_on(CoreId::new(0), move || time::timeout(limit, call)))?;
    /// assert_eq!(answer??, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If the calling thread runs a core, in the middle of a [`preemptible`](crate::preemptible()) section too.
    #[track_caller]
    pub fn wait<F: Future>(future: F) -> F::Output {
        assert_may_wait();
        let sleeper = Arc::new(Sleeper::new(std::thread::current()));
        let waker = Waker::from(sleeper.clone());
        let mut cx = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
                return value;
            }
            sleeper.sleep_until(None);
        }
    }
}

fn make_classes(remote: &Remote, classes: &[ClassSpec]) -> Result<(), BuildError> {
    // The default one is there already: the first that has its name changes it.
    for (index, class) in classes.iter().enumerate() {
        let is_first = || classes[..index].iter().all(|other| other.name() != class.name());
        let default = remote.class_terms(ClassId::DEFAULT);
        if class.name() == default.name() && is_first() {
            default.set(class);
        } else {
            remote.create_class(class.clone()).map_err(|error| BuildError::new(Cause::Class(error)))?;
        }
    }
    Ok(())
}

/// What interrupts cores, or why nothing does.
fn install(policy: InterruptPolicy) -> Result<(Option<Arc<Interrupts>>, Option<String>), BuildError> {
    let install = |signal| Interrupts::install(signal).map(Arc::new);
    match policy {
        InterruptPolicy::Off => Ok((None, None)),
        InterruptPolicy::Auto => match install(DEFAULT_SIGNAL) {
            Ok(interrupts) => Ok((Some(interrupts), None)),
            Err(error) => Ok((None, Some(error.to_string()))),
        },
        InterruptPolicy::Signal(signal) => match install(signal) {
            Ok(interrupts) => Ok((Some(interrupts), None)),
            Err(error) => Err(BuildError::new(Cause::Interrupts(error))),
        },
    }
}

/// Threads that run no core, on any of `cpus`.
fn blocking_pool(most: usize, cpus: Vec<usize>, interrupts: Option<Arc<Interrupts>>) -> Arc<Pool> {
    Pool::new(most, move || {
        if let Some(interrupts) = &interrupts {
            interrupts.keep_out();
        }
        // Where the kernel refuses it the thread shares the CPU of the core that has started it.
        if let Err(error) = pin::unpin_current(&cpus) {
            tracing::warn!(%error, "a thread for blocking closures stays on its core's CPU");
        }
    })
}

fn kicker(core: CoreId, notifier: Notifier, clock: Option<&Arc<PausedClock>>) -> Arc<dyn Kick> {
    let kick = Arc::new(DriverKick(notifier));
    let Some(clock) = clock.cloned() else { return kick };
    clock.set_notifier(core, kick);
    Arc::new(PausedKick { clock, core })
}

#[track_caller]
fn assert_may_wait() {
    assert!(
        LinuxPort::thread().current().is_null() && !preemptible::is_inside(),
        "this thread runs a core: waiting here would stop everything on it; use `.await`"
    );
}

/// A thread in [`Runtime::wait`].
pub(crate) struct Sleeper {
    thread: Thread,
    /// Beside the thread's own token: a poll that parks for something else, in a channel's `recv`, takes that one.
    woken: AtomicBool,
}

impl Sleeper {
    pub(crate) fn new(thread: Thread) -> Self {
        Self { thread, woken: AtomicBool::new(false) }
    }

    /// Until it has been woken, since the last such sleep, or the deadline has come.
    pub(crate) fn sleep_until(&self, deadline: Option<Instant>) {
        // Acquire: the next poll sees what the wake-up is for.
        if self.woken.swap(false, Ordering::Acquire) {
            // In the middle of its poll: what it polls again for may want this CPU.
            return std::thread::yield_now();
        }
        while !self.woken.swap(false, Ordering::Acquire) {
            let Some(deadline) = deadline else {
                std::thread::park();
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left);
        }
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release, and an RMW also when it is set: the swap that takes the flag reads this one or a later one.
        self.woken.swap(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if self.board.is_orphaned() {
            // The threads are the parent's.
            std::mem::forget(self.threads.take());
            self.slices.take().into_iter().for_each(std::mem::forget);
            return;
        }
        // By its id, not by what it runs: a core's thread may drop the runtime when its loop is over.
        let this = std::thread::current().id();
        if self.board.is_under_way() {
            // [shutdown B8]
            if self.threads.include(this) {
                return;
            }
            self.board.join();
        }
        self.remote.stop();
        // [shutdown B8]
        self.board.over();
        self.board.ring();
        let threads = self.threads.take();
        if threads.iter().all(|thread| thread.thread().id() != this) {
            // A core's panic aborts the process; there is no error to report.
            threads.into_iter().for_each(|thread| drop(thread.join()));
            self.slices.take().into_iter().for_each(Slices::join);
            // After the cores, whose tasks may wait for what is queued.
            self.blocking.end();
            self.blocking.join();
            // [shutdown B8]
            self.board.join();
        } else {
            self.blocking.end();
        }
    }
}

/// Threads that wait for their seats; without one they end, and are joined.
#[derive(Default)]
struct Starting {
    threads: Vec<ThreadHandle<()>>,
    seats: Vec<(mpsc::Sender<Seat>, Seat)>,
}

impl Starting {
    fn spawn(
        &mut self,
        crew: &Crew,
        threads: &Arc<Threads>,
        seat: Seat,
        report: mpsc::Sender<(CoreId, Result<Ready, Cause>)>,
    ) -> Result<(), BuildError> {
        let id = seat.id();
        let (give, go) = mpsc::channel();
        let thread = Crew::spawn((crew.thread_name)(id), crew.start(id, threads, None, Arrival::First { report, go }));
        self.threads.push(thread.map_err(|error| BuildError::new(Cause::Thread(id, error)))?);
        self.seats.push((give, seat));
        Ok(())
    }

    fn go(mut self) -> Vec<ThreadHandle<()>> {
        for (give, seat) in self.seats.drain(..) {
            // The thread waits for it: it cannot be gone.
            let _ = give.send(seat);
        }
        std::mem::take(&mut self.threads)
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.seats.clear();
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
