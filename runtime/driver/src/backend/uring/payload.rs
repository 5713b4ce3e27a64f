//! A place for one buffer of any type, at an address that does not change.

use std::cell::{Cell, UnsafeCell};
use std::mem::{MaybeUninit, align_of, size_of};

/// Buffer values up to this size (a `Vec` has 24 bytes) lie in the payload itself, larger ones in a box.
const INLINE: usize = 64;

#[repr(align(16))]
struct Area(UnsafeCell<MaybeUninit<[u8; INLINE]>>);

/// Holds one value while the kernel uses its memory. Shared by `Rc`, so it never moves.
pub(super) struct Payload {
    area: Area,
    /// Drops the value; `None` while there is none.
    discard: Cell<Option<unsafe fn(*mut u8)>>,
}

const fn is_inline<B>() -> bool {
    size_of::<B>() <= INLINE && align_of::<B>() <= align_of::<Area>()
}

/// # Safety
///
/// 1. `area` holds a value put there as `B`, which is not used again.
unsafe fn discard<B>(area: *mut u8) {
    // SAFETY: 1. by (1), which is passed on.
    drop(unsafe { take_from::<B>(area) });
}

/// # Safety
///
/// 1. `area` holds a value put there as `B`, which is not used again.
unsafe fn take_from<B>(area: *mut u8) -> B {
    if is_inline::<B>() {
        // SAFETY: `put` wrote a `B` here (1), for which the area is large and aligned enough.
        unsafe { area.cast::<B>().read() }
    } else {
        // SAFETY: `put` wrote the pointer here (1).
        let boxed = unsafe { area.cast::<*mut B>().read() };
        // SAFETY: the pointer came from `Box::into_raw` and is used once (1).
        *unsafe { Box::from_raw(boxed) }
    }
}

impl Payload {
    pub(super) fn new() -> Self {
        Self { area: Area(UnsafeCell::new(MaybeUninit::uninit())), discard: Cell::new(None) }
    }

    /// Takes a value in and returns where it stays until it is taken or discarded.
    ///
    /// # Panics
    ///
    /// If there is a value already.
    pub(super) fn put<B>(&self, value: B) -> *mut B {
        assert!(self.discard.get().is_none(), "a payload holds one value");
        let area = self.area.0.get().cast::<u8>();
        self.discard.set(Some(discard::<B>));
        if is_inline::<B>() {
            let place = area.cast::<B>();
            // SAFETY: the area is unused, large and aligned enough.
            unsafe { place.write(value) };
            place
        } else {
            let place = Box::into_raw(Box::new(value));
            // SAFETY: the area is unused, and larger than a pointer.
            unsafe { area.cast::<*mut B>().write(place) };
            place
        }
    }

    /// Takes the value out.
    ///
    /// # Safety
    ///
    /// 1. The payload holds a value that was put there as `B`.
    /// 2. The kernel does not use its memory any more.
    pub(super) unsafe fn take<B>(&self) -> B {
        self.discard.set(None);
        // SAFETY: 1. by (1), and no longer marked as held.
        unsafe { take_from(self.area.0.get().cast()) }
    }

    /// Drops the value, if there is one.
    ///
    /// # Safety
    ///
    /// 1. The kernel does not use its memory any more.
    pub(super) unsafe fn discard(&self) {
        if let Some(discard) = self.discard.take() {
            // SAFETY: 1. `discard` was set by `put` for the type it put, and is taken once.
            unsafe { discard(self.area.0.get().cast()) };
        }
    }
}

// No `Drop`: a payload that the kernel may still use must leak its value rather than free it.

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    fn holds_and_gives_back<B>(value: B, check: impl Fn(&B)) {
        let payload = Payload::new();
        let place = payload.put(value);
        // SAFETY: the value was put as `B` and nothing else uses it.
        check(unsafe { &*place });
        // SAFETY: 1. put as `B` above. 2. no kernel is involved.
        check(&unsafe { payload.take::<B>() });
    }

    #[test]
    fn values_of_any_size_and_alignment_keep_their_place() {
        #[repr(align(64))]
        struct Aligned(u8);
        holds_and_gives_back(vec![1u8, 2, 3], |v| assert_eq!(v[..], [1, 2, 3]));
        holds_and_gives_back([7u8; 4096], |v| assert!(v.iter().all(|&b| b == 7)));
        holds_and_gives_back((), |()| ());
        holds_and_gives_back(Aligned(9), |a| {
            assert_eq!(a.0, 9);
            assert_eq!(std::ptr::from_ref(a) as usize % 64, 0);
        });
    }

    #[test]
    fn a_discarded_value_is_dropped_once() {
        let counter = Rc::new(());
        let payload = Payload::new();
        payload.put(Rc::clone(&counter));
        // SAFETY: 1. no kernel is involved.
        unsafe { payload.discard() };
        assert_eq!(Rc::strong_count(&counter), 1);
        // SAFETY: 1. no kernel is involved.
        unsafe { payload.discard() };
        assert_eq!(Rc::strong_count(&counter), 1);
    }
}
