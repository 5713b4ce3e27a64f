//! Entries found by a key that names one life of a place: a key kept too long finds nothing.

/// Names an entry of a [`Table`]: the place in the low half, its generation in the high half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u64);

impl Key {
    /// Never given out by a table.
    pub(crate) const NONE: Self = Self(u64::MAX);
    /// Never given out by a table.
    pub(crate) const NOTIFIER: Self = Self(u64::MAX - 1);

    fn new(index: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(index))
    }

    fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

struct Place<T> {
    generation: u32,
    entry: Option<T>,
}

/// A growing array of places with a free list; memory stays at the highest number of entries ever held.
pub(crate) struct Table<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, entry: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, entry: None });
            // The two highest indices would meet the reserved keys; file descriptors and memory end long before.
            u32::try_from(self.places.len() - 1)
                .ok()
                .filter(|&i| i < u32::MAX - 1)
                .expect("fewer than 2^32 - 2 entries in a driver table")
        });
        let place = &mut self.places[index as usize];
        place.entry = Some(entry);
        Key::new(index, place.generation)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let place = self.places.get(key.index())?;
        if place.generation != key.generation() {
            return None;
        }
        place.entry.as_ref()
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.places.get_mut(key.index())?;
        if place.generation != key.generation() {
            return None;
        }
        let entry = place.entry.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(key.index() as u32);
        Some(entry)
    }

    /// Takes every entry out.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.free.clear();
        self.places.drain(..).filter_map(|place| place.entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_earlier_life_finds_nothing() {
        let mut table = Table::new();
        let old = table.insert('a');
        assert_eq!(table.remove(old), Some('a'));
        let new = table.insert('b');
        assert_eq!(old.index(), new.index(), "the place is used again");
        assert_eq!(table.get(old), None);
        assert_eq!(table.remove(old), None);
        assert_eq!(table.get(new), Some(&'b'));
    }

    #[test]
    fn reserved_keys_find_nothing() {
        let mut table = Table::new();
        table.insert(());
        assert_eq!(table.get(Key::NONE), None);
        assert_eq!(table.get(Key::NOTIFIER), None);
    }
}
