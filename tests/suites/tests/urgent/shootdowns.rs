//! Prompt shootdowns, in the middle of sections and elsewhere.

use std::hint::black_box;
use std::pin::pin;

use ipiq::{CoreCache, InterruptPolicy};
use ipiq_suites::runtimes::each_kind;
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::watch;

use super::sections::{Flag, is_pending};
use super::*;

/// Adds up, on every core; atomics only.
#[derive(Clone, Default)]
struct Sums(Arc<[AtomicU64; 2]>);

impl Sums {
    fn adding(&self, n: u64) -> InterruptSafe<impl Fn(CoreId) + Send + Sync + 'static> {
        let this = self.clone();
        // SAFETY: 1. to 5. it adds to an atomic.
        unsafe { InterruptSafe::new(move |core| _ = this.0[core.index()].fetch_add(n, Ordering::Relaxed)) }
    }

    fn get(&self) -> [u64; 2] {
        [0, 1].map(|core| self.0[core].load(Ordering::Relaxed))
    }
}

/// A task on core B in a section, which has begun, and lasts until the flag is raised.
async fn in_a_section() -> (Flag, ipiq::JoinHandle<()>) {
    let (begun, enough) = (Flag::default(), Flag::default());
    let (tell, until) = (begun.clone(), enough.clone());
    let task = ipiq::spawn_on(B, move || async move {
        let section = ipiq::preemptible(move || {
            tell.raise();
            until.spin();
        });
        section.await.expect("no panic");
    });
    begun.wait().await;
    (enough, task)
}

#[test]
fn a_prompt_shootdown_ends_while_a_section_goes_on() {
    let _watchdog = watch("a prompt shootdown and a section that waits for its end");
    each_kind(|builder| {
        two_cores(builder).block_on(|| async {
            let sums = Sums::default();
            for n in 1..=scaled(50, 200) {
                let (enough, task) = in_a_section().await;
                assert_eq!(ipiq::shootdown_prompt(sums.adding(1)).await.expect("no panic"), 2);
                assert_eq!(sums.get(), [n; 2]);
                enough.raise();
                task.await.expect("no panic");
            }
        });
    });
}

#[test]
fn what_is_prompt_waits_for_no_shootdown_that_is_not() {
    let _watchdog = watch("a shootdown in front of prompt ones");
    two_cores(Runtime::builder()).block_on(|| async {
        let (sums, names) = (Sums::default(), CoreCache::<u32, u64>::new(100));
        for n in 1..=scaled(50, 200) {
            let (enough, task) = in_a_section().await;
            let mut waits = pin!(ipiq::shootdown(|| ()));
            ipiq::shootdown_prompt(sums.adding(1)).await.expect("no panic");
            names.invalidate(7).await.expect("no panic");
            assert!(is_pending(waits.as_mut()), "it waits for the end of the section");
            enough.raise();
            assert_eq!((waits.await.expect("no panic"), sums.get()), (2, [n; 2]));
            task.await.expect("no panic");
        }
    });
}

#[test]
fn a_thread_that_runs_no_core_shoots_into_a_section() {
    let _watchdog = watch("a prompt shootdown of another thread");
    let runtime = two_cores(Runtime::builder());
    let (handle, sums) = (runtime.handle(), Sums::default());
    for n in 1..=scaled(20, 100) {
        let (enough, task) = Runtime::wait(handle.spawn_on(A, in_a_section)).expect("no panic");
        assert_eq!(Runtime::wait(handle.shootdown_prompt(sums.adding(1))).expect("no panic"), 2);
        assert_eq!(sums.get(), [n; 2]);
        enough.raise();
        Runtime::wait(task).expect("no panic");
    }
    drop(runtime);
    assert!(Runtime::wait(handle.shootdown_prompt(sums.adding(1))).expect_err("it has stopped").is_gone());
    assert_eq!(Arc::strong_count(&sums.0), 1, "nothing is kept");
}

#[test]
fn sections_that_come_and_go_run_every_prompt_shootdown_once() {
    let _watchdog = watch("short sections and prompt shootdowns");
    each_kind(|builder| {
        two_cores(builder).block_on(|| async {
            let (sums, enough) = (Sums::default(), Flag::default());
            let sections = [A, B].map(|core| {
                let enough = enough.clone();
                ipiq::spawn_on(core, move || async move {
                    while !enough.is_raised() {
                        ipiq::preemptible(|| black_box((0..1000u64).map(black_box).sum::<u64>()))
                            .await
                            .expect("no panic");
                        ipiq::yield_now().await;
                    }
                })
            });
            let mut sum = 0;
            for n in 0..scaled(300, 10_000) {
                // Some from here, some from the other core, several at a time.
                let here = [ipiq::shootdown_prompt(sums.adding(n)), ipiq::shootdown_prompt(sums.adding(1))];
                let adding = sums.adding(3);
                let there = ipiq::spawn_on(B, move || ipiq::shootdown_prompt(adding));
                for shootdown in here {
                    assert_eq!(shootdown.await.expect("no panic"), 2);
                }
                assert_eq!(there.await.expect("no panic").expect("no panic"), 2);
                sum += n + 4;
                assert_eq!(sums.get(), [sum; 2]);
            }
            enough.raise();
            for task in sections {
                task.await.expect("no panic");
            }
        });
    });
}

#[test]
fn without_interrupts_a_prompt_shootdown_waits_for_the_end_of_a_section() {
    let _watchdog = watch("a prompt shootdown that cannot interrupt");
    two_cores(Runtime::builder().interrupts(InterruptPolicy::Off)).block_on(|| async {
        let sums = Sums::default();
        for n in 1..=scaled(20, 100) {
            let (enough, task) = in_a_section().await;
            let mut waits = pin!(ipiq::shootdown_prompt(sums.adding(1)));
            assert!(is_pending(waits.as_mut()) && sums.get() == [n, n - 1]);
            enough.raise();
            assert_eq!((waits.await.expect("no panic"), sums.get()), (2, [n; 2]));
            task.await.expect("no panic");
        }
    });
}

#[test]
fn a_prompt_shootdown_that_nobody_awaits_is_carried_out_and_let_go_of() {
    let _watchdog = watch("prompt shootdowns that are dropped");
    let sums = Sums::default();
    let of_the_cores = sums.clone();
    two_cores(Runtime::builder()).block_on(|| async move {
        let sums = of_the_cores;
        let (enough, task) = in_a_section().await;
        (0..10).for_each(|_| drop(ipiq::shootdown_prompt(sums.adding(1))));
        ipiq::shootdown_prompt(sums.adding(1)).await.expect("in their order");
        assert_eq!(sums.get(), [11; 2]);
        enough.raise();
        task.await.expect("no panic");
    });
    assert_eq!(Arc::strong_count(&sums.0), 1, "nothing is kept");
}
