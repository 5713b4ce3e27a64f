//! Numbers that lead to a value on each core.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A number that nobody else in the process has while this lives.
#[derive(Debug)]
pub(crate) struct Number(usize);

impl Number {
    /// The lowest one free, so that tables stay short.
    pub(crate) fn draw() -> Self {
        let mut numbers = numbers();
        let index = numbers.free.pop_first().unwrap_or(numbers.next);
        numbers.next = numbers.next.max(index + 1);
        Self(index)
    }

    pub(super) fn index(&self) -> usize {
        self.0
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        numbers().free.insert(self.0);
    }
}

struct Numbers {
    /// Below `next`.
    free: BTreeSet<usize>,
    next: usize,
}

fn numbers() -> MutexGuard<'static, Numbers> {
    static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers { free: BTreeSet::new(), next: 0 });
    // Nothing under the lock can panic half-way.
    NUMBERS.lock().unwrap_or_else(PoisonError::into_inner)
}
