//! The set of cores and what they share.

use alloc::boxed::Box;
use alloc::sync::Arc as StdArc;
use alloc::vec::Vec;
use core::fmt;
use core::task::Waker;

use crate::admission::Trustees;
use crate::cpusync;
use crate::doorbell::{Doorbell, Rung};
use crate::endpoint::Core;
use crate::freeze::Frost;
use crate::handlers;
use crate::overflow::Link;
use crate::port::{FenceKind, Port};
use crate::shootdown::{Board, Lane};
use crate::sync::{Arc, AtomicPtr, AtomicU64, Counter, Injector, Ordering, Padded};
use crate::urgent;
use crate::urgent_call;
use crate::watch::{CrumbWord, Wait, Watch};
use crate::{CoreCounters, CoreId, MAX_CORES, Message, PairCounters};

/// The shape of a fabric.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many cores, 1 to [`MAX_CORES`].
    pub cores: usize,
    /// Slots per ring: a power of two from 2 to 2^20. A ring exists only once its pair has talked.
    pub ring_capacity: usize,
    /// The first index of every ring and generation of every scoreboard; only tests of index wrap have a reason to set it.
    pub first_index: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { cores: 1, ring_capacity: 256, first_index: 0 }
    }
}

/// A [`Config`] that makes no fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The number of cores is zero or above [`MAX_CORES`].
    Cores(usize),
    /// The ring capacity is no power of two from 2 to 2^20.
    RingCapacity(usize),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cores(n) => write!(f, "{n} cores asked for: choose 1 to {MAX_CORES}"),
            Self::RingCapacity(n) => {
                write!(f, "a ring capacity of {n} asked for: choose a power of two from 2 to 1048576")
            }
        }
    }
}

impl core::error::Error for ConfigError {}

/// One core's part of what is shared.
pub(crate) struct CoreShared {
    pub(crate) doorbell: Padded<Doorbell>,
    pub(crate) injector: Padded<Injector<Message>>,
    pub(crate) counts: Padded<OwnCounters>,
    pub(crate) handlers: handlers::Inbox,
    pub(crate) handler_counts: Padded<handlers::Counts>,
    pub(crate) answer: cpusync::Slot,
    pub(crate) frost: Padded<Frost>,
    pub(crate) urgent: Padded<urgent::Line>,
    pub(crate) urgent_counts: Padded<urgent::Counts>,
    pub(crate) urgent_waiting: Injector<Waker>,
    pub(crate) urgent_calls: Padded<urgent_call::Stacks>,
    pub(crate) trustees: Padded<Trustees>,
    /// How often it has come back; written by who admits.
    pub(crate) lives: Counter,
}

/// Written by the core itself.
#[derive(Default)]
pub(crate) struct OwnCounters {
    pub(crate) ticks: Counter,
    pub(crate) parked: Counter,
    pub(crate) park_refused: Counter,
    pub(crate) foreign_received: Counter,
    pub(crate) max_nesting: Counter,
    pub(crate) waits_reported: Counter,
    /// 1 while it looks for something to do: see [urgent].
    pub(crate) resting: Counter,
    /// What it waits for; read by others only when something is wrong.
    pub(crate) crumb: CrumbWord,
}

pub(crate) struct Shared {
    pub(crate) port: StdArc<dyn Port>,
    pub(crate) fence: FenceKind,
    pub(crate) watch: Watch,
    pub(crate) cores: Box<[CoreShared]>,
    /// How many cores have left.
    pub(crate) departures: AtomicU64,
    pub(crate) handlers: handlers::Table,
    pub(crate) urgent: urgent::Table,
    /// Unregistrations that nobody waits for.
    pub(crate) orphans: Injector<handlers::Retired>,
    /// How many bells were made.
    pub(crate) bells: AtomicU64,
    pub(crate) cpusync: cpusync::Shared,
    /// One per [`Lane`].
    pub(crate) boards: [Board; Lane::ALL.len()],
    /// `links[target * cores + source]`, null until the pair first talks.
    links: Box<[AtomicPtr<Link>]>,
    config: Config,
}

impl Shared {
    #[inline(always)]
    fn cell(&self, source: CoreId, target: CoreId) -> &AtomicPtr<Link> {
        &self.links[target.index() * self.cores.len() + source.index()]
    }

    /// The link from `source` to `target`, if they ever talked.
    #[inline(always)]
    pub(crate) fn link(&self, source: CoreId, target: CoreId) -> Option<Arc<Link>> {
        let link = self.cell(source, target).load(Ordering::Acquire);
        if link.is_null() {
            return None;
        }
        // SAFETY: 1. a non-null cell holds one count of the link until `self` is dropped.
        unsafe { Arc::increment_strong_count(link) };
        // SAFETY: 1. the count just taken.
        Some(unsafe { Arc::from_raw(link) })
    }

    /// As [`link`](Self::link), without a count of one's own.
    fn borrow_link(&self, source: CoreId, target: CoreId) -> Option<&Link> {
        let link = self.cell(source, target).load(Ordering::Acquire);
        // SAFETY: 1. null, or a link of which the cell holds a count until `self` is dropped.
        unsafe { link.as_ref() }
    }

    #[inline(always)]
    pub(crate) fn has_link(&self, source: CoreId, target: CoreId) -> bool {
        !self.cell(source, target).load(Ordering::Acquire).is_null()
    }

    /// The link from `source` to `target`, made now if a former life of `source` has not. Called once per life, by the source.
    pub(crate) fn make_link(&self, source: CoreId, target: CoreId) -> Arc<Link> {
        if let Some(link) = self.link(source, target) {
            return link;
        }
        let link = Arc::new(Link::new(self.config.ring_capacity as u32, self.config.first_index));
        // Release: who finds the pointer finds the link whole.
        self.cell(source, target).store(Arc::into_raw(link.clone()).cast_mut(), Ordering::Release);
        link
    }

    pub(crate) fn first_generation(&self) -> u32 {
        self.config.first_index
    }

    #[inline(always)]
    pub(crate) fn core(&self, core: CoreId) -> &CoreShared {
        &self.cores[core.index()]
    }

    /// [doorbell F1]
    fn inject(&self, target: CoreId, message: Message) {
        let core = self.core(target);
        core.injector.push(message);
        match core.doorbell.ring_foreign() {
            Rung::Avoided => {}
            Rung::Kick => self.port.kick(target),
            Rung::Gone => self.empty_injector(target),
        }
    }

    /// What was posted to `target`, which has left, is dropped; if it is back, it is rung.
    #[cold]
    pub(crate) fn empty_injector(&self, target: CoreId) {
        let core = self.core(target);
        // [doorbell G2] the injector may be drained by anyone. [admission T2]
        let taken = self.in_place_of(target, || core::iter::from_fn(|| core.injector.pop()).collect::<Vec<_>>());
        if taken.is_none() && core.doorbell.ring_foreign() == Rung::Kick {
            self.port.kick(target);
        }
    }

    #[inline(always)]
    pub(crate) fn is_gone(&self, core: CoreId) -> bool {
        self.core(core).doorbell.state().is_gone()
    }

    /// Whether no core is left.
    pub(crate) fn is_deserted(&self) -> bool {
        (0..self.cores.len()).all(|core| self.is_gone(CoreId::new(core)))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for cell in &self.links {
            let link = cell.load(Ordering::Acquire);
            if !link.is_null() {
                // SAFETY: 1. the count that `make_link` put into the cell.
                drop(unsafe { Arc::from_raw(link) });
            }
        }
    }
}

/// The cores of one runtime, as seen from any thread. Clones refer to the same fabric.
#[derive(Clone)]
pub struct Fabric {
    shared: StdArc<Shared>,
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fabric").field("cores", &self.cores()).field("fence", &self.shared.fence).finish()
    }
}

impl Fabric {
    /// A fabric and one [`Seat`] per core, in the order of their ids.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the configuration is out of its bounds.
    pub fn new(config: Config, port: StdArc<dyn Port>) -> Result<(Self, Vec<Seat>), ConfigError> {
        Self::with_watch(config, port, Watch::default())
    }

    /// As [`new`](Self::new), with a watch of one's own over waits that take too long.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_watch(config: Config, port: StdArc<dyn Port>, watch: Watch) -> Result<(Self, Vec<Seat>), ConfigError> {
        let cores = config.cores;
        if !(1..=MAX_CORES).contains(&cores) {
            return Err(ConfigError::Cores(cores));
        }
        if !config.ring_capacity.is_power_of_two() || !(2..=1 << 20).contains(&config.ring_capacity) {
            return Err(ConfigError::RingCapacity(config.ring_capacity));
        }
        let core = |_| CoreShared {
            doorbell: Padded(Doorbell::new()),
            injector: Padded(Injector::new()),
            counts: Padded::default(),
            handlers: handlers::Inbox::new(),
            handler_counts: Padded::default(),
            answer: Padded(cpusync::Answer::new()),
            frost: Padded(Frost::new()),
            urgent: Padded(urgent::Line::new()),
            urgent_counts: Padded::default(),
            urgent_waiting: Injector::new(),
            urgent_calls: Padded(urgent_call::Stacks::new()),
            trustees: Padded(Trustees::new()),
            lives: Counter::default(),
        };
        let shared = StdArc::new(Shared {
            fence: port.fence_kind(),
            watch,
            port,
            cores: (0..cores).map(core).collect(),
            departures: AtomicU64::new(0),
            handlers: handlers::Table::new(),
            urgent: urgent::Table::new(),
            orphans: Injector::new(),
            bells: AtomicU64::new(0),
            cpusync: cpusync::Shared::new(),
            boards: Lane::ALL.map(|_| Board::new(cores)),
            links: (0..cores * cores).map(|_| AtomicPtr::new(core::ptr::null_mut())).collect(),
            config,
        });
        let seats = (0..cores).map(|index| Seat::of(shared.clone(), CoreId::new(index))).collect();
        Ok((Self { shared }, seats))
    }

    pub(crate) fn of(shared: StdArc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &StdArc<Shared> {
        &self.shared
    }

    /// How many cores it has.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.shared.cores.len()
    }

    /// Whether `other` is the same fabric.
    #[must_use]
    #[inline(always)]
    pub fn is_same(&self, other: &Self) -> bool {
        StdArc::ptr_eq(&self.shared, &other.shared)
    }

    /// Whether `core` is one of its cores.
    #[must_use]
    pub fn has(&self, core: &Core) -> bool {
        core.is_of(&self.shared)
    }

    /// The machine.
    #[must_use]
    pub fn port(&self) -> &StdArc<dyn Port> {
        &self.shared.port
    }

    /// Which pair of fences was chosen at start.
    #[must_use]
    pub fn fence_kind(&self) -> FenceKind {
        self.shared.fence
    }

    /// Hands `message` to `target` from any thread, and kicks it if it sleeps.
    ///
    /// Unlike a core's sends this pays a full fence and an allocation now and then, and the queue it goes to has no bound of its own:
    /// callers bound what they have outstanding. Messages of one thread run in order; they are not ordered with those that cores
    /// send. Never blocks; callable inside a `Waker`.
    ///
    /// # Errors
    ///
    /// [`Gone`](crate::Gone) with the message if `target` has left the fabric.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    pub fn post(&self, target: CoreId, message: Message) -> Result<(), crate::Gone<Message>> {
        let core = self.shared.core(target);
        if core.doorbell.state().is_gone() {
            return Err(crate::Gone(message));
        }
        self.shared.inject(target, message);
        Ok(())
    }

    /// Kicks `target` if it sleeps, without a message.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    pub fn nudge(&self, target: CoreId) {
        if self.shared.core(target).doorbell.ring_foreign() == Rung::Kick {
            self.shared.port.kick(target);
        }
    }

    /// Which life of `core` is the present one, or was the last, from 0: how often it has [come back](crate::cpusync::Held::admit).
    ///
    /// # Panics
    ///
    /// If the fabric has no core `core`.
    #[must_use]
    pub fn life(&self, core: CoreId) -> u64 {
        self.shared.core(core).lives.get()
    }

    /// What cores wait for right now: those in a wait loop, and those that are known to have sent messages that have not run.
    ///
    /// A snapshot for people: the waits are looked at one after the other, while the cores go on.
    #[must_use]
    pub fn waits(&self) -> Vec<Wait> {
        self.shared.waits()
    }

    /// What `core` has counted of itself.
    ///
    /// # Panics
    ///
    /// If the fabric has no such core.
    #[must_use]
    pub fn core_counters(&self, core: CoreId) -> CoreCounters {
        let counts = &self.shared.core(core).counts;
        let handlers = &self.shared.core(core).handler_counts;
        let urgent = &self.shared.core(core).urgent_counts;
        CoreCounters {
            ticks: counts.ticks.get(),
            parked: counts.parked.get(),
            park_refused: counts.park_refused.get(),
            foreign_received: counts.foreign_received.get(),
            max_nesting: counts.max_nesting.get(),
            handlers_run: handlers.run.get(),
            handler_panics: handlers.panics.get(),
            mailbox_full: handlers.mailbox_full.get(),
            urgent_run: urgent.run.get(),
            interrupts_sent: urgent.sent.get(),
            interrupts_refused: urgent.refused.get(),
            waits_reported: counts.waits_reported.get(),
            foreign_queued: self.shared.core(core).injector.len() as u64,
        }
    }

    /// Whether `source` has ever sent to `target`.
    ///
    /// # Panics
    ///
    /// If the fabric has no such cores.
    #[must_use]
    pub fn have_talked(&self, source: CoreId, target: CoreId) -> bool {
        self.shared.has_link(source, target)
    }

    /// What was counted of messages from `source` to `target`; all zero if they never talked.
    ///
    /// # Panics
    ///
    /// If the fabric has no such cores.
    #[must_use]
    pub fn pair_counters(&self, source: CoreId, target: CoreId) -> PairCounters {
        let Some(link) = self.shared.borrow_link(source, target) else {
            return PairCounters::default();
        };
        // In this order, so that the difference is never less than nothing.
        let received = link.received.get();
        let sent = link.sent.sent.get();
        PairCounters {
            sent,
            received,
            full: link.sent.full.get(),
            avoided: link.sent.avoided.get(),
            kicked: link.sent.kicked.get(),
            passive: link.sent.passive.get(),
            overflowed: link.sent.overflowed.get(),
            repeated: link.sent.repeated.get(),
            queued: sent.saturating_sub(received),
            listed: link.sent.listed.get(),
        }
    }
}

/// The right to become one core of a fabric, on whichever thread takes it there.
pub struct Seat {
    shared: StdArc<Shared>,
    id: CoreId,
    entered: bool,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Seat {
    pub(crate) fn of(shared: StdArc<Shared>, id: CoreId) -> Self {
        Self { shared, id, entered: false }
    }

    /// The core's id.
    #[must_use]
    pub fn id(&self) -> CoreId {
        self.id
    }

    /// Makes the calling thread the core's home.
    #[must_use]
    pub fn enter(mut self) -> Core {
        self.entered = true;
        Core::new(self.shared.clone(), self.id)
    }
}

impl Drop for Seat {
    /// A seat that nobody took: the core counts as one that has left.
    fn drop(&mut self) {
        if !self.entered {
            drop(Core::new(self.shared.clone(), self.id));
        }
    }
}
