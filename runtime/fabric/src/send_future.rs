//! A send that awaits space.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use crate::{Core, CoreId, Gone, SendError, Sequence, SpaceWait};

impl Core {
    /// Sends `f` to `target` as soon as there is space, in turn with others that wait.
    ///
    /// Nothing is sent before the first poll. On the own core `f` runs inside that poll.
    ///
    /// # Errors
    ///
    /// The future resolves to [`Gone`] with `f` if the target has left.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, nothing was sent and `f` is dropped; its turn goes to the next one that waits.
    ///
    /// # Panics
    ///
    /// When polled, if the fabric has no core `target`.
    pub fn send_when_space<F>(&self, target: CoreId, f: F) -> SendWhenSpace<'_, F>
    where
        F: FnOnce(&Self, CoreId) + Send + 'static,
    {
        SendWhenSpace { core: self, target, f: Some(f), wait: SpaceWait::default() }
    }
}

/// The future of [`Core::send_when_space`].
#[must_use = "futures do nothing unless polled"]
pub struct SendWhenSpace<'a, F> {
    core: &'a Core,
    target: CoreId,
    /// `None` once it was sent or given back.
    f: Option<F>,
    wait: SpaceWait,
}

// Nothing in it is pinned.
impl<F> Unpin for SendWhenSpace<'_, F> {}

impl<F> fmt::Debug for SendWhenSpace<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendWhenSpace").field("target", &self.target).finish_non_exhaustive()
    }
}

impl<F> Future for SendWhenSpace<'_, F>
where
    F: FnOnce(&Core, CoreId) + Send + 'static,
{
    type Output = Result<Sequence, Gone<F>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        core::task::ready!(this.core.poll_space(this.target, &mut this.wait, cx));
        let f = this.f.take().expect("a send is not polled after it was ready");
        let sent = this.core.try_send_in_turn(this.target, f, &mut this.wait);
        match sent {
            Err(SendError::Full(f)) => {
                // Space was there, and another send took it between the look and the push: look again.
                this.f = Some(f);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(sequence) => Poll::Ready(Ok(sequence)),
            Err(SendError::Gone(f)) => Poll::Ready(Err(Gone(f))),
        }
    }
}

impl<F> Drop for SendWhenSpace<'_, F> {
    fn drop(&mut self) {
        self.core.end_wait(&mut self.wait);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::sync::Arc;
    use core::pin::pin;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use core::task::Waker;

    use super::*;
    use crate::tests::cores;

    #[test]
    fn sends_await_space_and_go_in_turn() {
        let (_fabric, cores) = cores(2, 2);
        let target = CoreId::new(1);
        let ran = Arc::new(AtomicUsize::new(0));
        let mut cx = Context::from_waker(Waker::noop());
        let note = |expected: usize| {
            let ran = ran.clone();
            move |_: &Core, _: CoreId| assert_eq!(ran.fetch_add(1, Ordering::Relaxed), expected)
        };
        for n in 0..2 {
            let mut send = pin!(cores[0].send_when_space(target, note(n)));
            assert!(send.as_mut().poll(&mut cx).is_ready());
        }
        let mut third = pin!(cores[0].send_when_space(target, note(2)));
        let mut fourth = pin!(cores[0].send_when_space(target, note(3)));
        assert!(third.as_mut().poll(&mut cx).is_pending());
        assert!(fourth.as_mut().poll(&mut cx).is_pending());
        cores[1].drain(64);
        assert!(fourth.as_mut().poll(&mut cx).is_pending(), "the third one came first");
        assert!(third.as_mut().poll(&mut cx).is_ready());
        assert!(fourth.as_mut().poll(&mut cx).is_ready());
        cores[1].drain(64);
        assert_eq!(ran.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_send_that_was_woken_and_not_polled_holds_up_nobody_and_keeps_its_place() {
        let (_fabric, cores) = cores(2, 2);
        let target = CoreId::new(1);
        let mut cx = Context::from_waker(Waker::noop());
        let fill = || (0..2).for_each(|_| cores[0].try_send(target, |_, _| ()).map(drop).expect("space"));
        fill();
        let mut late = pin!(cores[0].send_when_space(target, |_, _| ()));
        assert!(late.as_mut().poll(&mut cx).is_pending());
        cores[1].drain(64);
        assert!(cores[0].try_send(target, |_, _| ()).is_err(), "it has not been woken");
        cores[0].flush();
        fill();
        let mut later = pin!(cores[0].send_when_space(target, |_, _| ()));
        assert!(later.as_mut().poll(&mut cx).is_pending());
        assert!(late.as_mut().poll(&mut cx).is_pending());
        cores[1].drain(64);
        assert!(later.as_mut().poll(&mut cx).is_pending(), "the late one came first");
        assert!(late.as_mut().poll(&mut cx).is_ready());
        assert!(later.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn a_send_to_a_core_that_has_left_gives_the_closure_back() {
        let (_fabric, mut cores) = cores(2, 2);
        cores.truncate(1);
        let mut cx = Context::from_waker(Waker::noop());
        let mut send = pin!(cores[0].send_when_space(CoreId::new(1), |_, _| ()));
        assert!(matches!(send.as_mut().poll(&mut cx), Poll::Ready(Err(Gone(_)))));
    }
}
