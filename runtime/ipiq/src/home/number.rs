//! Numbers that lead to a value on each core.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A number that nobody else in the process has while this lives.
#[derive(Debug)]
pub(crate) struct Number(Key);

/// A [`Number`] as messages carry it: it keeps nobody from drawing the number again, but leads to no value of who does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(u64);

/// The bits of a key that say the place in each core's table; those above say which draw it was.
const PLACE_BITS: u32 = 24;

impl Number {
    /// The lowest one free, so that tables stay short.
    ///
    /// # Panics
    ///
    /// If 2²⁴ numbers are in use, or 2⁴⁰ were drawn.
    pub(crate) fn draw() -> Self {
        let mut numbers = numbers();
        let place = numbers.free.first().copied().unwrap_or(numbers.next);
        assert!(place < 1 << PLACE_BITS, "too many services and core-locals at a time");
        assert!(numbers.drawn < 1 << (u64::BITS - PLACE_BITS), "too many services and core-locals");
        numbers.free.remove(&place);
        numbers.next = numbers.next.max(place + 1);
        let key = Key(numbers.drawn << PLACE_BITS | place);
        // [home T7]
        numbers.drawn += 1;
        Self(key)
    }

    /// What leads to its values, on any core.
    pub(crate) fn key(&self) -> Key {
        self.0
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        numbers().free.insert(self.0.place());
    }
}

/// How many were drawn until now, in the whole process.
pub(super) fn drawn() -> u64 {
    numbers().drawn
}

impl Key {
    /// Whether it is of none of the first `draws`.
    pub(super) fn is_after(self, draws: u64) -> bool {
        self.0 >> PLACE_BITS >= draws
    }

    fn place(self) -> u64 {
        self.0 & ((1 << PLACE_BITS) - 1)
    }

    pub(super) fn index(self) -> usize {
        self.place() as usize
    }
}

struct Numbers {
    /// Below `next`.
    free: BTreeSet<u64>,
    next: u64,
    drawn: u64,
}

fn numbers() -> MutexGuard<'static, Numbers> {
    static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers { free: BTreeSet::new(), next: 0, drawn: 0 });
    // Nothing under the lock can panic half-way that leaves it wrong.
    NUMBERS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_drawn_again_has_another_key() {
        let before = drawn();
        let kept = Number::draw();
        let key = Number::draw().key();
        // Others may draw meanwhile.
        let again = std::iter::repeat_with(Number::draw).find(|number| number.key().place() == key.place());
        let again = again.expect("the lowest one free");
        assert_ne!(again.key(), key);
        assert_ne!(again.key().place(), kept.key().place());
        assert!(key.is_after(before) && again.key().is_after(before) && !key.is_after(drawn()));
    }
}
