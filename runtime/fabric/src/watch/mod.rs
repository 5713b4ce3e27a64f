#![doc = include_str!("README.md")]

#[cfg(all(test, not(loom)))]
pub(crate) mod tests;

use alloc::sync::Arc as StdArc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::time::Duration;

use crate::doorbell::State;
use crate::fabric::Shared;
use crate::overflow::Link;
use crate::ring::Producer;
use crate::sync::Counter;
use crate::{Core, CoreId, Message, contain};

/// Turns of a wait loop between two looks at the clock.
const LOOK_TURNS: u32 = 256;

/// Why a core waits for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitKind {
    /// For space in the ring to it, in a synchronous send.
    Send,
    /// For messages to have been executed there, in a loop.
    Execution,
    /// For a call or another message to run there, without a loop.
    Call,
    /// For it to stop, or to go on, in a cpusync.
    Cpusync,
    /// For it to acknowledge a shootdown.
    Shootdown,
    /// For it to run a handler or a synchronous message.
    Handler,
    /// For it to let go of its rings: it is leaving.
    Departure,
}

impl WaitKind {
    const ALL: [Self; 7] =
        [Self::Send, Self::Execution, Self::Call, Self::Cpusync, Self::Shootdown, Self::Handler, Self::Departure];
}

impl fmt::Display for WaitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Send => "send",
            Self::Execution => "execution",
            Self::Call => "call",
            Self::Cpusync => "cpusync",
            Self::Shootdown => "shootdown",
            Self::Handler => "handler",
            Self::Departure => "departure",
        })
    }
}

/// One core waits for another. Displayed as `core 1 waits for core 3, 1.2 s, in send`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wait {
    /// The core that waits.
    pub core: CoreId,
    /// The core it waits for.
    pub target: CoreId,
    /// Why.
    pub kind: WaitKind,
    /// For how long, to about a microsecond, from its first look at the clock on; zero before that.
    pub elapsed: Duration,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { core, target, kind, elapsed } = self;
        write!(f, "{core} waits for {target}, ")?;
        match (elapsed.as_micros() + 500) / 1000 {
            ms @ ..1000 => write!(f, "{ms} ms")?,
            _ => write!(f, "{:.1} s", elapsed.as_secs_f64())?,
        }
        write!(f, ", in {kind}")
    }
}

/// What the core that is waited for does itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetState {
    /// It is awake and waits for nobody: it is in the middle of a message's function or a task's poll, or its thread has no CPU.
    Busy,
    /// It sleeps; it was kicked again.
    Asleep,
    /// It waits for another core itself.
    Waits(Wait),
}

/// A wait that has taken longer than the watch allows. Displayed as the [`Wait`], and what the target does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stall {
    /// The wait.
    pub wait: Wait,
    /// What its target does.
    pub target: TargetState,
    /// How often this wait has been reported, this time included.
    pub reports: u32,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.wait.target;
        match &self.target {
            TargetState::Busy => write!(f, "{}; {target} is busy", self.wait),
            TargetState::Asleep => write!(f, "{}; {target} sleeps", self.wait),
            TargetState::Waits(wait) => write!(f, "{}; {wait}", self.wait),
        }
    }
}

/// What is told of a stall.
pub type StallReport = StdArc<dyn Fn(&Stall) + Send + Sync>;

/// How a fabric watches its waits: see [the protocol](self).
#[derive(Clone)]
pub struct Watch {
    /// Nanoseconds that a wait may take before the target is kicked again and the stall reported, and between two reports.
    pub interval_ns: u64,
    /// Whether a core that sleeps while messages of it have not run wakes to report that: costs a timer per such sleep.
    pub sleepers: bool,
    /// Told of every stall, on the core that waits: it must not wait, nor send.
    pub report: Option<StallReport>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { interval_ns: 1_000_000_000, sleepers: false, report: None }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("interval_ns", &self.interval_ns)
            .field("sleepers", &self.sleepers)
            .finish_non_exhaustive()
    }
}

/// What a core says of its wait, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Crumb(u64);

impl Crumb {
    const KIND_BITS: u32 = 4;
    const TARGET_BITS: u32 = 8;
    /// A unit of time is 2^10 ns.
    const UNIT_BITS: u32 = 10;

    fn new(kind: WaitKind, target: CoreId) -> Self {
        let position = WaitKind::ALL.iter().position(|&each| each == kind).unwrap_or_default();
        Self((position as u64 + 1) | (target.index() as u64) << Self::KIND_BITS)
    }

    fn aimed(self, target: CoreId) -> Self {
        let mask = ((1 << Self::TARGET_BITS) - 1) << Self::KIND_BITS;
        Self(self.0 & !mask | (target.index() as u64) << Self::KIND_BITS)
    }

    /// The unit that `now_ns` is in, plus one: zero says that no clock has been looked at, and a clock may begin with the wait.
    fn since(self, now_ns: u64) -> Self {
        let shift = Self::KIND_BITS + Self::TARGET_BITS;
        Self(self.0 & ((1 << shift) - 1) | ((now_ns >> Self::UNIT_BITS) + 1) << shift)
    }

    /// The wait of `core`, if the word says one.
    fn wait(self, core: CoreId, now_ns: u64) -> Option<Wait> {
        let kind = *WaitKind::ALL.get((self.0 as usize & ((1 << Self::KIND_BITS) - 1)).checked_sub(1)?)?;
        let target = CoreId::new((self.0 >> Self::KIND_BITS) as usize & ((1 << Self::TARGET_BITS) - 1));
        let since_ns = match self.0 >> (Self::KIND_BITS + Self::TARGET_BITS) {
            0 => now_ns,
            units => (units - 1) << Self::UNIT_BITS,
        };
        Some(Wait { core, target, kind, elapsed: Duration::from_nanos(now_ns.saturating_sub(since_ns)) })
    }
}

/// The word of N1.
#[derive(Default)]
pub(crate) struct CrumbWord(Counter);

impl CrumbWord {
    fn get(&self) -> Crumb {
        Crumb(self.0.get())
    }

    fn set(&self, crumb: Crumb) {
        self.0.set(crumb.0);
    }
}

/// A loop in which a core waits for another one.
pub(crate) struct Waiting<'a> {
    core: &'a Core,
    crumb: Crumb,
    outer: Crumb,
    turns: u32,
    idle_turns: u32,
    /// When the last report was, or the first look.
    reported_ns: u64,
    reports: u32,
}

impl Core {
    /// [watch N1]: the start of a loop that waits for `target`.
    pub(crate) fn wait_for(&self, target: CoreId, kind: WaitKind) -> Waiting<'_> {
        // [watch N1]
        let (outer, crumb) = (self.crumb_word().get(), Crumb::new(kind, target));
        self.crumb_word().set(crumb);
        Waiting { core: self, crumb, outer, turns: 0, idle_turns: 0, reported_ns: 0, reports: 0 }
    }
}

impl Waiting<'_> {
    /// [watch N2]: ends a turn of the loop; relaxes if nothing was `served` in it.
    pub(crate) fn turn(&mut self, served: bool) {
        self.turn_for_one_of(served, || None);
    }

    /// As [`turn`](Self::turn), for a loop that waits for several cores: at each look `late` says for one that it still waits for.
    pub(crate) fn turn_for_one_of(&mut self, served: bool, late: impl FnOnce() -> Option<CoreId>) {
        if !served {
            self.core.port().relax(self.idle_turns);
            self.idle_turns = self.idle_turns.saturating_add(1);
        }
        self.turns = self.turns.wrapping_add(1);
        // [watch N2]
        if self.turns.is_multiple_of(LOOK_TURNS) {
            if let Some(target) = late() {
                self.crumb = self.crumb.aimed(target);
                self.core.crumb_word().set(self.crumb);
            }
            self.look(self.core.port().now_ns());
        }
    }

    #[cold]
    fn look(&mut self, now_ns: u64) {
        if self.turns == LOOK_TURNS {
            self.crumb = self.crumb.since(now_ns);
            self.reported_ns = now_ns;
            self.core.crumb_word().set(self.crumb);
        } else if now_ns.saturating_sub(self.reported_ns) >= self.core.shared().watch.interval_ns {
            // [watch N3]
            self.reported_ns = now_ns;
            self.reports += 1;
            if let Some(wait) = self.crumb.wait(self.core.id(), now_ns) {
                self.core.stalled(wait, self.reports);
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // [watch N4]
        self.core.crumb_word().set(self.outer);
    }
}

/// What a source remembers of the messages of one target that have not run.
#[derive(Default)]
pub(crate) struct Awaited {
    /// The last sequence that is known to have executed.
    executed: Cell<Option<u64>>,
    /// The one that is looked at, and since when.
    looked_at: Cell<Option<(u64, u64)>>,
    reported_ns: Cell<u64>,
    reports: Cell<u32>,
}

impl Awaited {
    /// [watch M1]. How long, in nanoseconds, the oldest message looked at has not run; `None`: nothing is outstanding.
    fn look(&self, newest: u64, producer: &Producer<Message>, link: &Link, now_ns: u64) -> Option<u64> {
        if self.executed.get() == Some(newest) {
            return None;
        }
        // [watch M1]
        if producer.has_executed(newest) {
            self.executed.set(Some(newest));
            self.forget(link);
            return None;
        }
        let since_ns = match self.looked_at.get() {
            Some((sequence, since_ns)) if !producer.has_executed(sequence) => since_ns,
            _ => {
                self.looked_at.set(Some((newest, now_ns)));
                self.reported_ns.set(now_ns);
                self.reports.set(0);
                link.sent.awaited_since.set(now_ns.max(1));
                now_ns
            }
        };
        Some(now_ns.saturating_sub(since_ns))
    }

    fn forget(&self, link: &Link) {
        if self.looked_at.take().is_some() {
            link.sent.awaited_since.set(0);
        }
    }
}

impl Core {
    /// Looks whether messages of this core wait to be run for longer than the fabric's [`Watch`] allows: their targets are kicked again, and
    /// reported. Returns after how many nanoseconds to look again at the latest, if sleepers are watched and messages are outstanding.
    ///
    /// For executors: before each sleep, which must then not be longer, and now and then while awake.
    pub fn watch(&self) -> Option<u64> {
        let (shared, now_ns) = (self.shared(), self.port().now_ns());
        let interval_ns = shared.watch.interval_ns;
        let mut next_ns: Option<u64> = None;
        for target in (0..self.cores()).map(CoreId::new) {
            let Some((awaited, newest, producer, link)) = self.awaited(target) else { continue };
            if self.has_left(target) {
                awaited.forget(link);
                continue;
            }
            let Some(elapsed_ns) = awaited.look(newest, producer, link, now_ns) else { continue };
            // [watch M2]
            if now_ns.saturating_sub(awaited.reported_ns.get()) >= interval_ns {
                awaited.reported_ns.set(now_ns);
                awaited.reports.set(awaited.reports.get() + 1);
                let elapsed = Duration::from_nanos(elapsed_ns);
                self.stalled(Wait { core: self.id(), target, kind: WaitKind::Call, elapsed }, awaited.reports.get());
            }
            // [watch M3]
            let left_ns = awaited.reported_ns.get().saturating_add(interval_ns) - now_ns;
            next_ns = Some(next_ns.map_or(left_ns, |next_ns| next_ns.min(left_ns)));
        }
        next_ns.filter(|_| shared.watch.sleepers)
    }

    /// [watch N3], [watch M2]
    #[cold]
    fn stalled(&self, wait: Wait, reports: u32) {
        let shared = self.shared();
        self.own().counts.waits_reported.add(1);
        // Before the kick: it is told why the wait lasts, not what the repair has made of it.
        let target = shared.target_state(wait.target);
        // Whatever the doorbell says: the kick that it was promised may be lost, or owed by a thread that has no CPU.
        self.kick_again(wait.target);
        let Some(report) = &shared.watch.report else { return };
        let stall = Stall { wait, target, reports };
        contain(|| report(&stall));
    }
}

impl Shared {
    fn target_state(&self, target: CoreId) -> TargetState {
        let core = self.core(target);
        if let Some(wait) = core.counts.crumb.get().wait(target, self.port.now_ns()) {
            return TargetState::Waits(wait);
        }
        match core.doorbell.state() {
            State::Parked | State::Kicked => TargetState::Asleep,
            _ => TargetState::Busy,
        }
    }

    /// Everything that a core is known to wait for.
    pub(crate) fn waits(&self) -> Vec<Wait> {
        let now_ns = self.port.now_ns();
        let cores = || (0..self.cores.len()).map(CoreId::new);
        let mut waits: Vec<Wait> =
            cores().filter_map(|core| self.core(core).counts.crumb.get().wait(core, now_ns)).collect();
        for (core, target) in cores().flat_map(|core| cores().map(move |target| (core, target))) {
            let Some(link) = self.link(core, target) else { continue };
            let since_ns = link.sent.awaited_since.get();
            // The source may be asleep since before the messages ran.
            if since_ns != 0 && link.sent.sent.get() != link.received.get() {
                let elapsed = Duration::from_nanos(now_ns.saturating_sub(since_ns));
                waits.push(Wait { core, target, kind: WaitKind::Call, elapsed });
            }
        }
        waits
    }
}
