//! Where timers are kept: chunks that never move, and a list of the free places in them.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

use super::wheel::Place;

/// Entries of a chunk.
const CHUNK: usize = 128;

/// A place of no entry.
const NONE: u32 = u32::MAX;

/// A timer.
pub(super) struct Entry<T> {
    pub(super) deadline_ns: u64,
    /// None: it has fired, or the entry is free.
    pub(super) payload: Option<T>,
    /// The next in its slot; of a free entry, the next free one.
    pub(super) next: u32,
    pub(super) previous: u32,
    pub(super) place: Place,
}

/// All timers of a core.
pub(super) struct Entries<T> {
    chunks: Vec<Box<[Entry<T>; CHUNK]>>,
    /// The free entry that was given back last.
    free: u32,
    /// From here on no entry has been used since all were free.
    fresh: u32,
    used: u32,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: NONE, fresh: 0, used: 0 }
    }
}

impl<T> Entries<T> {
    /// An entry for `payload`, in no slot.
    #[inline]
    pub(super) fn take(&mut self, deadline_ns: u64, payload: T) -> u32 {
        let index = self.free;
        let index = if index == NONE {
            self.take_fresh()
        } else {
            self.free = self[index].next;
            index
        };
        self.used += 1;
        let entry = &mut self[index];
        entry.deadline_ns = deadline_ns;
        entry.payload = Some(payload);
        index
    }

    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.used
    }

    fn take_fresh(&mut self) -> u32 {
        let index = self.fresh;
        assert!(index != NONE, "a core has at most 2^32 - 1 timers");
        if self.chunks.len() * CHUNK == index as usize {
            let free = |_| Entry { deadline_ns: 0, payload: None, next: NONE, previous: NONE, place: Place::NOWHERE };
            self.chunks.push(Box::new(core::array::from_fn(free)));
        }
        self.fresh += 1;
        index
    }

    /// Gives an entry back that is in no slot.
    #[inline]
    pub(super) fn give_back(&mut self, index: u32) -> Option<T> {
        let free = self.free;
        let entry = &mut self[index];
        entry.next = free;
        let payload = entry.payload.take();
        self.free = index;
        self.used -= 1;
        if self.used == 0 {
            (self.free, self.fresh) = (NONE, 0);
        }
        // Chunks behind `fresh` are left from when there were more; one a time goes.
        if self.chunks.len() > 1 + self.fresh as usize / CHUNK {
            self.chunks.pop();
        }
        payload
    }
}

impl<T> Index<u32> for Entries<T> {
    type Output = Entry<T>;

    #[inline(always)]
    fn index(&self, index: u32) -> &Entry<T> {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Entries<T> {
    #[inline(always)]
    fn index_mut(&mut self, index: u32) -> &mut Entry<T> {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}
