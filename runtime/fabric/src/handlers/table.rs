//! The table of handlers: what a slot holds, and who may touch it when.

use alloc::boxed::Box;
use core::fmt;

use crate::sync::{AtomicU64, Ordering, UnsafeCell, mutant};
use crate::unwind::{catch, contain};
use crate::{Core, PanicPayload};

/// Slots of the table; slot 0 is the mailbox's and never given away.
pub(crate) const SLOTS: usize = if cfg!(loom) { 2 } else { 32 };

/// How many handlers a fabric can have at a time.
pub const MAX_HANDLERS: usize = SLOTS - 1;

/// The name of a registered handler in its fabric: its slot, and which of the slot's handlers, one after the other, it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandlerId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl HandlerId {
    /// The slot, from 1 to 31.
    #[must_use]
    pub fn slot(self) -> usize {
        self.slot as usize
    }
}

/// Every slot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

impl fmt::Display for TableFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {MAX_HANDLERS} handlers are taken: unregister one, or serve several purposes by one")
    }
}

impl core::error::Error for TableFull {}

/// The handler has been unregistered, or is about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unregistered;

impl fmt::Display for Unregistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the handler has been unregistered: register it again, or stop triggering it")
    }
}

impl core::error::Error for Unregistered {}

/// Why a trigger was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TriggerError {
    /// The handler has been unregistered.
    Unregistered,
    /// The target has left the fabric.
    Gone,
}

impl fmt::Display for TriggerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unregistered => Unregistered.fmt(f),
            Self::Gone => crate::Gone(()).fmt(f),
        }
    }
}

impl core::error::Error for TriggerError {}

impl From<Unregistered> for TriggerError {
    fn from(_: Unregistered) -> Self {
        Self::Unregistered
    }
}

/// What becomes of a handler's panic, on the core where it panicked.
pub type OnPanic = fn(&Core, PanicPayload);

type Function = Box<dyn Fn(&Core) + Send + Sync>;

/// A handler's function and what it needs.
pub(crate) struct Registered {
    function: Function,
    on_panic: OnPanic,
}

impl Registered {
    /// Runs the function; its panic, and that of its hook, end here. Returns whether it panicked.
    fn run(&self, core: &Core) -> bool {
        match catch(|| (self.function)(core)) {
            Ok(()) => false,
            Err(payload) => {
                contain(|| (self.on_panic)(core, payload));
                true
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Free = 0,
    Filling = 1,
    Live = 2,
    Dying = 3,
}

/// A slot's word at one instant: two bits of life, thirty of foreign triggers under way, and the generation.
#[derive(Clone, Copy)]
pub(crate) struct Word(pub(crate) u64);

pub(crate) const FOREIGN: u64 = 1 << 2;
pub(crate) const GENERATION: u64 = 1 << 32;

impl Word {
    pub(crate) const fn life(self) -> Life {
        match self.0 & 3 {
            0 => Life::Free,
            1 => Life::Filling,
            2 => Life::Live,
            _ => Life::Dying,
        }
    }

    pub(crate) const fn with(self, life: Life) -> u64 {
        self.0 & !3 | life as u64
    }

    pub(crate) const fn has_foreign(self) -> bool {
        self.0 as u32 >= FOREIGN as u32
    }

    pub(crate) const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) fn is_live(self, generation: u32) -> bool {
        self.life() == Life::Live && self.generation() == generation
    }

    /// Moves a slot from one life to the next, whatever else its word holds.
    pub(crate) fn exchange(word: &AtomicU64, may: impl Fn(Self) -> bool, to: Life) -> Option<Self> {
        let mut seen = Self(word.load(Ordering::Relaxed));
        while may(seen) {
            match word.compare_exchange_weak(seen.0, seen.with(to), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(seen),
                Err(bits) => seen = Self(bits),
            }
        }
        None
    }
}

/// One handler's place.
struct Slot {
    word: AtomicU64,
    registered: UnsafeCell<Option<Registered>>,
}

// SAFETY: 1. `registered` is written by who owns the slot by its `word` (R1, U5) and read by who took a pending bit of it; the proof
// says that the two never meet.
unsafe impl Sync for Slot {}
// SAFETY: 1. a function is `Send`.
unsafe impl Send for Slot {}

impl Slot {
    fn new() -> Self {
        Self { word: AtomicU64::new(Life::Free as u64), registered: UnsafeCell::new(None) }
    }

    fn word(&self) -> Word {
        // [handlers T1] acquire: who sees `Live` sees the function; the pending bit hands that on to the target.
        Word(self.word.load(Ordering::Acquire))
    }

    fn exchange(&self, may: impl Fn(Word) -> bool, to: Life) -> Option<Word> {
        Word::exchange(&self.word, may, to)
    }
}

/// A foreign trigger under way.
#[must_use]
pub(super) struct Foreign<'a>(&'a Slot);

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        // [handlers F2] release: who sees no foreign trigger under way sees the bits that those before have set.
        if !mutant!("handlers-foreign-uncounted") {
            self.0.word.fetch_sub(FOREIGN, Ordering::Release);
        }
    }
}

/// Every slot of a fabric; slot 0 stays empty.
pub(crate) struct Table {
    slots: Box<[Slot]>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Slot::new()).collect() }
    }

    fn slot(&self, id: HandlerId) -> &Slot {
        &self.slots[id.slot as usize]
    }

    /// R1 to R3. A full table gives the function back.
    pub(super) fn register(&self, function: Function, on_panic: OnPanic) -> Result<HandlerId, Function> {
        for (slot, place) in self.slots.iter().enumerate().skip(1) {
            // [handlers R1]
            let Some(word) = place.exchange(|word| word.life() == Life::Free, Life::Filling) else { continue };
            // [handlers R2]
            place.registered.with_mut(|registered| {
                // SAFETY: 1. `Filling` is this thread's alone, and a free slot has no bit pending anywhere.
                unsafe { *registered = Some(Registered { function, on_panic }) };
            });
            // [handlers R3] an addition, for foreign triggers of older generations may come and go. Release: with T1's acquire.
            place.word.fetch_add(Life::Live as u64 - Life::Filling as u64, Ordering::Release);
            return Ok(HandlerId { slot: slot as u32, generation: word.generation() });
        }
        Err(function)
    }

    /// T1.
    #[inline]
    pub(super) fn is_live(&self, id: HandlerId) -> bool {
        self.slot(id).word().is_live(id.generation)
    }

    /// Whether there is a live handler in `slot`.
    pub(super) fn is_live_slot(&self, slot: usize) -> bool {
        self.slots[slot].word().life() == Life::Live
    }

    /// F1; the trigger is under way until what it returns is dropped.
    pub(super) fn enter_foreign(&self, id: HandlerId) -> Option<Foreign<'_>> {
        let slot = self.slot(id);
        if !slot.word().is_live(id.generation) {
            // Not counted: threads that go on triggering would hold up who waits for none to be under way.
            return None;
        }
        if mutant!("handlers-foreign-uncounted") {
            return Some(Foreign(slot));
        }
        // [handlers F1] one word, so that there is no order to keep between counting and looking. Acquire as in T1.
        let word = Word(slot.word.fetch_add(FOREIGN, Ordering::Acquire));
        let under_way = Foreign(slot);
        word.is_live(id.generation).then_some(under_way)
    }

    /// U1.
    pub(super) fn retire(&self, id: HandlerId) -> Result<(), Unregistered> {
        // [handlers U1]
        let retired = self.slot(id).exchange(|word| word.is_live(id.generation), Life::Dying);
        retired.map(drop).ok_or(Unregistered)
    }

    /// U2's look.
    pub(super) fn has_foreign(&self, id: HandlerId) -> bool {
        // [handlers U2] acquire, with F2.
        Word(self.slot(id).word.load(Ordering::Acquire)).has_foreign()
    }

    /// Runs the handler of `slot` on `core`. Returns whether it panicked.
    ///
    /// # Safety
    ///
    /// 1. The caller has taken a pending bit of the slot on this core, in an outer pass that has not ended.
    pub(super) unsafe fn run(&self, slot: usize, core: &Core) -> bool {
        self.slots[slot].registered.with(|registered| {
            // SAFETY: 1. by the proof, a taken bit keeps the function in its place until the pass has ended.
            let registered = unsafe { &*registered };
            // The model checker's mutants reach what is left of this; no other build does.
            registered.as_ref().expect("a pending bit has a function").run(core)
        })
    }

    /// U5: ends the generation.
    ///
    /// # Safety
    ///
    /// 1. The caller has moved the slot to `Dying`, and two rounds have ended since, with no foreign trigger under way before the second.
    pub(super) unsafe fn free(&self, id: HandlerId) {
        let slot = self.slot(id);
        // [handlers U5]
        // SAFETY: 1. by the proof, no bit of the slot is pending, taken or yet to be set.
        let registered = slot.registered.with_mut(|registered| unsafe { (*registered).take() });
        // The generation wraps with the word. Release: who fills the slot next comes after this.
        slot.word.fetch_add(GENERATION.wrapping_sub(Life::Dying as u64), Ordering::Release);
        contain(move || drop(registered));
    }

    /// The live handlers.
    pub(super) fn live(&self) -> impl Iterator<Item = HandlerId> {
        self.slots.iter().enumerate().filter_map(|(slot, place)| {
            let word = place.word();
            (word.life() == Life::Live).then_some(HandlerId { slot: slot as u32, generation: word.generation() })
        })
    }
}
