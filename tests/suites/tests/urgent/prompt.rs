//! Pauses that do not wait for the end of sections.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::process::Command;
use std::slice;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ipiq::urgent::critical;
use ipiq::{InterruptPolicy, Pause, PauseError, PauseTimes};
use ipiq_suites::alone::alone;
use ipiq_suites::scale::scaled;
use ipiq_suites::watchdog::watch;

use super::sections::{Flag, is_pending};
use super::*;

const C: CoreId = CoreId::new(2);

type Stopped = Result<(bool, PauseTimes), PauseError>;

/// What a section moves all the time, and nothing else: two words, and never both at once.
#[derive(Default)]
struct Moving {
    low: AtomicU64,
    high: AtomicU64,
    enough: AtomicBool,
}

impl Moving {
    fn step(&self) {
        self.low.fetch_add(1, Ordering::Relaxed);
        self.high.fetch_add(1, Ordering::Relaxed);
    }

    fn stop(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.enough.load(Ordering::Relaxed)
    }

    /// Whether nothing moved for a while.
    fn stands(&self) -> bool {
        let words = || (self.low.load(Ordering::Relaxed), self.high.load(Ordering::Relaxed));
        let before = words();
        (0..200).all(|_| words() == before) && before.0.wrapping_sub(before.1) <= 1
    }
}

/// The body of the pauses here: whether all of it stands still.
fn stands(moving: &[Arc<Moving>]) -> InterruptSafe<impl Fn(CoreId) -> bool + Send + 'static> {
    let moving = moving.to_vec();
    // SAFETY: 1. to 5. it loads atomics.
    unsafe { InterruptSafe::new(move |_| moving.iter().all(|moving| moving.stands())) }
}

static SHARED: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// What must not be stopped with a lock in hand, as long as it is not let go.
fn exercise(round: u64, moving: &Moving) {
    let text = format!("{round} and {:?}", vec![round; (round % 50) as usize]);
    moving.step();
    {
        let mut shared = SHARED.lock().expect("not poisoned");
        shared.push(text.len() as u64);
        shared.truncate(100);
    }
    moving.step();
    // Nothing to read, and the lock all the same.
    let _ = std::io::stdout().lock().flush();
    eprint!("");
    let unwound = catch_unwind(AssertUnwindSafe(|| resume_unwind(Box::new(text))));
    assert!(unwound.is_err());
    moving.step();
}

/// A section on `core` that does everything until it is told to stop.
async fn busy(core: CoreId, moving: &Arc<Moving>) -> ipiq::JoinHandle<u64> {
    let begun = Flag::default();
    let (tell, moving) = (begun.clone(), moving.clone());
    let task = ipiq::spawn_on(core, move || async move {
        let section = ipiq::preemptible(move || {
            tell.raise();
            let mut round = 0;
            while !moving.is_over() {
                exercise(round, &moving);
                round += 1;
            }
            round
        });
        section.await.expect("no panic")
    });
    begun.wait().await;
    task
}

fn in_sections(stopped: Stopped) -> usize {
    let (stood, times) = stopped.expect("no limit");
    assert!(stood, "something moved");
    assert!(times.stopping <= times.total);
    times.in_sections
}

#[test]
fn a_section_that_does_everything_is_stopped_again_and_again() {
    let _watchdog = watch("pauses and a section that ends after them");
    two_cores(Runtime::builder()).block_on(|| async {
        let moving = Arc::new(Moving::default());
        let task = busy(B, &moving).await;
        let (begun, mut longest) = (Instant::now(), Duration::ZERO);
        let pauses = scaled(60, 500);
        for _ in 0..pauses {
            let stopped = ipiq::pause_prompt(Pause::all(), stands(slice::from_ref(&moving))).await;
            longest = longest.max(stopped.as_ref().map_or(Duration::ZERO, |(_, times)| times.total));
            assert_eq!(in_sections(stopped), 1);
        }
        let section = begun.elapsed();
        moving.stop();
        assert!(task.await.expect("no panic") > 0);
        assert!(longest < section, "{longest:?} of {section:?}");
    });
}

#[test]
fn several_sections_are_stopped_together() {
    let _watchdog = watch("pauses and two sections");
    let runtime = Runtime::builder().cores(3).build().expect("a runtime");
    runtime.block_on(|| async {
        let moving = [Arc::new(Moving::default()), Arc::new(Moving::default())];
        let tasks = [busy(B, &moving[0]).await, busy(C, &moving[1]).await];
        for round in 0..scaled(24, 100) {
            let (plan, of) = match round % 3 {
                0 => (Pause::cores([B]), &moving[..1]),
                1 => (Pause::cores([A, C]), &moving[1..]),
                _ => (Pause::all(), &moving[..]),
            };
            assert_eq!(in_sections(ipiq::pause_prompt(plan, stands(of)).await), of.len());
        }
        moving.iter().for_each(|moving| moving.stop());
        for task in tasks {
            task.await.expect("no panic");
        }
    });
}

#[test]
fn two_cores_that_stop_others_and_each_other_take_turns() {
    let _watchdog = watch("two who pause a section and each other");
    let runtime = Runtime::builder().cores(3).build().expect("a runtime");
    runtime.block_on(|| async {
        let moving = Arc::new(Moving::default());
        let section = busy(C, &moving).await;
        let stopping = moving.clone();
        let pauses = move |other: CoreId| async move {
            for round in 0..scaled(20, 75) {
                let plan = if round % 2 == 0 { Pause::cores([other, C]) } else { Pause::all() };
                assert_eq!(in_sections(ipiq::pause_prompt(plan, stands(slice::from_ref(&stopping))).await), 1);
                // Other kinds of stops in between.
                let both = ipiq::pause(Pause::cores([A, B]), |paused| paused.cores().len());
                assert_eq!(both.await.expect("no limit").0, 2);
            }
        };
        let others = pauses.clone();
        let other = ipiq::spawn_on(B, move || others(A));
        pauses(B).await;
        other.await.expect("no panic");
        moving.stop();
        section.await.expect("no panic");
    });
}

#[test]
fn sections_that_begin_and_end_and_panic_are_stopped_whole_or_waited_for() {
    let _watchdog = watch("pauses among short sections");
    two_cores(Runtime::builder()).block_on(|| async {
        let moving = Arc::new(Moving::default());
        let running = moving.clone();
        let task = ipiq::spawn_on(B, move || async move {
            let mut random = fastrand::Rng::with_seed(7);
            let mut panics = 0;
            while !running.is_over() {
                let (turns, moves) = (random.u64(0..20), running.clone());
                let section = ipiq::preemptible(move || {
                    (0..turns).for_each(|round| exercise(round, &moves));
                    if turns == 0 {
                        resume_unwind(Box::new("in a section"));
                    }
                });
                panics += u32::from(section.await.is_err());
                // In a poll nothing stands still in the middle of this.
                running.step();
            }
            panics
        });
        let mut caught = 0;
        for _ in 0..scaled(60, 250) {
            caught += in_sections(ipiq::pause_prompt(Pause::all(), stands(slice::from_ref(&moving))).await);
            ipiq::yield_now().await;
        }
        moving.stop();
        task.await.expect("no panic");
        println!("{caught} pauses found a section");
    });
}

#[test]
fn where_nobody_is_in_a_section_a_prompt_pause_is_as_any_other() {
    let _watchdog = watch("prompt pauses without sections");
    two_cores(Runtime::builder()).block_on(|| async {
        let moving = Arc::new(Moving::default());
        for _ in 0..scaled(20, 50) {
            for plan in [Pause::all(), Pause::cores([]), Pause::cores([A]), Pause::cores([B])] {
                assert_eq!(in_sections(ipiq::pause_prompt(plan, stands(slice::from_ref(&moving))).await), 0);
            }
        }
        let refused = |plan: Pause| {
            let body = stands(&[]);
            catch_unwind(AssertUnwindSafe(move || drop(ipiq::pause_prompt(plan, body)))).is_err()
        };
        assert!(refused(Pause::all().drain()) && refused(Pause::all().each(|| ())));
        assert!(refused(Pause::cores([CoreId::new(7)])));
    });
}

#[test]
fn from_another_thread_too() {
    let _watchdog = watch("a plain thread that pauses a section");
    let runtime = two_cores(Runtime::builder());
    let handle = runtime.handle();
    let moving = Arc::new(Moving::default());
    let inside = moving.clone();
    let [task] = runtime.block_on(move || async move { [busy(B, &inside).await] });
    for _ in 0..scaled(20, 50) {
        let stopped = Runtime::wait(handle.pause_prompt(A, Pause::all(), stands(slice::from_ref(&moving))));
        assert_eq!(in_sections(stopped), 1);
    }
    moving.stop();
    Runtime::wait(task).expect("no panic");
    drop(runtime);
    let late = Runtime::wait(handle.pause_prompt(A, Pause::all(), stands(&[])));
    assert!(late.expect_err("no runtime").is_gone());
}

#[test]
fn what_holds_interrupts_off_is_waited_for_and_the_limit_ends_that() {
    let _watchdog = watch("a critical section in a section");
    two_cores(Runtime::builder()).block_on(|| async {
        let (begun, enough) = (Flag::default(), Flag::default());
        let (tell, until) = (begun.clone(), enough.clone());
        let task = ipiq::spawn_on(B, move || async move {
            let section = ipiq::preemptible(move || {
                critical(|| {
                    tell.raise();
                    until.spin();
                });
            });
            section.await.expect("no panic");
        });
        begun.wait().await;
        let plan = Pause::all().timeout(Duration::from_millis(20));
        let error = ipiq::pause_prompt(plan, stands(&[])).await.expect_err("it cannot be stopped");
        assert!(error.is_timeout() && error.not_stopped() == [B], "{error:?}");
        enough.raise();
        task.await.expect("no panic");
        assert_eq!(in_sections(ipiq::pause_prompt(Pause::all(), stands(&[])).await), 0);
    });
}

#[test]
fn without_interrupts_it_waits_for_the_end_of_the_section() {
    let _watchdog = watch("a section that cannot be interrupted, and a pause");
    two_cores(Runtime::builder().interrupts(InterruptPolicy::Off)).block_on(|| async {
        for _ in 0..scaled(5, 10) {
            let moving = Arc::new(Moving::default());
            let section = busy(B, &moving).await;
            let plan = Pause::all().timeout(Duration::from_millis(1));
            let error = ipiq::pause_prompt(plan, stands(&[])).await.expect_err("nobody can stop it");
            assert!(error.is_timeout() && error.not_stopped() == [B], "{error:?}");
            let mut stopped = pin!(ipiq::pause_prompt(Pause::all(), stands(slice::from_ref(&moving))));
            assert!(is_pending(stopped.as_mut()));
            moving.stop();
            assert_eq!(in_sections(stopped.await), 0);
            section.await.expect("no panic");
        }
    });
}

#[test]
fn a_refused_signal_costs_no_more_than_the_wait_for_the_section() {
    const NAME: &str = "prompt::a_refused_signal_costs_no_more_than_the_wait_for_the_section";
    alone(NAME, Duration::from_secs(120), || {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: 1. a limit, valid for a read.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const none) }, 0);
        let builder = Runtime::builder().interrupts(InterruptPolicy::Signal(libc::SIGRTMIN() + 1));
        two_cores(builder).block_on(|| async {
            let moving = Arc::new(Moving::default());
            let section = busy(B, &moving).await;
            let plan = Pause::all().timeout(Duration::from_millis(20));
            assert!(ipiq::pause_prompt(plan, stands(&[])).await.expect_err("refused").is_timeout());
            let mut stopped = pin!(ipiq::pause_prompt(Pause::all(), stands(slice::from_ref(&moving))));
            assert!(is_pending(stopped.as_mut()));
            moving.stop();
            assert_eq!(in_sections(stopped.await), 0);
            section.await.expect("no panic");
        });
    });
}

#[test]
fn triggers_calls_updates_and_backtraces_meet_a_frozen_core() {
    let _watchdog = watch("everything urgent beside pauses");
    let runtime = Runtime::builder().cores(3).build().expect("a runtime");
    let handle = runtime.handle();
    let (told, moving) = (Told::default(), Arc::new(Moving::default()));
    let handler = told.handler(&handle);
    let over = Arc::new(AtomicBool::new(false));
    let asking = std::thread::spawn({
        let (handle, over) = (handle.clone(), over.clone());
        move || {
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(handle.backtrace_all_cores().cores.len(), 3);
                asked += 1;
            }
            asked
        }
    });
    let triggering = std::thread::spawn({
        let (told, over) = (told.clone(), over.clone());
        move || {
            let mut n = 0;
            while !over.load(Ordering::Relaxed) {
                n += 1;
                told.tell(&handler, B, n);
            }
            handler
        }
    });
    let inside = moving.clone();
    runtime.block_on(move || async move {
        let section = busy(B, &inside).await;
        let value = ipiq::Replicated::new(0u64);
        let updating = value.clone();
        let updates = ipiq::spawn_on(C, move || async move {
            for n in 1..=scaled(8, 25) {
                updating.replace(n).await.expect("no panic");
                // SAFETY: 1. to 5. it does nothing.
                let call = unsafe { InterruptSafe::new(|core: CoreId| core) };
                assert_eq!(ipiq::urgent::call_on(B, call).await.expect("it is there"), B);
            }
        });
        for _ in 0..scaled(24, 100) {
            assert_eq!(in_sections(ipiq::pause_prompt(Pause::all(), stands(slice::from_ref(&inside))).await), 1);
        }
        updates.await.expect("no panic");
        inside.stop();
        section.await.expect("no panic");
    });
    over.store(true, Ordering::Relaxed);
    assert!(asking.join().expect("no panic") > 0);
    Runtime::wait(triggering.join().expect("no panic").unregister());
}

#[test]
fn sections_in_the_kernel_and_in_children_are_stopped_too() {
    let _watchdog = watch("sections that sleep and start processes");
    two_cores(Runtime::builder()).block_on(|| async {
        let moving = Arc::new(Moving::default());
        let (begun, inside) = (Flag::default(), moving.clone());
        let tell = begun.clone();
        let task = ipiq::spawn_on(B, move || async move {
            let section = ipiq::preemptible(move || {
                tell.raise();
                let mut children = 0;
                while !inside.is_over() || children == 0 {
                    std::thread::sleep(Duration::from_micros(200));
                    inside.step();
                    assert!(Command::new("true").status().expect("a program").success());
                    inside.step();
                    children += 1;
                }
                children
            });
            section.await.expect("no panic")
        });
        begun.wait().await;
        for _ in 0..scaled(24, 100) {
            assert_eq!(in_sections(ipiq::pause_prompt(Pause::all(), stands(slice::from_ref(&moving))).await), 1);
        }
        moving.stop();
        assert!(task.await.expect("no panic") > 0);
    });
}

#[test]
fn a_runtime_may_end_while_sections_are_stopped() {
    let _watchdog = watch("the end of a runtime among prompt pauses");
    for _ in 0..scaled(4, 8) {
        let runtime = two_cores(Runtime::builder());
        let handle = runtime.handle();
        let moving = Arc::new(Moving::default());
        let inside = moving.clone();
        runtime.block_on(move || async move { drop(busy(B, &inside).await) });
        let pausing = std::thread::spawn({
            let moving = moving.clone();
            move || {
                let mut stopped = 0;
                loop {
                    match Runtime::wait(handle.pause_prompt(A, Pause::all(), stands(slice::from_ref(&moving)))) {
                        Ok((stood, _)) => stopped += u32::from(stood),
                        Err(error) => {
                            assert!(error.is_gone(), "{error:?}");
                            return stopped;
                        }
                    }
                    moving.stop();
                }
            }
        });
        while !moving.is_over() {
            std::thread::yield_now();
        }
        drop(runtime);
        assert!(pausing.join().expect("no panic") > 0);
    }
}
