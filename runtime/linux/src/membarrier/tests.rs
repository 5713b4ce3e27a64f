use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, compiler_fence};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::*;
use crate::cpus;
use crate::pin::pin_current;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The counters are the process's: who compares them is alone.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What may have been refused to this process already.
fn granted() -> Option<Membarrier> {
    let membarrier = Membarrier::register().ok()?;
    membarrier.reaches_one().then_some(membarrier)
}

/// A thread on the last allowed CPU that does what it is told, and its claim.
struct Target {
    pinned: Pinned,
    tell: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    thread: JoinHandle<()>,
}

impl Target {
    fn new() -> Self {
        let cpu = *cpus::allowed().cpus.last().expect("a CPU");
        let ((say, claims), (tell, told)) = (mpsc::channel(), mpsc::channel::<Box<dyn FnOnce() + Send>>());
        let thread = thread::spawn(move || {
            pin_current(cpu).expect("an allowed CPU");
            say.send(Pinned::current().expect("it is pinned")).expect("somebody waits");
            told.into_iter().for_each(|job| job());
        });
        Self { pinned: claims.recv().expect("a claim"), tell, thread }
    }

    /// Returns when the target has done it.
    fn does(&self, job: impl FnOnce() + Send + 'static) {
        let (say, done) = mpsc::channel();
        let job = move || {
            job();
            say.send(()).expect("somebody waits");
        };
        self.tell.send(Box::new(job)).expect("it listens");
        done.recv().expect("done");
    }

    fn end(self) -> Pinned {
        drop(self.tell);
        self.thread.join().expect("no panic");
        self.pinned
    }
}

fn fence_on(membarrier: Membarrier, pinned: &Pinned) {
    while !membarrier.try_heavy_on(pinned) {
        thread::yield_now();
    }
}

#[test]
fn registration_gives_the_same_answer_twice_and_a_fence_is_counted() {
    let _alone = alone();
    let Ok(membarrier) = Membarrier::register() else {
        assert!(Membarrier::register().is_err());
        return;
    };
    let before = Membarrier::issued();
    while !membarrier.try_heavy() {}
    assert!(Membarrier::issued() > before);
}

#[test]
fn releases_from_5_11_on_are_recent() {
    for (release, recent) in [
        ("5.11.0-generic", true),
        ("6.18.44", true),
        ("10.0", true),
        ("5.10.240", false),
        ("4.19.0-25-amd64", false),
        ("5.9", false),
        ("", false),
        ("unknown", false),
    ] {
        assert_eq!(is_recent(release), recent, "{release}");
    }
}

#[test]
fn a_pinned_thread_asleep_is_fenced_alone() {
    let _alone = alone();
    let Some(membarrier) = granted() else { return };
    let target = Target::new();
    let before = (Membarrier::issued(), Membarrier::targeted(), Membarrier::strayed());
    fence_on(membarrier, &target.pinned);
    assert!(target.pinned.holds());
    assert_eq!(
        (Membarrier::issued(), Membarrier::targeted(), Membarrier::strayed()),
        (before.0 + 1, before.1 + 1, before.2)
    );
    target.end();
}

#[test]
fn while_somebody_fences_others_are_refused_at_once() {
    let _alone = alone();
    let Ok(membarrier) = Membarrier::register() else { return };
    let target = Target::new();
    let turn = Turn::take().expect("nobody else fences");
    let before = (Membarrier::issued(), Membarrier::refused());
    assert!(!membarrier.try_heavy());
    assert!(!membarrier.try_heavy_on(&target.pinned));
    assert_eq!((Membarrier::issued(), Membarrier::refused()), (before.0, before.1 + 2));
    assert!(target.pinned.holds());
    drop(turn);
    assert!(membarrier.try_heavy());
    target.end();
}

#[test]
fn a_thread_that_moved_loses_its_claim_and_is_fenced_all_the_same() {
    let _alone = alone();
    let Some(membarrier) = granted() else { return };
    let [first, .., _] = cpus::allowed().cpus[..] else { return };
    let target = Target::new();
    target.does(move || pin_current(first).expect("an allowed CPU"));
    let before = (Membarrier::issued(), Membarrier::targeted(), Membarrier::strayed());
    fence_on(membarrier, &target.pinned);
    assert!(!target.pinned.holds(), "it is elsewhere");
    let after = (Membarrier::issued(), Membarrier::targeted(), Membarrier::strayed());
    assert_eq!(after, (before.0 + 1, before.1, before.2 + 1));
    let back = target.pinned.cpu();
    target.does(move || pin_current(back).expect("an allowed CPU"));
    fence_on(membarrier, &target.pinned);
    assert_eq!((Membarrier::targeted(), Membarrier::strayed()), (after.1, after.2), "a claim is given up for good");
    target.end();
}

#[test]
fn a_claim_is_believed_of_the_one_thread_that_has_entered_the_core() {
    use ipiq_fabric::CoreId;
    use ipiq_fabric::port::Port;

    use crate::port::{FenceChoice, LinuxPort};

    let _alone = alone();
    let Some(_) = granted() else { return };
    let (port, core) = (Arc::new(LinuxPort::new(3, FenceChoice::Auto)), CoreId::new);
    let mut targets: Vec<_> = (0..3).map(|_| Target::new()).collect();
    let entered = port.clone();
    targets[0].does(move || entered.entered(core(0)));
    // Core 1 is another thread's than the one that claims it; core 2 has two.
    let entered = port.clone();
    targets[0].does(move || entered.entered(core(1)));
    for target in &targets[1..] {
        let entered = port.clone();
        target.does(move || entered.entered(core(2)));
    }
    let threads = targets.drain(..).enumerate().map(|(index, target)| {
        let Target { pinned, tell, thread } = target;
        port.set_pinned(core(index), pinned);
        (tell, thread)
    });
    let threads: Vec<_> = threads.collect();
    for (index, targeted) in [(0, 1), (1, 0), (2, 0)] {
        let (issued, before) = (Membarrier::issued(), Membarrier::targeted());
        while !port.heavy_fence_on(core(index)) {}
        assert_eq!((Membarrier::issued() - issued, Membarrier::targeted() - before), (1, targeted), "core {index}");
    }
    for (tell, thread) in threads {
        drop(tell);
        thread.join().expect("no panic");
    }
}

#[test]
fn a_thread_that_has_ended_loses_its_claim_and_the_fence_is_everyones() {
    let _alone = alone();
    let Some(membarrier) = granted() else { return };
    for used_before in [false, true] {
        let target = Target::new();
        if used_before {
            fence_on(membarrier, &target.pinned);
        }
        let pinned = target.end();
        // The kernel knows it for a moment longer than who has joined it.
        let start = Instant::now();
        while pinned.holds() {
            assert!(start.elapsed() < PATIENCE);
            fence_on(membarrier, &pinned);
        }
        let targeted = Membarrier::targeted();
        fence_on(membarrier, &pinned);
        assert_eq!(Membarrier::targeted(), targeted);
    }
}

#[test]
fn a_thread_that_may_run_on_several_cpus_has_no_claim_to_one() {
    let allowed = cpus::allowed().cpus;
    let claim = thread::spawn(Pinned::current).join().expect("no panic");
    match claim {
        Ok(pinned) => assert_eq!(allowed, [pinned.cpu()]),
        Err(error) => assert!(error.to_string().contains("pin it to one"), "{error}"),
    }
}

/// Store buffering: each side stores to its word and then reads the other's; not both may miss the other's store. The target has a
/// compiler fence in between, the caller the bare system call: with what comes before that, the target's store would be old.
#[test]
fn a_running_target_and_its_caller_never_both_miss_the_others_store() {
    const ROUNDS: u32 = 20_000;
    static WORDS: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];
    static SEEN: AtomicU32 = AtomicU32::new(0);
    static ROUND: AtomicU32 = AtomicU32::new(0);
    static END: AtomicBool = AtomicBool::new(false);
    let _alone = alone();
    let (Some(_), [caller, .., _]) = (granted(), &cpus::allowed().cpus[..]) else { return };
    let target = Target::new();
    let answers = |round| {
        while ROUND.load(Ordering::Acquire) != round {
            if END.load(Ordering::Relaxed) {
                return false;
            }
            std::hint::spin_loop();
        }
        WORDS[0].store(round, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        SEEN.store(WORDS[1].load(Ordering::Relaxed) << 1 | 1, Ordering::Release);
        true
    };
    target.tell.send(Box::new(move || _ = (1..).all(answers))).expect("it listens");
    let caller = *caller;
    let both_missed = thread::scope(|scope| {
        let calls = scope.spawn(|| {
            pin_current(caller).expect("an allowed CPU");
            let mut both_missed = 0;
            for round in 1..=ROUNDS {
                SEEN.store(0, Ordering::Relaxed);
                ROUND.store(round, Ordering::Release);
                // The two sides meet in every distance.
                (0..round % 64).for_each(|_| std::hint::spin_loop());
                WORDS[1].store(round, Ordering::Relaxed);
                fence_one(target.pinned.cpu() as libc::c_int).expect("granted");
                let missed = WORDS[0].load(Ordering::Relaxed) != round;
                let mut seen = 0;
                while seen == 0 {
                    std::hint::spin_loop();
                    seen = SEEN.load(Ordering::Acquire);
                }
                both_missed += u32::from(missed && seen >> 1 != round);
            }
            END.store(true, Ordering::Relaxed);
            both_missed
        });
        calls.join().expect("no panic")
    });
    assert_eq!(both_missed, 0);
    target.end();
}

/// Function call interrupts that `cpu` has had, where the kernel counts them.
fn interrupts(cpu: usize) -> Option<u64> {
    let text = fs::read_to_string("/proc/interrupts").ok()?;
    let column = text.lines().next()?.split_whitespace().position(|name| name == format!("CPU{cpu}"))?;
    let line = text.lines().find(|line| line.contains("Function call interrupts"))?;
    line.split_whitespace().nth(1 + column)?.parse().ok()
}

#[test]
fn a_running_target_is_interrupted_on_its_own_cpu() {
    // So few that target and caller both have their CPUs all the while in some round, whatever else the machine does.
    const FENCES: u64 = 20;
    const ROUNDS: u32 = 50_000;
    static END: AtomicBool = AtomicBool::new(false);
    let _alone = alone();
    let (Some(membarrier), [caller, .., _]) = (granted(), &cpus::allowed().cpus[..]) else { return };
    let target = Target::new();
    let cpu = target.pinned.cpu();
    if interrupts(cpu).is_none() {
        return;
    }
    let spin = || {
        while !END.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    target.tell.send(Box::new(spin)).expect("it listens");
    let caller = *caller;
    let interrupted = thread::scope(|scope| {
        let calls = scope.spawn(|| {
            pin_current(caller).expect("an allowed CPU");
            (0..ROUNDS).any(|_| {
                let before = interrupts(cpu).expect("as before");
                (0..FENCES).for_each(|_| fence_on(membarrier, &target.pinned));
                interrupts(cpu).expect("as before") - before >= FENCES * 8 / 10
            })
        });
        calls.join().expect("no panic")
    });
    END.store(true, Ordering::Relaxed);
    assert!(interrupted);
    assert!(target.pinned.holds());
    target.end();
}
