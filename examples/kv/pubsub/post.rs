//! Messages on their way to the subscribers of other cores.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;

use crossbeam_queue::SegQueue;
use futures::task::AtomicWaker;

use super::hub::Hub;

/// One PUBLISH, and what the cores it goes to have counted.
pub(crate) struct Publication {
    channel: Box<[u8]>,
    message: Box<[u8]>,
    /// Cores that have not delivered it yet.
    missing: AtomicUsize,
    delivered: AtomicU64,
    publisher: AtomicWaker,
}

impl Publication {
    /// Waits until every core has delivered it; answers how many deliveries that were.
    pub(crate) async fn delivered(&self) -> u64 {
        poll_fn(|cx| {
            self.publisher.register(cx.waker());
            // Acquire, after the last core's release: all counts are in.
            match self.missing.load(Ordering::Acquire) {
                0 => Poll::Ready(self.delivered.load(Ordering::Relaxed)),
                _ => Poll::Pending,
            }
        })
        .await
    }

    fn count(&self, delivered: u64) {
        self.delivered.fetch_add(delivered, Ordering::Relaxed);
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.publisher.wake();
        }
    }
}

/// The queues between the cores.
///
/// A queue holds at most what the connections have published and wait to see counted: a connection reads no further
/// request before that.
pub(crate) struct Post {
    boxes: Vec<Inbox>,
}

/// What waits for one core, alone on its lines.
#[repr(align(128))]
#[derive(Default)]
struct Inbox {
    queue: SegQueue<Arc<Publication>>,
    /// Whether anybody there listens; written by that core only.
    wanted: AtomicBool,
}

impl Post {
    pub(crate) fn new(cores: usize) -> Self {
        Self { boxes: (0..cores).map(|_| Inbox::default()).collect() }
    }

    /// Puts a message into the queue of every core but `home` where somebody listens, and names the cores to `ring`;
    /// none where there is no such core.
    ///
    /// `delivered` were delivered at home.
    pub(crate) fn send(
        &self,
        home: usize,
        channel: &[u8],
        message: &[u8],
        delivered: u64,
        mut ring: impl FnMut(usize),
    ) -> Option<Arc<Publication>> {
        // A subscription that was confirmed before this request came is seen: its store came before the confirmation.
        let wanted = |core: &usize| *core != home && self.boxes[*core].wanted.load(Ordering::Acquire);
        let cores: Vec<usize> = (0..self.boxes.len()).filter(wanted).collect();
        if cores.is_empty() {
            return None;
        }
        let publication = Arc::new(Publication {
            channel: channel.into(),
            message: message.into(),
            missing: cores.len().into(),
            delivered: delivered.into(),
            publisher: AtomicWaker::new(),
        });
        for core in cores {
            self.boxes[core].queue.push(Arc::clone(&publication));
            ring(core);
        }
        Some(publication)
    }

    /// Delivers what waits for `core`, whose subscribers are `hub`'s.
    pub(crate) fn deliver(&self, core: usize, hub: &Hub, now_ms: i64) {
        while let Some(publication) = self.boxes[core].queue.pop() {
            publication.count(hub.publish(&publication.channel, &publication.message, now_ms));
        }
    }

    /// Tells publishers whether anybody on `core` listens.
    pub(crate) fn set_wanted(&self, core: usize, wanted: bool) {
        let known = &self.boxes[core].wanted;
        if known.load(Ordering::Relaxed) != wanted {
            known.store(wanted, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pubsub::{Subscriber, Topic};
    use futures::FutureExt;

    #[test]
    fn a_message_goes_to_the_cores_that_listen_and_is_counted_when_the_last_has_it() {
        let post = Post::new(4);
        let mut hubs: Vec<Hub> = (0..4).map(|_| Hub::default()).collect();
        let mut listeners: Vec<Subscriber> = (0..4).map(|_| Subscriber::default()).collect();
        assert!(post.send(0, b"c", b"m", 5, |_| panic!("nobody listens")).is_none());
        for core in [0, 2, 3] {
            hubs[core].subscribe(&mut listeners[core], Topic::Channel, [&b"c"[..]].into_iter(), &mut Vec::new());
            post.set_wanted(core, true);
        }
        let mut rung = Vec::new();
        let publication = post.send(0, b"c", b"m", 1, |core| rung.push(core)).unwrap();
        assert_eq!(rung, [2, 3]);
        post.deliver(3, &hubs[3], 0);
        assert_eq!(publication.delivered().now_or_never(), None);
        post.deliver(2, &hubs[2], 0);
        assert_eq!(publication.delivered().now_or_never(), Some(3));
    }
}
