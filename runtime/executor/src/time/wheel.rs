//! Which timer is due next: the wheel. It calls nobody.

use super::entries::Entries;

/// Bits of a deadline that one level looks at.
const BITS: u32 = 6;
/// Slots of a level.
const SLOTS: usize = 1 << BITS;
/// So many that the last one reaches to the end of the clock.
const LEVELS: usize = u64::BITS.div_ceil(BITS) as usize;
/// Entries that are looked through for the earliest deadline before a sleep.
const NEAREST: u32 = 32;
/// Entries of a slot that are looked through when it has begun; where there are more, it is divided.
const FEW: u32 = 4;

/// A timer of one wheel, until it is given back.
#[derive(Debug)]
pub(super) struct Timer(u32);

/// A slot of a level: its level and its number there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u16);

impl Place {
    /// In no slot: fired, never due, or free.
    pub(super) const NOWHERE: Self = Self(u16::MAX);

    #[inline(always)]
    fn new(level: u32, slot: u32) -> Self {
        Self((level << BITS | slot) as u16)
    }

    #[inline(always)]
    fn level(self) -> u32 {
        u32::from(self.0) >> BITS
    }

    #[inline(always)]
    fn slot(self) -> u64 {
        u64::from(self.0) % SLOTS as u64
    }

    #[inline(always)]
    fn bit(self) -> u64 {
        1 << self.slot()
    }

    #[inline(always)]
    fn index(self) -> usize {
        usize::from(self.0)
    }

    /// How wide its level's slots are, as a power of two.
    #[inline(always)]
    fn shift(self) -> u32 {
        self.level() * BITS
    }
}

/// What [`Wheel::next_due`] found.
pub(super) enum Due<T> {
    /// The first of those that are due. It is in no slot any more.
    Fired(T),
    /// No more is due.
    Nothing,
    /// The moves did not suffice to tell.
    Unknown,
}

/// Timers in the order of their deadlines.
pub(super) struct Wheel<T> {
    entries: Entries<T>,
    position_ns: u64,
    /// A slot that began when it was the first; the position is its start as long as it is in use.
    begun: Option<Place>,
    /// A bit for each level that has an entry.
    levels_in_use: u32,
    /// A bit for each slot of each level.
    in_use: [u64; LEVELS],
    /// The oldest entry of each slot in use.
    oldest: [u32; LEVELS * SLOTS],
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        Self {
            entries: Entries::default(),
            position_ns: 0,
            begun: None,
            levels_in_use: 0,
            in_use: [0; LEVELS],
            oldest: [0; LEVELS * SLOTS],
        }
    }
}

impl<T> Wheel<T> {
    /// Whether nothing will ever be due.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.levels_in_use == 0
    }

    /// How many timers there are, fired ones that have not been given back among them.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.entries.len()
    }

    /// [time W1]; `seen_ns` is a time that the clock has reached.
    #[inline]
    pub(super) fn insert(&mut self, deadline_ns: u64, payload: T, seen_ns: u64) -> Timer {
        let index = self.entries.take(deadline_ns, payload);
        if deadline_ns == u64::MAX {
            return Timer(index);
        }
        if self.is_empty() {
            // [time W1]
            self.begun = None;
            self.advance(seen_ns);
        }
        let begun = self.begun.filter(|begun| self.is_on_position(*begun, deadline_ns));
        self.link(index, begun.unwrap_or_else(|| self.place_of(deadline_ns)));
        Timer(index)
    }

    /// What a timer was inserted with; `None`: it has fired.
    #[inline]
    pub(super) fn get_mut(&mut self, timer: &Timer) -> Option<&mut T> {
        self.entries[timer.0].payload.as_mut()
    }

    /// [time W2]
    #[inline]
    pub(super) fn give_back(&mut self, timer: Timer) -> Option<T> {
        if self.entries[timer.0].place != Place::NOWHERE {
            self.unlink(timer.0);
        }
        self.entries.give_back(timer.0)
    }

    /// [time F2] to [time F4]: the first timer whose deadline is not after `now_ns`. Each move takes one of `moves`.
    #[inline]
    pub(super) fn next_due(&mut self, now_ns: u64, moves: &mut u32) -> Due<T> {
        if now_ns < self.position_ns {
            return Due::Nothing;
        }
        loop {
            let place = match self.begun {
                Some(begun) if self.is_in_use(begun) => begun,
                _ => {
                    // [time F2]
                    let Some((place, start_ns)) = self.first_in_use().filter(|first| first.1 <= now_ns) else {
                        self.begun = None;
                        self.advance(now_ns);
                        return Due::Nothing;
                    };
                    self.begun = Some(place);
                    self.advance(start_ns);
                    place
                }
            };
            let oldest = self.oldest[place.index()];
            // Where a slot has not been divided to its end, there are others at lower levels.
            let is_whole = self.levels_in_use.trailing_zeros() == place.level();
            let earliest = match place.level() {
                0 => Some(oldest),
                _ if is_whole => self.earliest(oldest, FEW),
                _ => None,
            };
            let Some(earliest) = earliest else {
                // [time F4]
                if self.divide(place, moves) {
                    continue;
                }
                return Due::Unknown;
            };
            // [time F3]
            let entry = &mut self.entries[earliest];
            if entry.deadline_ns > now_ns {
                return Due::Nothing;
            }
            let payload = entry.payload.take();
            self.unlink(earliest);
            if let Some(payload) = payload {
                return Due::Fired(payload);
            }
        }
    }

    /// [time S1]: a time before which nothing is due, and the first deadline if few are near it. `None`: nothing will ever be due.
    pub(super) fn due_from_ns(&self) -> Option<u64> {
        if self.begun.is_some_and(|begun| self.is_in_use(begun) && self.levels_in_use.trailing_zeros() < begun.level())
        {
            return Some(self.position_ns);
        }
        let (place, start_ns) = self.first_in_use()?;
        let earliest = self.earliest(self.oldest[place.index()], NEAREST);
        // One that came too late is due when the clock has reached the position.
        Some(earliest.map_or(start_ns, |earliest| self.entries[earliest].deadline_ns).max(self.position_ns))
    }

    /// The first of the earliest deadlines of a slot; `None`: there are more than `limit` to look through.
    #[inline(always)]
    fn earliest(&self, oldest: u32, limit: u32) -> Option<u32> {
        let (mut earliest, mut index) = (oldest, oldest);
        let mut earliest_ns = u64::MAX;
        for _ in 0..limit {
            let entry = &self.entries[index];
            if entry.deadline_ns < earliest_ns {
                (earliest, earliest_ns) = (index, entry.deadline_ns);
            }
            index = entry.next;
            if index == oldest {
                return Some(earliest);
            }
        }
        None
    }

    /// [time F4]: `false` when `moves` are used up before the slot is empty.
    fn divide(&mut self, place: Place, moves: &mut u32) -> bool {
        let mut index = self.oldest[place.index()];
        let youngest = self.entries[index].previous;
        self.set_unused(place);
        while *moves > 0 {
            *moves -= 1;
            let next = self.entries[index].next;
            self.link(index, self.place_of(self.entries[index].deadline_ns));
            if index == youngest {
                return true;
            }
            index = next;
        }
        // The rest is the slot's again.
        self.entries[index].previous = youngest;
        self.entries[youngest].next = index;
        self.set_in_use(place, index);
        false
    }

    #[inline(always)]
    fn advance(&mut self, to_ns: u64) {
        self.position_ns = self.position_ns.max(to_ns);
    }

    /// Where a deadline belongs.
    #[inline(always)]
    fn place_of(&self, deadline_ns: u64) -> Place {
        let deadline_ns = deadline_ns.max(self.position_ns);
        // The lowest bit is of level 0 whether it differs or not.
        let highest = (deadline_ns ^ self.position_ns | 1).ilog2();
        let level = highest / BITS;
        Place::new(level, (deadline_ns >> (level * BITS)) as u32 % SLOTS as u32)
    }

    /// Whether a deadline lies in a slot on which the position is.
    #[inline(always)]
    fn is_on_position(&self, place: Place, deadline_ns: u64) -> bool {
        deadline_ns.max(self.position_ns) >> place.shift() == self.position_ns >> place.shift()
    }

    /// The first slot, and the earliest deadline that belongs there.
    #[inline(always)]
    fn first_in_use(&self) -> Option<(Place, u64)> {
        if self.is_empty() {
            return None;
        }
        let level = self.levels_in_use.trailing_zeros();
        let slot = self.in_use[level as usize].trailing_zeros();
        let shift = level * BITS;
        let start_ns = (self.position_ns >> shift & !(SLOTS as u64 - 1) | u64::from(slot)) << shift;
        Some((Place::new(level, slot), start_ns))
    }

    #[inline(always)]
    fn is_in_use(&self, place: Place) -> bool {
        self.in_use[place.level() as usize] & place.bit() != 0
    }

    #[inline(always)]
    fn set_in_use(&mut self, place: Place, oldest: u32) {
        self.in_use[place.level() as usize] |= place.bit();
        self.levels_in_use |= 1 << place.level();
        self.oldest[place.index()] = oldest;
    }

    #[inline(always)]
    fn set_unused(&mut self, place: Place) {
        let slots = &mut self.in_use[place.level() as usize];
        *slots &= !place.bit();
        if *slots == 0 {
            self.levels_in_use &= !(1 << place.level());
        }
    }

    /// Appends an entry that is in no slot.
    #[inline(always)]
    fn link(&mut self, index: u32, place: Place) {
        let (mut oldest, mut youngest) = (index, index);
        if self.is_in_use(place) {
            oldest = self.oldest[place.index()];
            youngest = core::mem::replace(&mut self.entries[oldest].previous, index);
            self.entries[youngest].next = index;
        } else {
            self.set_in_use(place, index);
        }
        let entry = &mut self.entries[index];
        (entry.place, entry.next, entry.previous) = (place, oldest, youngest);
    }

    /// Takes an entry out of its slot.
    #[inline(always)]
    fn unlink(&mut self, index: u32) {
        let entry = &mut self.entries[index];
        let (next, previous) = (entry.next, entry.previous);
        let place = core::mem::replace(&mut entry.place, Place::NOWHERE);
        if next == index {
            return self.set_unused(place);
        }
        self.entries[next].previous = previous;
        self.entries[previous].next = next;
        let oldest = &mut self.oldest[place.index()];
        if *oldest == index {
            *oldest = next;
        }
    }
}

#[cfg(test)]
impl<T> Wheel<T> {
    pub(super) fn position_ns(&self) -> u64 {
        self.position_ns
    }
}
