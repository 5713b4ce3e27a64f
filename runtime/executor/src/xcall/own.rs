//! High functions for the own core: a queue that the loop runs between polls.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use ipiq_fabric::call::{CallError, Outcome};
use ipiq_fabric::{catch, contain};

/// The functions that wait for the end of the poll that is under way.
#[derive(Default)]
pub(crate) struct OwnQueue(RefCell<VecDeque<Rc<dyn Run>>>);

impl OwnQueue {
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Runs what is in the queue now, between two polls, up to the first section, each `under` its class; a core that is closing drops it instead. Returns how much there was.
    #[cold]
    pub(crate) fn run(&self, closing: bool, under: impl Fn(u8, &dyn Fn())) -> usize {
        let waiting = self.0.borrow().len();
        for ran in 1..=waiting {
            let Some(call) = self.0.borrow_mut().pop_front() else { break };
            let is_section = call.is_section();
            let gone = closing || is_section && Rc::strong_count(&call) == 1;
            // What panics outside of the function is a waker, or the destructor of a value that nobody wants.
            let under = &under;
            contain(move || under(call.class(), &|| call.run(gone)));
            if is_section && !gone {
                // The rest of the core has waited long enough.
                return ran;
            }
        }
        waiting
    }

    /// As [`run`](Self::run), in a stop: sections stay where they are, as tasks do. Returns how much ran.
    #[cold]
    pub(crate) fn run_all_but_sections(&self, closing: bool, under: impl Fn(u8, &dyn Fn())) -> usize {
        let (sections, calls) = self.0.take().into_iter().partition::<VecDeque<_>, _>(|call| call.is_section());
        let ran = calls.len();
        // In front of what is queued meanwhile.
        *self.0.borrow_mut() = sections;
        let under = &under;
        calls.into_iter().for_each(|call| contain(move || under(call.class(), &|| call.run(closing))));
        ran
    }

    /// A function of `class`: what it spawns and calls is of it.
    pub(super) fn push<F, R>(&self, class: u8, f: F) -> OwnPart<F, R>
    where
        F: FnOnce() -> R + 'static,
        R: 'static,
    {
        self.push_as(Kind::Function { class }, f)
    }

    /// A section: nothing else of the queue runs in the same turn after it, and one that nobody awaits any more does not run.
    pub(crate) fn push_section<F, R>(&self, f: F) -> OwnPart<F, R>
    where
        F: FnOnce() -> R + 'static,
        R: 'static,
    {
        self.push_as(Kind::Section, f)
    }

    fn push_as<F, R>(&self, kind: Kind, f: F) -> OwnPart<F, R>
    where
        F: FnOnce() -> R + 'static,
        R: 'static,
    {
        let call = Rc::new(OwnCall { f: Cell::new(Some(f)), state: Cell::new(State::Waiting(None)), kind });
        self.0.borrow_mut().push_back(call.clone());
        OwnPart(call)
    }
}

trait Run {
    /// `gone`: it is not to run.
    fn run(&self, gone: bool);
    fn kind(&self) -> Kind;

    fn is_section(&self) -> bool {
        matches!(self.kind(), Kind::Section)
    }

    fn class(&self) -> u8 {
        match self.kind() {
            Kind::Function { class } => class,
            // It reaches nothing that has one.
            Kind::Section => 0,
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Function { class: u8 },
    Section,
}

struct OwnCall<F, R> {
    f: Cell<Option<F>>,
    state: Cell<State<R>>,
    kind: Kind,
}

enum State<R> {
    Waiting(Option<Waker>),
    Done(Outcome<R>),
    Taken,
}

impl<F: FnOnce() -> R, R> Run for OwnCall<F, R> {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn run(&self, gone: bool) {
        let Some(f) = self.f.take() else { return };
        let outcome = if gone {
            contain(move || drop(f));
            Err(CallError::gone())
        } else {
            catch(f).map_err(CallError::panicked)
        };
        if let State::Waiting(Some(waker)) = self.state.replace(State::Done(outcome)) {
            waker.wake();
        }
    }
}

/// The value of such a function.
pub(crate) struct OwnPart<F, R>(Rc<OwnCall<F, R>>);

impl<F, R> fmt::Debug for OwnPart<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnPart").finish_non_exhaustive()
    }
}

impl<F, R> Future for OwnPart<F, R> {
    type Output = Outcome<R>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let state = &self.0.state;
        match state.replace(State::Taken) {
            State::Done(outcome) => Poll::Ready(outcome),
            State::Waiting(known) => {
                let waker = match known {
                    Some(known) if known.will_wake(cx.waker()) => known,
                    _ => cx.waker().clone(),
                };
                // Only the loop runs the queue: whatever a waker does, the function has not run meanwhile.
                state.set(State::Waiting(Some(waker)));
                Poll::Pending
            }
            State::Taken => panic!("a call was polled after it was ready"),
        }
    }
}
