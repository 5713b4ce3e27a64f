//! The inbox: messages run here.

use alloc::collections::VecDeque;
use core::cell::Cell;
use core::mem::MaybeUninit;

use super::Core;
use crate::core_set::bits;
use crate::doorbell::{Rung, light_fence};
use crate::overflow::Link;
use crate::ring::Consumer;
use crate::sync::{Arc, mutant};
use crate::{CoreId, Message, trace};

/// Empty passes after which a source's pending bit is cleared ([doorbell R2](crate::doorbell#steps)).
///
/// The model checker gets small figures: every step within few passes.
const QUIET_PASSES: u16 = if cfg!(loom) { 1 } else { 1024 };
/// Ticks between two sweeps ([doorbell R3](crate::doorbell#steps)).
const SWEEP_TICKS: u64 = if cfg!(loom) { 2 } else { 64 };

impl Core {
    /// One tick's look at the inbox: *runs messages*, at most `budget` of each source. Returns how many ran; triggers and shootdowns together
    /// count as one.
    ///
    /// Looks at the rings whose pending bit is set; at every ring each 64th tick.
    #[inline(always)]
    pub fn drain(&self, budget: u32) -> usize {
        let tick = self.tick.get().wrapping_add(1);
        self.tick.set(tick);
        self.own().counts.ticks.add(1);
        let mut ran = usize::from(self.serve_asked());
        if tick.is_multiple_of(SWEEP_TICKS) {
            // [doorbell R3]
            return ran + self.drain_rings(budget);
        }
        for word in 0..self.shared.cores.len().div_ceil(64) {
            // [doorbell R1]
            for bit in bits(self.own().doorbell.pending(word)) {
                ran += self.drain_source(CoreId::new(word * 64 + bit), budget);
            }
        }
        ran
    }

    /// As [`drain`](Self::drain), from every ring there is.
    pub fn drain_all(&self, budget: u32) -> usize {
        usize::from(self.serve_asked()) + self.drain_rings(budget)
    }

    /// As [`drain_all`](Self::drain_all), without what was asked for beside the rings.
    pub(crate) fn drain_rings(&self, budget: u32) -> usize {
        (0..self.cores())
            .map(CoreId::new)
            .filter(|&source| self.shared.has_link(source, self.id))
            .map(|source| self.drain_source(source, budget))
            .sum()
    }

    /// *Runs messages* of threads that are no core, at most `budget`. Returns how many ran. What a core that has left could not send any more
    /// comes this way too, as one of them.
    #[inline(always)]
    pub fn drain_foreign(&self, budget: u32) -> usize {
        let injector = &self.own().injector;
        if injector.is_empty() {
            return 0;
        }
        let mut ran = 0;
        while ran < budget
            && let Some(message) = injector.pop()
        {
            ran += 1;
            self.run(message, self.id);
        }
        self.own().counts.foreign_received.add(u64::from(ran));
        ran as usize
    }

    #[inline(always)]
    pub(super) fn incoming(&self, source: CoreId) -> Option<&(Consumer<Message>, Arc<Link>)> {
        match self.incoming[source.index()].end.get() {
            Some(end) => Some(end),
            None => self.meet(source),
        }
    }

    #[cold]
    fn meet(&self, source: CoreId) -> Option<&(Consumer<Message>, Arc<Link>)> {
        let link = self.shared.link(source, self.id)?;
        // SAFETY: 1. each core has one `Incoming` per source, and makes its consumer once.
        let consumer = unsafe { Consumer::new(link.ring.clone()) };
        let end = &self.incoming[source.index()].end;
        let is_first = end.set((consumer, link)).is_ok();
        // Not `get_or_init`: what that returns comes of an exclusive reference, which the next `get`, in a nested pass, would end while the outer one
        // still uses the cells in it.
        Some(end.get().filter(|_| is_first).expect("each end is made once"))
    }

    #[inline(always)]
    fn drain_source(&self, source: CoreId, budget: u32) -> usize {
        let Some((consumer, link)) = self.incoming(source) else {
            return 0;
        };
        let quiet = &self.incoming[source.index()].quiet;
        if mutant!("overflow-nested-hides-claimed") && consumer.running() > 0 {
            return 0;
        }
        if consumer.is_empty() {
            let passes = quiet.get().saturating_add(1);
            quiet.set(passes);
            if passes == QUIET_PASSES {
                // [doorbell R2]
                self.own().doorbell.quiet(source);
            }
            return 0;
        }
        quiet.set(0);
        let mut pass = Pass { core: self, source, consumer, link, ran: 0 };
        let mut place = MaybeUninit::uninit();
        while pass.ran < budget
            && let Some(_running) = consumer.pop_into(&mut place)
        {
            pass.ran += 1;
            trace::receive(source, self.id);
            let _nested = self.nest();
            // SAFETY: 1. `pop_into` has filled it. 2. the next one overwrites it.
            unsafe { Message::run_in_place(&mut place, self, source) };
        }
        pass.ran as usize
    }

    /// [doorbell G4] What `source`, which has left, had listed comes after what it had sent.
    pub(super) fn run_legacy(&self, source: CoreId, listed: VecDeque<Message>) {
        if !mutant!("doorbell-list-before-ring") {
            self.drain_source(source, u32::MAX);
        }
        let count = listed.len() as u64;
        listed.into_iter().for_each(|message| self.run(message, source));
        if let Some((_, link)) = self.incoming(source) {
            link.received.add(count);
        }
    }

    /// [overflow W2]
    #[cold]
    fn give_space(&self, source: CoreId) {
        if self.shared.core(source).doorbell.claim_kick() == Rung::Kick && !mutant!("overflow-no-kick") {
            self.kick(source);
        }
    }

    #[inline(always)]
    fn run(&self, message: Message, source: CoreId) {
        let _nested = self.nest();
        message.run(self, source);
    }

    /// Counts a function that the core is about to run, until the guard is dropped.
    #[inline(always)]
    pub(crate) fn nest(&self) -> Nested<'_> {
        let depth = self.nesting.get() + 1;
        self.nesting.set(depth);
        if depth > 1 && u64::from(depth) > self.own().counts.max_nesting.get() {
            let counter = &self.own().counts.max_nesting;
            counter.add(u64::from(depth) - counter.get());
        }
        Nested(&self.nesting)
    }

    /// How many functions of messages and handlers are on this thread's stack right now.
    #[must_use]
    pub fn nesting(&self) -> u32 {
        self.nesting.get()
    }
}

/// Ends a pass over one ring, also when a function of a message has panicked: its source must find the space, and see the message executed.
struct Pass<'a> {
    core: &'a Core,
    source: CoreId,
    consumer: &'a Consumer<Message>,
    link: &'a Link,
    ran: u32,
}

impl Drop for Pass<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.link.received.add(u64::from(self.ran));
        self.consumer.publish();
        if !mutant!("overflow-no-wanted-fence") {
            // [overflow W1]
            light_fence(self.core.shared.fence);
        }
        if self.link.take_wanted() {
            self.core.give_space(self.source);
        }
    }
}

/// Counts one function off the stack, also when it unwinds.
#[must_use]
pub(crate) struct Nested<'a>(&'a Cell<u32>);

impl Drop for Nested<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
