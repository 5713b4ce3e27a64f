//! Sends, and waiting for space.

use core::task::{Context, Poll};

use super::{Core, Gone, SendError, Sequence, WAIT_BUDGET};
use crate::block::BlockList;
use crate::doorbell::Rung;
use crate::message::{Closure, Deliver};
use crate::overflow::{Link, SpaceWait};
use crate::watch::WaitKind;
use crate::{CoreId, CoreSet, Message, trace};

/// Nested functions from which on a synchronous send no longer waits ([overflow B2](crate::overflow#steps)).
pub(super) const MAX_NESTING: u32 = 20;

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
        self.try_with(target, f, &SpaceWait::default(), Self::ring_bell_nbio)
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
            // [doorbell B1]
            trace::send_pasv(core.id, target);
            link.sent.passive.add(1);
            core.shared.core(target).doorbell.announce(core.id, core.shared.fence);
            core.out(target).owes_ring.set(true);
            core.attend(target);
        })
    }

    /// As [`try_send`](Self::try_send), but refuses from two thirds full on: what is left of the ring stays free for who must not be refused.
    ///
    /// The kernels' nowait form: a ring of 16 takes 10 messages this way, one of 32 takes 21. For hints and other messages that can be
    /// left out under load.
    ///
    /// # Errors
    ///
    /// As [`try_send`](Self::try_send).
    ///
    /// # Panics
    ///
    /// As [`try_send`](Self::try_send).
    pub fn try_send_spare<F>(&self, target: CoreId, f: F) -> Result<Sequence, SendError<F>>
    where
        F: FnOnce(&Self, CoreId) + Send + 'static,
    {
        if target != self.id && !self.is_gone(target) {
            let (producer, link) = self.end(target);
            // [overflow B3] a limit of its own; the second look only when the first says no.
            let limit = (u64::from(link.ring.capacity()) * 2 / 3) as u32;
            if producer.depth_seen() >= limit && producer.depth() >= limit {
                link.sent.full.add(1);
                trace::send_fail(self.id, target);
                return Err(SendError::Full(f));
            }
        }
        self.try_send(target, f)
    }

    /// As [`try_send`](Self::try_send), by who has waited for space with [`poll_space`](Self::poll_space): until it is woken, newcomers and later
    /// waiters do not come first. Between the wake and this they may: who is late must not hold up the others. A send that succeeds ends the wait;
    /// a refused one keeps its place.
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
        let sequence = self.try_with(target, f, wait, Self::ring_bell_nbio)?;
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
        self.ring_bell_nbio(target, link);
        Ok(())
    }

    /// Publishes without ringing.
    #[inline(always)]
    fn push<D: Deliver>(&self, target: CoreId, content: D, may_try: bool) -> Result<(u64, &Link), SendError<D>> {
        if self.is_gone(target) {
            trace::send_fail(self.id, target);
            return Err(SendError::Gone(content));
        }
        let (producer, link) = self.end(target);
        if !may_try || !producer.has_space() {
            link.sent.full.add(1);
            trace::send_fail(self.id, target);
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
            trace::send_fail(self.id, target);
            return Err(Gone(f));
        }
        self.send_or_list(target, f);
        Ok(self.sequence(target))
    }

    /// [overflow B2], and operations of shootdowns never wait.
    fn must_not_wait(&self) -> bool {
        self.nesting.get() >= MAX_NESTING || self.shootdowns.is_operating()
    }

    /// [overflow B1]: waits until at most `resume` messages are in the ring, if there are more than `limit`.
    #[cold]
    fn wait_until(&self, target: CoreId, limit: u32, resume: u32) {
        let (producer, link) = self.end(target);
        let out = self.out(target);
        self.move_listed(target);
        // [overflow B2]
        if (producer.depth() <= limit && !out.has_listed()) || self.must_not_wait() {
            return;
        }
        link.sent.full.add(1);
        let mut waiting = self.wait_for(target, WaitKind::Send);
        // [overflow B1]
        while (producer.depth() > resume || out.has_listed()) && !self.is_gone(target) {
            if let Rung::Kick = self.shared.core(target).doorbell.ring(self.id, self.shared.fence) {
                self.kick_again(target);
            }
            let served = self.drain_all(WAIT_BUDGET) + self.move_listed(target);
            waiting.turn(served > 0);
        }
        drop(waiting);
        trace::send_end(self.id, target);
    }

    /// Kicks `target` beside the kick of a send.
    #[cold]
    pub(crate) fn kick_again(&self, target: CoreId) {
        if let Some((_, link)) = self.out(target).used() {
            link.sent.repeated.add(1);
        }
        self.kick(target);
    }

    /// Wakes `target`.
    #[cold]
    pub(crate) fn kick(&self, target: CoreId) {
        trace::cpu_send(self.id, target);
        self.port().kick(target);
    }

    /// [overflow O3], counted.
    pub(super) fn move_listed(&self, target: CoreId) -> usize {
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
        trace::send_norm(self.id, target);
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

    /// Sends a clone of `f` to every core of `set` that has not left, by [`send`](Self::send). Returns to how many it was sent, the own core
    /// included.
    ///
    /// Begins with the next core after the own one and wraps, so that not every sender begins with core 0; the own core, if it is in
    /// the set, comes last and runs its clone inside the call, while the others run theirs. A core that leaves meanwhile is not waited for.
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
        set.iter_after(self.id).filter(|&target| self.send(target, f.clone()).is_ok()).count()
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

    /// As [`ring_bell`](Self::ring_bell), after a send that might have been refused.
    #[inline(always)]
    fn ring_bell_nbio(&self, target: CoreId, link: &Link) {
        trace::send_nbio(self.id, target);
        self.ring_bell(target, link);
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
    pub(super) fn answer(&self, target: CoreId, link: &Link, rung: Rung) {
        match rung {
            Rung::Avoided => link.sent.avoided.add(1),
            Rung::Kick => {
                link.sent.kicked.add(1);
                self.kick(target);
            }
            Rung::Gone => {
                link.sent.avoided.add(1);
                self.take_back(target);
            }
        }
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
