//! The mailbox: functions that several cores run while the sender waits.

use alloc::sync::Arc as StdArc;
use core::cell::Cell;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll, Waker};

use super::serve::{MAILBOX, ask, set_pending};
use crate::call::CallError;
use crate::doorbell::Rung;
use crate::fabric::Shared;
use crate::sync::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicWaker, Injector, Ordering, Padded, UnsafeCell, fence, mutant, relaxed_if,
};
use crate::unwind::{catch, contain};
use crate::watch::WaitKind;
use crate::{Core, CoreId, CoreSet, PanicPayload};

/// Descriptors that wait for one core.
const PLACES: usize = if cfg!(loom) { 2 } else { 8 };
/// Turns of a wait between two looks at who keeps it waiting.
const NAME_TURNS: u32 = 64;

/// One core's mailbox: one line, and on another one who waits for a place.
pub(crate) struct Mailbox {
    places: Padded<[AtomicPtr<Header>; PLACES]>,
    /// Futures that found the mailbox full.
    waiting: Padded<Injector<StdArc<Ticket>>>,
}

/// A future's wait for a place in one mailbox.
struct Ticket {
    target: CoreId,
    /// In the target's queue.
    queued: AtomicBool,
    waker: AtomicWaker,
}

impl Mailbox {
    pub(super) fn new() -> Self {
        Self {
            places: Padded(core::array::from_fn(|_| AtomicPtr::new(core::ptr::null_mut()))),
            waiting: Padded(Injector::new()),
        }
    }

    /// M4's end: tells all who wait for a place, for those told first may not want it any more.
    fn tell_of_space(&self) {
        // [handlers M4] who queues a ticket fences and tries again: it finds the place, or this the ticket.
        if !mutant!("handlers-space-no-fence") {
            fence(Ordering::SeqCst);
        }
        while let Some(ticket) = self.waiting.pop() {
            // Before the wake: the poll that follows queues it again.
            ticket.queued.swap(false, Ordering::AcqRel);
            if !mutant!("handlers-space-no-wake") {
                contain(|| ticket.waker.wake());
            }
        }
    }

    /// M2: the place that it lies in, if one was free.
    fn put(&self, message: NonNull<Header>) -> Option<usize> {
        self.places.iter().position(|place| {
            let null = core::ptr::null_mut();
            // [handlers M2] release: who takes it sees the descriptor, and what the sender wrote before.
            let release = relaxed_if(mutant!("handlers-put-relaxed"), Ordering::Release);
            place.load(Ordering::Relaxed).is_null()
                && place.compare_exchange(null, message.as_ptr(), release, Ordering::Relaxed).is_ok()
        })
    }

    /// Whether it still lies there; a hint.
    fn holds(&self, message: NonNull<Header>) -> bool {
        self.places.iter().any(|place| place.load(Ordering::Relaxed) == message.as_ptr())
    }

    /// M3's second half: whether it still lay there.
    fn withdraw(&self, place: usize, message: NonNull<Header>) -> bool {
        let null = core::ptr::null_mut();
        self.places[place].compare_exchange(message.as_ptr(), null, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// M4's first half.
    fn take(&self, place: usize) -> Option<NonNull<Header>> {
        let place = &self.places[place];
        if place.load(Ordering::Relaxed).is_null() {
            return None;
        }
        // [handlers M4] acquire, with M2's release. An exchange: of a core that leaves, the sender may take it too.
        let acquire = relaxed_if(mutant!("handlers-take-out-relaxed"), Ordering::Acquire);
        NonNull::new(place.swap(core::ptr::null_mut(), acquire))
    }
}

/// What a mailbox points to: the beginning of a [`Descriptor`] whose function's type only `answer` knows.
struct Header {
    /// Runs the function on the core, if there is one, and answers. The descriptor may be gone when it returns.
    ///
    /// # Safety
    ///
    /// 1. The header is at the beginning of a descriptor of this function's type, made for this kind of answer. 2. The caller has taken
    ///    it out of a mailbox: it answers once per target.
    answer: unsafe fn(NonNull<Self>, Option<&Core>),
}

#[repr(C)]
struct Descriptor<F> {
    header: Header,
    tally: Tally,
    function: F,
}

/// Who has not answered, and with what the others have.
struct Tally {
    /// Targets that have not answered; above, those that have without running the function.
    left: AtomicU64,
    panicked: AtomicBool,
    /// The first panic.
    panic: UnsafeCell<Option<PanicPayload>>,
    /// The sender's, if it is a future.
    waker: AtomicWaker,
}

const SKIPPED: u64 = 1 << 32;

// SAFETY: 1. `panic` is written by the one who set `panicked` first, and read after everyone has answered.
unsafe impl Sync for Tally {}

impl Tally {
    fn new(targets: usize) -> Self {
        Self {
            // [handlers M1]
            left: AtomicU64::new(targets as u64),
            panicked: AtomicBool::new(false),
            panic: UnsafeCell::new(None),
            waker: AtomicWaker::new(),
        }
    }

    /// Runs `function`; the first panic of all cores is kept.
    fn run<F: Fn(&Core)>(&self, core: &Core, function: &F) {
        if let Err(payload) = catch(|| function(core)) {
            if self.panicked.swap(true, Ordering::Relaxed) {
                contain(|| drop(payload));
            } else {
                self.panic.with_mut(|panic| {
                    // SAFETY: 1. the exchange made this thread the only one, and nobody reads before it has answered.
                    unsafe { *panic = Some(payload) };
                });
            }
        }
    }

    /// M5. Returns whether it was the last answer.
    fn count_down(&self, ran: bool) -> bool {
        // [handlers M5] release: who sees the tally empty sees what the function wrote.
        let release = relaxed_if(mutant!("handlers-answer-relaxed"), Ordering::Release);
        let change = if ran { 1_u64.wrapping_neg() } else { SKIPPED - 1 };
        self.left.fetch_add(change, release) as u32 == 1
    }

    fn left(&self) -> u32 {
        // [handlers M6] acquire, with M5's release.
        self.left.load(relaxed_if(mutant!("handlers-tally-relaxed"), Ordering::Acquire)) as u32
    }

    /// What came of it, once nobody is left: on how many of `targets` it ran.
    fn outcome(&self, targets: usize) -> Result<usize, CallError> {
        // SAFETY: 1. everyone has answered.
        let panic = self.panic.with_mut(|panic| unsafe { (*panic).take() });
        match panic {
            Some(payload) => Err(CallError::panicked(payload)),
            // Relaxed: who asks has seen that nobody is left (M6), after which it does not change.
            None => Ok(targets - (self.left.load(Ordering::Relaxed) / SKIPPED) as usize),
        }
    }
}

/// Answers for a descriptor on its sender's stack.
///
/// # Safety
///
/// As [`Header::answer`].
unsafe fn answer_borrowed<F: Fn(&Core) + Sync>(header: NonNull<Header>, core: Option<&Core>) {
    let message = header.cast::<Descriptor<F>>();
    // SAFETY: 1. the type by condition 1; the sender keeps it in its place until this has answered.
    let tally = unsafe { &raw const (*message.as_ptr()).tally };
    if mutant!("handlers-answer-early") {
        // SAFETY: 1. as below; what follows is what the model checker must see.
        unsafe { &*tally }.count_down(core.is_some());
    }
    if let Some(core) = core {
        // SAFETY: 1. as above; both references end before the answer.
        let message = unsafe { message.as_ref() };
        message.tally.run(core, &message.function);
    }
    if !mutant!("handlers-answer-early") {
        // SAFETY: 1. as above. The count is the last touch: the sender may be gone when it returns, and nothing is read after it.
        unsafe { &*tally }.count_down(core.is_some());
    }
}

/// Answers for a descriptor that its sender and every target share.
///
/// # Safety
///
/// As [`Header::answer`].
unsafe fn answer_shared<F: Fn(&Core) + Send + Sync>(header: NonNull<Header>, core: Option<&Core>) {
    // SAFETY: 1. the type by condition 1; `Multicast` gave each mailbox one count.
    let message = unsafe { StdArc::from_raw(header.cast::<Descriptor<F>>().as_ptr().cast_const()) };
    if let Some(core) = core {
        message.tally.run(core, &message.function);
    }
    if message.tally.count_down(core.is_some()) && !mutant!("handlers-answer-no-wake") {
        contain(|| message.tally.waker.wake());
    }
    contain(move || drop(message));
}

/// Answers what [`Mailbox::take`] has just returned.
fn answer(message: NonNull<Header>, core: Option<&Core>) {
    // SAFETY: 1. the sender keeps the descriptor until it is answered.
    let answer = unsafe { message.as_ref() }.answer;
    // SAFETY: 1. it was put into the mailbox with its own `answer`. 2. `take` took it out.
    unsafe { answer(message, core) };
}

enum Put {
    Sent,
    Full,
    /// The target has left: the caller answers for it.
    Gone,
}

/// M2 and M3.
fn put(shared: &Shared, target: CoreId, message: NonNull<Header>) -> Put {
    if shared.is_gone(target) {
        return Put::Gone;
    }
    let mailbox = &shared.core(target).handlers.mailbox;
    let Some(place) = mailbox.put(message) else {
        return Put::Full;
    };
    // [handlers M3] asked in any case: the fence of a request is what the look at the target's state needs.
    set_pending(shared, target, MAILBOX);
    let gone = ask(shared, target) == Rung::Gone && !mutant!("handlers-no-withdraw");
    if gone && mailbox.withdraw(place, message) { Put::Gone } else { Put::Sent }
}

fn count_full(shared: &Shared, target: CoreId) {
    shared.core(target).handler_counts.mailbox_full.add_shared(1);
}

/// Without the calling core, and whether it was in the set.
fn without(set: &CoreSet, own: CoreId) -> (CoreSet, bool) {
    let mut others = *set;
    others.remove(own);
    (others, set.contains(own))
}

fn assert_all_exist(set: &CoreSet, cores: usize) {
    if let Some(core) = set.iter().find(|core| core.index() >= cores) {
        panic!("there is no {core}: the runtime has {cores} cores");
    }
}

/// Waits for what `late` names the culprits of, one after the other, until it names none. Each turn serves the own core by `serve`, which
/// says how much there was.
pub(super) fn wait_for_all(
    core: &Core,
    serve: impl Fn(&Core) -> usize,
    mut is_over: impl FnMut() -> bool,
    late: impl Fn() -> Option<CoreId>,
) {
    while !is_over() {
        let named = late();
        let mut waiting = core.wait_for(named.unwrap_or(core.id()), WaitKind::Handler);
        let mut turns: u32 = 0;
        while !is_over() {
            waiting.turn(serve(core) > 0);
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(NAME_TURNS) && late() != named {
                break;
            }
        }
    }
}

/// Who may still have the descriptor. However it ends, nobody has it then.
struct Outstanding<'a> {
    core: &'a Core,
    message: NonNull<Header>,
    tally: &'a Tally,
    targets: CoreSet,
    /// Targets that were not sent to.
    unsent: Cell<u32>,
}

impl Outstanding<'_> {
    fn wait(&self, serve: impl Fn(&Core) -> usize) {
        let shared = self.core.shared();
        let has_it = |&target: &CoreId| shared.core(target).handlers.mailbox.holds(self.message);
        // Who has taken it is running it: any of them, then.
        let late = || self.targets.iter().find(has_it).or_else(|| self.targets.iter().last());
        // [handlers M6]
        wait_for_all(self.core, serve, || self.tally.left() <= self.unsent.get(), late);
    }
}

impl Drop for Outstanding<'_> {
    /// After a wait there is nothing left to do. Without one, a message's function has panicked, on the way or in the wait: no other message
    /// may do so now.
    fn drop(&mut self) {
        self.wait(|core| {
            core.serve_asked();
            0
        });
    }
}

/// Functions that other cores run while this one waits.
impl Core {
    /// Runs `f` on `target` and waits for it; on the own core at once.
    ///
    /// While it waits it *runs messages*, and functions of this core's mailbox. Not for futures: see [`Fabric::multicast`](crate::Fabric::multicast).
    /// What the caller wrote before is visible to `f`, what `f` wrote is visible to the caller.
    ///
    /// # Errors
    ///
    /// [`CallError`] if `f` panicked, or did not run because the target has left.
    ///
    /// # Panics
    ///
    /// If the fabric has no core `target`.
    pub fn unicast<F>(&self, target: CoreId, f: F) -> Result<(), CallError>
    where
        F: Fn(&Self) + Sync,
    {
        let ran = self.multicast(&CoreSet::from_iter([target]), f)?;
        if ran == 1 { Ok(()) } else { Err(CallError::gone()) }
    }

    /// Runs `f` on every core of `set`, and waits for all of them. On the own core, if it is in the set, `f` runs inside this call, while the
    /// others are at it. Returns on how many it ran: cores that have left are skipped.
    ///
    /// Cores run it in no particular order. Otherwise as [`unicast`](Self::unicast).
    ///
    /// # Errors
    ///
    /// [`CallError`] with the first panic, after all have ended.
    ///
    /// # Panics
    ///
    /// If the set has a core that the fabric does not have.
    pub fn multicast<F>(&self, set: &CoreSet, f: F) -> Result<usize, CallError>
    where
        F: Fn(&Self) + Sync,
    {
        assert_all_exist(set, self.cores());
        let (others, with_self) = without(set, self.id());
        let message = Descriptor {
            header: Header { answer: answer_borrowed::<F> },
            tally: Tally::new(others.len()),
            function: f,
        };
        let waits = Outstanding {
            core: self,
            message: NonNull::from(&message).cast(),
            tally: &message.tally,
            targets: others,
            unsent: Cell::new(others.len() as u32),
        };
        for target in others.iter() {
            self.put_waiting(target, waits.message, &message.tally);
            waits.unsent.set(waits.unsent.get() - 1);
        }
        if with_self {
            let _nested = self.nest();
            message.tally.run(self, &message.function);
        }
        waits.wait(Core::serve_one_turn);
        drop(waits);
        message.tally.outcome(set.len())
    }

    /// [`multicast`](Self::multicast) to all cores, the own one included if `with_self`.
    ///
    /// # Errors
    ///
    /// As [`multicast`](Self::multicast).
    pub fn broadcast<F>(&self, with_self: bool, f: F) -> Result<usize, CallError>
    where
        F: Fn(&Self) + Sync,
    {
        let mut set = CoreSet::first(self.cores());
        if !with_self {
            set.remove(self.id());
        }
        self.multicast(&set, f)
    }

    fn put_waiting(&self, target: CoreId, message: NonNull<Header>, tally: &Tally) {
        let mut waiting = None;
        loop {
            match put(self.shared(), target, message) {
                Put::Sent => return,
                Put::Gone => {
                    tally.count_down(false);
                    return;
                }
                Put::Full => {
                    let waiting = waiting.get_or_insert_with(|| {
                        count_full(self.shared(), target);
                        self.wait_for(target, WaitKind::Handler)
                    });
                    // [handlers M2]
                    waiting.turn(!mutant!("handlers-full-no-serve") && self.serve_one_turn() > 0);
                }
            }
        }
    }

    /// [handlers M4]
    #[cold]
    pub(super) fn serve_mailbox(&self) {
        let mailbox = &self.shared().core(self.id()).handlers.mailbox;
        let mut taken = false;
        for place in 0..PLACES {
            if let Some(message) = mailbox.take(place) {
                taken = true;
                let _nested = self.nest();
                answer(message, Some(self));
            }
        }
        if taken {
            mailbox.tell_of_space();
        }
    }
}

/// [handlers L1], the mailbox: answers for what nobody will run any more.
pub(super) fn leave(shared: &Shared, core: CoreId) {
    if mutant!("handlers-leave-no-sweep") {
        return;
    }
    let mailbox = &shared.core(core).handlers.mailbox;
    // [handlers L1]
    (0..PLACES).filter_map(|place| mailbox.take(place)).for_each(|message| answer(message, None));
    mailbox.tell_of_space();
}

/// A function on its way to several cores, awaited: see [`Fabric::multicast`](crate::Fabric::multicast).
///
/// # Cancel safety
///
/// Dropping it stops nothing that was sent: those cores run the function, and a panic reaches nobody. A target whose mailbox was full until then
/// does not run it.
#[must_use = "a message to a full mailbox is sent when the future is polled"]
pub struct Multicast<F: Fn(&Core) + Send + Sync + 'static> {
    shared: StdArc<Shared>,
    message: StdArc<Descriptor<F>>,
    unsent: CoreSet,
    targets: usize,
    /// The wait for the first target that has no space.
    ticket: Option<StdArc<Ticket>>,
}

impl<F: Fn(&Core) + Send + Sync + 'static> fmt::Debug for Multicast<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multicast").field("left", &self.message.tally.left()).finish_non_exhaustive()
    }
}

// Nothing in it is pinned.
impl<F: Fn(&Core) + Send + Sync + 'static> Unpin for Multicast<F> {}

impl<F: Fn(&Core) + Send + Sync + 'static> Multicast<F> {
    /// Sends to every core of `set`; on `own`, the calling core, if it is in the set, `f` runs here.
    pub(super) fn new(shared: &StdArc<Shared>, own: Option<&Core>, set: &CoreSet, f: F) -> Self {
        assert_all_exist(set, shared.cores.len());
        let (unsent, with_self) = own.map_or((*set, false), |core| without(set, core.id()));
        let message = StdArc::new(Descriptor {
            header: Header { answer: answer_shared::<F> },
            tally: Tally::new(unsent.len()),
            function: f,
        });
        let mut this = Self { shared: shared.clone(), message, unsent, targets: set.len(), ticket: None };
        this.send(true);
        if let Some(core) = own.filter(|_| with_self) {
            let _nested = core.nest();
            this.message.tally.run(core, &this.message.function);
        }
        this
    }

    /// Waits in the queue of the first target that has no space. Returns whether it was not there yet: then to try again.
    fn queue(&mut self, waker: &Waker) -> bool {
        let Some(target) = self.unsent.iter().next() else {
            return false;
        };
        let ticket = match self.ticket.take().filter(|ticket| ticket.target == target) {
            Some(ticket) => ticket,
            None => StdArc::new(Ticket { target, queued: AtomicBool::new(false), waker: AtomicWaker::new() }),
        };
        // Before the look at `queued`: who clears it wakes this one.
        ticket.waker.register(waker);
        let newly = !ticket.queued.swap(true, Ordering::AcqRel);
        if newly {
            self.shared.core(target).handlers.mailbox.waiting.push(ticket.clone());
            // [handlers M2] its other half is in M4.
            fence(Ordering::SeqCst);
        }
        self.ticket = Some(ticket);
        newly
    }

    /// M2 and M3 for everyone who has space.
    fn send(&mut self, first: bool) {
        for target in self.unsent.iter() {
            let counted = StdArc::into_raw(self.message.clone()).cast_mut().cast();
            // SAFETY: 1. a count's pointer is not null.
            let message = unsafe { NonNull::new_unchecked(counted) };
            let put = put(&self.shared, target, message);
            if !matches!(put, Put::Sent) {
                // SAFETY: 1. the count just taken: it lies in no mailbox.
                drop(unsafe { StdArc::from_raw(message.cast::<Descriptor<F>>().as_ptr().cast_const()) });
            }
            match put {
                Put::Sent => self.unsent.remove(target),
                Put::Gone => {
                    self.unsent.remove(target);
                    self.message.tally.count_down(false);
                }
                Put::Full if first => count_full(&self.shared, target),
                Put::Full => {}
            }
        }
    }
}

impl<F: Fn(&Core) + Send + Sync + 'static> Future for Multicast<F> {
    type Output = Result<usize, CallError>;

    /// Poll it no more after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // [handlers M2]
        while !this.unsent.is_empty() {
            this.send(false);
            if !this.queue(cx.waker()) {
                break;
            }
        }
        // [handlers M6] before the look: a last answer after the look finds it.
        this.message.tally.waker.register(cx.waker());
        if this.message.tally.left() == 0 {
            return Poll::Ready(this.message.tally.outcome(this.targets));
        }
        Poll::Pending
    }
}
