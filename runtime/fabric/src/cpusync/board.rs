//! The order, its job, and the answers.

use core::mem;

use crate::sync::{AtomicU32, AtomicU64, Ordering, Padded, UnsafeCell, fence, mutant, relaxed_if};
use crate::{Core, CoreId, CoreSet, MAX_CORES, PanicPayload};

/// What the lead wants of its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Kind {
    /// Nobody is stopped.
    Idle = 0,
    /// The set is being written.
    Change = 1,
    /// Run nothing.
    Hold = 2,
    /// Run messages, no task.
    Serve = 3,
    /// As `Serve`; first what foreign threads have posted.
    Drain = 4,
    /// Run the job, then hold.
    Run = 5,
    /// Run the job, then go on.
    Go = 6,
}

/// An order: its number, which only grows, above three bits of its kind. The top bit is left to the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order(u64);

impl Order {
    pub(crate) const NONE: Self = Self(0);

    /// The next order, of this kind.
    pub(crate) fn then(self, kind: Kind) -> Self {
        Self((((self.0 >> 3) + 1) << 3) | kind as u64)
    }

    pub(crate) fn kind(self) -> Kind {
        match self.0 & 7 {
            0 => Kind::Idle,
            1 => Kind::Change,
            2 => Kind::Hold,
            3 => Kind::Serve,
            4 => Kind::Drain,
            5 => Kind::Run,
            _ => Kind::Go,
        }
    }
}

/// A function for each core, without its lifetime.
#[derive(Clone, Copy)]
pub(crate) struct Job(*const (dyn Fn(&Core) + Sync));

impl Job {
    pub(crate) fn new(f: &(dyn Fn(&Core) + Sync)) -> Self {
        // SAFETY: 1. only the lifetime changes; `run` requires that it has not ended.
        Self(unsafe { mem::transmute::<&(dyn Fn(&Core) + Sync), &'static (dyn Fn(&Core) + Sync)>(f) })
    }

    /// # Safety
    ///
    /// 1. What it was made from is still borrowed by the lead: the caller has not answered the order that it belongs to.
    pub(crate) unsafe fn run(self, core: &Core) {
        // SAFETY: 1. as required here.
        let f = unsafe { &*self.0 };
        f(core);
    }
}

/// Written by the lead, read by its targets: one line.
pub(crate) struct Board {
    order: AtomicU64,
    set: [AtomicU64; MAX_CORES / 64],
    job: UnsafeCell<Option<Job>>,
    /// Whose order it is: only for who asks what a core waits for.
    lead: AtomicU32,
}

// SAFETY: 1. the job is written by the lead when no target may read it (M2), and read by targets of an order that is not
// answered (C5). 2. the function behind it is `Sync`.
unsafe impl Sync for Board {}
// SAFETY: as for `Sync`: the pointer is followed only under the rules above, on any thread.
unsafe impl Send for Board {}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            order: AtomicU64::new(Order::NONE.0),
            set: core::array::from_fn(|_| AtomicU64::new(0)),
            job: UnsafeCell::new(None),
            lead: AtomicU32::new(0),
        }
    }

    /// The lead's own look.
    pub(crate) fn last(&self) -> Order {
        // Relaxed: T1 orders it after the last lead's stores.
        Order(self.order.load(Ordering::Relaxed))
    }

    /// M1, by `lead`. The present order must be neutral.
    pub(crate) fn write_set(&self, lead: CoreId, set: &CoreSet) {
        // [cpusync M1] who reads a word of the new set and fences (C2) sees that the order before is over.
        if !mutant!("cpusync-set-unfenced") {
            fence(Ordering::Release);
        }
        for (word, bits) in self.set.iter().zip(set.words()) {
            word.store(bits, Ordering::Relaxed);
        }
        self.lead.store(lead.index() as u32, Ordering::Relaxed);
    }

    /// The core that wrote the set.
    pub(crate) fn lead(&self) -> CoreId {
        CoreId::new(self.lead.load(Ordering::Relaxed) as usize)
    }

    /// M2. Only the lead, and only when all its targets have answered the order before.
    pub(crate) fn order(&self, order: Order, job: Option<Job>) {
        // SAFETY: 1. no target reads the job: those of the last order have answered it.
        self.job.with_mut(|place| unsafe { *place = job });
        // [cpusync M2] release pairs with C1: the target sees set, job and what the lead wrote before. A plain store would do where
        // stores are seen in order (the reference relies on that), and nowhere else.
        let release = relaxed_if(mutant!("cpusync-order-relaxed"), Ordering::Release);
        self.order.store(order.0, release);
    }

    /// C1.
    pub(crate) fn look(&self) -> Order {
        // [cpusync C1] acquire pairs with M2. C2's fence would do for who is stopped; who is let go needs it here.
        let acquire = relaxed_if(mutant!("cpusync-look-relaxed"), Ordering::Acquire);
        Order(self.order.load(acquire))
    }

    /// C2. `None`: the order has changed, look again.
    pub(crate) fn is_for(&self, order: Order, core: CoreId) -> Option<bool> {
        let word = self.set[core.index() / 64].load(Ordering::Relaxed);
        // [cpusync C2] acquire pairs with M1's fence: a word of a later set comes with a later order.
        if !mutant!("cpusync-second-look-unfenced") {
            fence(Ordering::Acquire);
        }
        let same = self.order.load(Ordering::Relaxed) == order.0 || mutant!("cpusync-no-second-look");
        same.then(|| word & 1 << (core.index() % 64) != 0)
    }

    /// Whether `core` takes part in the stop, by a target that is about to answer the present order: as long as the answer is wanted, nobody
    /// writes the set.
    pub(crate) fn concerns(&self, core: CoreId) -> bool {
        let word = self.set[core.index() / 64].load(Ordering::Relaxed);
        word & 1 << (core.index() % 64) != 0 || core == self.lead()
    }

    /// # Safety
    ///
    /// 1. The caller is a target of the present order and has not answered it.
    pub(crate) unsafe fn job(&self) -> Option<Job> {
        // SAFETY: 1. the lead writes it again only after the answer.
        self.job.with(|place| unsafe { *place })
    }
}

/// One target's answer; its own line.
pub(crate) struct Answer {
    word: AtomicU64,
    panic: UnsafeCell<Option<PanicPayload>>,
}

const ANY: u64 = 1 << 63;

// SAFETY: 1. the panic is written by the target before it answers and taken by the lead after (C6, M4).
unsafe impl Sync for Answer {}

impl Answer {
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(Order::NONE.0), panic: UnsafeCell::new(None) }
    }

    /// C6, by the target. `any`: it has done something since its last answer.
    pub(crate) fn give(&self, order: Order, any: bool) {
        // [cpusync C6] release pairs with M4: the lead sees what the target did.
        let release = relaxed_if(mutant!("cpusync-answer-relaxed"), Ordering::Release);
        self.word.store(order.0 | if any { ANY } else { 0 }, release);
    }

    /// M4, by the lead: whether `order` is answered, and if so, whether the target did anything.
    pub(crate) fn to(&self, order: Order) -> Option<bool> {
        // [cpusync M4] acquire pairs with C6.
        let acquire = relaxed_if(mutant!("cpusync-answer-unread"), Ordering::Acquire);
        let word = self.word.load(acquire);
        (word & !ANY == order.0).then_some(word & ANY != 0)
    }

    /// Whether `order` or a later one is answered. Not for reading what the target wrote.
    pub(crate) fn is_since(&self, order: Order) -> bool {
        self.word.load(Ordering::Relaxed) & !ANY >= order.0
    }

    /// The target's own look.
    pub(crate) fn last(&self) -> Order {
        Order(self.word.load(Ordering::Relaxed) & !ANY)
    }

    /// # Safety
    ///
    /// 1. The caller is the target, and has not answered the order whose job panicked.
    pub(crate) unsafe fn set_panic(&self, payload: PanicPayload) {
        // SAFETY: 1. the lead looks only after the answer.
        let old = self.panic.with_mut(|place| unsafe { (*place).replace(payload) });
        debug_assert!(old.is_none(), "the lead takes every panic");
    }

    /// # Safety
    ///
    /// 1. The caller is the lead, and the target has answered its last order.
    pub(crate) unsafe fn take_panic(&self) -> Option<PanicPayload> {
        // SAFETY: 1. the target writes only before it answers the next.
        self.panic.with_mut(|place| unsafe { (*place).take() })
    }
}

pub(crate) type Slot = Padded<Answer>;
