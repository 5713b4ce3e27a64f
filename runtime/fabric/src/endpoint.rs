//! A core's endpoint: its sends, its inbox, its sleep.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc as StdArc;
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell};
use core::fmt;
use core::marker::PhantomData;
use core::task::{Context, Poll};

use crate::block::{BlockList, BlockPool};
use crate::core_set::bits;
use crate::doorbell::{Rung, State, light_fence};
use crate::fabric::{CoreShared, Shared};
use crate::message::{Closure, Deliver};
use crate::overflow::{Link, Outgoing, SpaceWait};
use crate::port::Port;
use crate::ring::{Consumer, Producer};
use crate::sync::{Arc, Ordering, mutant};
use crate::{Armed, CoreId, CoreSet, MAX_CORES, Message};

/// Empty passes after which a source's pending bit is cleared ([doorbell R2](crate::doorbell#steps)).
///
/// The model checker gets small figures: every step within few passes.
const QUIET_PASSES: u16 = if cfg!(loom) { 1 } else { 1024 };
/// Ticks between two sweeps ([doorbell R3](crate::doorbell#steps)).
const SWEEP_TICKS: u64 = if cfg!(loom) { 2 } else { 64 };
/// Messages of one source that a waiting core runs before it looks again at what it waits for.
const WAIT_BUDGET: u32 = 64;
/// Nested functions from which on a synchronous send no longer waits ([overflow B2](crate::overflow#steps)).
const MAX_NESTING: u32 = 20;

/// A message's place in the ring to its target: see [`Core::has_executed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence(u32);

/// The target has left the fabric; what was sent comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Gone<T>(pub T);

impl<T> fmt::Debug for Gone<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gone(..)")
    }
}

impl<T> fmt::Display for Gone<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the target core has left: send to a core that runs, or stop sending")
    }
}

impl<T> core::error::Error for Gone<T> {}

/// A refused send; what was sent comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError<T> {
    /// The ring is full, or messages wait that came first.
    Full(T),
    /// The target has left the fabric.
    Gone(T),
}

impl<T> SendError<T> {
    /// What was to be sent.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(value) | Self::Gone(value) => value,
        }
    }

    /// Whether a later try may succeed.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_full() { "Full(..)" } else { "Gone(..)" })
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the ring to the target core is full: await space and send again"),
            Self::Gone(_) => Gone(()).fmt(f),
        }
    }
}

impl<T> core::error::Error for SendError<T> {}

/// A target's end of one direction.
#[derive(Default)]
struct Incoming {
    end: OnceCell<(Consumer<Message>, Arc<Link>)>,
    /// Passes in a row that found the ring empty.
    quiet: Cell<u16>,
}

/// One core's endpoint in its [`Fabric`](crate::Fabric). It stays on the thread that entered.
///
/// Every method runs on that thread. Methods that *run messages* say so: a message's function may call any method of
/// its core again. Dropping the endpoint leaves the fabric (flush until [`has_overflow`](Core::has_overflow) says no
/// before, or what is listed is discarded, answers to calls included): what was sent to it is discarded on this thread, and later
/// sends get [`Gone`].
pub struct Core {
    id: CoreId,
    shared: StdArc<Shared>,
    outgoing: Box<[Outgoing]>,
    incoming: Box<[Incoming]>,
    /// Targets that the next flush must look at.
    attention: [Cell<u64>; MAX_CORES / 64],
    /// Emptied blocks to send home, by home.
    homeward: Box<[Cell<Option<BlockList>>]>,
    blocks: Rc<BlockPool>,
    /// Departures of cores that this one has acted on.
    departures: Cell<u64>,
    closing: Cell<bool>,
    tick: Cell<u64>,
    nesting: Cell<u32>,
    not_send: PhantomData<*const ()>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Core {
    pub(crate) fn new(shared: StdArc<Shared>, id: CoreId) -> Self {
        let cores = shared.cores.len();
        Self {
            id,
            outgoing: (0..cores).map(|_| Outgoing::default()).collect(),
            incoming: (0..cores).map(|_| Incoming::default()).collect(),
            attention: core::array::from_fn(|_| Cell::new(0)),
            homeward: (0..cores).map(|_| Cell::new(None)).collect(),
            blocks: Rc::default(),
            departures: Cell::new(0),
            closing: Cell::new(false),
            tick: Cell::new(0),
            nesting: Cell::new(0),
            shared,
            not_send: PhantomData,
        }
    }

    /// This core's id.
    #[must_use]
    #[inline(always)]
    pub fn id(&self) -> CoreId {
        self.id
    }

    /// How many cores the fabric has.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.shared.cores.len()
    }

    /// The machine.
    #[must_use]
    #[inline(always)]
    pub fn port(&self) -> &dyn Port {
        &*self.shared.port
    }

    pub(crate) fn is_of(&self, shared: &StdArc<Shared>) -> bool {
        StdArc::ptr_eq(&self.shared, shared)
    }

    #[inline(always)]
    pub(crate) fn blocks(&self) -> &Rc<BlockPool> {
        &self.blocks
    }

    #[inline(always)]
    fn own(&self) -> &CoreShared {
        self.shared.core(self.id)
    }

    #[inline(always)]
    fn out(&self, target: CoreId) -> &Outgoing {
        &self.outgoing[target.index()]
    }

    #[inline(always)]
    fn end(&self, target: CoreId) -> &(Producer<Message>, Arc<Link>) {
        self.out(target).end(|| self.shared.make_link(self.id, target))
    }

    fn attend(&self, target: CoreId) {
        let word = &self.attention[target.index() / 64];
        word.set(word.get() | 1 << (target.index() % 64));
    }

    #[inline(always)]
    fn is_gone(&self, target: CoreId) -> bool {
        matches!(self.shared.core(target).doorbell.state(), State::Gone | State::Drained)
    }
}

/// Sends. To the own core, each runs the closure at once, inside the call.
impl Core {
    /// Sends `f` to `target` if there is space now.
    ///
    /// `f` runs on `target` with its endpoint and this core's id, between two of its polls; it must not panic or block. Messages
    /// from one core to another start in the order they were sent.
    ///
    /// # Errors
    ///
    /// [`SendError`] with `f`: the ring is full or the target has left.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    #[inline(always)]
    pub fn try_send<F>(&self, target: CoreId, f: F) -> Result<Sequence, SendError<F>>
    where
        F: FnOnce(&Self, CoreId) + Send + 'static,
    {
        self.try_with(target, f, &SpaceWait::default(), Self::ring_bell)
    }

    /// As [`try_send`](Self::try_send), without waking the target: the doorbell is rung at this core's next
    /// [`flush`](Self::flush), once for all passive messages to the target.
    ///
    /// So a passive message waits at most for the rest of the sender's tick; a target that looks by itself sees it at once.
    ///
    /// # Errors
    ///
    /// As [`try_send`](Self::try_send).
    ///
    /// # Panics
    ///
    /// As [`try_send`](Self::try_send).
    pub fn try_send_passive<F>(&self, target: CoreId, f: F) -> Result<Sequence, SendError<F>>
    where
        F: FnOnce(&Self, CoreId) + Send + 'static,
    {
        self.try_with(target, f, &SpaceWait::default(), |core, target, link| {
            link.sent.passive.add(1);
            core.shared.core(target).doorbell.announce(core.id, core.shared.fence);
            core.out(target).owes_ring.set(true);
            core.attend(target);
        })
    }

    /// As [`try_send`](Self::try_send), by who has waited for space with [`poll_space`](Self::poll_space): newcomers and later
    /// waiters do not come first. A send that succeeds ends the wait; a refused one keeps its place.
    ///
    /// # Errors
    ///
    /// As [`try_send`](Self::try_send).
    ///
    /// # Panics
    ///
    /// As [`try_send`](Self::try_send).
    pub fn try_send_in_turn<F>(&self, target: CoreId, f: F, wait: &mut SpaceWait) -> Result<Sequence, SendError<F>>
    where
        F: FnOnce(&Self, CoreId) + Send + 'static,
    {
        let sequence = self.try_with(target, f, wait, Self::ring_bell)?;
        self.end_wait(wait);
        Ok(sequence)
    }

    #[inline(always)]
    fn try_with<F>(
        &self,
        target: CoreId,
        f: F,
        wait: &SpaceWait,
        ring: impl FnOnce(&Self, CoreId, &Link),
    ) -> Result<Sequence, SendError<F>>
    where
        F: FnOnce(&Self, CoreId) + Send + 'static,
    {
        if target == self.id {
            f(self, self.id);
            return Ok(Sequence(0));
        }
        let may_try = self.out(target).may_try(wait.ticket.map(|(_, ticket)| ticket));
        match self.push(target, Closure(f), may_try) {
            Ok((sequence, link)) => {
                ring(self, target, link);
                Ok(Sequence(sequence))
            }
            Err(SendError::Full(Closure(f))) => Err(SendError::Full(f)),
            Err(SendError::Gone(Closure(f))) => Err(SendError::Gone(f)),
        }
    }

    /// Sends `content` if there is space and nobody came before `wait`. Not for the own core.
    #[inline(always)]
    pub(crate) fn try_deliver<D: Deliver>(
        &self,
        target: CoreId,
        content: D,
        wait: &SpaceWait,
    ) -> Result<(), SendError<D>> {
        let may_try = self.out(target).may_try(wait.ticket.map(|(_, ticket)| ticket));
        let (_, link) = self.push(target, content, may_try)?;
        self.ring_bell(target, link);
        Ok(())
    }

    /// Publishes without ringing.
    #[inline(always)]
    fn push<D: Deliver>(&self, target: CoreId, content: D, may_try: bool) -> Result<(u32, &Link), SendError<D>> {
        if self.is_gone(target) {
            return Err(SendError::Gone(content));
        }
        let (producer, link) = self.end(target);
        if !may_try || !producer.has_space() {
            link.sent.full.add(1);
            return Err(SendError::Full(content));
        }
        // [doorbell S1]
        match producer.push(Message::new(Some(self), content)) {
            Ok(sequence) => {
                link.sent.sent.add(1);
                Ok((sequence, link))
            }
            Err(_) => unreachable!("the ring had space and has no other producer"),
        }
    }

    /// Sends `f` to `target`, waiting for space by the rule of [overflow B1](crate::overflow#steps): while it waits it *runs
    /// messages* sent to this core, and kicks the target.
    ///
    /// For plain threads and message functions. Never call it inside a future or a waker: those use
    /// [`try_send`](Self::try_send), [`poll_space`](Self::poll_space) or [`send_or_list`](Self::send_or_list).
    ///
    /// # Errors
    ///
    /// [`Gone`] with `f` if the target has left.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    pub fn send<F>(&self, target: CoreId, f: F) -> Result<Sequence, Gone<F>>
    where
        F: FnOnce(&Self, CoreId) + Send + 'static,
    {
        if target == self.id {
            f(self, self.id);
            return Ok(Sequence(0));
        }
        let (producer, link) = self.end(target);
        let capacity = link.ring.capacity();
        let (limit, resume) = match self.nesting.get() {
            0 => (capacity / 2, capacity / 4),
            _ => (capacity.saturating_sub(3).max(1), capacity.saturating_sub(5).max(1)),
        };
        if producer.depth_seen() > limit || self.out(target).has_listed() {
            self.wait_until(target, limit, resume);
        }
        if self.is_gone(target) {
            return Err(Gone(f));
        }
        self.send_or_list(target, f);
        Ok(self.sequence(target))
    }

    /// [overflow B1]: waits until at most `resume` messages are in the ring, if there are more than `limit`.
    #[cold]
    fn wait_until(&self, target: CoreId, limit: u32, resume: u32) {
        let (producer, link) = self.end(target);
        let out = self.out(target);
        self.move_listed(target);
        // [overflow B2]
        if (producer.depth() <= limit && !out.has_listed()) || self.nesting.get() >= MAX_NESTING {
            return;
        }
        link.sent.full.add(1);
        let mut turn = 0;
        // [overflow B1]
        while (producer.depth() > resume || out.has_listed()) && !self.is_gone(target) {
            if let Rung::Kick = self.shared.core(target).doorbell.ring(self.id, self.shared.fence) {
                link.sent.kicked.add(1);
                self.port().kick(target);
            }
            if self.drain_all(WAIT_BUDGET) == 0 {
                self.port().relax(turn);
                turn += 1;
            }
            self.move_listed(target);
        }
    }

    /// [overflow O3], counted.
    fn move_listed(&self, target: CoreId) -> usize {
        // [overflow O3]
        let moved = self.out(target).flush_list();
        if moved > 0 {
            let link = &self.end(target).1;
            link.sent.sent.add(moved as u64);
            link.sent.avoided.add(moved as u64 - 1);
            self.ring_bell(target, link);
        }
        moved
    }

    /// Sends `f` to `target`; if the ring is full it goes to this core's overflow list, which is flushed in order each
    /// tick. Never waits: the send for wakers and replies.
    ///
    /// The list has no bound of its own: use it only for what is bounded elsewhere. If the target has left, `f` is dropped.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    #[inline(always)]
    pub fn send_or_list<F>(&self, target: CoreId, f: F)
    where
        F: FnOnce(&Self, CoreId) + Send + 'static,
    {
        self.deliver_or_list(target, Closure(f));
    }

    #[inline(always)]
    pub(crate) fn deliver_or_list<D: Deliver>(&self, target: CoreId, content: D) {
        if target == self.id {
            return content.deliver(self, self.id);
        }
        let message = Message::new(Some(self), content);
        let (producer, link) = self.end(target);
        let out = self.out(target);
        if out.has_listed() {
            return self.list(target, message);
        }
        // [doorbell S1]
        match producer.push(message) {
            Ok(_) => {
                link.sent.sent.add(1);
                self.ring_bell(target, link);
            }
            Err(message) => {
                link.sent.full.add(1);
                self.list(target, message);
            }
        }
    }

    #[cold]
    fn list(&self, target: CoreId, message: Message) {
        if self.is_gone(target) {
            return message.take_back();
        }
        // [overflow O1]
        self.end(target).1.sent.overflowed.add(1);
        self.out(target).list(message);
        self.attend(target);
    }

    /// Sends a clone of `f` to every core of `set` that has not left, in ascending order, by [`send`](Self::send); on the own
    /// core it runs in its turn. Returns to how many it was sent.
    ///
    /// *Runs messages*, as `send` does.
    ///
    /// # Panics
    ///
    /// If the set has a core that the fabric does not have.
    pub fn send_to_set<F>(&self, set: &CoreSet, f: F) -> usize
    where
        F: FnOnce(&Self, CoreId) + Clone + Send + 'static,
    {
        set.iter().filter(|&target| self.send(target, f.clone()).is_ok()).count()
    }

    /// Ready when a [`try_send_in_turn`](Self::try_send_in_turn) to `target` may be tried: there is space, and nobody came first.
    /// Ready too when the target has left, so that the send can say so.
    ///
    /// `wait` keeps the place in the order of arrival; pass the same one until the send succeeded, or to
    /// [`end_wait`](Self::end_wait) when giving up.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    pub fn poll_space(&self, target: CoreId, wait: &mut SpaceWait, cx: &Context<'_>) -> Poll<()> {
        if target == self.id || self.is_gone(target) {
            return Poll::Ready(());
        }
        let (producer, _) = self.end(target);
        let out = self.out(target);
        let mut ticket = wait.ticket.map(|(_, ticket)| ticket);
        if producer.has_space() && out.may_try(ticket) {
            return Poll::Ready(());
        }
        out.wait(&mut ticket, cx.waker());
        wait.ticket = ticket.map(|ticket| (target, ticket));
        self.attend(target);
        Poll::Pending
    }

    /// Ends a wait for space, after the send or instead of it.
    pub fn end_wait(&self, wait: &mut SpaceWait) {
        if let Some((target, ticket)) = wait.ticket.take()
            && let Some(next) = self.out(target).forget(ticket)
        {
            next.wake();
        }
    }

    /// [doorbell S2] to [doorbell S4], counted.
    #[inline(always)]
    fn ring_bell(&self, target: CoreId, link: &Link) {
        match self.shared.core(target).doorbell.ring(self.id, self.shared.fence) {
            Rung::Avoided => link.sent.avoided.add(1),
            rung => self.answer(target, link, rung),
        }
    }

    #[cold]
    fn answer(&self, target: CoreId, link: &Link, rung: Rung) {
        match rung {
            Rung::Avoided => link.sent.avoided.add(1),
            Rung::Kick => {
                link.sent.kicked.add(1);
                self.port().kick(target);
            }
            Rung::Gone => self.take_back(target),
        }
    }

    /// [doorbell G2]: discards what this core sent to a core that has left.
    fn take_back(&self, target: CoreId) {
        let mut turn = 0;
        // [doorbell G2] acquire, in `state`: the target has let go of its end before this takes it.
        while self.shared.core(target).doorbell.state() != State::Drained {
            self.port().relax(turn);
            turn += 1;
        }
        // Everything is taken out before any of it runs: what it runs may send to the target again, and end here.
        let leftover: Vec<_> = self.out(target).used().map_or_else(Vec::new, |(_, link)| {
            // SAFETY: 1. the target's consumer was dropped, and had published, before `Drained` was stored; from then on
            // only this core, the source, takes from the ring, and only here: nothing of a message runs while it does.
            let consumer = unsafe { Consumer::new(link.ring.clone()) };
            core::iter::from_fn(|| consumer.pop().map(|(message, _running)| message)).collect()
        });
        leftover.into_iter().for_each(Message::take_back);
        self.give_up(target);
    }

    /// Takes back what is not in the ring yet, and wakes who waits for space.
    fn give_up(&self, target: CoreId) {
        let (listed, waiters) = self.out(target).take_all();
        listed.into_iter().for_each(Message::take_back);
        waiters.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Takes back what was sent to cores that have left since the last look.
    #[cold]
    fn notice_departures(&self, departures: u64) -> usize {
        self.departures.set(departures);
        let targets = (0..self.cores()).map(CoreId::new);
        targets.filter(|&target| target != self.id && self.is_gone(target)).map(|target| self.take_back(target)).count()
    }

    /// Puts an emptied block on the list for its home; the list goes there at the next flush.
    pub(crate) fn send_home(&self, home: CoreId, block: BlockList) {
        if home == self.id {
            return block.give_to(&self.blocks);
        }
        let list = &self.homeward[home.index()];
        list.set(Some(match list.take() {
            Some(others) => others.prepend(block),
            None => block,
        }));
        self.attend(home);
    }
}

/// Waiting for messages to have run.
impl Core {
    /// The sequence of the last message sent to `target`: waiting for it waits for everything sent so far.
    ///
    /// Messages on the overflow list are included: their places in the ring are settled.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    #[must_use]
    pub fn sequence(&self, target: CoreId) -> Sequence {
        let out = self.out(target);
        Sequence(out.used().map_or(0, |(producer, _)| producer.sequence().wrapping_add(out.listed())))
    }

    /// Whether the message of `sequence` to `target`, and all before it, have *finished*, nested passes included. True for the
    /// own core, and for a core that has left.
    ///
    /// What those functions wrote is visible to the caller if this returns `true`.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    #[must_use]
    pub fn has_executed(&self, target: CoreId, sequence: Sequence) -> bool {
        match self.out(target).used() {
            Some((producer, _)) if target != self.id => producer.has_executed(sequence.0) || self.is_gone(target),
            _ => true,
        }
    }

    /// Waits until [`has_executed`](Self::has_executed); *runs messages* sent to this core meanwhile.
    ///
    /// Not for futures. Two message functions that wait for each other wait for ever.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    pub fn wait_executed(&self, target: CoreId, sequence: Sequence) {
        let mut turn = 0;
        while !self.has_executed(target, sequence) {
            self.flush();
            if self.drain_all(WAIT_BUDGET) == 0 {
                self.port().relax(turn);
                turn += 1;
            }
        }
    }
}

/// The inbox.
impl Core {
    /// One tick's look at the inbox: *runs messages*, at most `budget` of each source. Returns how many ran.
    ///
    /// Looks at the rings whose pending bit is set; at every ring each 64th tick.
    #[inline(always)]
    pub fn drain(&self, budget: u32) -> usize {
        let tick = self.tick.get().wrapping_add(1);
        self.tick.set(tick);
        self.own().counts.ticks.add(1);
        if tick.is_multiple_of(SWEEP_TICKS) {
            // [doorbell R3]
            return self.drain_all(budget);
        }
        let mut ran = 0;
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
        (0..self.cores())
            .map(CoreId::new)
            .filter(|&source| self.shared.has_link(source, self.id))
            .map(|source| self.drain_source(source, budget))
            .sum()
    }

    /// *Runs messages* of threads that are no core, at most `budget`. Returns how many ran.
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
    fn incoming(&self, source: CoreId) -> Option<&(Consumer<Message>, Arc<Link>)> {
        match self.incoming[source.index()].end.get() {
            Some(end) => Some(end),
            None => self.meet(source),
        }
    }

    #[cold]
    fn meet(&self, source: CoreId) -> Option<&(Consumer<Message>, Arc<Link>)> {
        let link = self.shared.link(source, self.id)?;
        Some(self.incoming[source.index()].end.get_or_init(|| {
            // SAFETY: 1. each core has one `Incoming` per source, and makes its consumer once.
            let consumer = unsafe { Consumer::new(link.ring.clone()) };
            (consumer, link)
        }))
    }

    #[inline(always)]
    fn drain_source(&self, source: CoreId, budget: u32) -> usize {
        let Some((consumer, link)) = self.incoming(source) else {
            return 0;
        };
        let quiet = &self.incoming[source.index()].quiet;
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
        let mut ran = 0;
        while ran < budget
            && let Some((message, _running)) = consumer.pop()
        {
            ran += 1;
            self.run(message, source);
        }
        link.received.add(u64::from(ran));
        consumer.publish();
        if !mutant!("overflow-no-wanted-fence") {
            // [overflow W1]
            light_fence(self.shared.fence);
        }
        if link.take_wanted() {
            self.give_space(source);
        }
        ran as usize
    }

    /// [overflow W2]
    #[cold]
    fn give_space(&self, source: CoreId) {
        if self.shared.core(source).doorbell.claim_kick() == Rung::Kick && !mutant!("overflow-no-kick") {
            self.port().kick(source);
        }
    }

    #[inline(always)]
    fn run(&self, message: Message, source: CoreId) {
        let depth = self.nesting.get() + 1;
        self.nesting.set(depth);
        if depth > 1 && u64::from(depth) > self.own().counts.max_nesting.get() {
            let counter = &self.own().counts.max_nesting;
            counter.add(u64::from(depth) - counter.get());
        }
        let _nested = Nested(&self.nesting);
        message.run(self, source);
    }

    /// How many functions of messages are on this thread's stack right now.
    #[must_use]
    pub fn nesting(&self) -> u32 {
        self.nesting.get()
    }

    /// The end of a tick: overflow lists into the rings, woken waiters, owed rings of passive messages, emptied blocks on their
    /// way home. Costs nothing when there is none of it. Returns how much it moved.
    #[inline(always)]
    pub fn flush(&self) -> usize {
        let mut moved = 0;
        let departures = self.shared.departures.load(Ordering::Acquire);
        if departures != self.departures.get() {
            moved += self.notice_departures(departures);
        }
        for word in 0..self.shared.cores.len().div_ceil(64) {
            let attention = self.attention[word].get();
            if attention != 0 {
                self.attention[word].set(0);
                for bit in bits(attention) {
                    moved += self.flush_to(CoreId::new(word * 64 + bit));
                }
            }
        }
        moved
    }

    #[cold]
    fn flush_to(&self, target: CoreId) -> usize {
        if let Some(list) = self.homeward[target.index()].take() {
            self.send_or_list(target, move |core, _| list.give_to(core.blocks()));
        }
        let out = self.out(target);
        let Some((_, link)) = out.used() else {
            return 0;
        };
        let moved = self.move_listed(target);
        if out.owes_ring.take() {
            let rung = self.shared.core(target).doorbell.claim_kick();
            if rung != Rung::Avoided {
                self.answer(target, link, rung);
            }
        }
        let mut woken = 0;
        while let Some(waker) = out.next_waiter(woken) {
            woken += 1;
            waker.wake();
        }
        if out.wants_space() {
            self.attend(target);
        }
        moved + woken as usize
    }
}

/// Sleep.
impl Core {
    /// Arms the doorbell if nothing waits: no message, no overflow that could move, and `nothing_else` agrees. From the moment it is armed
    /// until the proof is dropped, every sender kicks.
    ///
    /// `None`: stay awake and look again. `nothing_else` runs after the fence, so that what it looks at may be written by other
    /// threads before they kick; it must not run messages.
    pub fn arm(&self, nothing_else: impl FnOnce() -> bool) -> Option<Armed<'_>> {
        let wanting = self.wanting();
        for target in wanting.iter() {
            // [overflow O4]
            self.out(target).announce_want();
        }
        let own = self.own();
        let armed = own.doorbell.arm(self.port(), self.shared.fence, || {
            // [doorbell K3] [overflow O5]
            self.inbox_is_empty()
                && own.injector.is_empty()
                && self.shared.departures.load(Ordering::Acquire) == self.departures.get()
                && !wanting.iter().any(|target| self.out(target).could_flush())
                && nothing_else()
        });
        let counter = if armed.is_some() { &own.counts.parked } else { &own.counts.park_refused };
        counter.add(1);
        armed
    }

    /// Whether messages wait in an overflow list.
    #[must_use]
    pub fn has_overflow(&self) -> bool {
        self.outgoing.iter().any(|out| out.listed() > 0)
    }

    /// Targets in whose rings this core waits for space.
    fn wanting(&self) -> CoreSet {
        let mut set = CoreSet::empty();
        for word in 0..self.attention.len() {
            for bit in bits(self.attention[word].get()) {
                let target = CoreId::new(word * 64 + bit);
                if self.out(target).wants_space() {
                    set.insert(target);
                }
            }
        }
        set
    }

    fn inbox_is_empty(&self) -> bool {
        let only_pending = mutant!("doorbell-recheck-pending-only");
        (0..self.cores()).map(CoreId::new).all(|source| {
            let skip =
                only_pending && self.own().doorbell.pending(source.index() / 64) & 1 << (source.index() % 64) == 0;
            skip || self.incoming(source).is_none_or(|(consumer, _)| consumer.is_empty())
        })
    }
}

impl Core {
    /// From now on requests of other cores' calls are answered with "gone" instead of being run.
    pub fn close(&self) {
        self.closing.set(true);
    }

    /// Whether [`close`](Self::close) was called.
    #[must_use]
    #[inline(always)]
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let shared = self.shared.clone();
        let own = shared.core(self.id);
        let others = || (0..shared.cores.len()).map(CoreId::new).filter(|&other| other != self.id);
        // [doorbell G1]
        own.doorbell.leave(&*shared.port, shared.fence);
        while own.injector.pop().is_some() {}
        // [doorbell G3]
        for source in others().filter(|&source| self.is_gone(source)) {
            if let Some((consumer, _)) = self.incoming(source) {
                while consumer.pop().is_some() {}
            }
        }
        // The consumers publish when they go; their sources take over from there.
        self.incoming = Box::default();
        own.doorbell.left();
        if !mutant!("doorbell-departure-uncounted") {
            shared.departures.fetch_add(1, Ordering::Release);
        }
        for other in others() {
            let asleep = shared.core(other).doorbell.ring_foreign() == Rung::Kick;
            if asleep && !mutant!("doorbell-departure-no-kick") {
                shared.port.kick(other);
            }
        }
        for target in others() {
            // [doorbell G3]
            if self.is_gone(target) { self.take_back(target) } else { self.give_up(target) }
        }
    }
}

/// Counts one function off the stack, also when it unwinds.
struct Nested<'a>(&'a Cell<u32>);

impl Drop for Nested<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
