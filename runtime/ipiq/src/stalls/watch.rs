//! The watcher's part: from a turn that goes on to what the teller is handed.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use ipiq_fabric::CoreId;
use ipiq_fabric::watch::WaitKind;
use ipiq_linux::interrupt::Interrupts;

use super::inspect::Ask;
use super::teller::Found;
use super::turns::{Rate, Verdict};
use super::{Inspect, NoBacktrace, Seen, Stalls, Teller};

/// Looks per limit.
const LOOKS: u32 = 8;
/// How long a stuck core may take to answer. Who waits has other things to do meanwhile, and the core's thread may have to wait for a CPU.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks while a core is asked.
const EAGER: Duration = Duration::from_millis(1);

/// Finds stalls and asks for their backtraces; never waits.
pub(crate) struct StallWatch {
    limit: Duration,
    inspect: Arc<Inspect>,
    rates: Vec<Rate>,
    captures: Vec<Capture>,
    teller: SyncSender<Found>,
}

/// A stall whose core is being asked.
struct Capture {
    core: CoreId,
    asked_back: Instant,
    lasted: Duration,
    begun: Instant,
    ask: Ask,
    suppressed: u64,
}

impl StallWatch {
    /// `None`: stalls are not to be reported.
    pub(crate) fn start(
        stalls: Stalls,
        inspect: &Arc<Inspect>,
        interrupts: Option<Arc<Interrupts>>,
    ) -> io::Result<Option<(Self, Teller)>> {
        let Some(limit) = stalls.limit else { return Ok(None) };
        let (teller, thread) = Teller::start(stalls.on_stall, interrupts)?;
        let rates = vec![Rate::default(); inspect.fabric().cores()];
        let this = Self { limit, inspect: inspect.clone(), rates, captures: Vec::new(), teller };
        Ok(Some((this, thread)))
    }

    /// How long to pause until the next look.
    pub(crate) fn period(&self) -> Duration {
        let period = (self.limit / LOOKS).max(EAGER);
        if self.captures.is_empty() { period } else { period.min(EAGER) }
    }

    /// A look at the turn that `core` is in.
    pub(crate) fn look(&mut self, core: CoreId, seen: &mut Seen, now: Instant) {
        match seen.judge(self.limit, now) {
            Verdict::Nothing => {}
            // [stall D1]
            Verdict::AskBack => self.inspect.fabric().ask_back(core),
            Verdict::Stalls(lasted) if !self.waits(core) => {
                // [stall D2]
                if let Some(suppressed) = seen.admit(&mut self.rates[core.index()], now) {
                    self.ask(core, seen.turn, lasted, now, suppressed);
                }
            }
            Verdict::Stalls(_) => {}
        }
    }

    /// Whether it loops for another core.
    fn waits(&self, core: CoreId) -> bool {
        let waits = self.inspect.fabric().waits();
        // Of a call it waits for without a loop.
        waits.iter().any(|wait| wait.core == core && wait.kind != WaitKind::Call)
    }

    fn ask(&mut self, core: CoreId, turn: u64, lasted: Duration, now: Instant, suppressed: u64) {
        let ask = Ask::begin(&self.inspect, core, turn, false);
        self.captures.push(Capture { core, asked_back: now - lasted, lasted, begun: now, ask, suppressed });
    }

    /// Hands over what has been answered, or will not be any more.
    pub(crate) fn collect(&mut self, turns: &mut [Option<Seen>], now: Instant) {
        for mut capture in std::mem::take(&mut self.captures) {
            let patient = now.saturating_duration_since(capture.begun) < PATIENCE;
            let answered = match capture.ask.poll(&self.inspect, capture.core) {
                Some(answered) => answered,
                None if patient => {
                    self.captures.push(capture);
                    continue;
                }
                // [stall P3]
                None => capture.ask.give_up(NoBacktrace::NoAnswer),
            };
            let Capture { core, mut lasted, suppressed, asked_back, .. } = capture;
            if !matches!(answered.1, Err(NoBacktrace::Ended)) {
                if self.waits(core) {
                    // [stall D2] it has come to its loop meanwhile: if it goes on after that, there will be a report of it.
                    turns[core.index()].iter_mut().for_each(Seen::is_not_found);
                    self.rates[core.index()].suppress(suppressed);
                    continue;
                }
                lasted = now.saturating_duration_since(asked_back).max(lasted);
            }
            self.hand_over(Found { core, lasted, answered, suppressed });
        }
    }

    fn hand_over(&mut self, found: Found) {
        let (core, suppressed) = (found.core, found.suppressed);
        // [stall P4]
        match self.teller.try_send(found) {
            Ok(()) => self.inspect.instruments().count_stalls(core, suppressed + 1),
            Err(_) => self.rates[core.index()].suppress(suppressed + 1),
        }
    }

    /// [stall E1]
    pub(crate) fn end(mut self) {
        for Capture { core, lasted, ask, suppressed, .. } in std::mem::take(&mut self.captures) {
            let answered = ask.give_up(NoBacktrace::Ended);
            self.hand_over(Found { core, lasted, answered, suppressed });
        }
    }
}
