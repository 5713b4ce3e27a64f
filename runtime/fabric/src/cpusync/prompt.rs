//! Stops that freeze sections.

use super::board::Kind;
use super::lead::{Deadline, Release, STUCK_TURNS};
use super::{CpuSync, CpuSyncError, Lead, Pause};
use crate::freeze::{self, Stood};
use crate::port::InterruptSafe;
use crate::{CoreId, CoreSet};

/// Turns between two attempts to freeze.
const MOST_TURNS: u32 = if cfg!(loom) { STUCK_TURNS } else { 4096 };

impl Lead<'_> {
    /// As [`cpusync`](Self::cpusync), and does not wait for the end of [sections](crate::preemptible): when all that are late are in some, they are [frozen](crate::freeze) there. If that is
    /// refused, or does not work, it waits as `cpusync` does, and tries again.
    ///
    /// `body` is given the lead's id. It runs in a critical section; a panic in it ends the process.
    ///
    /// # Errors
    ///
    /// [`CpuSyncError`]: the deadline passed first, and nothing has run.
    ///
    /// # Panics
    ///
    /// If the set has a core that the fabric does not have, inside the body of a stop, and if the plan has a function for each core, or drains: a frozen core can do neither.
    pub fn prompt<F, R>(&self, plan: &CpuSync<'_>, body: &InterruptSafe<F>) -> Result<(R, Pause), CpuSyncError>
    where
        F: Fn(CoreId) -> R,
    {
        assert!(plan.each.is_none() && !plan.drain, "a prompt stop runs nothing on the cores that it stops");
        assert!(self.held.get().is_empty(), "a prompt stop inside another");
        let targets = self.targets(&plan.set);
        let release = Release { lead: self, outer: CoreSet::empty() };
        if !targets.is_empty() {
            self.change_set(&targets);
        }
        let started_ns = plan.clock.now_ns();
        if !targets.is_empty() {
            self.order(Kind::Hold, None);
            self.ask(&targets);
        }
        let first = self.board().last();
        let stood = self.stand_or_freeze(plan.deadline(), || body.get()(self.core().id()));
        let stood = stood.map_err(|error| self.blame(error, &targets, first, false))?;
        let others = self.held.get().len();
        drop(release);
        // Not before: a tracer may want what a frozen core holds.
        crate::trace::sync_start(self.core().id(), others);
        crate::trace::sync_end(self.core().id(), others);
        let total_ns = plan.clock.now_ns() - started_ns;
        let stopping_ns = if targets.is_empty() { 0 } else { total_ns.saturating_sub(stood.stood_ns) };
        Ok((stood.value, Pause { stopping_ns, total_ns, frozen: stood.frozen }))
    }

    /// M4 and M5, and attempts to freeze who is late for nothing but its section.
    fn stand_or_freeze<R>(&self, deadline: Deadline<'_>, body: impl Fn() -> R) -> Result<Stood<R>, CpuSyncError> {
        let in_sections = |late: &CoreSet| late.iter().all(|core| self.is_in_section(core));
        let (mut limit, mut lasts_ns) = (STUCK_TURNS, freeze::FIRST_NS);
        loop {
            let waited = self.wait_unless(Some(limit), deadline, in_sections)?;
            if in_sections(&waited.late) {
                let order = self.board().last();
                let has_answered = |core| self.shared().core(core).answer.to(order).is_some();
                let lasts = lasts_ns.min(deadline.remaining_ns());
                if let Some(stood) = freeze::attempt(self.core(), &waited.late, lasts, has_answered, &body) {
                    return Ok(stood);
                }
                // [freeze L6]
                lasts_ns = freeze::LAST_NS.min(lasts_ns * 2);
                self.wait(Some(limit), deadline)?;
            }
            limit = MOST_TURNS.min(limit.saturating_mul(2));
            // [cpusync M5]
            self.order(Kind::Serve, None);
            self.wait_unless(None, deadline, in_sections)?;
            self.order(Kind::Hold, None);
        }
    }

    fn is_in_section(&self, core: CoreId) -> bool {
        self.shared().core(core).doorbell.section.is_preemptible()
    }
}
