//! How a runtime is set up.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ipiq_driver::{DriverError, DriverKind};
use ipiq_executor::classes::{ClassError, ClassSpec};
use ipiq_fabric::watch::{Stall, Watch};
use ipiq_fabric::{ConfigError, CoreId};
use ipiq_linux::interrupt::InterruptError;
use ipiq_linux::placement::PlacementError;
use ipiq_linux::port::FenceChoice;

use crate::calls::Limit;
use crate::shutdown::Plan;
use crate::stalls::Stalls;
use crate::{Placement, Runtime, StallReport};

/// What a core does when it has nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Looks on for a while, as long as the gaps it has seen make that pay (50 µs at most), then sleeps. Where cores
    /// share CPUs, or are more than a quota grants CPUs' worth of time, it lets the others run once, and then sleeps.
    #[default]
    Adaptive,
    /// Sleeps at once: least CPU time, and every message to an idle core pays a wake-up.
    Park,
    /// Never sleeps: least latency, and a CPU per core.
    Spin,
}

/// How a core in the middle of a poll is reached, for [urgent](crate::urgent) handlers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InterruptPolicy {
    /// By `SIGURG`, unless the process ignores or blocks it, or a sandbox refuses: then not at all, which [`RuntimeInfo`](crate::RuntimeInfo) tells.
    #[default]
    Auto,
    /// Not at all: no signal handler is installed, and urgent handlers run when their core looks by itself, at the end of a poll.
    Off,
    /// By this signal: `SIGURG`, `SIGUSR1`, `SIGUSR2`, `SIGIO`, `SIGWINCH` or a real-time one; [`build`](Builder::build) fails if it cannot be had.
    Signal(i32),
}

pub(crate) type ThreadHook = Arc<dyn Fn(CoreId) + Send + Sync>;
pub(crate) type ThreadName = Arc<dyn Fn(CoreId) -> String + Send + Sync>;

/// Sets up a [`Runtime`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    pub(crate) cores: Option<usize>,
    pub(crate) placement: Placement,
    pub(crate) driver: DriverKind,
    pub(crate) idle: IdlePolicy,
    pub(crate) ring_capacity: usize,
    pub(crate) thread_name: ThreadName,
    pub(crate) on_thread_start: Option<ThreadHook>,
    pub(crate) fence: FenceChoice,
    pub(crate) watch: Watch,
    pub(crate) time_slice: Option<Duration>,
    pub(crate) stalls: Stalls,
    pub(crate) interrupts: InterruptPolicy,
    pub(crate) paused_clock: bool,
    pub(crate) blocking_threads: usize,
    pub(crate) phases: Plan,
    pub(crate) call_limit: Limit,
    pub(crate) classes: Vec<ClassSpec>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("cores", &self.cores)
            .field("placement", &self.placement)
            .field("driver", &self.driver)
            .field("idle", &self.idle)
            .field("ring_capacity", &self.ring_capacity)
            .field("fence", &self.fence)
            .field("watch", &self.watch)
            .field("time_slice", &self.time_slice)
            .field("stall_limit", &self.stalls.limit)
            .field("interrupts", &self.interrupts)
            .field("paused_clock", &self.paused_clock)
            .field("blocking_threads", &self.blocking_threads)
            .field("call_limit", &self.call_limit)
            .field("classes", &self.classes)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            cores: None,
            placement: Placement::default(),
            driver: DriverKind::default(),
            idle: IdlePolicy::default(),
            ring_capacity: 1024,
            thread_name: Arc::new(|core| format!("ipiq-{}", core.index())),
            on_thread_start: None,
            fence: FenceChoice::default(),
            watch: Watch { report: Some(Arc::new(warn)), ..Watch::default() },
            time_slice: Some(Duration::from_millis(10)),
            stalls: Stalls::default(),
            interrupts: InterruptPolicy::default(),
            paused_clock: false,
            blocking_threads: 256,
            phases: Plan::default(),
            call_limit: Limit::default(),
            classes: Vec::new(),
        }
    }

    /// How many cores, 1 to 256. Default: one per CPU that this process may use, but no more than the quota of its control
    /// group grants CPUs' worth of time, rounded up.
    pub fn cores(mut self, cores: usize) -> Self {
        self.cores = Some(cores);
        self
    }

    /// Which CPU each core is pinned to. Default: [`Placement::Auto`].
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Which kernel interface does I/O. Default: [`DriverKind::Auto`], io_uring where it is allowed.
    pub fn driver(mut self, driver: DriverKind) -> Self {
        self.driver = driver;
        self
    }

    /// What an idle core does. Default: [`IdlePolicy::Adaptive`].
    pub fn idle(mut self, idle: IdlePolicy) -> Self {
        self.idle = idle;
        self
    }

    /// Messages that fit into the ring of one pair of cores, 64 bytes each: a power of two from 2 to 2^20. Default: 1024. A ring
    /// is allocated when its pair first talks.
    pub fn ring_capacity(mut self, messages: usize) -> Self {
        self.ring_capacity = messages;
        self
    }

    /// Names the threads. Default: `ipiq-0`, `ipiq-1`, … A name with a NUL character makes [`build`](Self::build) panic.
    pub fn thread_name(mut self, name: impl Fn(CoreId) -> String + Send + Sync + 'static) -> Self {
        self.thread_name = Arc::new(name);
        self
    }

    /// Has each core's thread run `hook` once before its core exists, pinned already: for what concerns the thread, such as its priority or
    /// signal mask. If it panics, [`build`](Self::build) returns an error that names the core and tells the panic's text.
    pub fn on_thread_start(mut self, hook: impl Fn(CoreId) + Send + Sync + 'static) -> Self {
        self.on_thread_start = Some(Arc::new(hook));
        self
    }

    /// Which fences to use. Default: [`FenceChoice::Auto`], `membarrier` where the kernel grants it.
    pub fn fence(mut self, fence: FenceChoice) -> Self {
        self.fence = fence;
        self
    }

    /// How cores are interrupted for [urgent](crate::urgent) handlers. Default: [`InterruptPolicy::Auto`], by `SIGURG`.
    ///
    /// While a runtime runs, the process has a handler for the signal, which calls the one that was there before; when the last runtime has ended, that one is
    /// back. Signals are sent only for triggers of urgent handlers, and to cores whose backtrace is wanted: see [`stall_limit`](Self::stall_limit) and
    /// [`Handle::backtrace_all_cores`](crate::Handle::backtrace_all_cores). Which system calls they end with `EINTR`, and more, tells
    /// the documentation of `ipiq_linux::interrupt`: `cargo doc -p ipiq-linux`.
    pub fn interrupts(mut self, interrupts: InterruptPolicy) -> Self {
        self.interrupts = interrupts;
        self
    }

    /// Calls `report` whenever a core has waited for another one for `interval`, and again after each further `interval`, until the wait ends. A
    /// millisecond at least.
    ///
    /// Each time the core that is waited for is kicked again, which repairs a kick that came late, and a warning goes to `tracing`. Both happen
    /// without this too, every second, for cores that wait in a loop or are awake; with it also for cores that sleep while
    /// another one does not run what they sent, which costs them a timer per such sleep.
    ///
    /// `report` runs on the core that waits, in the middle of its loop: it must be short, and not block, send or call. Its panics reach nobody. Nothing ends the wait;
    /// [`Handle::waits`](crate::Handle::waits) can be asked at any time.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// let runtime = ipiq::Runtime::builder()
    ///     .stall_reports(Duration::from_millis(100), |stall| {
    ///         eprintln!("{stall}"); // core 1 waits for core 3, 100 ms, in call; core 3 is busy
    ///     })
    ///     .build()?;
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    ///
    /// The idea is the watchdog of DragonFly's `lwkt_wait_ipiq`, which panics in the end.
    pub fn stall_reports(mut self, interval: Duration, report: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        let told = move |stall: &Stall| {
            warn(stall);
            report(stall);
        };
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1_000_000);
        self.watch = Watch { interval_ns, sleepers: true, report: Some(Arc::new(told)) };
        self
    }

    /// How long a core may run messages and tasks in one turn of its loop before [`should_yield`](crate::should_yield) says that it is time to give
    /// way. Default: 10 ms; a millisecond at least; `None`: never.
    ///
    /// A [class](Self::scheduling_class) may have a slice of its own, and the latency goal of one shortens the slices of the others; with `None` here no class has any.
    ///
    /// A thread of its own looks at all cores twice per slice, and ten times a second at least, so the answer comes one to two slices after the turn began. When
    /// all cores have slept for some slices it sleeps too.
    pub fn time_slice(mut self, slice: impl Into<Option<Duration>>) -> Self {
        self.time_slice = slice.into().map(|slice| slice.max(Duration::from_millis(1)));
        self
    }

    /// Reports a core that is in one poll, or one message's function, for longer than `limit`: to `tracing`, as a warning with the fields `core`, `lasted_ms`, `task`, `future` and
    /// `suppressed`, and to [`on_stall`](Self::on_stall). Default: `None`, no core is. A millisecond at least.
    ///
    /// The report names the core's task and, unless [interrupts](Self::interrupts) are off, the functions on its stack, which are taken down on the core and made into names on a thread of
    /// the runtime's. It comes `limit` to one and a half times `limit` after the poll began, once per stall, and four times in a second at most per core; up to a
    /// second later if the core does not answer, because of a [critical section](crate::urgent::critical) for example. A core that loops for
    /// another one is not reported; [`stall_reports`](Self::stall_reports) does that. A thread that has no CPU is one that does not come back, too.
    ///
    /// Without stalls a core pays nothing for it. It is off by default because a stall is what the program decides it to be, and because the signal that asks a stuck core is felt by a
    /// core that is inside a system call: those that are listed with `ipiq_linux::interrupt` (`nanosleep`, `poll` and their kin, calls on sockets with a timeout) fail with
    /// `EINTR`, as for any other signal. All others go on, and the standard library tries again where it must.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let runtime = ipiq::Runtime::builder()
    ///     .cores(1)
    ///     .stall_limit(Duration::from_millis(50))
    ///     .on_stall(|report| eprintln!("{report}"))
    ///     .build()?;
    /// # drop(runtime);
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    ///
    /// [`StallReport`] shows what is printed. The idea is the lockup detectors' of the kernels, and Seastar's stall detector.
    pub fn stall_limit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.stalls.limit = limit.into().map(|limit| limit.max(Duration::from_millis(1)));
        self
    }

    /// Calls `report` with each report of [`stall_limit`](Self::stall_limit), one after the other, on a thread of its own.
    ///
    /// It may block; reports wait meanwhile, 64 of them at most, and then are counted only. Its panics reach nobody. The runtime's drop waits until it has been called with all that were found.
    pub fn on_stall(mut self, report: impl Fn(&StallReport) + Send + Sync + 'static) -> Self {
        self.stalls.on_stall = Some(Arc::new(report));
        self
    }

    /// For tests: timers follow a clock that begins at 0, stands still while any core has something to do, and goes straight to the next timer when none
    /// has. Hours of sleeping pass at once, and every timer fires exactly at its deadline.
    ///
    /// Time goes on while something else is waited for: another thread, a process at the other end of a socket, a disk. What cores write to each other's
    /// sockets is seen before. [`time::advance`](crate::time::advance) sets the clock on by hand, [`time::now_ns`](crate::time::now_ns) reads
    /// it; [`Instant`](std::time::Instant) and [`time_slice`](Self::time_slice) go by the machine's. An idle core sleeps at once, whatever
    /// [`idle`](Self::idle) says, and a pause that should be given up after a while is not.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use ipiq::time;
    ///
    /// let runtime = ipiq::Runtime::builder().cores(2).paused_clock().build()?;
    /// runtime.block_on(|| async {
    ///     let before_ns = time::now_ns();
    ///     time::sleep(Duration::from_secs(3600)).await;
    ///     assert_eq!(time::now_ns() - before_ns, 3_600_000_000_000);
    /// });
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    ///
    /// The idea is tokio's `start_paused`, for one thread; here all cores must have nothing to do.
    pub fn paused_clock(mut self) -> Self {
        self.paused_clock = true;
        self
    }

    /// How many threads at most run closures of [`spawn_blocking`](crate::spawn_blocking), 1 at least. Default: 256. They are started when they are needed, and end after ten seconds
    /// without work.
    pub fn blocking_threads(mut self, most: usize) -> Self {
        self.blocking_threads = most.max(1);
        self
    }

    /// Sets how long a [phase of the end](crate::shutdown) may take: one of those that there are, or a new one, which comes after all of them but `cancel` and `join`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use ipiq::{Runtime, shutdown};
    ///
    /// let runtime = Runtime::builder()
    ///     .cores(1)
    ///     .phase(shutdown::DRAIN, Duration::from_secs(5))
    ///     .phase("flush", Duration::from_secs(10))
    ///     .build()?;
    /// let report = Runtime::wait(runtime.handle().shutdown());
    /// let names: Vec<_> = report.phases.iter().map(|phase| &*phase.name).collect();
    /// assert_eq!(names, ["stop accepting", "drain", "flush", "cancel", "join"]);
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    pub fn phase(mut self, name: impl Into<Cow<'static, str>>, limit: Duration) -> Self {
        self.phases.set(name.into(), limit);
        self
    }

    /// How many async calls of one core to another may be outstanding, and what happens to one too many. Default: 1,024, and it waits. Services have
    /// [limits of their own](crate::sharded::Sharded::set_call_limit).
    pub fn call_limit(mut self, limit: Limit) -> Self {
        self.call_limit = limit;
        self
    }

    /// Makes a [scheduling class](crate::classes) at the start; [`Handle::create_class`](crate::Handle::create_class) makes one later.
    ///
    /// One of the name `default` says what is promised to tasks that were not spawned into another class. Two of one name, or more than
    /// [`MAX_CLASSES`](crate::classes::MAX_CLASSES), let [`build`](Self::build) fail.
    pub fn scheduling_class(mut self, class: ClassSpec) -> Self {
        self.classes.push(class);
        self
    }

    /// Starts the cores.
    ///
    /// # Errors
    ///
    /// [`BuildError`] says what could not be had; nothing is left running then.
    ///
    /// # Panics
    ///
    /// If [`thread_name`](Self::thread_name) panics or gives a name with a NUL character.
    pub fn build(self) -> Result<Runtime, BuildError> {
        Runtime::start(&self)
    }
}

fn warn(stall: &Stall) {
    tracing::warn!(reports = stall.reports, "{stall}");
}

/// Why a runtime could not start. `Debug` prints the readable text too, as `fn main() -> Result<(), BuildError>` shows it.
pub struct BuildError {
    cause: Cause,
}

pub(crate) enum Cause {
    Config(ConfigError),
    Class(ClassError),
    Placement(PlacementError),
    Thread(CoreId, io::Error),
    Slices(io::Error),
    Pin(CoreId, ipiq_linux::pin::PinError),
    Driver(CoreId, DriverError),
    Interrupts(InterruptError),
    CoreInterrupts(CoreId, InterruptError),
}

impl BuildError {
    pub(crate) fn new(cause: Cause) -> Self {
        Self { cause }
    }

    /// Whether the builder's own values are out of bounds, as opposed to something that the machine refused.
    #[must_use]
    pub fn is_config(&self) -> bool {
        matches!(self.cause, Cause::Config(_) | Cause::Class(_) | Cause::Placement(_))
    }

    /// Whether the I/O driver was refused.
    #[must_use]
    pub fn is_driver(&self) -> bool {
        matches!(self.cause, Cause::Driver(..))
    }

    /// Whether the signal for [interrupts](Builder::interrupts) could not be had.
    #[must_use]
    pub fn is_interrupts(&self) -> bool {
        matches!(self.cause, Cause::Interrupts(_) | Cause::CoreInterrupts(..))
    }
}

impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Config(error) => error.fmt(f),
            Cause::Class(error) => error.fmt(f),
            Cause::Placement(error) => error.fmt(f),
            Cause::Thread(core, error) => write!(f, "{core}: its thread could not be started: {error}"),
            Cause::Slices(error) => {
                write!(
                    f,
                    "the threads that watch over time slices and stalls could not be started: {error}; `time_slice(None)` and `stall_limit(None)` do without them"
                )
            }
            Cause::Pin(core, error) => write!(f, "{core}: {error}"),
            Cause::Driver(core, error) => write!(f, "{core}: {error}"),
            Cause::Interrupts(error) => error.fmt(f),
            Cause::CoreInterrupts(core, error) => write!(f, "{core}: {error}"),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            // The text is the whole of it.
            Cause::Config(_) | Cause::Class(_) | Cause::Placement(_) => None,
            Cause::Thread(_, error) | Cause::Slices(error) => Some(error),
            Cause::Pin(_, error) => Some(error),
            Cause::Driver(_, error) => Some(error),
            Cause::Interrupts(error) | Cause::CoreInterrupts(_, error) => Some(error),
        }
    }
}
