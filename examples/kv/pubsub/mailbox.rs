//! What a subscriber has not been sent yet.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// How much may wait for a subscriber that reads slowly, as redis's `client-output-buffer-limit pubsub`; zero is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutputLimit {
    pub(crate) hard_bytes: usize,
    /// More than this may wait for `soft_s` seconds at most.
    pub(crate) soft_bytes: usize,
    pub(crate) soft_s: u64,
}

impl Default for OutputLimit {
    fn default() -> Self {
        Self { hard_bytes: 32 << 20, soft_bytes: 8 << 20, soft_s: 60 }
    }
}

/// What comes out of a mailbox.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Messages(Vec<u8>),
    /// The subscriber was too slow; it is to be closed.
    Overflow,
}

/// The messages for one connection, written by its core's hub and read by its task.
#[derive(Default)]
pub(crate) struct Mailbox {
    waiting: RefCell<Vec<u8>>,
    /// Bytes that are being sent.
    on_the_way: Cell<usize>,
    above_soft_since_ms: Cell<Option<i64>>,
    overflown: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl Mailbox {
    /// Adds a message, or closes the mailbox where too much waits.
    pub(super) fn push(&self, message: &[u8], limit: OutputLimit, now_ms: i64) {
        if self.overflown.get() {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        waiting.extend_from_slice(message);
        let bytes = waiting.len() + self.on_the_way.get();
        if self.passes(bytes, limit, now_ms) {
            self.overflown.set(true);
            *waiting = Vec::new();
        }
        drop(waiting);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn passes(&self, bytes: usize, limit: OutputLimit, now_ms: i64) -> bool {
        let above = |most: usize| most > 0 && bytes > most;
        if !above(limit.soft_bytes) {
            self.above_soft_since_ms.set(None);
            return above(limit.hard_bytes);
        }
        let since_ms = self.above_soft_since_ms.get().unwrap_or(now_ms);
        self.above_soft_since_ms.set(Some(since_ms));
        above(limit.hard_bytes) || now_ms - since_ms > limit.soft_s as i64 * 1000
    }

    /// Moves what waits behind `out`.
    pub(crate) fn drain_into(&self, out: &mut Vec<u8>) {
        out.append(&mut self.waiting.borrow_mut());
    }

    /// Waits for messages; takes all there are.
    pub(crate) async fn arrival(&self) -> Arrival {
        poll_fn(|cx| {
            if self.overflown.get() {
                return Poll::Ready(Arrival::Overflow);
            }
            let messages = self.waiting.take();
            if messages.is_empty() {
                self.reader.replace(Some(cx.waker().clone()));
                return Poll::Pending;
            }
            Poll::Ready(Arrival::Messages(messages))
        })
        .await
    }

    /// Says how many bytes are being sent to the peer: they count as waiting until the next call.
    pub(crate) fn set_on_the_way(&self, bytes: usize) {
        self.on_the_way.set(bytes);
    }

    /// Waits until too much waits, which may be for ever.
    pub(crate) async fn overflow(&self) {
        poll_fn(|cx| {
            if self.overflown.get() {
                return Poll::Ready(());
            }
            self.reader.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const LIMIT: OutputLimit = OutputLimit { hard_bytes: 100, soft_bytes: 10, soft_s: 2 };

    fn overflown(mailbox: &Mailbox) -> bool {
        mailbox.overflow().now_or_never().is_some()
    }

    #[test]
    fn messages_come_in_their_order_and_wake_the_reader_once() {
        let mailbox = Mailbox::default();
        assert_eq!(mailbox.arrival().now_or_never(), None);
        mailbox.push(b"a", LIMIT, 0);
        mailbox.push(b"b", LIMIT, 0);
        assert_eq!(mailbox.arrival().now_or_never(), Some(Arrival::Messages(b"ab".to_vec())));
        assert_eq!(mailbox.arrival().now_or_never(), None);
    }

    #[test]
    fn the_hard_limit_counts_what_is_on_the_way() {
        let mailbox = Mailbox::default();
        mailbox.set_on_the_way(60);
        mailbox.push(&[b'x'; 40], LIMIT, 0);
        assert!(!overflown(&mailbox));
        mailbox.push(b"x", LIMIT, 0);
        assert!(overflown(&mailbox));
        assert_eq!(mailbox.arrival().now_or_never(), Some(Arrival::Overflow));
    }

    #[test]
    fn the_soft_limit_gives_time() {
        let mailbox = Mailbox::default();
        for (now_ms, expected) in [(0, false), (2000, false), (2001, true)] {
            mailbox.push(&[b'x'; 11], LIMIT, now_ms);
            assert_eq!(overflown(&mailbox), expected, "after {now_ms} ms");
        }
        let mailbox = Mailbox::default();
        mailbox.push(&[b'x'; 11], LIMIT, 0);
        assert!(mailbox.arrival().now_or_never().is_some());
        mailbox.push(b"x", LIMIT, 1000);
        mailbox.push(&[b'x'; 11], LIMIT, 3000);
        assert!(!overflown(&mailbox), "the peer had caught up");
    }

    #[test]
    fn no_limit_is_zero() {
        let mailbox = Mailbox::default();
        let none = OutputLimit { hard_bytes: 0, soft_bytes: 0, soft_s: 0 };
        mailbox.push(&[b'x'; 1000], none, 0);
        assert!(!overflown(&mailbox));
    }
}
