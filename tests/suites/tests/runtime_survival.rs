//! What has ended other systems of this kind: destructors and wakers that do everything, panics in bad moments, threads that stand still, forks.

use std::cell::Cell;
use std::env;
use std::ffi::{OsStr, OsString};
use std::future::{Future, pending};
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use ipiq::{Builder, CoreId, Handle, JoinHandle, Runtime, call_on, shutdown, spawn_local, spawn_on, time, yield_now};
use ipiq_suites::alone::alone;
use ipiq_suites::process::holdings;
use ipiq_suites::runtimes::{Census, Token, each_kind};
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);
const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

fn two_cores(builder: &Builder) -> Runtime {
    builder.clone().cores(2).build().expect("a runtime")
}

/// Runs `scenario` in a process of its own on each kind of runtime; nothing is left of it.
fn each(test: &str, scenario: impl Fn(Runtime)) {
    alone(test, LIMIT, || {
        let before = holdings();
        each_kind(|builder| {
            scenario(two_cores(&builder));
            while (holdings().threads, holdings().descriptors) != (before.threads, before.descriptors) {
                thread::yield_now();
            }
        });
    });
}

/// A waker that uses the runtime whenever it is woken or dropped.
struct Meddler {
    handle: Handle,
    _token: Token,
}

impl Meddler {
    fn meddle(&self) {
        drop(self.handle.spawn_on(B, yield_now));
        drop(self.handle.call_on(A, || ()));
        drop(self.handle.guard(shutdown::DRAIN));
    }
}

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {
        self.meddle();
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.meddle();
    }
}

/// Polls with one meddling waker, then with another unless it is ready, and drops the future.
fn poll_and_drop(handle: &Handle, wakers: &Census, future: impl Future, before_its_drop: impl FnOnce()) {
    let waker = || Waker::from(Arc::new(Meddler { handle: handle.clone(), _token: wakers.token() }));
    let mut future = Box::pin(future);
    let mut polls = || future.as_mut().poll(&mut Context::from_waker(&waker()));
    let _ready = polls().is_ready() || polls().is_ready();
    before_its_drop();
    drop(future);
}

#[test]
fn wakers_that_use_the_runtime_when_they_are_dropped_or_woken_block_nothing() {
    each("wakers_that_use_the_runtime_when_they_are_dropped_or_woken_block_nothing", |runtime| {
        let (handle, wakers) = (runtime.handle(), Census::default());
        let tasks = [handle.spawn_on(A, pending::<()>), handle.spawn_on(B, pending::<()>)];
        for task in tasks {
            task.abort();
            poll_and_drop(&handle, &wakers, task, || ());
        }
        poll_and_drop(&handle, &wakers, handle.spawn_on(A, pending::<()>), || ());
        poll_and_drop(&handle, &wakers, handle.phase(shutdown::DRAIN), || ());
        let here = (handle.clone(), wakers.clone());
        runtime.block_on(move || async move {
            let (handle, wakers) = here;
            poll_and_drop(&handle, &wakers, time::sleep(Duration::from_secs(60)), || ());
            poll_and_drop(&handle, &wakers, time::sleep(Duration::from_millis(1)), || {
                thread::sleep(Duration::from_millis(2));
            });
            poll_and_drop(&handle, &wakers, call_on(B, || ()), || ());
            poll_and_drop(&handle, &wakers, spawn_on(B, yield_now), || ());
            poll_and_drop(&handle, &wakers, spawn_local(pending::<()>()), || ());
            poll_and_drop(&handle, &wakers, shutdown::phase(shutdown::DRAIN), || ());
            poll_and_drop(&handle, &wakers, ipiq::spawn_blocking(|| ()), || ());
        });
        drop((handle, runtime));
        while wakers.alive() > 0 {
            thread::yield_now();
        }
    });
}

/// Ends the next of its kind when it is dropped.
struct Chain {
    next: Option<JoinHandle<()>>,
    waker: Arc<Mutex<Option<Waker>>>,
    ended: Arc<AtomicU32>,
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::AcqRel);
        if let Some(waker) = self.waker.lock().expect("not poisoned").take() {
            waker.wake();
        }
        self.next.take().iter().for_each(JoinHandle::abort);
    }
}

#[test]
fn tasks_whose_destructors_wake_and_abort_each_other_all_end() {
    each("tasks_whose_destructors_wake_and_abort_each_other_all_end", |runtime| {
        const TASKS: u32 = 500;
        let ended = Arc::new(AtomicU32::new(0));
        let waker = Arc::new(Mutex::new(None));
        let mut next = None;
        for number in 0..TASKS {
            let chain = Chain { next: next.take(), waker: waker.clone(), ended: ended.clone() };
            let waker = waker.clone();
            next = Some(runtime.handle().spawn_on(CoreId::new(number as usize % 2), move || async move {
                let _chain = chain;
                std::future::poll_fn(|cx| {
                    *waker.lock().expect("not poisoned") = Some(cx.waker().clone());
                    std::task::Poll::<()>::Pending
                })
                .await;
            }));
        }
        next.expect("the last one").abort();
        while ended.load(Ordering::Acquire) < TASKS {
            thread::yield_now();
        }
    });
}

/// Panics when it is dropped, unless its thread does.
struct Bomb(Arc<AtomicU32>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
        if !thread::panicking() {
            panic!("a destructor's panic");
        }
    }
}

#[test]
fn outputs_that_panic_when_nobody_wants_them_end_nobody() {
    each("outputs_that_panic_when_nobody_wants_them_end_nobody", |runtime| {
        let (dropped, handle) = (Arc::new(AtomicU32::new(0)), runtime.handle());
        let bomb = || Bomb(dropped.clone());
        let [one, two, three, four, five, six] = [(); 6].map(|()| bomb());
        // Before it has finished, after it, and aborted after it.
        drop(handle.spawn_on(B, move || async move { one }));
        let finished =
            [handle.spawn_on(A, move || async move { two }), handle.spawn_on(B, move || async move { three })];
        while !finished.iter().all(JoinHandle::is_finished) {
            thread::yield_now();
        }
        finished[0].abort();
        drop(finished);
        drop(handle.call_on(A, move || four));
        let answered = handle.call_on(A, move || five);
        Runtime::wait(handle.call_on(A, || ())).expect("no panic");
        drop(answered);
        runtime.block_on(move || async move {
            let (say, said) = channel();
            let answered = ipiq::spawn_blocking(move || {
                say.send(()).expect("somebody waits");
                six
            });
            said.recv().expect("it runs");
            drop(answered);
        });
        while dropped.load(Ordering::Acquire) < 6 {
            thread::yield_now();
        }
        assert_eq!(runtime.block_on(|| async { spawn_on(B, || async { 7 }).await.expect("no panic") }), 7);
    });
}

#[test]
fn destructors_that_panic_during_the_end_end_nobody_else() {
    each("destructors_that_panic_during_the_end_end_nobody_else", |runtime| {
        let (dropped, census) = (Arc::new(AtomicU32::new(0)), Census::default());
        for core in [A, B, A, B] {
            let (bomb, token) = (Bomb(dropped.clone()), census.token());
            drop(runtime.handle().spawn_on(core, move || async move {
                let (_bomb, _token) = (bomb, token);
                pending::<()>().await;
            }));
            Runtime::wait(runtime.handle().spawn_on(core, yield_now)).expect("no panic");
        }
        drop(runtime);
        assert_eq!((dropped.load(Ordering::Acquire), census.alive()), (4, 0));
    });
}

#[test]
fn what_is_dropped_by_a_panic_ends_as_by_any_drop() {
    each("what_is_dropped_by_a_panic_ends_as_by_any_drop", |runtime| {
        let census = Census::default();
        let (rest, output) = (census.token(), census.token());
        let handle = runtime.handle();
        // On a thread, with the runtime itself.
        let unwound = catch_unwind(AssertUnwindSafe(move || {
            let _resting = handle.spawn_on(B, move || async move {
                let _token = rest;
                pending::<()>().await;
            });
            let _call = handle.call_on(A, || ());
            let _guard = handle.guard(shutdown::DRAIN);
            let _bombs = runtime.block_on(move || async move {
                // In a task, with tasks, calls and sleeps.
                let panics = spawn_local(async {
                    let (_far, _near) = (spawn_on(B, pending::<()>), spawn_local(pending::<()>()));
                    let _call = call_on(B, || ());
                    let mut sleep = Box::pin(time::sleep(Duration::from_secs(60)));
                    assert!(futures::FutureExt::now_or_never(sleep.as_mut()).is_none());
                    panic!("in a task");
                });
                assert!(panics.await.expect_err("a panic").is_panic());
                output
            });
            panic!("on a thread");
        }));
        assert!(unwound.is_err());
        assert_eq!(census.alive(), 0);
    });
}

#[test]
fn sleeps_about_two_to_the_36_milliseconds_and_the_longest_are_exact() {
    alone("sleeps_about_two_to_the_36_milliseconds_and_the_longest_are_exact", LIMIT, || {
        each_kind(|builder| {
            let runtime = two_cores(&builder.paused_clock());
            for core in [A, B] {
                let task = runtime.handle().spawn_on(core, || async {
                    // In nanoseconds a boundary of the wheel, in milliseconds that of others.
                    for boundary_ns in [1_u64 << 36, 1_000_000 << 36] {
                        for offset_ns in [-1_000_000_i64, -1, 0, 1, 1_000_000] {
                            let sleep = Duration::from_nanos(boundary_ns.wrapping_add_signed(offset_ns));
                            let before = time::now_ns();
                            time::sleep(sleep).await;
                            assert_eq!(u128::from(time::now_ns() - before), sleep.as_nanos());
                        }
                    }
                    let millis = Duration::from_millis((1 << 36) + 1);
                    // Beyond what the clock can count, it never ends; nor does it keep others from it.
                    let mut never = Box::pin(time::sleep(Duration::MAX));
                    assert!(time::timeout(millis, never.as_mut()).await.is_err());
                    time::sleep(Duration::ZERO).await;
                });
                Runtime::wait(task).expect("no panic");
            }
        });
    });
}

/// The thread that stands still, in a signal's handler, while it is not 0.
static HELD: AtomicI32 = AtomicI32::new(0);
static STANDS: AtomicBool = AtomicBool::new(false);

extern "C" fn stand_still(_: libc::c_int) {
    STANDS.store(true, Ordering::SeqCst);
    while HELD.load(Ordering::SeqCst) != 0 {
        let pause = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        // SAFETY: 1. `pause` is valid for reads, and nothing is written.
        unsafe { libc::nanosleep(&raw const pause, std::ptr::null_mut()) };
    }
}

/// Has a thread stand still wherever it is, until `HELD` is 0.
fn hold(thread: i32) {
    HELD.store(thread, Ordering::SeqCst);
    STANDS.store(false, Ordering::SeqCst);
    // SAFETY: 1. no memory is passed.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, libc::SIGUSR2) };
    assert_eq!(sent, 0);
    while !STANDS.load(Ordering::SeqCst) {
        thread::yield_now();
    }
}

#[test]
fn a_core_whose_thread_stands_still_delays_no_other_pair_and_loses_nothing() {
    alone("a_core_whose_thread_stands_still_delays_no_other_pair_and_loses_nothing", LIMIT, || {
        let handler = stand_still as extern "C" fn(libc::c_int);
        // SAFETY: 1. the handler is async-signal-safe: atomics and `nanosleep`.
        unsafe { libc::signal(libc::SIGUSR2, handler as libc::sighandler_t) };
        each_kind(|builder| {
            let runtime = builder.cores(3).build().expect("a runtime");
            let victim = CoreId::new(2);
            // SAFETY: 1. no memory is passed.
            let thread = runtime.handle().call_on(victim, || unsafe { libc::syscall(libc::SYS_gettid) } as i32);
            let thread = Runtime::wait(thread).expect("no panic");
            for _ in 0..scaled(10, 25) {
                let (answered, ended) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
                // Numbered calls to the victim from both others, all the while.
                let streams = [A, B].map(|core| {
                    let (answered, ended) = (answered.clone(), ended.clone());
                    runtime.handle().spawn_on(core, move || async move {
                        let mut sent = 0_u32;
                        while !ended.load(Ordering::Acquire) || sent < 100 {
                            sent += 1;
                            assert_eq!(call_on(victim, move || sent).await.expect("no panic"), sent);
                            answered.fetch_add(1, Ordering::AcqRel);
                        }
                        sent
                    })
                });
                while answered.load(Ordering::Acquire) == 0 {
                    thread::yield_now();
                }
                hold(thread);
                // The others go on, between themselves and with other threads.
                let between = runtime.handle().spawn_on(A, || async {
                    for number in 0..1_000 {
                        assert_eq!(call_on(B, move || number).await.expect("no panic"), number);
                    }
                });
                Runtime::wait(between).expect("no panic");
                HELD.store(0, Ordering::SeqCst);
                ended.store(true, Ordering::Release);
                let sent: u32 = streams.map(|stream| Runtime::wait(stream).expect("no panic")).iter().sum();
                assert_eq!(answered.load(Ordering::Acquire), sent);
            }
        });
    });
}

#[test]
fn a_forked_child_is_told_that_it_has_no_runtime_and_the_parent_notices_nothing() {
    each("a_forked_child_is_told_that_it_has_no_runtime_and_the_parent_notices_nothing", |runtime| {
        let runtime = Cell::new(Some(runtime));
        let handle = runtime.take().map(|own| (own.handle(), runtime.set(Some(own)))).expect("it is there").0;
        // SAFETY: 1. the child, which has this thread alone, allocates at most, as glibc lets it, and ends by `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // First: each way in has to notice.
            let call = handle.call_async_on(B, async || ());
            let never = Runtime::wait(call).is_err_and(|error| error.is_gone());
            let cancelled = Runtime::wait(handle.spawn_on(B, yield_now)).is_err_and(|error| error.is_cancelled());
            let gone = Runtime::wait(handle.call_on(A, || ())).is_err_and(|error| error.is_gone());
            let stays = handle.leave(B).is_err_and(|error| error.is_stopping());
            let report = Runtime::wait(handle.shutdown());
            let refused = report.refused.is_some() && Runtime::wait(handle.phase("drain")).is_late();
            drop(runtime.take());
            // SAFETY: 1. it takes a number.
            unsafe { libc::_exit(if cancelled && gone && never && stays && refused { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: 1. `status` is valid for writes.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status}");
        let runtime = runtime.take().expect("the parent's");
        assert_eq!(runtime.block_on(|| async { call_on(B, || 7).await.expect("no panic") }), 7);
        // One that runs another program is clean.
        assert!(Command::new("true").status().expect("it starts").success());
    });
}

#[test]
fn the_environment_is_read_when_it_is_asked_for_and_garbage_is_named() {
    const CHILD: &str = "IPIQ_ENVIRONMENT";
    if env::var_os(CHILD).is_some() {
        let runtime = Runtime::builder().cores(1).build().expect("nothing is read unasked");
        assert_eq!(runtime.info().cores, 1);
        let error = Runtime::builder().env().expect_err("garbage");
        return println!("told: {error}");
    }
    let this = env::current_exe().expect("a running program has a path");
    let test = "the_environment_is_read_when_it_is_asked_for_and_garbage_is_named";
    let no_text = OsString::from_vec(vec![0xff, b'1']);
    let garbage: [(&str, &OsStr); 6] = [
        ("IPIQ_CORES", "0".as_ref()),
        ("IPIQ_CORES", "1e9".as_ref()),
        ("IPIQ_CORES", &no_text),
        ("IPIQ_DRIVER", "".as_ref()),
        ("IPIQ_PLACEMENT", " pinned".as_ref()),
        ("IPIQ_CORE", "4".as_ref()),
    ];
    for (name, value) in garbage {
        let mut child = Command::new(&this);
        child.args([test, "--exact", "--nocapture"]).env(CHILD, "1").env(name, value);
        let output = child.output().expect("it starts again");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains(&format!("told: {name}={value:?}")), "{said}");
    }
}

#[test]
fn timers_that_are_set_cancelled_and_set_anew_on_all_cores_are_neither_early_nor_lost() {
    each("timers_that_are_set_cancelled_and_set_anew_on_all_cores_are_neither_early_nor_lost", |runtime| {
        let (tell, told) = channel();
        let sleeps = scaled(300, 1_250);
        for core in [A, B] {
            for seed in 0..4 {
                let tell = tell.clone();
                drop(runtime.handle().spawn_on(core, move || async move {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    for _ in 0..sleeps {
                        let short = Duration::from_micros(rng.u64(..300));
                        let start = Instant::now();
                        let mut kept: Pin<Box<dyn Future<Output = ()>>> = Box::pin(time::sleep(short));
                        let cancelled = (0..4).map(|_| Box::pin(time::sleep(Duration::from_micros(rng.u64(..300)))));
                        for mut other in cancelled {
                            let _ = futures::FutureExt::now_or_never(other.as_mut());
                        }
                        if rng.bool() && futures::FutureExt::now_or_never(kept.as_mut()).is_none() {
                            // Awaited by another task than the one that polled it first.
                            let _ = spawn_local(kept).await;
                        } else {
                            time::sleep(short).await;
                        }
                        assert!(start.elapsed() >= short, "early");
                    }
                    tell.send(()).expect("somebody waits");
                }));
            }
        }
        drop(tell);
        assert_eq!(told.iter().count(), 8, "none is lost");
    });
}
