//! The wheel against an ordered map, and timers whose wakers come back.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{RawWaker, RawWakerVTable};
use std::thread_local;

use super::*;

/// Far more than any of these tests has to move.
const NO_LIMIT: u32 = u32::MAX;

/// A wheel, and what it should do.
#[derive(Default)]
struct Model {
    wheel: Wheel<u64>,
    timers: BTreeMap<u64, (u64, Timer)>,
    /// By deadline and number; those that never come are not in it.
    pending: BTreeMap<(u64, u64), ()>,
    now_ns: u64,
    inserted: u64,
}

impl Model {
    fn insert(&mut self, deadline_ns: u64) -> u64 {
        let number = self.inserted;
        self.inserted += 1;
        let timer = self.wheel.insert(deadline_ns, number, self.now_ns);
        // One that comes too late counts as one of the position.
        let deadline_ns = deadline_ns.max(self.wheel.position_ns());
        if deadline_ns != NEVER {
            self.pending.insert((deadline_ns, number), ());
        }
        self.timers.insert(number, (deadline_ns, timer));
        number
    }

    fn cancel(&mut self, number: u64) {
        let (deadline_ns, timer) = self.timers.remove(&number).expect("a timer");
        let was_pending = self.pending.remove(&(deadline_ns, number)).is_some() || deadline_ns == NEVER;
        assert_eq!(self.wheel.give_back(timer), was_pending.then_some(number));
    }

    /// Takes everything that is due, in order, with `moves` at a time.
    fn advance(&mut self, now_ns: u64, moves: u32) {
        self.now_ns = now_ns;
        while self.fire(moves) {}
        self.check();
    }

    /// As one look that ends early or not. Returns whether more may be due.
    fn fire(&mut self, mut moves: u32) -> bool {
        match self.wheel.next_due(self.now_ns, &mut moves) {
            Due::Fired(number) => {
                let ((deadline_ns, first), ()) = self.pending.pop_first().expect("something is pending");
                assert_eq!(number, first, "out of order at {}", self.now_ns);
                assert!(deadline_ns <= self.now_ns, "early: {deadline_ns} at {}", self.now_ns);
                true
            }
            Due::Unknown => true,
            Due::Nothing => {
                let first = self.pending.first_key_value();
                assert!(first.is_none_or(|(key, ())| key.0 > self.now_ns), "{first:?} is lost at {}", self.now_ns);
                false
            }
        }
    }

    /// For a wheel that has been asked what is due.
    fn check(&self) {
        assert_eq!(self.wheel.is_empty(), self.pending.is_empty());
        let first = self.pending.first_key_value().map(|(key, ())| key.0);
        let due_from = self.wheel.due_from_ns();
        assert_eq!(due_from.is_some(), first.is_some());
        assert!(due_from <= first, "{due_from:?} is after {first:?}");
        assert!(due_from.is_none_or(|due_from| due_from > self.now_ns), "it would not sleep");
        if self.pending.len() <= 32 {
            assert_eq!(due_from, first, "a wake-up without a timer");
        }
    }

    fn drain(mut self) {
        self.advance(NEVER, NO_LIMIT);
        assert!(self.pending.is_empty());
        let numbers: Vec<u64> = self.timers.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.cancel(number));
    }
}

/// How far away deadlines lie, and how far the clock goes.
fn distance(random: &mut fastrand::Rng) -> u64 {
    match random.u32(..10) {
        0 => random.u64(..4),
        1 => random.u64(..1 << 12),
        2 => 1 << random.u32(..64),
        3 => (1 << random.u32(..64)) - 1,
        4 => random.u64(..) >> random.u32(..64),
        _ => random.u64(1_000_000..100_000_000),
    }
}

fn random_operations(seed: u64, operations: usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut model = Model { now_ns: distance(&mut random), ..Model::default() };
    let mut known: Vec<u64> = Vec::new();
    let mut last_deadline_ns = 0;
    for _ in 0..operations {
        match random.u32(..20) {
            0..8 => {
                last_deadline_ns = match random.u32(..20) {
                    0 => NEVER,
                    1 => NEVER - random.u64(..3),
                    2..6 => last_deadline_ns,
                    _ => model.now_ns.saturating_add(distance(&mut random)),
                };
                known.push(model.insert(last_deadline_ns));
            }
            8..12 if !known.is_empty() => {
                let number = known.swap_remove(random.usize(..known.len()));
                model.cancel(number);
                if random.bool() {
                    // Armed anew.
                    known.push(model.insert(model.now_ns.saturating_add(distance(&mut random))));
                }
            }
            12..15 => {
                // A look that ends early; what comes next finds the wheel so.
                let step = random.u64(..) >> random.u32(24..64);
                model.now_ns = model.now_ns.saturating_add(step).min(NEVER - 1);
                for _ in 0..random.u32(1..8) {
                    let moves = random.u32(..4);
                    model.fire(moves);
                }
            }
            15..19 => {
                let to_ns = model.now_ns.saturating_add(random.u64(..2_000_000)).min(NEVER - 1);
                let moves = random.u32(1..10);
                model.advance(to_ns, moves);
            }
            _ => {
                let first = model.pending.first_key_value().map_or(0, |(key, ())| key.0);
                // To just before the first deadline, to it, or to just after it.
                let to_ns = first.saturating_add(random.u64(..3)).saturating_sub(1).clamp(model.now_ns, NEVER - 1);
                model.advance(to_ns, NO_LIMIT);
            }
        }
    }
    model.drain();
}

#[test]
fn the_wheel_does_what_an_ordered_map_does() {
    let (seeds, operations) = if cfg!(miri) { (2, 300) } else { (300, 1_000) };
    for seed in 0..seeds {
        random_operations(seed, operations);
    }
}

#[test]
fn deadlines_on_both_sides_of_each_boundary_fire_on_time() {
    let ms = 1_000_000;
    let around = |ns: u64| [ns.wrapping_sub(1), ns, ns.wrapping_add(1)];
    let boundaries = (0..11).map(|level| 1_u64 << (6 * level)).chain([ms, ms << 36, 1 << 63]);
    let boundaries: Vec<u64> = boundaries.flat_map(around).collect();
    for &start in &boundaries {
        for &distance in &boundaries {
            let mut model = Model::default();
            model.advance(start, NO_LIMIT);
            let deadline_ns = start.saturating_add(distance).min(NEVER - 1);
            model.insert(deadline_ns);
            model.insert(deadline_ns.saturating_add(1).min(NEVER - 1));
            model.advance(deadline_ns.saturating_sub(1).max(start), NO_LIMIT);
            model.advance(deadline_ns.max(start), NO_LIMIT);
            model.drain();
        }
    }
}

#[test]
fn equal_deadlines_fire_in_the_order_in_which_they_were_set() {
    let deadline_ns = 12_345_678_901;
    let mut model = Model::default();
    // Nearer and nearer, so that each set is inserted at a lower level; the last while the first are being divided.
    for level in (0..6).rev() {
        for _ in 0..100 {
            model.insert(deadline_ns);
        }
        model.advance(deadline_ns - (1 << (6 * level)), 7);
        model.insert(deadline_ns - (1 << (6 * level)) / 2);
        model.fire(3);
    }
    model.now_ns = deadline_ns;
    while model.fire(5) {
        if model.inserted < 2_000 {
            model.insert(deadline_ns);
        }
    }
    model.drain();
}

#[test]
fn a_slot_that_is_emptied_while_it_is_divided_holds_up_nothing() {
    let mut model = Model::default();
    let timers: Vec<u64> = (0..100).map(|n| model.insert(1_000_000 + n)).collect();
    model.now_ns = 1_000_000;
    assert!(model.fire(10), "some are still to be moved");
    timers.into_iter().for_each(|number| model.cancel(number));
    model.check();
    model.now_ns = 50_000_000;
    model.insert(60_000_000);
    model.insert(60_000_001);
    model.advance(60_000_000, NO_LIMIT);
    model.drain();
}

/// A clock that is set.
#[derive(Default)]
struct Dial(AtomicU64);

impl Clock for Dial {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn timers() -> Timers {
    Timers::new(Arc::new(Dial::default()))
}

/// A timer that nobody awaits.
fn set(timers: &Timers, deadline_ns: u64) {
    let _timer = timers.insert(deadline_ns, Waker::noop());
}

fn fired(fired: u32) -> Look {
    Look { fired, more: false }
}

#[test]
fn sleeps_end_on_the_grid_and_never_early() {
    let timers = &timers();
    assert_eq!(timers.sleep_ns(5), None);
    timers.insert(NEVER, Waker::noop());
    assert_eq!(timers.sleep_ns(5), None, "a timer that never fires arms nothing");
    assert!(timers.is_empty());
    timers.insert(1_500_000, Waker::noop());
    assert_eq!(timers.sleep_ns(400_000), Some(1_600_000));
    assert_eq!(timers.look(1_499_999), fired(0));
    assert_eq!(timers.look(1_500_000), fired(1));
    assert_eq!(timers.sleep_ns(1_500_000), None);
}

#[test]
fn a_clock_that_goes_back_makes_timers_late_and_none_early() {
    let timers = &timers();
    let far = timers.insert(1_000_000_000, Waker::noop());
    assert_eq!(timers.look(50_000_000), fired(0));
    timers.insert(20_000_000, Waker::noop());
    assert_eq!(timers.look(10_000_000), fired(0));
    assert_eq!(timers.look(20_000_000), fired(0), "the wheel is further");
    assert_eq!(timers.sleep_ns(20_000_000), Some(30_000_000), "it does not wait awake");
    assert_eq!(timers.look(50_000_000), fired(1));
    timers.give_back(far);
}

#[test]
fn a_clock_that_jumps_by_years_fires_what_is_due_at_once() {
    let timers = &timers();
    let year_ns = 365 * 86_400 * 1_000_000_000;
    (1..=10).for_each(|n| set(timers, n * year_ns));
    assert_eq!(timers.look(5 * year_ns), fired(5));
    assert_eq!(timers.look(NEVER - 1), fired(5));
}

#[test]
fn a_look_does_its_share_and_says_that_there_is_more() {
    const AT_ONCE: u32 = 10_000;
    let timers = &timers();
    (0..AT_ONCE).for_each(|_| set(timers, 5_000_000));
    let (mut all, mut looks) = (0, 0);
    loop {
        let look = timers.look(6_000_000);
        assert!(look.fired <= FIRES);
        all += look.fired;
        looks += 1;
        if !look.more {
            break;
        }
        assert_eq!(timers.sleep_ns(6_000_000), Some(0), "it does not sleep with timers left");
    }
    assert_eq!(all, AT_ONCE);
    // Each is moved once per level below 2^24 ns, and fired.
    assert!(looks <= AT_ONCE * 4 / MOVES + AT_ONCE / FIRES + 10, "{looks} looks");
}

#[test]
fn nobody_sleeps_over_a_slot_that_is_divided_in_part() {
    let timers = &timers();
    // All of one slot; the earliest is the last to be moved.
    (0..MOVES + 10).for_each(|_| set(timers, 16_000_000));
    set(timers, 15_995_000);
    assert_eq!(timers.look(15_995_000), Look { fired: 0, more: true });
    assert_eq!(timers.sleep_ns(15_995_000), Some(0));
    assert_eq!(timers.look(15_995_000), fired(1));
    assert_eq!(timers.sleep_ns(15_995_000), Some(5_000));
}

thread_local! {
    static TIMERS: Rc<Timers> = Rc::new(timers());
    static HELD: RefCell<Vec<Option<Timer>>> = const { RefCell::new(Vec::new()) };
    static WOKEN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// A waker that meddles with the timers of its thread when it is woken and when it is dropped.
struct Meddler {
    number: usize,
    cancels: usize,
}

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {
        WOKEN.with_borrow_mut(|woken| woken.push(self.number));
        TIMERS.with(|timers| {
            // Cancels one, looks for more that are due, and sets another one.
            cancel(timers, self.cancels);
            timers.look(10_000_000);
            set(timers, 11_000_000);
        });
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        TIMERS.with(|timers| set(timers, 12_000_000));
    }
}

fn cancel(timers: &Timers, number: usize) {
    let timer = HELD.with_borrow_mut(|held| held[number].take());
    timer.into_iter().for_each(|timer| timers.give_back(timer));
}

#[test]
fn wakers_may_cancel_look_and_insert_while_they_are_woken_and_dropped() {
    TIMERS.with(|timers| {
        for number in 0..100 {
            // Each cancels the one after it, which is due as well.
            let waker = Arc::new(Meddler { number, cancels: (number + 1).min(99) }).into();
            let timer = timers.insert(1_000_000 + number as u64, &waker);
            HELD.with_borrow_mut(|held| held.push(Some(timer)));
        }
        while timers.look(10_000_000).more {}
        let woken = WOKEN.take();
        assert_eq!(woken, (0..100).step_by(2).collect::<Vec<_>>());
        let left =
            |now_ns| core::iter::repeat_with(|| timers.look(now_ns)).take(10).map(|look| look.fired).sum::<u32>();
        assert_eq!(left(11_000_000), 50);
        assert_eq!(left(12_000_000), 100, "one for each meddler that was dropped");
        (0..100).for_each(|number| cancel(timers, number));
    });
}

struct Bomb;

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        panic!("a waker's panic");
    }
}

#[test]
fn wakers_that_panic_keep_no_other_timer_from_firing() {
    let timers = &timers();
    let bomb = Waker::from(Arc::new(Bomb));
    for n in 0..FIRES {
        timers.insert(1_000_000 + u64::from(n), if n % 2 == 0 { &bomb } else { Waker::noop() });
    }
    assert_eq!(timers.look(2_000_000), Look { fired: FIRES, more: true });
    assert_eq!(timers.look(2_000_000), fired(0));
    assert_eq!(timers.sleep_ns(2_000_000), None);
}

/// A waker whose clone fires the timers of its thread.
const FIRES_WHEN_CLONED: RawWaker = {
    unsafe fn clone(_: *const ()) -> RawWaker {
        TIMERS.with(|timers| assert_eq!(timers.look(10_000_000), fired(1)));
        RawWaker::new(core::ptr::null(), Waker::noop().vtable())
    }
    const TABLE: RawWakerVTable = RawWakerVTable::new(clone, |_| {}, |_| {}, |_| {});
    RawWaker::new(core::ptr::null(), &TABLE)
};

#[test]
fn a_timer_that_fires_while_its_new_waker_is_cloned_is_over() {
    // SAFETY: 1. the table's functions use no data.
    let waker = unsafe { Waker::from_raw(FIRES_WHEN_CLONED) };
    TIMERS.with(|timers| {
        let timer = timers.insert(1_000_000, Waker::noop());
        assert!(!timers.refresh(&timer, &waker));
        assert!(timers.has_fired(&timer));
        timers.give_back(timer);
    });
}
