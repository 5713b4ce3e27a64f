//! The kernel's weaker rule: no turn, and held cores go on serving messages.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::cell::{Cell, RefCell};

use crate::sync::{
    Arc, AtomicBool, AtomicU32, AtomicU64, Ordering, UnsafeCell, mutant, relaxed_if, unwinds_in_a_model,
};
use crate::unwind::PutOff;
use crate::watch::WaitKind;
use crate::{Core, CoreId, CoreSet, MAX_CORES, PanicPayload, assert_core, catch, contain};

/// Messages of one source per look, while held or waiting.
const BUDGET: u32 = 64;

type Function = Box<dyn Fn(&Core) + Send + Sync>;
type Acknowledged = [AtomicU64; MAX_CORES / 64];

/// One core's part.
#[derive(Default)]
pub(super) struct Own {
    /// Those that this core is held by, oldest first.
    held_by: RefCell<VecDeque<Arc<Request>>>,
    /// How many of these stops this core leads.
    leads: Cell<u32>,
}

/// What a lead and its targets share.
struct Request {
    lead: CoreId,
    state: AtomicU32,
    /// Who has come to a stop.
    stopped: Acknowledged,
    /// Who has run the function.
    finished: Acknowledged,
    function: Function,
    panicked: AtomicBool,
    panic: UnsafeCell<Option<PanicPayload>>,
}

const HELD: u32 = 0;
const RELEASED: u32 = 1;
/// Released without a function, because the body panicked, or a message that the lead ran before it.
const DROPPED: u32 = 2;

// SAFETY: 1. the panic is written by the one core that claims `panicked`, before it acknowledges, and read by the lead after.
unsafe impl Sync for Request {}
// SAFETY: 1. everything in it is `Send`.
unsafe impl Send for Request {}

impl Core {
    /// Stops the cores of `set` by the kernels' rule, runs `body` on this core, then `function` on each of them. Blocks; callable anywhere on the
    /// core's thread but inside a future's poll, also in a function of a message and inside the body of another one.
    ///
    /// Weaker than [`Lead::cpusync`](crate::cpusync::Lead::cpusync): a core stops wherever it looks at its messages, so also in the middle of a
    /// function that waits; it goes on *running messages* while it is held; and two leads may hold each other at the same time, so a body is not
    /// alone. Cores that have left are skipped.
    ///
    /// Source of the idea: DragonFly's `lwkt_cpusync_interlock` and `lwkt_cpusync_deinterlock`.
    ///
    /// # Errors
    ///
    /// What `body`, or one of the functions, panicked with. Everyone has been released; no function runs if `body` panicked.
    ///
    /// # Panics
    ///
    /// If the set has a core that the fabric does not have.
    pub fn cpusync_weak<R>(
        &self,
        set: &CoreSet,
        function: impl Fn(&Self) + Send + Sync + 'static,
        body: impl FnOnce() -> R,
    ) -> Result<R, PanicPayload> {
        let request = Arc::new(Request {
            lead: self.id(),
            state: AtomicU32::new(HELD),
            stopped: core::array::from_fn(|_| AtomicU64::new(0)),
            finished: core::array::from_fn(|_| AtomicU64::new(0)),
            function: Box::new(function),
            panicked: AtomicBool::new(false),
            panic: UnsafeCell::new(None),
        });
        // Before any of them is held.
        set.iter().for_each(|target| assert_core(target, self.cores()));
        let leading = Leading::start(self);
        let holding = Holding(&request);
        // [cpusync W1]
        let send = |target: CoreId| {
            let request = request.clone();
            self.send(target, move |core, _| core.hold_for(request)).is_ok()
        };
        let targets: CoreSet = set.iter().filter(|&target| target != self.id() && send(target)).collect();
        self.wait_until_acknowledged(&request.stopped, &targets);
        let value = catch(body);
        holding.let_go(if value.is_ok() { RELEASED } else { DROPPED });
        if value.is_ok() && set.contains(self.id()) {
            request.run(self);
        }
        self.wait_until_acknowledged(&request.finished, &targets);
        drop(leading);
        let panic = request.take_panic();
        match (value, panic) {
            (Ok(_), Some(payload)) => Err(payload),
            (value, _) => value,
        }
    }

    /// [cpusync W2], in a message.
    fn hold_for(&self, request: Arc<Request>) {
        // [cpusync W2] release: what this core did before is visible to the body.
        request.acknowledge(&request.stopped, self.id());
        self.cpusync.weak.held_by.borrow_mut().push_back(request);
        self.stay_while_held();
    }

    /// Unless this core leads itself: then its own wait must go on, and looks through the queue (D-13).
    fn stay_while_held(&self) {
        let own = &self.cpusync.weak;
        let by = own.held_by.borrow().front().map(|request| request.lead);
        let Some(by) = by else { return };
        let mut waiting = self.wait_for(by, WaitKind::Cpusync);
        let mut panics = PutOff::default();
        while (own.leads.get() == 0 || mutant!("cpusync-weak-lead-stays")) && !own.held_by.borrow().is_empty() {
            // [cpusync W2] a message that panicked through here would leave leads behind that nobody answers.
            waiting.turn(panics.catch(|| self.look_through_and_serve()).unwrap_or(true));
        }
        drop(waiting);
        panics.go_on();
    }

    fn wait_until_acknowledged(&self, acknowledged: &Acknowledged, targets: &CoreSet) {
        for target in targets.iter() {
            let word = &acknowledged[target.index() / 64];
            let mut waiting = self.wait_for(target, WaitKind::Cpusync);
            // Acquire pairs with the acknowledgement's release.
            while word.load(Ordering::Acquire) & 1 << (target.index() % 64) == 0 && !self.is_gone(target) {
                waiting.turn(self.look_through_and_serve());
            }
        }
    }

    /// One pass of [cpusync W4], and of the inbox. Returns whether there was anything.
    fn look_through_and_serve(&self) -> bool {
        let mut any = false;
        let held_by = &self.cpusync.weak.held_by;
        let length = held_by.borrow().len();
        for _ in 0..length {
            let Some(request) = held_by.borrow_mut().pop_front() else { break };
            // [cpusync W4] acquire pairs with W3.
            match request.state.load(Ordering::Acquire) {
                HELD => {
                    held_by.borrow_mut().push_back(request);
                    continue;
                }
                RELEASED => request.run(self),
                _ => {}
            }
            // [cpusync W4] the last touch.
            request.acknowledge(&request.finished, self.id());
            any = true;
        }
        any | (self.drain_all(BUDGET) + self.flush() > 0)
    }
}

impl Request {
    fn acknowledge(&self, words: &Acknowledged, core: CoreId) {
        let order = relaxed_if(mutant!("cpusync-weak-acknowledge-relaxed"), Ordering::Release);
        words[core.index() / 64].fetch_or(1 << (core.index() % 64), order);
    }

    fn run(&self, core: &Core) {
        if let Err(payload) = catch(|| (self.function)(core)) {
            if self.panicked.swap(true, Ordering::Relaxed) {
                return contain(|| drop(payload));
            }
            // SAFETY: 1. the swap was won once.
            self.panic.with_mut(|place| unsafe { *place = Some(payload) });
        }
    }

    /// By the lead, when all have acknowledged.
    fn take_panic(&self) -> Option<PanicPayload> {
        // SAFETY: 1. who has acknowledged touches it no more, and a core that has left ran nothing since.
        self.panic.with_mut(|place| unsafe { (*place).take() })
    }
}

/// Lets everyone go, also when a message that the lead runs while it waits unwinds.
struct Holding<'a>(&'a Request);

impl Holding<'_> {
    fn let_go(self, how: u32) {
        self.store(how);
        core::mem::forget(self);
    }

    fn store(&self, how: u32) {
        // [cpusync W3] release pairs with W4's acquire.
        let release = relaxed_if(mutant!("cpusync-weak-release-relaxed"), Ordering::Release);
        self.0.state.store(how, release);
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.store(DROPPED);
    }
}

/// Counts one lead, also when it unwinds; then what was put off for it holds the core.
struct Leading<'a>(&'a Core);

impl<'a> Leading<'a> {
    fn start(core: &'a Core) -> Self {
        let leads = &core.cpusync.weak.leads;
        leads.set(leads.get() + 1);
        Self(core)
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let leads = &self.0.cpusync.weak.leads;
        leads.set(leads.get() - 1);
        // [cpusync W5]
        if !unwinds_in_a_model() {
            self.0.stay_while_held();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::vec::Vec;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use super::*;
    use crate::port::{FenceKind, Port};
    use crate::{Config, Fabric, Seat};

    /// A machine on one thread, where a long wait would never end.
    struct Alone;

    // SAFETY: 1. the slot is always null, and nobody sets it. 2. the fence kind is symmetric: the heavy fence is never used.
    unsafe impl Port for Alone {
        fn fence_kind(&self) -> FenceKind {
            FenceKind::Symmetric
        }
        fn heavy_fence(&self) -> bool {
            unreachable!("symmetric")
        }
        fn kick(&self, _target: CoreId) {}
        fn relax(&self, turn: u32) {
            assert!(turn < 1000, "it waits for ever");
        }
        fn current(&self) -> *const () {
            core::ptr::null()
        }
        unsafe fn set_current(&self, _slot: *const ()) {}
    }

    #[test]
    fn a_message_that_panics_while_the_lead_waits_leaves_nobody_held() {
        let config = Config { cores: 3, ..Config::default() };
        let (_fabric, seats) = Fabric::new(config, Arc::new(Alone)).expect("a valid configuration");
        let cores: Vec<_> = seats.into_iter().map(Seat::enter).collect();
        let lead = &cores[0];
        cores[2].try_send(lead.id(), |_, _| resume_unwind(Box::new(7))).map_err(drop).expect("space");
        let stop = || drop(lead.cpusync_weak(&[cores[1].id()].into_iter().collect(), |_| unreachable!(), || ()));
        let payload = catch_unwind(AssertUnwindSafe(stop)).expect_err("the message's panic");
        assert_eq!(payload.downcast_ref(), Some(&7));
        assert_eq!(cores[1].drain(64), 1, "it was held, and let go");
    }

    #[test]
    fn a_set_with_a_core_that_is_not_there_holds_nobody() {
        let (fabric, cores) = crate::tests::cores(2, 4);
        let set: CoreSet = [1, 7].map(CoreId::new).into_iter().collect();
        let stop = || drop(cores[0].cpusync_weak(&set, |_| (), || ()));
        catch_unwind(AssertUnwindSafe(stop)).expect_err("there is no core 7");
        assert_eq!(fabric.pair_counters(cores[0].id(), cores[1].id()).sent, 0);
    }
}
