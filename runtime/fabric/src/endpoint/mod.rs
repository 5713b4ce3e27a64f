//! A core's endpoint: its sends, its inbox, its sleep.

mod asked;
mod departure;
mod error;
mod executed;
mod flush;
mod inbox;
mod safe_point;
mod send;
mod sleep;
#[cfg(all(test, not(loom)))]
mod tests;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc as StdArc;
use core::cell::{Cell, OnceCell};
use core::fmt;
use core::marker::PhantomData;

use crate::admission::Vacancy;
use crate::block::{BlockList, BlockPool};
use crate::cpusync;
use crate::doorbell::Ask;
use crate::fabric::{CoreShared, Shared};
use crate::handlers::{self, Local};
use crate::overflow::{Link, Outgoing};
use crate::port::Port;
use crate::ring::{Consumer, Producer};
use crate::shootdown::Shootdowns;
use crate::sync::Arc;
use crate::synchronize::Synchronizations;
use crate::urgent;
use crate::watch::{Awaited, CrumbWord};
use crate::{CoreId, Fabric, MAX_CORES, Message};

pub use error::{Gone, SendError};
pub use executed::Sequence;
pub use safe_point::{SafePoint, Served};

/// Messages of one source that a waiting core runs before it looks again at what it waits for.
const WAIT_BUDGET: u32 = 64;

/// A target's end of one direction.
#[derive(Default)]
struct Incoming {
    end: OnceCell<(Consumer<Message>, Arc<Link>)>,
    /// Passes in a row that found the ring empty.
    quiet: Cell<u16>,
}

/// One core's endpoint in its [`Fabric`]. It stays on the thread that entered.
///
/// Every method runs on that thread. Methods that *run messages* say so: a message's function may call any method of
/// its core again. Dropping the endpoint leaves the fabric: what was sent to it and has not run goes back to its senders, and later
/// sends get [`Gone`]. What it has sent itself arrives, answers that wait in an overflow list included.
pub struct Core {
    id: CoreId,
    pub(crate) shared: StdArc<Shared>,
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
    synchronizations: Synchronizations,
    /// See [watch](crate::watch), by target.
    awaited: Box<[Awaited]>,
    tick: Cell<u64>,
    /// Heavy fences refused in a row.
    refusals: Cell<u32>,
    nesting: Cell<u32>,
    /// See [`Core::tag`].
    tag: Cell<u8>,
    deferred: safe_point::Deferred,
    pub(crate) handlers: Local,
    pub(crate) cpusync: cpusync::Own,
    pub(crate) shootdowns: Shootdowns,
    /// Which of the seat's, from 0.
    life: u64,
    not_send: PhantomData<*const ()>,
    /// Dropped last.
    vacancy: Vacancy,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Core {
    pub(crate) fn new(shared: StdArc<Shared>, id: CoreId) -> Self {
        let cores = shared.cores.len();
        shared.port.entered(id);
        let life = Self::begin_life(&shared, id);
        Self {
            id,
            outgoing: (0..cores).map(|_| Outgoing::default()).collect(),
            incoming: (0..cores).map(|_| Incoming::default()).collect(),
            attention: core::array::from_fn(|_| Cell::new(0)),
            homeward: (0..cores).map(|_| Cell::new(None)).collect(),
            blocks: Rc::default(),
            departures: Cell::new(0),
            closing: Cell::new(false),
            synchronizations: Synchronizations::of_life(life),
            awaited: (0..cores).map(|_| Awaited::default()).collect(),
            tick: Cell::new(0),
            refusals: Cell::new(0),
            nesting: Cell::new(0),
            tag: Cell::new(0),
            deferred: safe_point::Deferred::default(),
            handlers: Local::default(),
            cpusync: cpusync::Own::default(),
            shootdowns: Shootdowns::default(),
            life,
            not_send: PhantomData,
            vacancy: Vacancy::new(shared.clone(), id),
            shared,
        }
    }

    /// [admission E1], [admission E3]
    fn begin_life(shared: &Shared, id: CoreId) -> u64 {
        let own = shared.core(id);
        // [admission E1]
        let life = own.lives.get();
        if life > 0 {
            own.counts.resting.set(0);
            // [admission E3]
            handlers::arrive_anew(shared, id);
            urgent::arrive_anew(shared, id);
            // [doorbell A1] by the core itself.
            Ask::ANEW.into_iter().for_each(|what| own.doorbell.ask_awake(what));
        }
        life
    }

    /// Which life of the core this is, from 0: how often it has left and come back.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.life
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

    /// Its fabric, for any thread.
    #[must_use]
    pub fn fabric(&self) -> Fabric {
        Fabric::of(self.shared.clone())
    }

    /// The machine.
    #[must_use]
    #[inline(always)]
    pub fn port(&self) -> &dyn Port {
        &*self.shared.port
    }

    #[inline(always)]
    pub(crate) fn shared(&self) -> &StdArc<Shared> {
        &self.shared
    }

    pub(crate) fn crumb_word(&self) -> &CrumbWord {
        &self.own().counts.crumb
    }

    /// What [`watch`](Core::watch) looks at; `None`: nothing was ever sent to `target`.
    pub(crate) fn awaited(&self, target: CoreId) -> Option<(&Awaited, u64, &Producer<Message>, &Link)> {
        let out = self.out(target);
        let (producer, link) = out.used()?;
        Some((&self.awaited[target.index()], producer.sequence() + u64::from(out.listed()), producer, link))
    }

    pub(crate) fn synchronizations(&self) -> &Synchronizations {
        &self.synchronizations
    }

    /// How many messages of `source` are in the middle of their function here.
    pub(crate) fn running_of(&self, source: CoreId) -> u32 {
        self.incoming(source).map_or(0, |(consumer, _)| consumer.running())
    }

    /// Whether `target` has left the fabric.
    pub(crate) fn has_left(&self, target: CoreId) -> bool {
        self.is_gone(target)
    }

    pub(crate) fn is_of(&self, shared: &StdArc<Shared>) -> bool {
        StdArc::ptr_eq(&self.shared, shared)
    }

    #[inline(always)]
    pub(crate) fn blocks(&self) -> &Rc<BlockPool> {
        &self.blocks
    }

    #[inline(always)]
    pub(crate) fn own(&self) -> &CoreShared {
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

    pub(crate) fn attend(&self, target: CoreId) {
        let word = &self.attention[target.index() / 64];
        word.set(word.get() | 1 << (target.index() % 64));
    }

    #[inline(always)]
    pub(crate) fn is_gone(&self, target: CoreId) -> bool {
        self.shared.is_gone(target)
    }
}

impl Core {
    /// A byte of whoever runs tasks here: calls that this core makes take it along, and their functions find it on the core where they run. 0 unless it was set.
    #[must_use]
    #[inline(always)]
    pub fn tag(&self) -> u8 {
        self.tag.get()
    }

    /// Sets the [tag](Self::tag).
    #[inline(always)]
    pub fn set_tag(&self, tag: u8) {
        self.tag.set(tag);
    }

    /// Runs `f` under a [tag](Self::tag), and puts the one before back.
    pub fn with_tag<R>(&self, tag: u8, f: impl FnOnce() -> R) -> R {
        struct Restore<'a>(&'a Cell<u8>, u8);
        impl Drop for Restore<'_> {
            fn drop(&mut self) {
                self.0.set(self.1);
            }
        }
        let _restore = Restore(&self.tag, self.tag.replace(tag));
        f()
    }

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

    /// Whether calls of this core are under way, to whomever, dropped ones included: their answers come here, and find nobody if it leaves before.
    #[must_use]
    pub fn awaits_answers(&self) -> bool {
        // [call H6]
        Rc::strong_count(&self.blocks) > 1
    }
}
