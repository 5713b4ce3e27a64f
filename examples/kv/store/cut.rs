//! A cut: all entries as they are at one moment, read afterwards, step by step, while the store goes on changing.
//!
//! Taking it costs the same whatever the store holds: it remembers how many slots there are. A reader then walks the
//! slots in their order. What changes an entry that the reader has not reached first keeps the entry as it was, beside
//! the table, and marks the slot settled, so that the reader passes over it. So the memory of a cut is that of the
//! entries which change before they are read.

use super::{Bytes, CHUNK_SLOTS, Deadline, Found, Slot, Store};

/// An entry as it was when the cut was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) deadline: Deadline,
}

/// What a step of reading left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum CutProgress {
    More,
    /// All is read. `kept_bytes` were held in all for entries that changed before they were read.
    Done {
        kept_bytes: u64,
    },
}

/// The state of the one cut that can be in progress.
pub(super) struct Cut {
    /// Entries whose deadline had passed by then are no part of it.
    taken_ms: i64,
    /// The next slot to read, and the first that did not exist.
    cursor: u32,
    end: u32,
    /// The slots themselves, once the store was cleared.
    detached: Option<Vec<Vec<Slot>>>,
    /// Entries that changed before they were read, as they were.
    kept: Vec<Kept>,
    kept_bytes: u64,
}

struct Kept {
    key_len: u32,
    deadline: Deadline,
    bytes: Bytes,
}

impl Cut {
    /// Goes on with the slots that were the store's; `chunks` does not change any more.
    pub(super) fn detach(&mut self, chunks: Vec<Vec<Slot>>) {
        self.detached.get_or_insert(chunks);
    }

    /// Whether slot `at` of the store is still to be read.
    fn covers(&self, at: u32) -> bool {
        self.detached.is_none() && (self.cursor..self.end).contains(&at)
    }
}

impl Store {
    /// Takes a cut at `now_ms`, in constant time; whether it was taken, which needs that none is in progress.
    #[must_use]
    pub(crate) fn begin_cut(&mut self, now_ms: i64) -> bool {
        if self.cut.is_some() {
            return false;
        }
        self.cut = Some(Box::new(Cut {
            taken_ms: now_ms,
            cursor: 0,
            end: self.used_slots,
            detached: None,
            kept: Vec::new(),
            kept_bytes: 0,
        }));
        true
    }

    /// Reads on, over at most `most_slots` slots, until `visit` answers false: that it has room for no more.
    ///
    /// A chain of calls up to `Done` visits each entry of the cut once, in no order.
    pub(crate) fn read_cut(&mut self, most_slots: u32, mut visit: impl FnMut(Entry<'_>) -> bool) -> CutProgress {
        let Some(cut) = &mut self.cut else {
            return CutProgress::Done { kept_bytes: 0 };
        };
        while let Some(Kept { key_len, deadline, bytes }) = cut.kept.pop() {
            let (key, value) = bytes.split_at(key_len as usize);
            if !visit(Entry { key, value, deadline }) {
                return CutProgress::More;
            }
        }
        let last = cut.cursor.saturating_add(most_slots).min(cut.end);
        let mut room = true;
        while room && cut.cursor < last {
            let (chunk, index) = (cut.cursor as usize / CHUNK_SLOTS, cut.cursor as usize % CHUNK_SLOTS);
            cut.cursor += 1;
            let chunk = &mut cut.detached.as_mut().unwrap_or(&mut self.chunks)[chunk];
            let slot = &mut chunk[index];
            if slot.settled {
                slot.settled = false;
            } else if slot.live && !slot.expired(cut.taken_ms) {
                room = visit(Entry { key: slot.key(), value: slot.value(), deadline: slot.deadline });
            }
            if cut.detached.is_some() && index + 1 == CHUNK_SLOTS {
                cut.give_back(cut.cursor as usize / CHUNK_SLOTS - 1);
            }
        }
        if cut.cursor < cut.end {
            return CutProgress::More;
        }
        let kept_bytes = cut.kept_bytes;
        self.cut = None;
        CutProgress::Done { kept_bytes }
    }

    /// Keeps a copy of an entry that is about to change, where a cut still has to read it.
    pub(super) fn keep_for_cut(&mut self, found: Found) {
        if self.wanted_by_cut(found.0) {
            let slot = self.slot(found.0);
            let (deadline, bytes) = (slot.deadline, slot.bytes.clone());
            self.hand_to_cut(found.0, deadline, bytes);
        }
    }

    /// Whether a cut still has to read what slot `at` holds.
    pub(super) fn wanted_by_cut(&self, at: u32) -> bool {
        self.cut.as_ref().is_some_and(|cut| cut.covers(at)) && !self.slot(at).settled
    }

    /// Gives the cut, where it still has to read slot `at`, what that held until now.
    pub(super) fn hand_to_cut(&mut self, at: u32, deadline: Deadline, bytes: Bytes) {
        if !self.wanted_by_cut(at) {
            return;
        }
        let slot = self.slot_mut(at);
        slot.settled = true;
        let key_len = slot.key_len;
        let Some(cut) = &mut self.cut else { return };
        if deadline.is_some_and(|deadline| cut.taken_ms > deadline.get()) {
            return;
        }
        cut.kept_bytes += (size_of::<Kept>() + if bytes.spilled() { bytes.capacity() } else { 0 }) as u64;
        cut.kept.push(Kept { key_len, deadline, bytes });
    }

    /// Whether a cut in progress must pass over slot `at`, which is free and about to be used.
    pub(super) fn hides_from_cut(&self, at: u32) -> bool {
        self.cut.as_ref().is_some_and(|cut| cut.covers(at))
    }
}

impl Cut {
    /// Frees a chunk of detached slots, all of them read.
    fn give_back(&mut self, chunk: usize) {
        if let Some(chunks) = &mut self.detached {
            chunks[chunk] = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{get, hash, set};
    use super::*;
    use std::collections::HashMap;
    use std::num::NonZeroI64;

    type Contents = HashMap<String, (String, i64)>;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// Reads one step and adds it to `seen`; whether there is more.
    fn read(store: &mut Store, slots: u32, room: usize, seen: &mut Contents) -> bool {
        let mut visited = 0;
        let progress = store.read_cut(slots, |entry| {
            let deadline = entry.deadline.map_or(0, NonZeroI64::get);
            let before = seen.insert(text(entry.key), (text(entry.value), deadline));
            assert_eq!(before, None, "{} is read twice", text(entry.key));
            visited += 1;
            visited < room
        });
        progress == CutProgress::More
    }

    fn remove(store: &mut Store, key: &str) {
        if let Some(found) = store.find(hash(key.as_bytes()), key.as_bytes(), 0) {
            store.remove(found);
        }
    }

    fn settled(store: &Store) -> usize {
        store.chunks.iter().flatten().filter(|slot| slot.settled).count()
    }

    #[test]
    fn a_cut_reads_what_was_there_whatever_changes_meanwhile() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut store = Store::new();
            let mut model = Contents::new();
            let change = |store: &mut Store, model: &mut Contents, rng: &mut fastrand::Rng| {
                let key = format!("k{}", rng.u32(0..300));
                match rng.u32(0..100) {
                    0 if rng.u32(0..8) == 0 => {
                        store.clear();
                        model.clear();
                    }
                    0..30 => {
                        remove(store, &key);
                        model.remove(&key);
                    }
                    30..45 => {
                        if let Some(found) = store.find(hash(key.as_bytes()), key.as_bytes(), 0) {
                            store.append(found, b"+");
                            model.get_mut(&key).unwrap().0 += "+";
                        }
                    }
                    45..55 => {
                        if let Some(found) = store.find(hash(key.as_bytes()), key.as_bytes(), 0) {
                            let deadline = rng.i64(1000..2000);
                            store.set_deadline(found, NonZeroI64::new(deadline));
                            model.get_mut(&key).unwrap().1 = deadline;
                        }
                    }
                    _ => {
                        let value = "v".repeat(rng.usize(..80));
                        set(store, &key, &value, 0);
                        model.insert(key, (value, 0));
                    }
                }
            };
            for _ in 0..5 {
                for _ in 0..rng.usize(..600) {
                    change(&mut store, &mut model, &mut rng);
                }
                let expected = model.clone();
                assert!(store.begin_cut(500));
                assert!(!store.begin_cut(500), "one at a time");
                let mut seen = Contents::new();
                while read(&mut store, rng.u32(1..50), rng.usize(1..20), &mut seen) {
                    for _ in 0..rng.usize(..60) {
                        change(&mut store, &mut model, &mut rng);
                    }
                }
                assert_eq!(seen, expected, "seed {seed}");
                assert_eq!(settled(&store), 0, "seed {seed}");
                assert_eq!(store.len(), model.len());
                for (key, (value, _)) in &model {
                    assert_eq!(get(&mut store, key, 0).as_ref(), Some(value));
                }
            }
        }
    }

    #[test]
    fn what_had_expired_is_no_part_of_a_cut_and_what_expires_later_is() {
        let mut store = Store::new();
        set(&mut store, "early", "v", 10);
        set(&mut store, "late", "v", 30);
        set(&mut store, "never", "v", 0);
        assert!(store.begin_cut(20));
        assert_eq!(store.expire_some(100, 100), 2);
        let mut seen = Contents::new();
        while read(&mut store, 1, 1, &mut seen) {}
        let expected = [("late", 30), ("never", 0)].map(|(key, at)| (key.to_owned(), ("v".to_owned(), at)));
        assert_eq!(seen, HashMap::from(expected));
    }

    #[test]
    fn the_memory_of_a_cut_is_that_of_what_changes_before_it_is_read() {
        let mut store = Store::new();
        for n in 0..10_000 {
            set(&mut store, &format!("key{n}"), &"v".repeat(1000), 0);
        }
        assert!(store.begin_cut(0));
        let mut seen = Contents::new();
        assert!(read(&mut store, 5000, usize::MAX, &mut seen));
        for n in 0..100 {
            set(&mut store, &format!("key{n}"), "read already", 0);
            set(&mut store, &format!("key{}", 9000 + n), "not read yet", 0);
            set(&mut store, &format!("key{}", 9000 + n), "nor now", 0);
        }
        let mut kept = 0;
        while let CutProgress::More = store.read_cut(100, |_| true) {
            kept = store.cut.as_ref().map_or(kept, |cut| cut.kept_bytes);
        }
        let one = size_of::<Kept>() as u64 + 1000;
        assert!((100 * one..120 * one).contains(&kept), "{kept} bytes were kept");
    }
}
