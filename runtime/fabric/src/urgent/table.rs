//! The table of urgent handlers.

use alloc::boxed::Box;
use core::fmt;

use super::serve::is_over;
use crate::fabric::Shared;
use crate::handlers::{FOREIGN, GENERATION, Life, Unregistered, Word};
use crate::sync::{AtomicU64, Ordering, UnsafeCell, fence, mutant};
use crate::{CoreId, contain};

/// Slots of the table.
const SLOTS: usize = if cfg!(loom) { 1 } else { 32 };

/// How many urgent handlers a fabric can have at a time.
pub const MAX_URGENT: usize = SLOTS;

/// The name of a registered urgent handler in its fabric: its slot, and which of the slot's handlers, one after the other, it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UrgentId {
    slot: u32,
    generation: u32,
}

impl UrgentId {
    /// The slot, from 0 to 31.
    #[must_use]
    pub fn slot(self) -> usize {
        self.slot as usize
    }

    pub(super) fn bit(self) -> u64 {
        1 << self.slot
    }
}

/// Every slot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

impl fmt::Display for TableFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {MAX_URGENT} urgent handlers are taken: unregister one, or serve several purposes by one")
    }
}

impl core::error::Error for TableFull {}

pub(super) type Function = Box<dyn Fn(CoreId) + Send + Sync>;

struct Slot {
    word: AtomicU64,
    function: UnsafeCell<Option<Function>>,
}

// SAFETY: 1. `function` is written by who has moved the slot to `Filling`, and read by who took a pending bit of it; the proof says that the
// two never meet.
unsafe impl Sync for Slot {}
// SAFETY: 1. a function is `Send`.
unsafe impl Send for Slot {}

/// A trigger under way.
#[must_use]
pub(super) struct UnderWay<'a>(&'a Slot);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        // [urgent T5] release: who sees no trigger under way sees the bits that they have set.
        if !mutant!("urgent-uncounted") {
            self.0.word.fetch_sub(FOREIGN, Ordering::Release);
        }
    }
}

/// Every slot of a fabric.
pub(crate) struct Table {
    slots: Box<[Slot]>,
}

impl Table {
    pub(crate) fn new() -> Self {
        let slot = |_| Slot { word: AtomicU64::new(Life::Free as u64), function: UnsafeCell::new(None) };
        Self { slots: (0..SLOTS).map(slot).collect() }
    }

    fn slot(&self, id: UrgentId) -> &Slot {
        &self.slots[id.slot()]
    }

    fn word(&self, slot: usize) -> Word {
        // [urgent U2] acquire, with T5's release.
        Word(self.slots[slot].word.load(Ordering::Acquire))
    }

    /// R1 to R3. A full table gives the function back.
    pub(super) fn register(&self, function: Function) -> Result<UrgentId, Function> {
        for (slot, place) in self.slots.iter().enumerate() {
            // [urgent R1]
            let free = Word::exchange(&place.word, |word| word.life() == Life::Free, Life::Filling);
            let Some(word) = free else { continue };
            // [urgent R2]
            place.function.with_mut(|there| {
                // SAFETY: 1. `Filling` is this thread's alone, and a free slot has no bit pending anywhere.
                unsafe { *there = Some(function) };
            });
            // [urgent R3] an addition, for triggers of older generations may come and go. Release: with T1's acquire.
            place.word.fetch_add(Life::Live as u64 - Life::Filling as u64, Ordering::Release);
            return Ok(UrgentId { slot: slot as u32, generation: word.generation() });
        }
        Err(function)
    }

    /// T1; the trigger is under way until what it returns is dropped.
    pub(super) fn enter(&self, id: UrgentId) -> Result<UnderWay<'_>, Unregistered> {
        let slot = self.slot(id);
        // Not counted if it is over: threads that go on triggering would hold up who waits for none to be under way.
        if !Word(slot.word.load(Ordering::Acquire)).is_live(id.generation) {
            return Err(Unregistered);
        }
        if mutant!("urgent-uncounted") {
            return Ok(UnderWay(slot));
        }
        // [urgent T1] acquire: who sees `Live` sees the function; the pending bit hands that on to the target.
        let word = Word(slot.word.fetch_add(FOREIGN, Ordering::Acquire));
        let under_way = UnderWay(slot);
        if word.is_live(id.generation) { Ok(under_way) } else { Err(Unregistered) }
    }

    /// U1.
    pub(super) fn retire(&self, id: UrgentId) -> Result<(), Unregistered> {
        // [urgent U1]
        let retired = Word::exchange(&self.slot(id).word, |word| word.is_live(id.generation), Life::Dying);
        retired.map(drop).ok_or(Unregistered)
    }

    /// Whether there is a live handler in `slot`.
    pub(super) fn is_live_slot(&self, slot: usize) -> bool {
        self.word(slot).life() == Life::Live
    }

    /// U2's look.
    pub(super) fn is_being_triggered(&self, id: UrgentId) -> bool {
        self.word(id.slot()).has_foreign()
    }

    /// The live and the dying.
    pub(super) fn registered(&self) -> impl Iterator<Item = UrgentId> {
        (0..SLOTS).filter_map(|slot| {
            let word = self.word(slot);
            let registered = matches!(word.life(), Life::Live | Life::Dying);
            registered.then_some(UrgentId { slot: slot as u32, generation: word.generation() })
        })
    }

    /// Runs the handler of `slot`.
    ///
    /// # Safety
    ///
    /// 1. The caller has taken a pending bit of the slot on its core, in a round that has not ended.
    pub(super) unsafe fn run(&self, slot: usize, core: CoreId) {
        self.slots[slot].function.with(|function| {
            // SAFETY: 1. by the proof, a taken bit keeps the function in its place until the round has ended.
            let function = unsafe { &*function };
            match function {
                Some(function) => call(function, core),
                // The model checker's mutants reach this; no other build does.
                None => unreachable!("a pending bit has a function"),
            }
        });
    }
}

/// A panic must not unwind out of code that an interrupt has stopped: it aborts here.
#[cfg(not(loom))]
fn call(function: &Function, core: CoreId) {
    extern "C" fn barrier(function: &Function, core: u16) {
        function(CoreId::new(core.into()));
    }
    barrier(function, core.index() as u16);
}

/// The checker tells of its faults by panics.
#[cfg(loom)]
fn call(function: &Function, core: CoreId) {
    function(core);
}

/// U2 to U4, as far as they go without waiting. Returns whether the handler is no more.
pub(super) fn advance(shared: &Shared, id: UrgentId) -> bool {
    let word = shared.urgent.word(id.slot());
    if word.generation() != id.generation {
        return true;
    }
    if word.life() != Life::Dying || word.has_foreign() {
        return false;
    }
    // [admission E3] who comes back sees the slot dying, or is seen awake.
    fence(Ordering::SeqCst);
    if !is_over(shared, id.bit()) {
        return false;
    }
    let slot = shared.urgent.slot(id);
    let dying = |word: Word| word.life() == Life::Dying && word.generation() == id.generation;
    // [urgent U4]
    if Word::exchange(&slot.word, dying, Life::Filling).is_none() {
        return shared.urgent.word(id.slot()).generation() != id.generation;
    }
    // SAFETY: 1. `Filling` is this thread's alone, and by the proof no bit of the slot is pending, taken or yet to be set.
    let function = slot.function.with_mut(|function| unsafe { (*function).take() });
    // The generation wraps with the word. Release: who fills the slot next comes after this.
    slot.word.fetch_add(GENERATION.wrapping_sub(Life::Filling as u64), Ordering::Release);
    contain(move || drop(function));
    true
}
