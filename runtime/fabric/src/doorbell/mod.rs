#![doc = include_str!("README.md")]

use crate::port::{FenceKind, Port};
use crate::preemptible::Section;
use crate::sync::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence, mutant, relaxed_if};
use crate::{CoreId, MAX_CORES};

const WORDS: usize = MAX_CORES / 64;

/// Turns for which a core that leaves waits for a heavy fence.
const LEAVE_TURNS: u32 = 10_000;

/// What a target's `state` word may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum State {
    /// It looks by itself.
    Awake = 0,
    /// It sleeps, or will once it has looked a last time.
    Parked = 1,
    /// As `Parked`, and somebody has promised to kick it.
    Kicked = 2,
    /// It has left and drains for the last time.
    Gone = 3,
    /// It has left; its rings belong to their sources.
    Drained = 4,
    /// As `Drained`, and nothing of it is left: its seat may be given again.
    Vacant = 5,
    /// As `Drained`, for good.
    Kept = 6,
}

impl State {
    #[inline(always)]
    fn from_bits(bits: u32) -> Self {
        match bits {
            0 => Self::Awake,
            1 => Self::Parked,
            2 => Self::Kicked,
            3 => Self::Gone,
            4 => Self::Drained,
            5 => Self::Vacant,
            _ => Self::Kept,
        }
    }

    /// Whether the core has left.
    #[inline(always)]
    pub(crate) fn is_gone(self) -> bool {
        self as u32 >= Self::Gone as u32
    }
}

/// What a sender has to do after ringing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Rung {
    /// Nothing: the target looks by itself, or somebody else kicks it.
    Avoided,
    /// Kick it: this sender won.
    Kick,
    /// The target has left.
    Gone,
}

/// What a core can be asked for beside the messages in its rings: one bit of its `asked` word each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code)]
#[repr(u64)]
pub(crate) enum Ask {
    /// Look at the pending handlers and the mailbox.
    Handlers = 1 << 0,
    /// Look at the own row of the scoreboard.
    Shootdown = 1 << 1,
    /// Stop at the next safe point.
    Stop = 1 << 2,
    /// Run what the core has put off to its next safe point.
    Deferred = 1 << 3,
    /// Bring the replicas up to date at the next safe point.
    Update = 1 << 4,
    /// End the turn: it has been long enough.
    Slice = 1 << 5,
    /// Look at the pending urgent handlers.
    Urgent = 1 << 6,
    /// Look at the urgent calls that have come home.
    Answers = 1 << 7,
    /// End the turn, whoever looks whether it does.
    Return = 1 << 8,
    /// Look at the own row of the scoreboard of prompt operations.
    Prompt = 1 << 9,
}

#[allow(dead_code)]
impl Ask {
    /// Served in every drain, nested ones included: those who asked may be waiting in one.
    pub(crate) const IN_DRAINS: u64 = Self::Handlers as u64 | Self::Answers as u64 | Self::STANDING_STILL;
    /// Served by a core that must run nothing else, too.
    pub(crate) const STANDING_STILL: u64 = Self::Shootdown as u64 | Self::Prompt as u64 | Self::Urgent as u64;
    /// Served by the outermost loop alone, between polls.
    pub(crate) const AT_SAFE_POINTS: u64 =
        Self::Stop as u64 | Self::Deferred as u64 | Self::Update as u64 | Self::Slice as u64 | Self::Return as u64;
    /// What a core that comes back looks at first: what was asked of nobody.
    pub(crate) const ANEW: [Self; 6] =
        [Self::Handlers, Self::Shootdown, Self::Prompt, Self::Update, Self::Urgent, Self::Answers];
    /// What long-running code should give way for.
    pub(crate) const TO_YIELD_FOR: u64 = !(Self::Return as u64);
}

/// One target's doorbell.
pub(crate) struct Doorbell {
    state: AtomicU32,
    /// Beside the state: who asks looks at both.
    pub(crate) section: Section,
    asked: AtomicU64,
    pending: [AtomicU64; WORDS],
}

impl Doorbell {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU32::new(State::Awake as u32),
            section: Section::new(),
            asked: AtomicU64::new(0),
            pending: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    #[inline(always)]
    pub(crate) fn state(&self) -> State {
        State::from_bits(self.state.load(Ordering::Acquire))
    }

    /// S2 to S4, after a publish by `source`.
    #[inline(always)]
    pub(crate) fn ring(&self, source: CoreId, kind: FenceKind) -> Rung {
        self.announce(source, kind);
        self.claim_kick()
    }

    /// S2 and S3 alone: the message will be seen when the target looks.
    #[inline(always)]
    pub(crate) fn announce(&self, source: CoreId, kind: FenceKind) {
        // [doorbell S2]
        light_fence(kind);
        let (word, bit) = position(source);
        // [doorbell S3] relaxed load: a stale "set" is repaired by R3 and K3. The bit is set with release and taken with
        // acquire, so that who sees it also sees the message; `SeqCst` would order nothing that S2 does not.
        if self.pending[word].load(Ordering::Relaxed) & bit == 0 {
            self.pending[word].fetch_or(bit, Ordering::Release);
        }
    }

    /// S4 alone: after an announcement.
    #[inline(always)]
    pub(crate) fn claim_kick(&self) -> Rung {
        // [doorbell S4] relaxed: S2 orders it after the publish.
        match State::from_bits(self.state.load(Ordering::Relaxed)) {
            State::Awake | State::Kicked => Rung::Avoided,
            State::Parked => self.exchange_parked(),
            _ => Rung::Gone,
        }
    }

    #[cold]
    fn exchange_parked(&self) -> Rung {
        if mutant!("doorbell-no-kick") {
            return Rung::Avoided;
        }
        let (parked, kicked) = (State::Parked as u32, State::Kicked as u32);
        // [doorbell S4] release: the target's acquire in K5 sees what came before the kick.
        match self.state.compare_exchange(parked, kicked, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => Rung::Kick,
            Err(_) if mutant!("doorbell-two-kicks") => Rung::Kick,
            Err(bits) => match State::from_bits(bits) {
                state if state.is_gone() => Rung::Gone,
                _ => Rung::Avoided,
            },
        }
    }

    /// F1's second half, after a push to the injector by any thread.
    pub(crate) fn ring_foreign(&self) -> Rung {
        // [doorbell F1] a full fence: a foreign thread is no party to the choice of the fences.
        if !mutant!("doorbell-no-foreign-fence") {
            fence(Ordering::SeqCst);
        }
        self.claim_kick()
    }

    /// A1, by any thread, after writing down what is asked for.
    #[allow(dead_code)]
    pub(crate) fn ask(&self, what: Ask) -> Rung {
        // [doorbell A1] always an RMW, never "set already, so skip": the bit read as set may just have been taken, by a target that
        // did not see the request. Release: who takes the bit sees the request.
        self.asked.fetch_or(what as u64, Ordering::Release);
        self.ring_foreign()
    }

    /// A1 without the fence and the kick: for a core that is awake, and looks (K3) before it sleeps; what concerns it alone, or is asked by itself.
    pub(crate) fn ask_awake(&self, what: Ask) {
        // [doorbell A1] relaxed: nothing was written down for it, or by the same thread.
        self.asked.fetch_or(what as u64, Ordering::Relaxed);
    }

    /// Which of `mask` is asked for; a hint.
    #[inline(always)]
    pub(crate) fn is_asked(&self, mask: u64) -> bool {
        self.asked.load(Ordering::Relaxed) & mask != 0
    }

    /// A2: takes what of `mask` is asked for.
    pub(crate) fn take_asked(&self, mask: u64) -> u64 {
        // [doorbell A2] acquire pairs with A1's release.
        self.asked.fetch_and(!mask, Ordering::Acquire) & mask
    }

    /// The sources whose bit is set, 64 per word.
    #[inline(always)]
    pub(crate) fn pending(&self, word: usize) -> u64 {
        // [doorbell R1] acquire: pairs with S3's release.
        self.pending[word].load(Ordering::Acquire)
    }

    /// R2: the ring of `source` was empty for long enough.
    pub(crate) fn quiet(&self, source: CoreId) {
        let (word, bit) = position(source);
        // [doorbell R2] relaxed: whoever sets the bit again publishes with release.
        self.pending[word].fetch_and(!bit, Ordering::Relaxed);
    }

    /// K1 to K3: announces the sleep and looks a last time. `None`: stay awake.
    ///
    /// `nothing_waits` must look at every ring and at the injector, whatever the pending bits say.
    pub(crate) fn arm(
        &self,
        port: &dyn Port,
        kind: FenceKind,
        nothing_waits: impl FnOnce() -> bool,
    ) -> Option<Armed<'_>> {
        // [doorbell K1] relaxed: K2 orders it before K3's loads.
        self.state.store(State::Parked as u32, Ordering::Relaxed);
        // [doorbell K2]
        if !heavy_fence(port, kind) && !mutant!("doorbell-refusal-ignored") {
            self.disarm();
            return None;
        }
        let armed = Armed { doorbell: self };
        // [doorbell K3]; [doorbell K4] is the caller's, who must show the proof to `Idle::park`.
        (mutant!("doorbell-no-recheck") || nothing_waits()).then_some(armed)
    }

    /// K5.
    fn disarm(&self) {
        // [doorbell K5] acquire pairs with the release of S4: the first tick sees what the kick was for. A plain store would
        // lose nothing (the tick after, or K3, would see it) and save little: it comes once per sleep.
        self.state.swap(State::Awake as u32, Ordering::Acquire);
        // [doorbell K5] the exchange alone may be seen after what the core reads next, off x86.
        if !mutant!("doorbell-wake-no-fence") {
            fence(Ordering::SeqCst);
        }
    }

    /// G1's first half: every later sender sees that the core has gone, every earlier message is visible.
    pub(crate) fn leave(&self, port: &dyn Port, kind: FenceKind) {
        // [doorbell G1] release: who reads that the core has gone sees what its messages wrote. Relaxed would leave that to
        // fences that the asymmetric pair does not execute.
        let order = relaxed_if(mutant!("doorbell-gone-relaxed"), Ordering::Release);
        self.state.store(State::Gone as u32, order);
        let mut turn = 0;
        // A machine that has closed its fence for good, as a sandbox may, must not keep the core here for ever. After so many turns what
        // was in a store buffer when this began has long left it.
        while turn < LEAVE_TURNS && !mutant!("doorbell-leave-no-fence") && !heavy_fence(port, kind) {
            port.relax(turn);
            turn += 1;
        }
    }

    /// G1's second half: the last drain is over.
    pub(crate) fn left(&self) {
        // [doorbell G1] release: the sources that take over (G2) see the last drain.
        self.state.store(State::Drained as u32, Ordering::Release);
    }

    /// [admission V2]
    pub(crate) fn let_go(&self, kept: bool) {
        let state = if kept { State::Kept } else { State::Vacant };
        // [admission V2] release pairs with A4: the next life comes after all of this one.
        self.state.store(state as u32, Ordering::Release);
    }

    /// [admission A4], of a vacant seat.
    pub(crate) fn admit(&self) {
        // [admission A4] by an exchange, although stops do not overlap: it acquires what V2 wrote.
        let before = self.state.swap(State::Awake as u32, Ordering::AcqRel);
        debug_assert_eq!(before, State::Vacant as u32, "one admission of a vacant seat");
    }
}

/// Proof that a doorbell is armed: from its making on, every sender kicks. Dropping it ends that. Whoever sleeps takes it
/// along ([doorbell K4]).
pub struct Armed<'a> {
    doorbell: &'a Doorbell,
}

impl core::fmt::Debug for Armed<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Armed").finish_non_exhaustive()
    }
}

impl Armed<'_> {
    /// Whether somebody has promised a kick already: a sleep would end at once.
    #[must_use]
    pub fn is_kicked(&self) -> bool {
        self.doorbell.state() == State::Kicked
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        // [doorbell K5]
        self.doorbell.disarm();
    }
}

#[inline(always)]
fn position(source: CoreId) -> (usize, u64) {
    (source.index() / 64, 1 << (source.index() % 64))
}

/// The sender's half of the store→load barrier.
#[inline(always)]
pub(crate) fn light_fence(kind: FenceKind) {
    if mutant!("doorbell-no-light-fence") {
        return;
    }
    match kind {
        // The machine's heavy fence stands in for the instruction. The model checker has no such fence: there, both
        // halves are fences (`tests/tso.rs` checks this variant against a model of store buffers).
        FenceKind::Asymmetric if cfg!(loom) => fence(Ordering::SeqCst),
        FenceKind::Asymmetric => compiler_fence(Ordering::SeqCst),
        FenceKind::Symmetric => fence(Ordering::SeqCst),
    }
}

/// The parking core's half. `false`: not granted now.
pub(crate) fn heavy_fence(port: &dyn Port, kind: FenceKind) -> bool {
    if mutant!("doorbell-no-heavy-fence") {
        return true;
    }
    match kind {
        FenceKind::Asymmetric => port.heavy_fence(),
        FenceKind::Symmetric => {
            fence(Ordering::SeqCst);
            true
        }
    }
}
