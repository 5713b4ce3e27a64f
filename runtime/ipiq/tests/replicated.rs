//! `Replicated` and `shootdown` from the outside.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ipiq::{CoreId, Handle, IdlePolicy, Local, Replicated, Runtime};

fn runtime(cores: usize) -> Runtime {
    Runtime::builder().cores(cores).build().expect("a runtime")
}

fn all() -> impl Iterator<Item = CoreId> {
    (0..ipiq::core_count()).map(CoreId::new)
}

/// Keeps a copy alive on each core, and reads it.
async fn read_everywhere<T: Copy + Send + Sync + 'static>(value: &Replicated<T>) -> Vec<T> {
    let mut values = Vec::new();
    for core in all() {
        let value = value.clone();
        values.push(ipiq::call_on(core, move || value.local().get()).await.expect("a value"));
    }
    values
}

#[test]
fn after_an_update_every_core_reads_the_new_value() {
    runtime(3).block_on(|| async {
        let value = Replicated::new(1);
        let keepers: Vec<_> = all()
            .map(|core| {
                let value = value.clone();
                ipiq::spawn_on(core, move || async move {
                    let local: Local<i32> = value.local();
                    while local.get() < 9 {
                        ipiq::yield_now().await;
                    }
                })
            })
            .collect();
        for n in 2..9 {
            value.replace(n).await.expect("no panic");
            assert_eq!(read_everywhere(&value).await, [n; 3]);
            assert_eq!(*value.snapshot(), n);
        }
        value.modify(|n| *n += 1).await.expect("no panic");
        for keeper in keepers {
            keeper.await.expect("it saw the last value");
        }
    });
}

#[test]
fn increments_of_all_cores_at_once_are_all_there_and_every_core_ends_with_the_same_value() {
    runtime(3).block_on(|| async {
        let value = Replicated::new(0u64);
        let updaters: Vec<_> = all()
            .map(|core| {
                let value = value.clone();
                ipiq::spawn_on(core, move || async move {
                    let local = value.local();
                    for _ in 0..50 {
                        let before = local.get();
                        value.modify(|n| *n += 1).await.expect("no panic");
                        assert!(local.get() > before);
                    }
                })
            })
            .collect();
        for updater in updaters {
            updater.await.expect("no panic");
        }
        value.modify(|_| ()).await.expect("no panic");
        assert_eq!(read_everywhere(&value).await, [150; 3]);
    });
}

#[test]
fn cores_that_sleep_are_woken_for_an_update_and_foreign_threads_may_ask_for_it() {
    for idle in [IdlePolicy::Park, IdlePolicy::Spin] {
        let runtime = Runtime::builder().cores(2).idle(idle).build().expect("a runtime");
        let value = runtime.handle().replicated(1);
        let held = {
            let value = value.clone();
            runtime.handle().spawn_on(CoreId::new(1), move || async move {
                let local = value.local();
                ipiq::time::sleep(Duration::from_secs(3600)).await;
                local.get()
            })
        };
        for n in 2..30 {
            Runtime::wait(value.replace(n)).expect("no panic");
            let value = value.clone();
            let read = runtime.handle().call_on(CoreId::new(1), move || value.local().get());
            assert_eq!(Runtime::wait(read).expect("a value"), n);
        }
        drop(held);
    }
}

#[test]
fn a_value_is_dropped_on_the_core_whose_copy_it_is() {
    thread_local!(static DROPPED: Cell<usize> = const { Cell::new(0) });
    #[derive(Debug)]
    struct Here(Arc<AtomicUsize>);
    impl Clone for Here {
        fn clone(&self) -> Self {
            self.0.fetch_add(1, Ordering::Relaxed);
            Self(self.0.clone())
        }
    }
    impl Drop for Here {
        fn drop(&mut self) {
            DROPPED.set(DROPPED.get() + 1);
        }
    }
    runtime(2).block_on(|| async {
        let clones = Arc::new(AtomicUsize::new(0));
        let value = Replicated::new(Here(clones.clone()));
        let (there, (said, heard)) = (value.clone(), futures::channel::oneshot::channel());
        let (made, copied) = futures::channel::oneshot::channel();
        let keeper = ipiq::spawn_on(CoreId::new(1), move || async move {
            let _local = there.local();
            made.send(()).expect("it waits");
            let _ = heard.await;
        });
        // From here on core 1 holds its copy, and not what that was made of.
        copied.await.expect("it is said");
        assert_eq!(clones.load(Ordering::Relaxed), 1);
        value.replace(Here(clones.clone())).await.expect("no panic");
        assert_eq!(ipiq::call_on(CoreId::new(1), || DROPPED.get()).await.expect("a value"), 1);
        assert_eq!(DROPPED.get(), 1, "what the copies were made of");
        said.send(()).expect("it waits");
        keeper.await.expect("no panic");
        assert_eq!(ipiq::call_on(CoreId::new(1), || DROPPED.get()).await.expect("a value"), 2);
    });
}

#[test]
fn a_shootdown_runs_once_on_every_core_also_when_a_foreign_thread_asks() {
    thread_local!(static RAN: Cell<usize> = const { Cell::new(0) });
    async fn counts() -> Vec<usize> {
        let mut counts = Vec::new();
        for core in all() {
            counts.push(ipiq::call_on(core, || RAN.take()).await.expect("a value"));
        }
        counts
    }
    let runtime = runtime(3);
    let cores = runtime.block_on(|| ipiq::shootdown(|| RAN.set(RAN.get() + 1)));
    assert_eq!(cores.expect("no panic"), 3);
    assert_eq!(runtime.block_on(counts), [1; 3]);
    let handle: Handle = runtime.handle();
    assert_eq!(Runtime::wait(handle.shootdown(|| RAN.set(RAN.get() + 1))).expect("no panic"), 3);
    assert_eq!(runtime.block_on(counts), [1; 3]);
    let error = Runtime::wait(handle.shootdown(|| assert!(ipiq::core_id().index() != 2, "not here")));
    assert_eq!(error.expect_err("a panic").panicked_on(), Some(CoreId::new(2)));
    drop(runtime);
    assert!(Runtime::wait(handle.shootdown(|| ())).expect_err("no core is left").is_gone());
    assert!(Runtime::wait(handle.replicated(1).replace(2)).expect_err("no core is left").is_gone());
}
