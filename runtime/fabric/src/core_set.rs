//! Sets of cores.

use core::fmt;

use crate::{CoreId, MAX_CORES};

/// A set of cores, as a bit per core. Collect it from an iterator of cores.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct CoreSet {
    words: [u64; MAX_CORES / 64],
}

impl CoreSet {
    /// The set with no core.
    #[must_use]
    pub const fn empty() -> Self {
        Self { words: [0; MAX_CORES / 64] }
    }

    /// The cores of index 0 to `cores - 1`.
    #[must_use]
    pub fn first(cores: usize) -> Self {
        (0..cores).map(CoreId::new).collect()
    }

    /// 64 cores a word.
    pub(crate) fn words(&self) -> [u64; MAX_CORES / 64] {
        self.words
    }

    /// Adds `core`.
    pub fn insert(&mut self, core: CoreId) {
        self.words[core.index() / 64] |= 1 << (core.index() % 64);
    }

    /// Takes `core` out.
    pub fn remove(&mut self, core: CoreId) {
        self.words[core.index() / 64] &= !(1 << (core.index() % 64));
    }

    /// Whether `core` is in the set.
    #[must_use]
    pub const fn contains(&self, core: CoreId) -> bool {
        self.words[core.index() / 64] & (1 << (core.index() % 64)) != 0
    }

    /// How many cores are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no core is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// The cores, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = CoreId> + use<> {
        let words = self.words;
        (0..words.len()).flat_map(move |word| bits(words[word]).map(move |bit| CoreId::new(word * 64 + bit)))
    }

    /// The cores, ascending from the one after `core`, then from 0 on; `core` itself, if it is in the set, comes last.
    pub fn iter_after(&self, core: CoreId) -> impl Iterator<Item = CoreId> + use<> {
        let (after, before) =
            (self.iter().filter(move |&each| each > core), self.iter().filter(move |&each| each <= core));
        after.chain(before)
    }
}

/// The indices: `{0, 2}`.
impl fmt::Debug for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(CoreId::index)).finish()
    }
}

impl FromIterator<CoreId> for CoreSet {
    fn from_iter<I: IntoIterator<Item = CoreId>>(cores: I) -> Self {
        let mut set = Self::empty();
        cores.into_iter().for_each(|core| set.insert(core));
        set
    }
}

/// The positions of the bits of `word`, ascending.
#[inline(always)]
pub(crate) fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros() as usize;
        word &= word - 1;
        Some(bit)
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn members_come_back_in_ascending_order() {
        let set: CoreSet = [200, 3, 64, 0].map(CoreId::new).into_iter().collect();
        assert_eq!(set.iter().map(CoreId::index).collect::<alloc::vec::Vec<_>>(), [0, 3, 64, 200]);
        assert_eq!(set.len(), 4);
        assert_eq!(alloc::format!("{set:?}"), "{0, 3, 64, 200}");
        assert!(set.contains(CoreId::new(64)) && !set.contains(CoreId::new(65)));
    }

    #[test]
    fn a_walk_from_a_core_wraps_and_ends_with_it() {
        let set: CoreSet = [200, 3, 64, 0].map(CoreId::new).into_iter().collect();
        let after = |core| set.iter_after(CoreId::new(core)).map(CoreId::index).collect::<alloc::vec::Vec<_>>();
        assert_eq!(after(64), [200, 0, 3, 64]);
        assert_eq!(after(5), [64, 200, 0, 3]);
        assert_eq!(after(200), [0, 3, 64, 200]);
    }
}
