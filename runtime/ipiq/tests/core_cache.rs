//! `CoreCache` from the outside.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use ipiq::{CoreCache, CoreId, LocalCache, Runtime};

fn on_core_0<Fut: Future<Output = ()> + 'static>(cores: usize, scenario: impl FnOnce() -> Fut + Send + 'static) {
    Runtime::builder().cores(cores).build().expect("a runtime").block_on(scenario);
}

fn fill(cache: &LocalCache<u32, u32>, keys: impl IntoIterator<Item = u32>) {
    for key in keys {
        assert!(cache.begin_fetch(key).fill(key));
    }
}

fn held(cache: &LocalCache<u32, u32>, keys: impl IntoIterator<Item = u32>) -> Vec<u32> {
    keys.into_iter().filter(|key| cache.get(key).is_some()).collect()
}

#[test]
fn a_key_a_range_and_everything_are_forgotten() {
    on_core_0(1, || async {
        let cache = CoreCache::new(100);
        let local = cache.local();
        fill(&local, 0..10);
        cache.invalidate(3).await.expect("no panic");
        assert_eq!(held(&local, 0..10), [0, 1, 2, 4, 5, 6, 7, 8, 9]);
        cache.invalidate_range(5..8).await.expect("no panic");
        assert_eq!(held(&local, 0..10), [0, 1, 2, 4, 8, 9]);
        cache.invalidate_range(..=1).await.expect("no panic");
        #[allow(clippy::reversed_empty_ranges, reason = "it is what is tested")]
        cache.invalidate_range(9..2).await.expect("an empty range is one of no key");
        assert_eq!(held(&local, 0..10), [2, 4, 8, 9]);
        cache.invalidate_all().await.expect("no panic");
        assert!(local.is_empty());
    });
}

/// A key that cannot be cloned on a core but the first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Bound(u32);

impl Clone for Bound {
    fn clone(&self) -> Self {
        assert!(ipiq::core_id().index() == 0 || self.0 != 7, "not here");
        Self(self.0)
    }
}

#[test]
fn a_core_that_cannot_clone_the_key_forgets_all_and_the_caller_is_told() {
    thread_local!(static KEPT: RefCell<Option<LocalCache<Bound, u32>>> = const { RefCell::new(None) });
    on_core_0(2, || async {
        let cache = CoreCache::new(100);
        let (here, there) = (cache.local(), cache.clone());
        assert!(here.begin_fetch(Bound(7)).fill(1) && here.begin_fetch(Bound(8)).fill(1));
        let keep = move || {
            let local = there.local();
            assert!(local.begin_fetch(Bound(8)).fill(1));
            KEPT.set(Some(local));
        };
        ipiq::call_on(CoreId::new(1), keep).await.expect("no panic");
        cache.invalidate(Bound(7)).await.expect_err("cloning the key panicked");
        assert_eq!(here.len(), 1);
        let left = ipiq::call_on(CoreId::new(1), || KEPT.take().map(|kept| kept.len()));
        assert_eq!(left.await.expect("no panic"), Some(0));
    });
}

#[test]
fn every_core_forgets() {
    thread_local!(static KEPT: RefCell<Option<LocalCache<u32, u32>>> = const { RefCell::new(None) });
    on_core_0(3, || async {
        let cache = CoreCache::new(100);
        let all = || (0..ipiq::core_count()).map(CoreId::new);
        for core in all() {
            let cache = cache.clone();
            let keep = move || {
                let local = cache.local();
                fill(&local, 0..4);
                KEPT.set(Some(local));
            };
            ipiq::call_on(core, keep).await.expect("no panic");
        }
        assert_eq!(cache.invalidate_range(1..3).await.expect("no panic"), 3);
        for core in all() {
            let look = || KEPT.with_borrow(|kept| held(kept.as_ref().expect("kept above"), 0..4));
            assert_eq!(ipiq::call_on(core, look).await.expect("no panic"), [0, 3]);
            ipiq::call_on(core, || KEPT.set(None)).await.expect("no panic");
        }
        assert!(cache.local().is_empty(), "the last clone took the entries along");
    });
}

#[test]
fn more_invalidations_than_the_queue_holds_become_one_of_everything() {
    on_core_0(1, || async {
        let cache = CoreCache::new(100);
        let local = cache.local();
        fill(&local, 0..10);
        let queue = CoreCache::<u32, u32>::QUEUE as u32;
        for n in 0..queue {
            cache.invalidate(1000 + n).await.expect("no panic");
        }
        assert_eq!(local.len(), 10, "as many as it holds");
        for n in 0..=queue {
            cache.invalidate(1000 + n).await.expect("no panic");
        }
        assert_eq!(local.len(), 0, "one more");
    });
}

#[test]
fn what_was_fetched_before_an_invalidation_is_not_kept_and_what_it_does_not_cover_is() {
    on_core_0(1, || async {
        let cache = CoreCache::new(100);
        let local: LocalCache<u32, u32> = cache.local();
        let (hit, other) = (local.begin_fetch(1), local.begin_fetch(2));
        cache.invalidate_range(..2).await.expect("no panic");
        let later = local.begin_fetch(1);
        assert!(!hit.fill(10));
        assert!(other.fill(20) && later.fill(11));
        assert_eq!((local.get(&1), local.get(&2)), (Some(11), Some(20)));
        let hit = local.begin_fetch(2);
        cache.invalidate_all().await.expect("no panic");
        assert!(!hit.fill(21));
        assert!(local.is_empty());
    });
}

#[test]
fn a_fetch_that_is_dropped_fills_nothing() {
    on_core_0(1, || async {
        let cache = CoreCache::<u32, u32>::new(100);
        let local = cache.local();
        {
            let mut fetching = pin!(local.get_or_fetch(1, std::future::pending));
            assert!(matches!(fetching.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        }
        assert!(local.is_empty());
        assert_eq!(local.get_or_fetch(1, || async { 7 }).await, 7);
        assert_eq!(local.get_or_fetch(1, || async { unreachable!("it is there") }).await, 7);
    });
}

#[test]
fn a_full_cache_lets_go_of_what_was_not_used() {
    on_core_0(1, || async {
        let cache = CoreCache::new(4);
        let local = cache.local();
        fill(&local, 0..4);
        assert!(local.get(&0).is_some());
        fill(&local, 4..6);
        assert_eq!(local.len(), 4);
        assert_eq!(held(&local, 0..6), [0, 3, 4, 5]);
        // Refilling one key over and over keeps to the capacity.
        (0..100).for_each(|_| fill(&local, [9]));
        assert!(local.len() <= 4);
    });
}

#[test]
fn what_was_just_filled_stays_also_when_all_the_others_were_used() {
    on_core_0(1, || async {
        let cache = CoreCache::new(3);
        let local = cache.local();
        fill(&local, 0..3);
        assert_eq!(held(&local, 0..3), [0, 1, 2]);
        fill(&local, [3]);
        assert_eq!(held(&local, 0..4), [1, 2, 3]);
    });
}

#[test]
fn a_capacity_may_be_any_number() {
    on_core_0(1, || async {
        let cache = CoreCache::new(usize::MAX);
        let local = cache.local();
        fill(&local, 0..100);
        assert_eq!(local.len(), 100);
    });
}

thread_local! {
    /// How many more comparisons of keys succeed.
    static COMPARISONS: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// A key whose comparison panics when there were enough of them, and with 13.
#[derive(Clone, PartialEq, Eq)]
struct Key(u32);

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        assert!(self.0 != 13 && other.0 != 13, "unlucky");
        let left = COMPARISONS.get();
        assert_ne!(left, 0, "no more comparisons");
        COMPARISONS.set(left - 1);
        self.0.cmp(&other.0)
    }
}

#[test]
fn a_comparison_that_panics_while_there_is_no_space_leaves_nothing_that_never_goes() {
    on_core_0(1, || async {
        for comparisons in 0..20 {
            let cache = CoreCache::new(2);
            let local: LocalCache<Key, u32> = cache.local();
            (0..2).for_each(|key| assert!(local.begin_fetch(Key(key)).fill(key)));
            for key in 2..6 {
                let begun = local.begin_fetch(Key(key));
                COMPARISONS.set(comparisons);
                // Whether it gets through depends on how many it needs.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| begun.fill(key)));
                COMPARISONS.set(u32::MAX);
            }
            (6..8).for_each(|key| assert!(local.begin_fetch(Key(key)).fill(key)));
            let there: Vec<u32> = (0..8).filter(|&key| local.get(&Key(key)).is_some()).collect();
            assert_eq!(there, [6, 7], "{comparisons}");
        }
    });
}

#[test]
fn keys_whose_comparison_panics_cost_the_entries_and_not_the_promise() {
    on_core_0(1, || async {
        let cache = CoreCache::new(100);
        let local: LocalCache<Key, u32> = cache.local();
        assert!(local.begin_fetch(Key(1)).fill(1) && local.begin_fetch(Key(2)).fill(2));
        cache.invalidate(Key(13)).await.expect("it is told, not carried out");
        cache.invalidate(Key(1)).await.expect("as above");
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| local.get(&Key(2))));
        looked.expect_err("the comparison's panic");
        assert_eq!((local.get(&Key(1)), local.len()), (None, 0));
    });
}

#[test]
fn foreign_threads_invalidate_too() {
    let runtime = Runtime::builder().cores(2).build().expect("a runtime");
    let cache = runtime.handle().core_cache::<u32, u32>(10);
    let told = cache.clone();
    runtime.block_on(move || async move {
        let local = told.local();
        fill(&local, 0..2);
        let plain = std::thread::spawn(move || Runtime::wait(told.invalidate(1)));
        while !plain.is_finished() {
            ipiq::yield_now().await;
        }
        assert_eq!(plain.join().expect("no panic").expect("no panic"), 2);
        assert_eq!(held(&local, 0..2), [0]);
    });
    drop(runtime);
    assert!(Runtime::wait(cache.invalidate_all()).expect_err("no core is left").is_gone());
}
