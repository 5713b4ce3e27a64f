#![doc = include_str!("README.md")]

use core::cell::Cell;
use core::mem::MaybeUninit;

use alloc::boxed::Box;

use crate::sync::{Arc, AtomicU32, Ordering, Padded, UnsafeCell, mutant, relaxed_if};

/// One line: the stamp and the message it speaks for.
#[repr(C, align(64))]
struct Slot<T> {
    stamp: AtomicU32,
    value: UnsafeCell<MaybeUninit<T>>,
}

/// What the target tells the source; one line, written by the target only.
struct Progress {
    read: AtomicU32,
    executed: AtomicU32,
}

/// The part of a ring that both cores see.
pub(crate) struct Ring<T> {
    slots: Box<[Slot<T>]>,
    progress: Padded<Progress>,
}

// SAFETY: 1. the two ends are distinct types, each created once per core (`Producer` and `Consumer` hold `Cell`s and are
// `!Sync`), and the ring's steps hand every slot from one end to the other by release and acquire. 2. `T: Send`
// because a message is written on one core and taken on another.
unsafe impl<T: Send> Send for Ring<T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    /// A ring of `capacity` slots (a power of two from 2 to 2^31) whose first index is `first`.
    pub(crate) fn new(capacity: u32, first: u32) -> Self {
        assert!(capacity.is_power_of_two() && (2..=1 << 31).contains(&capacity));
        let slot = |_| Slot { stamp: AtomicU32::new(first), value: UnsafeCell::new(MaybeUninit::uninit()) };
        Self {
            slots: (0..capacity).map(slot).collect(),
            progress: Padded(Progress { read: AtomicU32::new(first), executed: AtomicU32::new(first) }),
        }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.slots.len() as u32
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> &Slot<T> {
        let position = index as usize & (self.slots.len() - 1);
        // SAFETY: 1. the mask of a power of two keeps `position` below the length.
        unsafe { self.slots.get_unchecked(position) }
    }

    /// Whether the message of `index` lies in its slot.
    #[inline(always)]
    fn holds(&self, index: u32) -> bool {
        // [ring C1] acquire: pairs with the release of P3. Relaxed would let C2 read the slot before P2 wrote it; a
        // fence would cost a full barrier per look on weakly ordered machines.
        let order = relaxed_if(mutant!("ring-stamp-relaxed"), Ordering::Acquire);
        self.slot(index).stamp.load(order) == index.wrapping_add(1)
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        let mut index = self.progress.read.load(Ordering::Acquire);
        while self.holds(index) {
            self.slot(index).value.with_mut(|value| {
                // SAFETY: 1. both ends are gone (`&mut self`). 2. `read` was published at the end of the last pass, so
                // a slot from there on whose stamp matches was written (P2) and never moved out (C2).
                unsafe { value.cast::<T>().drop_in_place() }
            });
            index = index.wrapping_add(1);
        }
    }
}

/// The source's end.
pub(crate) struct Producer<T> {
    ring: Arc<Ring<T>>,
    /// All messages ever pushed, plus the first index: the ring's index is its lower half.
    write: Cell<u64>,
    read_seen: Cell<u32>,
}

impl<T> Producer<T> {
    /// The source's end of `ring`, at the count `write`: the ring's first index, or where the last producer stopped.
    ///
    /// # Safety
    ///
    /// 1. It is the only producer of this ring, or the one before it is gone, and this comes after all it did. 2. `write` is the sequence of its
    ///    last message.
    pub(crate) unsafe fn new(ring: Arc<Ring<T>>, write: u64) -> Self {
        let read = ring.progress.read.load(Ordering::Acquire);
        Self { ring, write: Cell::new(write), read_seen: Cell::new(read) }
    }

    /// Messages in the ring, as far as the source has looked: never too few.
    #[inline(always)]
    pub(crate) fn depth_seen(&self) -> u32 {
        self.index().wrapping_sub(self.read_seen.get())
    }

    /// The next index to write.
    #[inline(always)]
    fn index(&self) -> u32 {
        self.write.get() as u32
    }

    /// Messages in the ring, after looking again.
    pub(crate) fn depth(&self) -> u32 {
        // [ring P1] acquire: pairs with the release of C3. Relaxed would let P2 overwrite a slot that C2 still reads.
        let order = relaxed_if(mutant!("ring-read-relaxed"), Ordering::Acquire);
        self.read_seen.set(self.ring.progress.read.load(order));
        self.depth_seen()
    }

    /// Whether a push would find a free slot.
    #[inline(always)]
    pub(crate) fn has_space(&self) -> bool {
        // [ring P1] the line of `read` moves only when the last look says full.
        self.depth_seen() < self.ring.capacity() || self.depth() < self.ring.capacity()
    }

    /// Publishes `value` and returns its sequence, or gives it back when the ring is full.
    #[inline(always)]
    pub(crate) fn push(&self, value: T) -> Result<u64, T> {
        if !self.has_space() {
            return Err(value);
        }
        let index = self.index();
        let sequence = self.write.get() + 1;
        let slot = self.ring.slot(index);
        if mutant!("ring-stamp-first") {
            slot.stamp.store(sequence as u32, Ordering::Release);
        }
        // [ring P2]
        slot.value.with_mut(|place| {
            // SAFETY: 1. `has_space` says that the target has moved out what this slot held, and it will not look at
            // the slot again before P3. 2. This is the only producer.
            unsafe { place.cast::<T>().write(value) };
        });
        // [ring P3] [doorbell S1] release: publishes P2 to C1. Relaxed would let the stamp overtake the message; `SeqCst` would add
        // a full barrier to every message, which is the doorbell's business and only when its fence is symmetric.
        slot.stamp.store(sequence as u32, relaxed_if(mutant!("ring-publish-relaxed"), Ordering::Release));
        self.write.set(sequence);
        Ok(sequence)
    }

    /// The sequence of the last message pushed.
    pub(crate) fn sequence(&self) -> u64 {
        self.write.get()
    }

    /// Whether every message up to `sequence` has finished on the target.
    pub(crate) fn has_executed(&self, sequence: u64) -> bool {
        let order = relaxed_if(mutant!("ring-executed-relaxed"), Ordering::Acquire);
        let executed = self.ring.progress.executed.load(order);
        // Counted back from the end, where fewer than 2^32 messages are unfinished: a sequence of any age is told from a new one.
        let unfinished = self.index().wrapping_sub(executed);
        sequence + u64::from(unfinished) <= self.write.get()
    }
}

/// The target's end.
pub(crate) struct Consumer<T> {
    ring: Arc<Ring<T>>,
    next: Cell<u32>,
    published: Cell<u32>,
    /// Messages of this source that are in the middle of their function, by nesting.
    running: Cell<u32>,
    /// Index of the oldest of them.
    oldest: Cell<u32>,
}

impl<T> Consumer<T> {
    /// The target's end of `ring`, from where the last consumer stopped.
    ///
    /// # Safety
    ///
    /// 1. It is the only consumer of this ring, or the one before it is gone and had published (C3).
    pub(crate) unsafe fn new(ring: Arc<Ring<T>>) -> Self {
        let next = ring.progress.read.load(Ordering::Acquire);
        Self { ring, next: Cell::new(next), published: Cell::new(next), running: Cell::new(0), oldest: Cell::new(next) }
    }

    /// Whether no message waits.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        !self.ring.holds(self.next.get())
    }

    /// Takes the next message, and a guard to hold while it runs.
    pub(crate) fn pop(&self) -> Option<(T, Running<'_, T>)> {
        let mut place = MaybeUninit::uninit();
        let running = self.pop_into(&mut place)?;
        // SAFETY: 1. `pop_into` has filled it.
        Some((unsafe { place.assume_init() }, running))
    }

    /// As [`pop`](Self::pop), with the message in `place`, to be moved or run from there: it is copied once on its way from the slot.
    #[inline(always)]
    pub(crate) fn pop_into(&self, place: &mut MaybeUninit<T>) -> Option<Running<'_, T>> {
        let index = self.next.get();
        if !self.ring.holds(index) {
            return None;
        }
        if mutant!("ring-read-early") {
            self.ring.progress.read.store(index.wrapping_add(1), Ordering::Release);
        }
        // [ring C2]
        self.ring.slot(index).value.with_mut(|slot| {
            // SAFETY: 1. the stamp says that P2 has initialised the slot, and acquiring it makes that visible. 2. `next`
            // moves on at once, so it is moved out only here.
            place.write(unsafe { slot.cast::<T>().read() });
        });
        self.next.set(index.wrapping_add(1));
        // [ring C3]
        if self.next.get().wrapping_sub(self.published.get()) >= self.ring.capacity() / 4 {
            self.publish_read();
        }
        if self.running.get() == 0 {
            self.oldest.set(index);
        }
        self.running.set(self.running.get() + 1);
        Some(Running { consumer: self })
    }

    /// How many messages of this source are in the middle of their function.
    pub(crate) fn running(&self) -> u32 {
        self.running.get()
    }

    #[inline(always)]
    fn publish_read(&self) {
        // [ring C3] release: pairs with P1; the moves out of C2 come before it.
        let order = relaxed_if(mutant!("ring-moved-relaxed"), Ordering::Release);
        self.ring.progress.read.store(self.next.get(), order);
        self.published.set(self.next.get());
    }

    /// Ends a pass: publishes what was read and what has finished. `true`: something new was read.
    #[inline(always)]
    pub(crate) fn publish(&self) -> bool {
        let news = self.published.get() != self.next.get();
        if news {
            self.publish_read();
        }
        // [ring C4] release: what the functions wrote is visible to whoever sees the index. Never past a running one.
        let finished = match self.running.get() {
            running if running > 0 && !mutant!("ring-executed-early") => self.oldest.get(),
            _ => self.next.get(),
        };
        let order = relaxed_if(mutant!("ring-finished-relaxed"), Ordering::Release);
        self.ring.progress.executed.store(finished, order);
        news
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.publish();
    }
}

/// Held while a message's function runs; see [ring C4](self#steps).
pub(crate) struct Running<'a, T> {
    consumer: &'a Consumer<T>,
}

impl<T> Drop for Running<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        let running = &self.consumer.running;
        running.set(running.get() - 1);
    }
}

/// Both ends of a new ring.
#[cfg(test)]
pub(crate) fn ring<T>(capacity: u32, first: u32) -> (Producer<T>, Consumer<T>) {
    let ring = Arc::new(Ring::new(capacity, first));
    // SAFETY: 1. the ring is new: it has no other producer. 2. nor a message.
    let producer = unsafe { Producer::new(ring.clone(), u64::from(first)) };
    // SAFETY: 1. the ring is new: it has no other consumer.
    let consumer = unsafe { Consumer::new(ring) };
    (producer, consumer)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_of_a_message_is_one_line() {
        assert_eq!(size_of::<Slot<crate::Message>>(), 64);
    }

    #[test]
    fn order_and_capacity_hold_across_index_wrap() {
        for first in [0, u32::MAX - 5, u32::MAX, 1 << 31] {
            let (producer, consumer) = ring::<u32>(4, first);
            let mut expected = 0;
            for lap in 0..10 {
                for i in 0..4 {
                    let sequence = producer.push(lap * 4 + i).expect("space");
                    assert_eq!(sequence, u64::from(first) + u64::from(lap * 4 + i + 1));
                }
                assert_eq!(producer.push(99), Err(99), "a full ring gives the message back");
                while let Some((value, _running)) = consumer.pop() {
                    assert_eq!(value, expected);
                    expected += 1;
                }
                consumer.publish();
                assert!(producer.has_executed(producer.sequence()));
            }
            assert_eq!(expected, 40);
        }
    }

    #[test]
    fn a_nested_pass_does_not_publish_the_running_message_as_executed() {
        let (producer, consumer) = ring::<u32>(8, u32::MAX - 1);
        let first = producer.push(1).expect("space");
        let second = producer.push(2).expect("space");
        let (_, outer) = consumer.pop().expect("first");
        let (_, inner) = consumer.pop().expect("second, nested");
        drop(inner);
        consumer.publish();
        assert!(!producer.has_executed(first), "the outer function still runs");
        drop(outer);
        consumer.publish();
        assert!(producer.has_executed(second));
    }

    #[test]
    fn a_sequence_stays_executed_however_many_messages_follow_it() {
        let (producer, consumer) = ring::<u32>(4, 0);
        let first = producer.push(1).expect("space");
        assert!(!producer.has_executed(first));
        drop(consumer.pop());
        consumer.publish();
        for later in [1 << 31, (1 << 31) + 5, u32::MAX, 7] {
            // As if so many messages had been sent and executed since.
            producer.skip(later);
            consumer.skip(later);
            assert!(producer.has_executed(first) && producer.has_executed(producer.sequence()));
            let last = producer.push(2).expect("space");
            assert!(producer.has_executed(first) && !producer.has_executed(last));
            drop(consumer.pop().expect("it is there"));
            consumer.publish();
            assert!(producer.has_executed(last));
        }
    }

    impl<T> Producer<T> {
        fn skip(&self, messages: u32) {
            self.write.set(self.write.get() + u64::from(messages));
        }
    }

    impl<T> Consumer<T> {
        fn skip(&self, messages: u32) {
            self.next.set(self.next.get().wrapping_add(messages));
            self.publish();
        }
    }

    #[test]
    fn messages_left_in_the_ring_are_dropped_once() {
        let counter = Arc::new(());
        let (producer, consumer) = ring::<Arc<()>>(4, u32::MAX - 2);
        for _ in 0..3 {
            producer.push(counter.clone()).expect("space");
        }
        drop(consumer.pop());
        consumer.publish();
        drop((producer, consumer));
        assert_eq!(Arc::strong_count(&counter), 1);
    }
}
