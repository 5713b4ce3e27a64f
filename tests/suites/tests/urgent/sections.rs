//! Long computations in whose middle updates are acknowledged.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};

use ipiq::{CoreCache, CoreLocal, ForeignBox, InterruptPolicy, LocalCache, Replicated};
use ipiq_suites::runtimes::each_kind;
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::watch;

use super::*;

/// Set by one, waited for by another without awaiting.
#[derive(Clone, Default)]
pub(super) struct Flag(Arc<AtomicBool>);

impl Flag {
    pub(super) fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn spin(&self) {
        while !self.is_raised() {}
    }

    pub(super) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(super) async fn wait(&self) {
        while !self.is_raised() {
            ipiq::yield_now().await;
        }
    }
}

pub(super) fn is_pending(future: impl Future + Unpin) -> bool {
    let mut future = future;
    std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[test]
fn an_update_ends_while_a_section_goes_on_and_is_read_after_it() {
    let _watchdog = watch("an update and a section that waits for its end");
    each_kind(|builder| {
        two_cores(builder).block_on(|| async {
            let value = Replicated::new(0u64);
            for n in 1..=scaled(50, 200) {
                let (begun, updated) = (Flag::default(), Flag::default());
                let (tell, until, watched) = (begun.clone(), updated.clone(), value.clone());
                let task = ipiq::spawn_on(B, move || async move {
                    let local = watched.local();
                    assert_eq!(local.get(), n - 1);
                    // It does not end before the update has.
                    let section = ipiq::preemptible(move || {
                        tell.raise();
                        until.spin();
                    });
                    section.await.expect("no panic");
                    (local.get(), local.version())
                });
                begun.wait().await;
                value.replace(n).await.expect("no panic");
                updated.raise();
                assert_eq!(task.await.expect("no panic"), (n, n));
            }
        });
    });
}

#[test]
fn an_invalidation_ends_while_a_section_goes_on_and_nothing_stale_is_served_after_it() {
    let _watchdog = watch("an invalidation and a section that waits for its end");
    two_cores(Runtime::builder()).block_on(|| async {
        let cache = CoreCache::<u32, u64>::new(100);
        for n in 0..scaled(50, 200) {
            let (begun, forgotten) = (Flag::default(), Flag::default());
            let (tell, until, cached) = (begun.clone(), forgotten.clone(), cache.clone());
            let task = ipiq::spawn_on(B, move || async move {
                let local = cached.local();
                assert_eq!(local.get_or_fetch(7, || async { n }).await, n);
                // Hit by the invalidation, too.
                let under_way = local.begin_fetch(7);
                let section = ipiq::preemptible(move || {
                    tell.raise();
                    until.spin();
                });
                section.await.expect("no panic");
                (local.get(&7), under_way.fill(n))
            });
            begun.wait().await;
            cache.invalidate(7).await.expect("no panic");
            forgotten.raise();
            assert_eq!(task.await.expect("no panic"), (None, false));
        }
    });
}

#[test]
fn in_a_poll_an_update_waits_for_its_end() {
    let _watchdog = watch("an update and a poll");
    two_cores(Runtime::builder()).block_on(|| async {
        let value = Replicated::new(0u64);
        let (begun, enough) = (Flag::default(), Flag::default());
        let (tell, until, watched) = (begun.clone(), enough.clone(), value.clone());
        let task = ipiq::spawn_on(B, move || async move {
            let local = watched.local();
            tell.raise();
            until.spin();
            local.get()
        });
        begun.wait().await;
        let mut update = pin!(value.replace(1));
        for _ in 0..200 {
            assert!(is_pending(update.as_mut()));
            ipiq::yield_now().await;
        }
        enough.raise();
        assert_eq!(task.await.expect("no panic"), 0, "nobody takes a value away under a poll");
        update.await.expect("no panic");
    });
}

#[test]
fn without_interrupts_a_section_acknowledges_when_it_begins_and_ends() {
    let _watchdog = watch("a section that cannot be interrupted");
    two_cores(Runtime::builder().interrupts(InterruptPolicy::Off)).block_on(|| async {
        let value = Replicated::new(0u64);
        for n in 1..=scaled(20, 200) {
            let (begun, enough) = (Flag::default(), Flag::default());
            let (tell, until, watched) = (begun.clone(), enough.clone(), value.clone());
            let task = ipiq::spawn_on(B, move || async move {
                let local = watched.local();
                let section = ipiq::preemptible(move || {
                    tell.raise();
                    until.spin();
                });
                section.await.expect("no panic");
                local.get()
            });
            begun.wait().await;
            let update = value.replace(n);
            enough.raise();
            update.await.expect("no panic");
            assert!(task.await.expect("no panic") >= n - 1);
        }
    });
}

#[test]
fn nobody_reads_an_old_value_whatever_sections_begin_and_end_meanwhile() {
    let _watchdog = watch("updates among sections");
    let runtime = Runtime::builder().cores(3).build().expect("a runtime");
    runtime.block_on(|| async {
        let (value, ended) = (Replicated::new(0u64), Arc::new(AtomicU64::new(0)));
        let updates = scaled(300, 3_000);
        let readers: Vec<_> = [B, CoreId::new(2)]
            .into_iter()
            .map(|core| {
                let (value, ended) = (value.clone(), ended.clone());
                ipiq::spawn_on(core, move || async move {
                    let local = value.local();
                    let mut random = fastrand::Rng::with_seed(core.index() as u64);
                    let mut sections = 0;
                    while ended.load(Ordering::Acquire) < updates {
                        let turns = random.u32(0..3_000);
                        // Allocates, so that an interrupt in the middle of that is none the worse.
                        let section = ipiq::preemptible(move || {
                            (0..turns)
                                .fold(String::new(), |text, _| if text.len() > 50 { String::new() } else { text + "x" })
                        });
                        section.await.expect("no panic");
                        sections += 1;
                        let before = ended.load(Ordering::Acquire);
                        assert!(local.get() >= before);
                    }
                    sections
                })
            })
            .collect();
        for n in 1..=updates {
            value.replace(n).await.expect("no panic");
            ended.store(n, Ordering::Release);
        }
        for reader in readers {
            assert!(reader.await.expect("no old value") > 0);
        }
    });
}

#[test]
fn a_section_runs_on_no_core_and_wakes_tasks_of_its_own_all_the_same() {
    let _watchdog = watch("what a section reaches");
    two_cores(Runtime::builder()).block_on(|| async {
        let value = Replicated::new(1);
        let (sender, receiver) = futures::channel::oneshot::channel();
        let waiter = ipiq::spawn_local(receiver);
        ipiq::yield_now().await;
        let refused = ipiq::preemptible(move || {
            sender.send(5).expect("somebody waits");
            let panics = |f: &dyn Fn()| catch_unwind(AssertUnwindSafe(f)).is_err();
            [panics(&|| _ = ipiq::core_id()), panics(&|| _ = value.local().get())]
        });
        assert_eq!(refused.await.expect("caught"), [true, true]);
        assert_eq!(waiter.await.expect("no panic"), Ok(5));
        assert_eq!(ipiq::core_id(), A);
    });
}

#[test]
fn what_a_core_keeps_for_its_tasks_cannot_be_reached_in_a_section() {
    let _watchdog = watch("what a core keeps");
    two_cores(Runtime::builder()).block_on(|| async {
        let (value, dropped) = (Replicated::new(1), Arc::new(AtomicBool::new(false)));
        let kept = CoreLocal::new({
            let value = value.clone();
            move || value.local()
        });
        assert_eq!(kept.get().get(), 1);
        let (boxed, gone) = (ForeignBox::new(value.local()), ForeignBox::new(Raised(dropped.clone())));
        let seen = ipiq::preemptible({
            let kept = kept.clone();
            move || {
                drop(gone);
                let of_the_box = (boxed.is_home(), boxed.try_with(|local| local.get()));
                let refused = |f: &dyn Fn()| catch_unwind(AssertUnwindSafe(f)).is_err();
                let others = [
                    refused(&|| _ = kept.get().get()),
                    refused(&|| drop(ipiq::spawn_blocking(|| ()))),
                    refused(&|| {
                        drop(ipiq::net::TcpListener::bind("127.0.0.1:0"));
                    }),
                ];
                (of_the_box, others, boxed)
            }
        });
        let (of_the_box, others, boxed) = seen.await.expect("caught");
        assert_eq!((of_the_box, others), ((false, None), [true; 3]));
        assert_eq!((kept.get().get(), boxed.try_with(|local| local.get())), (1, Some(1)), "it is there again");
        assert!(ipiq::spawn_blocking(|| true).await.expect("it runs"));
        while !dropped.load(Ordering::Relaxed) {
            ipiq::yield_now().await;
        }
        let panicked = ipiq::preemptible(|| panic!("in a section")).await;
        assert!(panicked.is_err() && kept.get().get() == 1, "also after a panic");
    });
}

/// Raises its flag when it is dropped; in a box it need not be `Send`.
struct Raised(Arc<AtomicBool>);

impl Drop for Raised {
    fn drop(&mut self) {
        assert_eq!(ipiq::core_id(), A, "a box's value is dropped on its core");
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_section_that_waits_for_its_own_core_is_told_so() {
    let _watchdog = watch("a section that waits for its own core");
    two_cores(Runtime::builder()).block_on(|| async {
        let handle = ipiq::handle();
        let error = ipiq::preemptible(move || Runtime::wait(handle.call_on(A, || ()))).await.expect_err("a panic");
        assert!(error.to_string().contains("waiting here would stop everything on it"), "{error}");
    });
}

#[derive(Default)]
struct Looking(u64);

thread_local! {
    /// What [`Looking`] looks into when it is cloned.
    static NAMES: RefCell<Option<LocalCache<u32, u64>>> = const { RefCell::new(None) };
    static SEEN: Cell<Option<u64>> = const { Cell::new(None) };
}

impl Clone for Looking {
    fn clone(&self) -> Self {
        NAMES.with_borrow(|names| SEEN.set(names.as_ref().and_then(|names| names.get(&7))));
        Self(self.0)
    }
}

#[test]
fn what_is_cloned_after_a_section_finds_nothing_stale_in_caches() {
    let _watchdog = watch("a clone that looks into a cache");
    two_cores(Runtime::builder()).block_on(|| async {
        let (names, value) = (CoreCache::<u32, u64>::new(100), Replicated::new(Looking(0)));
        let (begun, told) = (Flag::default(), Flag::default());
        let task = ipiq::spawn_on(B, {
            let (names, value, begun, told) = (names.clone(), value.clone(), begun.clone(), told.clone());
            move || async move {
                let (names, local) = (names.local(), value.local());
                assert_eq!(names.get_or_fetch(7, || async { 70 }).await, 70);
                NAMES.set(Some(names));
                let section = ipiq::preemptible(move || {
                    begun.raise();
                    told.spin();
                });
                section.await.expect("no panic");
                NAMES.take();
                (local.read(|value| value.0), SEEN.get())
            }
        });
        begun.wait().await;
        names.invalidate(7).await.expect("no panic");
        value.replace(Looking(1)).await.expect("no panic");
        told.raise();
        assert_eq!(task.await.expect("no panic"), (1, None));
    });
}

/// A key that does not like to go.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Clinging(u32);

static CLINGS: AtomicBool = AtomicBool::new(false);

impl Drop for Clinging {
    fn drop(&mut self) {
        assert!(!CLINGS.load(Ordering::Relaxed), "a key clings");
    }
}

#[test]
fn the_end_of_a_section_drops_no_key() {
    let _watchdog = watch("keys that cling");
    two_cores(Runtime::builder()).block_on(|| async {
        let cache = CoreCache::<Clinging, u32>::new(100);
        let (begun, told) = (Flag::default(), Flag::default());
        let (tell, until, cached) = (begun.clone(), told.clone(), cache.clone());
        let (ready, go) = (Flag::default(), Flag::default());
        let (is_ready, may_go) = (ready.clone(), go.clone());
        let task = ipiq::spawn_on(B, move || async move {
            let local = cached.local();
            is_ready.raise();
            may_go.wait().await;
            // One invalidation waits already for a look.
            let section = ipiq::preemptible(move || {
                tell.raise();
                until.spin();
                CLINGS.store(true, Ordering::Relaxed);
            });
            let ended = section.await;
            CLINGS.store(false, Ordering::Relaxed);
            (ended.is_ok(), local.len())
        });
        ready.wait().await;
        cache.invalidate(Clinging(7)).await.expect("no panic");
        go.raise();
        begun.wait().await;
        cache.invalidate(Clinging(8)).await.expect("no panic");
        told.raise();
        assert_eq!(task.await.expect("no panic"), (true, 0));
    });
}

#[test]
fn a_section_that_panics_or_is_dropped_harms_nobody() {
    let _watchdog = watch("sections that do not end well");
    two_cores(Runtime::builder()).block_on(|| async {
        let error = ipiq::preemptible(|| panic!("in a section")).await.expect_err("a panic");
        assert!(error.is_panic());
        let ran = Flag::default();
        let tell = ran.clone();
        drop(ipiq::preemptible(move || tell.raise()));
        ipiq::preemptible(|| ()).await.expect("no panic");
        assert!(!ran.0.load(Ordering::Relaxed), "it was dropped before it began");
        assert_eq!(Arc::strong_count(&ran.0), 1);
    });
}

#[test]
fn who_triggers_the_others_in_a_section_is_not_among_them() {
    let _watchdog = watch("triggers out of a section");
    two_cores(Runtime::builder()).block_on(|| async {
        let ran = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let counting = ran.clone();
        let handler = register(&ipiq::handle(), move |core| _ = counting[core.index()].fetch_add(1, Ordering::Release));
        let (trigger, other) = (handler.to_trigger(), ran[1].clone());
        let triggered = ipiq::preemptible(move || {
            let triggered = trigger.trigger_others();
            while other.load(Ordering::Acquire) == 0 {}
            triggered
        });
        assert_eq!(triggered.await.expect("no panic"), Ok(1));
        handler.unregister().await;
        assert_eq!(ran.map(|ran| ran.load(Ordering::Relaxed)), [0, 1]);
    });
}

#[test]
fn tasks_run_between_two_sections() {
    let _watchdog = watch("sections one after the other");
    two_cores(Runtime::builder()).block_on(|| async {
        let polls = Arc::new(AtomicU64::new(0));
        let counting = polls.clone();
        let other = ipiq::spawn_local(async move {
            loop {
                counting.fetch_add(1, Ordering::Relaxed);
                ipiq::yield_now().await;
            }
        });
        let section = || {
            let polls = polls.clone();
            ipiq::preemptible(move || polls.load(Ordering::Relaxed))
        };
        let mut sections: Vec<_> = (0..4).map(|_| section()).collect();
        let mut seen = Vec::new();
        for section in &mut sections {
            seen.push(section.await.expect("no panic"));
        }
        assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
        other.abort();
    });
}

#[test]
fn a_runtime_that_ends_drops_sections_that_have_not_begun() {
    let _watchdog = watch("sections at the end of a runtime");
    for _ in 0..scaled(20, 200) {
        let token = Arc::new(());
        let runtime = two_cores(Runtime::builder());
        let held = token.clone();
        drop(runtime.handle().spawn_on(B, move || async move {
            let mut sections: Vec<_> = (0..3)
                .map(|_| {
                    ipiq::preemptible({
                        let held = held.clone();
                        move || drop(held)
                    })
                })
                .collect();
            poll_fn(|cx| {
                sections.iter_mut().for_each(|section| _ = std::pin::Pin::new(section).poll(cx));
                Poll::<()>::Pending
            })
            .await;
        }));
        drop(runtime);
        assert_eq!(Arc::strong_count(&token), 1);
    }
}
