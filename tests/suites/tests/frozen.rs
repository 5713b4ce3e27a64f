//! What runs while a core is frozen in a section: nothing that allocates or frees, and the signals of the program.

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::abort;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ipiq::urgent::InterruptSafe;
use ipiq::{CoreId, InterruptPolicy, Pause, Runtime};
use ipiq_fabric::port::Port;
use ipiq_linux::port::LinuxPort;
use ipiq_suites::alone::alone;
use ipiq_suites::scale::scaled;

const LIMIT: Duration = Duration::from_secs(120);
const B: CoreId = CoreId::new(1);
const C: CoreId = CoreId::new(2);

/// Whether a thread whose gate is closed may use the heap. No scenario here has critical sections that do.
static STRICT: AtomicBool = AtomicBool::new(false);

struct Strict;

impl Strict {
    fn check() {
        if !STRICT.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: 1. a thread's gate lives as long as the thread, which is the calling one.
        let closed = unsafe { LinuxPort::thread().gate().as_ref() }.is_some_and(ipiq_fabric::port::Gate::is_closed);
        if closed {
            let text = "the heap is used where a frozen core may hold its lock\n";
            // SAFETY: 1. a buffer of this length.
            unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
            abort();
        }
    }
}

// SAFETY: 1. it is the system's allocator; the check changes nothing.
unsafe impl GlobalAlloc for Strict {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::check();
        // SAFETY: 1. the caller's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        Self::check();
        // SAFETY: 1. the caller's conditions.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Strict = Strict;

/// A section on `core` that runs `step` until `over`.
async fn section(core: CoreId, over: &Arc<AtomicBool>, step: impl Fn() + Send + 'static) -> ipiq::JoinHandle<()> {
    let begun = Arc::new(AtomicBool::new(false));
    let (tell, over) = (begun.clone(), over.clone());
    let task = ipiq::spawn_on(core, move || async move {
        let inside = ipiq::preemptible(move || {
            tell.store(true, Ordering::Release);
            while !over.load(Ordering::Relaxed) {
                step();
            }
        });
        inside.await.expect("no panic");
    });
    while !begun.load(Ordering::Acquire) {
        ipiq::yield_now().await;
    }
    task
}

fn body() -> InterruptSafe<impl Fn(CoreId) -> CoreId + Send + 'static> {
    // SAFETY: 1. to 5. it does nothing.
    unsafe { InterruptSafe::new(|core| core) }
}

fn uses_the_heap() {
    drop(std::hint::black_box(vec![7; 100]));
}

#[test]
fn nothing_of_the_runtime_uses_the_heap_while_a_core_is_frozen() {
    alone("nothing_of_the_runtime_uses_the_heap_while_a_core_is_frozen", LIMIT, || {
        let runtime = Runtime::builder().cores(3).build().expect("a runtime");
        STRICT.store(true, Ordering::Relaxed);
        runtime.block_on(|| async {
            let over = Arc::new(AtomicBool::new(false));
            let tasks = [section(B, &over, uses_the_heap).await, section(C, &over, uses_the_heap).await];
            for round in 0..scaled(60, 500) {
                let plan = if round % 2 == 0 { Pause::all() } else { Pause::cores([B]) };
                let (_, times) = ipiq::pause_prompt(plan, body()).await.expect("no limit");
                assert_eq!(times.in_sections, 2 - round % 2);
            }
            // Some attempts fail, some after others have been frozen.
            over.store(true, Ordering::Relaxed);
            for task in tasks {
                task.await.expect("no panic");
            }
            let over = Arc::new(AtomicBool::new(false));
            let held_off = section(C, &over, || {
                ipiq::urgent::critical(|| (0..1_000_000).for_each(|n| _ = std::hint::black_box(n)))
            });
            let tasks = [section(B, &over, uses_the_heap).await, held_off.await];
            for _ in 0..scaled(6, 20) {
                let plan = Pause::all().timeout(Duration::from_millis(2));
                let stopped = ipiq::pause_prompt(plan, body()).await;
                assert!(
                    stopped.as_ref().map_or_else(ipiq::PauseError::is_timeout, |(_, times)| times.in_sections == 2)
                );
            }
            over.store(true, Ordering::Relaxed);
            for task in tasks {
                task.await.expect("no panic");
            }
        });
        STRICT.store(false, Ordering::Relaxed);
    });
}

#[test]
fn a_refused_attempt_uses_no_heap_either() {
    alone("a_refused_attempt_uses_no_heap_either", LIMIT, || {
        let runtime = Runtime::builder().cores(2).interrupts(InterruptPolicy::Off).build().expect("a runtime");
        STRICT.store(true, Ordering::Relaxed);
        runtime.block_on(|| async {
            let over = Arc::new(AtomicBool::new(false));
            let task = section(B, &over, uses_the_heap).await;
            let plan = Pause::all().timeout(Duration::from_millis(5));
            assert!(ipiq::pause_prompt(plan, body()).await.expect_err("nobody can be frozen").is_timeout());
            over.store(true, Ordering::Relaxed);
            task.await.expect("no panic");
        });
        STRICT.store(false, Ordering::Relaxed);
    });
}

static ALARMS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_alarm(_signal: libc::c_int) {
    ALARMS.fetch_add(1, Ordering::Release);
}

fn errno() -> *mut libc::c_int {
    // SAFETY: 1. the thread's own word, always there.
    unsafe { libc::__errno_location() }
}

/// Sends the thread SIGALRM.
fn alarm(thread: i32) -> bool {
    // SAFETY: 1. no pointers; the thread is one of this process.
    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, libc::SIGALRM) == 0 }
}

#[test]
fn a_frozen_core_takes_signals_of_the_program_and_puts_urgent_handlers_off_and_keeps_errno() {
    const NAME: &str = "a_frozen_core_takes_signals_of_the_program_and_puts_urgent_handlers_off_and_keeps_errno";
    alone(NAME, LIMIT, || {
        // SAFETY: 1. an action of zeroes is one with no flags and no mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_alarm as *const () as libc::sighandler_t;
        // SAFETY: 1. a whole action, whose handler adds to an atomic.
        assert_eq!(unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) }, 0);
        let runtime = Runtime::builder().cores(2).build().expect("a runtime");
        let handle = runtime.handle();
        let ran = Arc::new(AtomicU64::new(0));
        let count = ran.clone();
        // SAFETY: 1. to 5. it adds to an atomic.
        let f = unsafe { InterruptSafe::new(move |_| _ = count.fetch_add(1, Ordering::Release)) };
        let handler = Arc::new(handle.register_urgent(f).expect("a free slot"));
        STRICT.store(true, Ordering::Relaxed);
        let triggers = handler.clone();
        runtime.block_on(move || async move {
            let (over, thread) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
            let tell = thread.clone();
            let task = section(B, &over, move || {
                // SAFETY: 1. a question without pointers.
                tell.store(unsafe { libc::gettid() }, Ordering::Relaxed);
                // SAFETY: 1. the thread's own word.
                unsafe { *errno() = libc::EXDEV };
                (0..1_000).for_each(|n| _ = std::hint::black_box(n));
                // SAFETY: 1. as above.
                assert_eq!(unsafe { *errno() }, libc::EXDEV);
            })
            .await;
            while thread.load(Ordering::Relaxed) == 0 {
                ipiq::yield_now().await;
            }
            for _ in 0..scaled(30, 200) {
                let (alarms, before) = (ALARMS.load(Ordering::Acquire), ran.load(Ordering::Acquire));
                let (thread, ran_there, triggers) = (thread.clone(), ran.clone(), triggers.clone());
                let body = move |_| {
                    let triggered = triggers.trigger(B).is_ok();
                    let sent = alarm(thread.load(Ordering::Relaxed));
                    while ALARMS.load(Ordering::Acquire) == alarms {
                        std::thread::yield_now();
                    }
                    triggered && sent && ran_there.load(Ordering::Acquire) == before
                };
                // SAFETY: 1. to 5. it uses atomics, triggers, and makes a system call; it waits for a signal handler of the test alone.
                let body = unsafe { InterruptSafe::new(body) };
                let (put_off, times) = ipiq::pause_prompt(Pause::all(), body).await.expect("no limit");
                assert!(put_off && times.in_sections == 1);
                while ran.load(Ordering::Acquire) == before {
                    ipiq::yield_now().await;
                }
            }
            over.store(true, Ordering::Relaxed);
            task.await.expect("no panic");
        });
        STRICT.store(false, Ordering::Relaxed);
        drop(runtime);
        drop(handler);
    });
}
