//! Sets of cores.

use core::fmt;
use core::iter::FusedIterator;

use crate::{CoreId, MAX_CORES};

/// A set of cores, as a bit per core. Collect it from an iterator of cores; iterate over it in ascending order.
///
/// ```
/// use ipiq_fabric::{CoreId, CoreSet};
///
/// let set: CoreSet = [2, 0].into_iter().map(CoreId::new).collect();
/// for core in &set {
///     println!("{core}"); // core 0, core 2
/// }
/// assert!(set.into_iter().eq([0, 2].map(CoreId::new)));
/// ```
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
    ///
    /// # Panics
    ///
    /// If `cores` is above `MAX_CORES`, 256.
    #[must_use]
    pub fn first(cores: usize) -> Self {
        assert!(cores <= MAX_CORES, "a set has room for {MAX_CORES} cores");
        let word = |index: usize| match cores.saturating_sub(index * 64) {
            0 => 0,
            left => u64::MAX >> (64 - left.min(64)),
        };
        Self { words: core::array::from_fn(word) }
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

    /// The cores that are in this set or in `other`.
    pub(crate) fn union(&self, other: &Self) -> Self {
        Self { words: core::array::from_fn(|word| self.words[word] | other.words[word]) }
    }

    /// The cores that are in this set and in `other`.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        Self { words: core::array::from_fn(|word| self.words[word] & other.words[word]) }
    }

    /// The cores of this set that are not in `other`.
    pub(crate) fn difference(&self, other: &Self) -> Self {
        Self { words: core::array::from_fn(|word| self.words[word] & !other.words[word]) }
    }

    /// The set with `core` in it, too.
    pub(crate) fn with(mut self, core: CoreId) -> Self {
        self.insert(core);
        self
    }

    /// The set without `core`.
    pub(crate) fn without(mut self, core: CoreId) -> Self {
        self.remove(core);
        self
    }

    /// The first core of the set.
    pub(crate) fn lowest(&self) -> Option<CoreId> {
        let word = self.words.iter().position(|&word| word != 0)?;
        Some(CoreId::new(word * 64 + self.words[word].trailing_zeros() as usize))
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
    #[inline]
    pub fn iter(&self) -> CoreSetIter {
        CoreSetIter::new(*self)
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
        set.extend(cores);
        set
    }
}

impl Extend<CoreId> for CoreSet {
    fn extend<I: IntoIterator<Item = CoreId>>(&mut self, cores: I) {
        cores.into_iter().for_each(|core| self.insert(core));
    }
}

impl IntoIterator for CoreSet {
    type Item = CoreId;
    type IntoIter = CoreSetIter;

    #[inline]
    fn into_iter(self) -> CoreSetIter {
        self.iter()
    }
}

impl IntoIterator for &CoreSet {
    type Item = CoreId;
    type IntoIter = CoreSetIter;

    #[inline]
    fn into_iter(self) -> CoreSetIter {
        self.iter()
    }
}

/// The cores of a [`CoreSet`], in ascending order. It has its own copy of the set.
#[derive(Clone, Debug)]
#[must_use = "iterators do nothing unless iterated"]
pub struct CoreSetIter {
    set: CoreSet,
    /// The word whose cores come now.
    word: usize,
    /// Those of them that are still to come.
    left: u64,
}

impl CoreSetIter {
    fn new(set: CoreSet) -> Self {
        Self { set, word: 0, left: set.words[0] }
    }
}

impl Iterator for CoreSetIter {
    type Item = CoreId;

    #[inline]
    fn next(&mut self) -> Option<CoreId> {
        while self.left == 0 {
            self.left = *self.set.words.get(self.word + 1)?;
            self.word += 1;
        }
        let bit = self.left.trailing_zeros() as usize;
        self.left &= self.left - 1;
        Some(CoreId::new(self.word * 64 + bit))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let later = self.set.words[self.word + 1..].iter().map(|word| word.count_ones() as usize);
        let left = self.left.count_ones() as usize + later.sum::<usize>();
        (left, Some(left))
    }

    // Word by word: half the instructions of a call of `next` for each.
    #[inline]
    fn fold<B, F: FnMut(B, CoreId) -> B>(self, init: B, mut f: F) -> B {
        let mut words = self.set.words;
        words[..self.word].fill(0);
        words[self.word] = self.left;
        let mut so_far = init;
        for (word, &left) in words.iter().enumerate() {
            for bit in bits(left) {
                so_far = f(so_far, CoreId::new(word * 64 + bit));
            }
        }
        so_far
    }
}

impl ExactSizeIterator for CoreSetIter {}
impl FusedIterator for CoreSetIter {}

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
    fn a_set_is_walked_by_reference_and_by_value() {
        let mut set: CoreSet = [255, 1].map(CoreId::new).into_iter().collect();
        let mut met = CoreSet::empty();
        for core in &set {
            met.insert(core);
        }
        assert_eq!(met, set);
        let mut cores = set.into_iter();
        assert_eq!((cores.len(), cores.next(), cores.len()), (2, Some(CoreId::new(1)), 1));
        assert_eq!((cores.next(), cores.next(), cores.next()), (Some(CoreId::new(255)), None, None));
        set.extend(CoreSet::first(1));
        assert_eq!(set.len(), 3);
    }

    #[test]
    fn sets_are_joined_cut_and_taken_from_each_other() {
        let set = |cores: &[usize]| cores.iter().copied().map(CoreId::new).collect::<CoreSet>();
        let (a, b) = (set(&[1, 64, 255]), set(&[1, 2, 255]));
        assert_eq!(a.union(&b), set(&[1, 2, 64, 255]));
        assert_eq!(a.intersection(&b), set(&[1, 255]));
        assert_eq!(a.difference(&b), set(&[64]));
        assert_eq!(a.difference(&b).lowest(), Some(CoreId::new(64)));
        assert_eq!(a.difference(&a).lowest(), None);
        assert_eq!(a.without(CoreId::new(1)).with(CoreId::new(0)), set(&[0, 64, 255]));
    }

    #[test]
    fn the_first_cores_are_as_many_as_asked_for() {
        for cores in [0, 1, 2, 63, 64, 65, 128, 255, 256] {
            let set = CoreSet::first(cores);
            assert!(set.iter().map(CoreId::index).eq(0..cores), "{cores}");
        }
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
