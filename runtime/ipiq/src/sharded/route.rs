//! From keys to cores.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};

use ipiq_fabric::CoreId;

/// Says which core has a key's shard. Every core must be given a clone of the same route.
///
/// Functions and closures from a key to a core are routes, too.
///
/// ```
/// use ipiq::CoreId;
/// use ipiq::sharded::Route;
///
/// let by_tenant = |order: &(u16, u64)| CoreId::new(usize::from(order.0) % 2);
/// assert_eq!(by_tenant.core_of(&(7, 99)), CoreId::new(1));
/// ```
pub trait Route<K: ?Sized> {
    /// The core of `key`; the same for equal keys.
    fn core_of(&self, key: &K) -> CoreId;
}

impl<K: ?Sized, F: Fn(&K) -> CoreId> Route<K> for F {
    fn core_of(&self, key: &K) -> CoreId {
        self(key)
    }
}

/// Spreads keys evenly by their hash, such that a change of the number of cores moves as few keys as possible: jump consistent hash.
///
/// With the standard hasher, seeded anew for each route, nobody outside can choose keys that all fall on one core; and the cores of keys mean
/// nothing outside the process. Give it [another hasher](Self::with_hasher) where they should.
///
/// ```
/// use ipiq::sharded::{JumpHash, Route};
///
/// let route = JumpHash::new(4);
/// assert_eq!(route.core_of("a key"), route.clone().core_of(&String::from("a key")));
/// ```
///
/// Source: Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014.
#[derive(Clone)]
pub struct JumpHash<S = RandomState> {
    cores: usize,
    hasher: S,
}

impl JumpHash {
    /// A route to `cores` cores.
    ///
    /// # Panics
    ///
    /// If `cores` is 0.
    #[must_use]
    #[track_caller]
    pub fn new(cores: usize) -> Self {
        Self::with_hasher(cores, RandomState::new())
    }
}

impl<S> JumpHash<S> {
    /// A route to `cores` cores by the hashes of `hasher`.
    ///
    /// # Panics
    ///
    /// If `cores` is 0.
    #[must_use]
    #[track_caller]
    pub fn with_hasher(cores: usize, hasher: S) -> Self {
        assert!(cores > 0, "a route needs a core");
        Self { cores, hasher }
    }
}

impl<S> fmt::Debug for JumpHash<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JumpHash").field("cores", &self.cores).finish_non_exhaustive()
    }
}

impl<K: Hash + ?Sized, S: BuildHasher> Route<K> for JumpHash<S> {
    fn core_of(&self, key: &K) -> CoreId {
        CoreId::new(jump(self.hasher.hash_one(key), self.cores))
    }
}

/// Where a key lands that jumps from bucket to bucket: each jump is as long as chance, seeded by the key, would have it leave its bucket when buckets are added one by
/// one.
fn jump(hash: u64, buckets: usize) -> usize {
    let mut seed = hash;
    let (mut bucket, mut next) = (0, 0);
    while next < buckets {
        bucket = next;
        seed = seed.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        // A number between 0 and 1, of the seed's high bits.
        let chance = ((seed >> 33) + 1) as f64 / (1u64 << 31) as f64;
        next = ((bucket + 1) as f64 / chance) as usize;
    }
    bucket
}

/// Gives each core a range of keys in their order: core 0 what is below the first bound, core 1 from that on to below the second, and so on.
///
/// ```
/// use ipiq::CoreId;
/// use ipiq::sharded::{Ranges, Route};
///
/// let route = Ranges::new(["h", "p"]); // Three cores.
/// assert_eq!(route.core_of(&"apple"), CoreId::new(0));
/// assert_eq!(route.core_of(&"h"), CoreId::new(1));
/// assert_eq!(route.core_of(&"quince"), CoreId::new(2));
/// ```
#[derive(Clone, Debug)]
pub struct Ranges<K> {
    bounds: Vec<K>,
}

impl<K: Ord> Ranges<K> {
    /// A route to one core more than there are `bounds`.
    ///
    /// # Panics
    ///
    /// If the bounds do not ascend.
    #[must_use]
    #[track_caller]
    pub fn new(bounds: impl IntoIterator<Item = K>) -> Self {
        let bounds = Vec::from_iter(bounds);
        assert!(bounds.is_sorted_by(|low, high| low < high), "the bounds of ranges ascend");
        Self { bounds }
    }
}

impl<K: Ord> Route<K> for Ranges<K> {
    fn core_of(&self, key: &K) -> CoreId {
        CoreId::new(self.bounds.partition_point(|bound| bound <= key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_even_and_move_few_keys() {
        let mut counts = [0u32; 5];
        for key in 0..50_000u64 {
            let hash = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ key >> 7;
            let (four, five) = (jump(hash, 4), jump(hash, 5));
            counts[five] += 1;
            assert!(five == four || five == 4, "a key moves to the new bucket or stays");
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert_eq!(jump(12_345, 1), 0);
    }

    #[test]
    fn a_range_begins_with_its_bound() {
        let route = Ranges::new([10, 20]);
        let cores = [0, 9, 10, 19, 20, 99].map(|key| route.core_of(&key).index());
        assert_eq!(cores, [0, 0, 1, 1, 2, 2]);
        assert_eq!(Ranges::<u8>::new([]).core_of(&3).index(), 0);
    }

    #[test]
    #[should_panic(expected = "ascend")]
    fn ranges_ascend() {
        let _ = Ranges::new([2, 2]);
    }
}
