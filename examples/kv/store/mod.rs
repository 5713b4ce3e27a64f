//! One shard's keys: a hash table whose entries never move, so that a walk over them survives every change.
//!
//! Entries lie in fixed slots of fixed-size chunks; buckets are chains through the slots and grow one at a time
//! (linear hashing), so no insertion pays for a rehash of the whole table. A key and its value share one buffer, inside
//! the slot while they fit [`INLINE_BYTES`]. A walk in slot order visits every entry that is there all the while, once.
//! What a snapshot reads of a store that goes on changing is in `cut.rs`.

mod cut;

use std::num::NonZeroI64;

use smallvec::SmallVec;

use cut::Cut;
pub(crate) use cut::{CutProgress, Entry};

/// Key and value bytes that a slot holds without an allocation.
const INLINE_BYTES: usize = 32;
/// Slots per chunk; 64 KiB.
const CHUNK_SLOTS: usize = 1024;
/// End of a chain.
const NIL: u32 = u32::MAX;
/// What an entry costs beside its heap buffer: its slot and its bucket.
pub(crate) const ENTRY_BYTES: usize = size_of::<Slot>() + size_of::<u32>();

/// The hash of a key: the low half finds its bucket, the high half its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyHash(pub(crate) u64);

impl KeyHash {
    fn low(self) -> u32 {
        self.0 as u32
    }
}

/// When a key dies, in milliseconds since the Unix epoch; never for `None`.
pub(crate) type Deadline = Option<NonZeroI64>;

/// One cache line: an entry, or a link of the free list.
#[repr(align(64))]
struct Slot {
    hash: u32,
    /// The next slot of the bucket's chain, or of the free list.
    next: u32,
    key_len: u32,
    live: bool,
    /// Whether the cut in progress has no more to read here. False in every slot where no cut is in progress.
    settled: bool,
    deadline: Deadline,
    /// The key and behind it the value.
    bytes: Bytes,
}

type Bytes = SmallVec<[u8; INLINE_BYTES]>;

impl Slot {
    fn key(&self) -> &[u8] {
        &self.bytes[..self.key_len as usize]
    }

    fn value(&self) -> &[u8] {
        &self.bytes[self.key_len as usize..]
    }

    fn heap_bytes(&self) -> usize {
        if self.bytes.spilled() { self.bytes.capacity() } else { 0 }
    }

    fn expired(&self, now_ms: i64) -> bool {
        self.deadline.is_some_and(|deadline| now_ms > deadline.get())
    }
}

/// An entry found by a lookup; valid until the store changes.
#[derive(Clone, Copy)]
pub(crate) struct Found(u32);

/// The keys of one shard.
pub(crate) struct Store {
    /// Heads of the chains.
    buckets: Vec<u32>,
    chunks: Vec<Vec<Slot>>,
    /// Slots that were ever used; those from here on do not exist yet.
    used_slots: u32,
    free: u32,
    len: usize,
    volatile: usize,
    heap_bytes: usize,
    expired: u64,
    changes: u64,
    /// Where the next [`expire_some`](Self::expire_some) starts.
    sweep: u32,
    /// The cut in progress.
    cut: Option<Box<Cut>>,
}

impl Store {
    /// A store without a key.
    pub(crate) fn new() -> Self {
        Self {
            buckets: vec![NIL],
            chunks: Vec::new(),
            used_slots: 0,
            free: NIL,
            len: 0,
            volatile: 0,
            heap_bytes: 0,
            expired: 0,
            changes: 0,
            sweep: 0,
            cut: None,
        }
    }

    /// Keys held, those expired but not yet removed included.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Keys that have a deadline.
    pub(crate) fn volatile(&self) -> usize {
        self.volatile
    }

    /// Keys removed because their deadline had passed.
    pub(crate) fn expired(&self) -> u64 {
        self.expired
    }

    /// How often an entry was inserted, given another value or deadline, or removed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Counts changes from zero again.
    pub(crate) fn forget_changes(&mut self) {
        self.changes = 0;
    }

    /// Bytes that the entries take, unused room in their buffers included.
    pub(crate) fn used_bytes(&self) -> usize {
        self.len * ENTRY_BYTES + self.heap_bytes
    }

    /// An upper bound of what a new entry of these lengths takes.
    pub(crate) fn entry_bytes(key_len: usize, value_len: usize) -> usize {
        let content = key_len + value_len;
        ENTRY_BYTES + if content > INLINE_BYTES { content } else { 0 }
    }

    /// Finds `key`, removing it where its deadline has passed.
    pub(crate) fn find(&mut self, hash: KeyHash, key: &[u8], now_ms: i64) -> Option<Found> {
        let mut at = self.buckets[self.bucket(hash.low())];
        loop {
            if at == NIL {
                return None;
            }
            let slot = self.slot(at);
            if slot.hash == hash.low() && slot.key() == key {
                break;
            }
            at = slot.next;
        }
        if self.slot(at).expired(now_ms) {
            self.remove(Found(at));
            self.expired += 1;
            return None;
        }
        Some(Found(at))
    }

    /// The value of an entry.
    pub(crate) fn value(&self, found: Found) -> &[u8] {
        self.slot(found.0).value()
    }

    /// The deadline of an entry.
    pub(crate) fn deadline(&self, found: Found) -> Deadline {
        self.slot(found.0).deadline
    }

    /// Bytes by which giving an entry a value of `value_len` would raise [`used_bytes`](Self::used_bytes).
    pub(crate) fn growth(&self, found: Found, value_len: usize) -> usize {
        let slot = self.slot(found.0);
        let content = slot.key_len as usize + value_len;
        if content <= slot.bytes.capacity() { 0 } else { content - slot.heap_bytes() }
    }

    /// Adds an entry; `key` must not be there.
    pub(crate) fn insert(&mut self, hash: KeyHash, key: &[u8], value: &[u8], deadline: Deadline) {
        let mut bytes = SmallVec::with_capacity(key.len() + value.len());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        let at = self.allocate_slot();
        let settled = self.hides_from_cut(at);
        let bucket = self.bucket(hash.low());
        let slot = Slot {
            hash: hash.low(),
            next: self.buckets[bucket],
            key_len: key.len() as u32,
            live: true,
            settled,
            deadline,
            bytes,
        };
        self.heap_bytes += slot.heap_bytes();
        self.changes += 1;
        self.put_slot(at, slot);
        self.buckets[bucket] = at;
        self.len += 1;
        self.volatile += usize::from(deadline.is_some());
        if self.len > self.buckets.len() {
            self.split_bucket();
        }
    }

    /// Replaces the value of an entry; its deadline stays.
    pub(crate) fn set_value(&mut self, found: Found, value: &[u8]) {
        if self.wanted_by_cut(found.0) {
            self.replace_bytes(found);
        }
        self.change_bytes(found, |slot| {
            let key_len = slot.key_len as usize;
            let content = key_len + value.len();
            slot.bytes.truncate(key_len);
            if slot.bytes.capacity() > 4 * content.max(INLINE_BYTES) {
                slot.bytes.shrink_to_fit();
            }
            slot.bytes.reserve_exact(value.len());
            slot.bytes.extend_from_slice(value);
        });
    }

    /// Appends to the value of an entry and answers its new length.
    pub(crate) fn append(&mut self, found: Found, suffix: &[u8]) -> usize {
        self.keep_for_cut(found);
        self.change_bytes(found, |slot| slot.bytes.extend_from_slice(suffix));
        self.value(found).len()
    }

    /// Replaces the deadline of an entry.
    pub(crate) fn set_deadline(&mut self, found: Found, deadline: Deadline) {
        if self.deadline(found) == deadline {
            return;
        }
        self.keep_for_cut(found);
        self.changes += 1;
        let before = std::mem::replace(&mut self.slot_mut(found.0).deadline, deadline);
        self.volatile += usize::from(deadline.is_some());
        self.volatile -= usize::from(before.is_some());
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, found: Found) {
        let at = found.0;
        let bucket = self.bucket(self.slot(at).hash);
        let next = self.slot(at).next;
        if self.buckets[bucket] == at {
            self.buckets[bucket] = next;
        } else {
            let mut before = self.buckets[bucket];
            while self.slot(before).next != at {
                before = self.slot(before).next;
            }
            self.slot_mut(before).next = next;
        }
        let free = self.free;
        let slot = self.slot_mut(at);
        let heap_bytes = slot.heap_bytes();
        let deadline = slot.deadline.take();
        slot.live = false;
        let bytes = std::mem::take(&mut slot.bytes);
        slot.next = free;
        self.free = at;
        self.heap_bytes -= heap_bytes;
        self.volatile -= usize::from(deadline.is_some());
        self.len -= 1;
        self.changes += 1;
        self.hand_to_cut(at, deadline, bytes);
    }

    /// Removes every entry.
    pub(crate) fn clear(&mut self) {
        let changes = self.changes + self.len as u64;
        let mut emptied = Self { expired: self.expired, changes, cut: self.cut.take(), ..Self::new() };
        if let Some(cut) = &mut emptied.cut {
            cut.detach(std::mem::take(&mut self.chunks));
        }
        *self = emptied;
    }

    /// Walks on from `position` over about `count` living keys; answers where to go on, or `None` at the end.
    ///
    /// A chain of calls from 0 to the end visits each key that is there during all of it exactly once.
    pub(crate) fn walk(&self, position: u64, count: u64, now_ms: i64, mut visit: impl FnMut(&[u8])) -> Option<u64> {
        // Freed slots cost less to pass than keys to answer, but are not free.
        let most = position.saturating_add(count.saturating_mul(10));
        let mut visited = 0;
        let mut at = position;
        while at < u64::from(self.used_slots) {
            if visited >= count || at >= most {
                return Some(at);
            }
            let slot = self.slot(at as u32);
            if slot.live && !slot.expired(now_ms) {
                visited += 1;
                visit(slot.key());
            }
            at += 1;
        }
        None
    }

    /// Looks at the next `slots` slots and removes what has expired; answers how many keys it removed.
    pub(crate) fn expire_some(&mut self, now_ms: i64, slots: u32) -> u32 {
        let mut removed = 0;
        for _ in 0..slots.min(self.used_slots) {
            if self.sweep >= self.used_slots {
                self.sweep = 0;
            }
            let at = self.sweep;
            self.sweep += 1;
            let slot = self.slot(at);
            if slot.live && slot.expired(now_ms) {
                self.remove(Found(at));
                removed += 1;
            }
        }
        self.expired += u64::from(removed);
        removed
    }

    /// Slots that [`expire_some`](Self::expire_some) goes round.
    pub(crate) fn slots(&self) -> u32 {
        self.used_slots
    }

    /// The bucket of a hash: of the `2^n` smallest power of two that covers all buckets, those above the last bucket
    /// are not split off yet and still share one `2^(n-1)` below.
    fn bucket(&self, hash: u32) -> usize {
        let mask = self.buckets.len().next_power_of_two() - 1;
        let wide = hash as usize & mask;
        if wide < self.buckets.len() { wide } else { wide & (mask >> 1) }
    }

    /// Adds one bucket and moves into it what belongs there from the one it shared.
    fn split_bucket(&mut self) {
        let new = self.buckets.len();
        self.buckets.push(NIL);
        let old = new ^ (1 << new.ilog2());
        let mut at = std::mem::replace(&mut self.buckets[old], NIL);
        while at != NIL {
            let bucket = self.bucket(self.slot(at).hash);
            let head = self.buckets[bucket];
            let next = std::mem::replace(&mut self.slot_mut(at).next, head);
            self.buckets[bucket] = at;
            at = next;
        }
    }

    fn allocate_slot(&mut self) -> u32 {
        if self.free != NIL {
            let at = self.free;
            self.free = self.slot(at).next;
            return at;
        }
        let at = self.used_slots;
        assert!(at < NIL, "a shard holds at most 2^32 - 1 keys");
        if (at as usize).is_multiple_of(CHUNK_SLOTS) {
            self.chunks.push(Vec::with_capacity(CHUNK_SLOTS));
        }
        self.used_slots += 1;
        at
    }

    fn put_slot(&mut self, at: u32, slot: Slot) {
        let chunk = &mut self.chunks[at as usize / CHUNK_SLOTS];
        let index = at as usize % CHUNK_SLOTS;
        match chunk.get_mut(index) {
            Some(place) => *place = slot,
            None => chunk.push(slot),
        }
    }

    /// Hands the entry's bytes to the cut in progress, uncopied, and leaves an entry with an empty value.
    #[cold]
    fn replace_bytes(&mut self, found: Found) {
        let mut before = Bytes::new();
        self.change_bytes(found, |slot| {
            let key = Bytes::from_slice(slot.key());
            before = std::mem::replace(&mut slot.bytes, key);
        });
        self.hand_to_cut(found.0, self.deadline(found), before);
    }

    fn change_bytes(&mut self, found: Found, change: impl FnOnce(&mut Slot)) {
        let slot = self.slot_mut(found.0);
        let before = slot.heap_bytes();
        change(slot);
        let after = slot.heap_bytes();
        self.changes += 1;
        self.heap_bytes = self.heap_bytes + after - before;
    }

    fn slot(&self, at: u32) -> &Slot {
        &self.chunks[at as usize / CHUNK_SLOTS][at as usize % CHUNK_SLOTS]
    }

    fn slot_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.chunks[at as usize / CHUNK_SLOTS][at as usize % CHUNK_SLOTS]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use foldhash::quality::FixedState;
    use std::collections::{BTreeSet, HashMap};
    use std::hash::BuildHasher;

    pub(in crate::store) fn hash(key: &[u8]) -> KeyHash {
        KeyHash(FixedState::with_seed(1).hash_one(key))
    }

    pub(in crate::store) fn set(store: &mut Store, key: &str, value: &str, deadline_ms: i64) {
        let (key, value) = (key.as_bytes(), value.as_bytes());
        match store.find(hash(key), key, 0) {
            Some(found) => {
                store.set_value(found, value);
                store.set_deadline(found, NonZeroI64::new(deadline_ms));
            }
            None => store.insert(hash(key), key, value, NonZeroI64::new(deadline_ms)),
        }
    }

    pub(in crate::store) fn get(store: &mut Store, key: &str, now_ms: i64) -> Option<String> {
        let found = store.find(hash(key.as_bytes()), key.as_bytes(), now_ms)?;
        Some(String::from_utf8(store.value(found).to_vec()).unwrap())
    }

    #[test]
    fn an_entry_is_one_cache_line() {
        assert_eq!(size_of::<Slot>(), 64);
    }

    #[test]
    fn random_changes_agree_with_a_std_map() {
        let mut store = Store::new();
        let mut model: HashMap<String, String> = HashMap::new();
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for step in 0..200_000u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step | 1);
            let key = format!("key:{}", (seed >> 33) % 5000);
            match (seed >> 20) % 4 {
                0 => {
                    let found = store.find(hash(key.as_bytes()), key.as_bytes(), 0);
                    assert_eq!(found.is_some(), model.remove(&key).is_some());
                    if let Some(found) = found {
                        store.remove(found);
                    }
                }
                1 => assert_eq!(get(&mut store, &key, 0), model.get(&key).cloned()),
                _ => {
                    let value = "v".repeat((seed >> 40) as usize % 90);
                    set(&mut store, &key, &value, 0);
                    model.insert(key, value);
                }
            }
        }
        assert_eq!(store.len(), model.len());
        for (key, value) in &model {
            assert_eq!(get(&mut store, key, 0).as_ref(), Some(value));
        }
        let mut heap_bytes = 0;
        for slot in store.chunks.iter().flatten().filter(|slot| slot.live) {
            heap_bytes += slot.heap_bytes();
        }
        assert_eq!(store.used_bytes(), model.len() * ENTRY_BYTES + heap_bytes);
        store.clear();
        assert_eq!((store.len(), store.used_bytes()), (0, 0));
    }

    #[test]
    fn a_key_is_gone_after_its_deadline_and_not_at_it() {
        let mut store = Store::new();
        set(&mut store, "k", "v", 100);
        assert_eq!(get(&mut store, "k", 100).as_deref(), Some("v"));
        assert_eq!(get(&mut store, "k", 101), None);
        assert_eq!((store.len(), store.volatile(), store.expired()), (0, 0, 1));
    }

    #[test]
    fn the_sweep_removes_what_nobody_asks_for() {
        let mut store = Store::new();
        for n in 0..3000 {
            set(&mut store, &format!("k{n}"), "v", if n % 3 == 0 { 10 } else { 0 });
        }
        assert_eq!(store.volatile(), 1000);
        let removed: u32 = (0..10).map(|_| store.expire_some(11, 300)).sum();
        assert_eq!((removed, store.len(), store.volatile()), (1000, 2000, 0));
    }

    #[test]
    fn a_walk_meets_what_stays_once_while_others_come_and_go() {
        let mut store = Store::new();
        for n in 0..1000 {
            set(&mut store, &format!("stays{n}"), "v", 0);
            set(&mut store, &format!("goes{n}"), "v", 0);
        }
        let mut seen = Vec::new();
        let mut position = Some(0);
        let mut step = 0;
        while let Some(at) = position {
            position = store.walk(at, 7, 0, |key| seen.push(String::from_utf8(key.to_vec()).unwrap()));
            let goes = format!("goes{step}");
            if let Some(found) = store.find(hash(goes.as_bytes()), goes.as_bytes(), 0) {
                store.remove(found);
            }
            set(&mut store, &format!("comes{step}"), "v", 0);
            set(&mut store, &format!("stays{step}"), &"long".repeat(50), 0);
            step += 1;
            assert!(step < 10_000, "the walk must end");
        }
        seen.retain(|key| key.starts_with("stays"));
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 1000);
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn a_large_value_gives_its_memory_back() {
        let mut store = Store::new();
        set(&mut store, "k", &"x".repeat(1 << 20), 0);
        assert!(store.used_bytes() >= 1 << 20);
        set(&mut store, "k", "y", 0);
        assert!(store.used_bytes() < 200);
    }
}
