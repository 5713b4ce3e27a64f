//! The watch with a clock that the test moves.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::string::{String, ToString};
use std::sync::Mutex;
use std::vec::Vec;

use super::{Crumb, LOOK_TURNS, Stall, TargetState, Wait, WaitKind, Watch};
use crate::tests::machine::{Awake, Script};
use crate::{Config, Core, CoreId, Fabric, Seat};

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);
pub(crate) const INTERVAL_NS: u64 = 1_000_000_000;

/// A machine whose time passes by a tenth of an interval with each look, and that notes its kicks.
#[derive(Default)]
pub(crate) struct Ticking {
    now_ns: AtomicU64,
    kicks: Mutex<Vec<CoreId>>,
}

impl Script for Ticking {
    fn kick(&self, target: CoreId) {
        self.kicks.lock().expect("not poisoned").push(target);
    }
    fn relax(&self, _turn: u32) {}
    fn now_ns(&self) -> u64 {
        self.now_ns.fetch_add(INTERVAL_NS / 10, Ordering::Relaxed)
    }
}

pub(crate) type Machine = Awake<Ticking>;

struct Scene {
    machine: Arc<Machine>,
    fabric: Fabric,
    cores: Vec<Core>,
    told: Arc<Mutex<Vec<String>>>,
}

impl Scene {
    fn new(cores: usize, sleepers: bool) -> Self {
        let machine = Arc::new(Machine::default());
        let told = Arc::new(Mutex::new(Vec::new()));
        let teller = told.clone();
        let report = Arc::new(move |stall: &Stall| {
            teller.lock().expect("not poisoned").push(stall.to_string());
            if stall.reports == 2 {
                std::panic::panic_any("a report's panic");
            }
        });
        let watch = Watch { interval_ns: INTERVAL_NS, sleepers, report: Some(report) };
        let config = Config { cores, ring_capacity: 4, first_index: u32::MAX };
        let (fabric, seats) = Fabric::with_watch(config, machine.clone(), watch).expect("a valid configuration");
        Self { machine, fabric, cores: seats.into_iter().map(Seat::enter).collect(), told }
    }

    fn told(&self) -> Vec<String> {
        core::mem::take(&mut self.told.lock().expect("not poisoned"))
    }

    fn kicks(&self) -> usize {
        core::mem::take(&mut *self.machine.kicks.lock().expect("not poisoned")).len()
    }
}

#[test]
fn a_crumb_keeps_reason_target_and_time() {
    for kind in WaitKind::ALL {
        for target in [0, 1, 255].map(CoreId::new) {
            let crumb = Crumb::new(kind, target);
            let wait = crumb.wait(A, 77).expect("it says a wait");
            assert_eq!((wait.kind, wait.target, wait.elapsed), (kind, target, Duration::ZERO));
            let aimed = Crumb::new(kind, B).since(1 << 40).aimed(target);
            assert_eq!(aimed, crumb.since(1 << 40));
            let wait = crumb.since(1 << 40).wait(A, (1 << 40) + 5_000_000).expect("it says a wait");
            assert_eq!((wait.kind, wait.target, wait.elapsed), (kind, target, Duration::from_millis(5)));
        }
    }
    assert_eq!(Crumb(0).wait(A, 77), None);
}

#[test]
fn a_wait_is_told_no_shorter_than_it_was_also_if_the_clock_began_with_it() {
    for since_ns in [0, 1, 500, 1_023, 1_024, 1_025, 1 << 40] {
        let wait =
            Crumb::new(WaitKind::Send, B).since(since_ns).wait(A, since_ns + 20_000_000).expect("it says a wait");
        let longest = Duration::from_nanos(20_000_000 + 1_023);
        assert!((Duration::from_millis(20)..=longest).contains(&wait.elapsed), "{since_ns}: {:?}", wait.elapsed);
    }
}

#[test]
fn a_stall_names_both_cores_the_time_and_the_reason() {
    let elapsed = Duration::from_millis(1_234);
    let wait = Wait { core: B, target: CoreId::new(3), kind: WaitKind::Call, elapsed };
    assert_eq!(wait.to_string(), "core 1 waits for core 3, 1.2 s, in call");
    let short = Wait { elapsed: Duration::from_micros(20_460), ..wait };
    assert_eq!(short.to_string(), "core 1 waits for core 3, 20 ms, in call");
    let back = Wait { core: CoreId::new(3), target: B, kind: WaitKind::Send, elapsed };
    let text = |target| Stall { wait, target, reports: 1 }.to_string();
    assert_eq!(text(TargetState::Busy), "core 1 waits for core 3, 1.2 s, in call; core 3 is busy");
    assert_eq!(text(TargetState::Asleep), "core 1 waits for core 3, 1.2 s, in call; core 3 sleeps");
    let both = "core 1 waits for core 3, 1.2 s, in call; core 3 waits for core 1, 1.2 s, in send";
    assert_eq!(text(TargetState::Waits(back)), both);
}

#[test]
fn a_loop_that_takes_too_long_kicks_and_reports_once_per_interval() {
    let scene = Scene::new(2, false);
    let core = &scene.cores[0];
    let mut waiting = core.wait_for(B, WaitKind::Send);
    assert_eq!(scene.fabric.waits()[0].kind, WaitKind::Send, "it can be read before the first look");
    for _ in 0..25 * LOOK_TURNS {
        waiting.turn(false);
    }
    // Ten looks pass between two reports; a report looks at the target, which looks at the clock.
    let told = scene.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].starts_with("core 0 waits for core 1, 1.") && told[0].ends_with("in send; core 1 is busy"),
        "{told:?}"
    );
    assert_eq!(scene.kicks(), 2, "the kick does not ask the doorbell");
    drop(waiting);
    assert_eq!(scene.fabric.waits(), []);
}

#[test]
fn a_loop_may_turn_more_often_than_it_can_count() {
    let scene = Scene::new(2, false);
    let mut waiting = scene.cores[0].wait_for(B, WaitKind::Cpusync);
    waiting.idle_turns = u32::MAX;
    waiting.turns = u32::MAX;
    waiting.turn(false);
    assert_eq!(waiting.idle_turns, u32::MAX, "it goes on giving its CPU away");
}

#[test]
fn a_wait_for_several_cores_names_one_that_is_late() {
    let scene = Scene::new(4, false);
    let late = CoreId::new(3);
    let mut waiting = scene.cores[0].wait_for(B, WaitKind::Handler);
    for _ in 0..12 * LOOK_TURNS {
        waiting.turn_for_one_of(false, || Some(late));
    }
    assert_eq!((scene.fabric.waits()[0].target, scene.fabric.waits()[0].kind), (late, WaitKind::Handler));
    let told = scene.told();
    assert!(told[0].starts_with("core 0 waits for core 3, 1."), "{told:?}");
    assert_eq!(*scene.machine.kicks.lock().expect("not poisoned"), [late]);
    drop(waiting);
}

#[test]
fn a_nested_wait_is_what_is_seen_until_it_ends() {
    let scene = Scene::new(3, false);
    let core = &scene.cores[0];
    let kinds = || scene.fabric.waits().iter().map(|wait| (wait.target, wait.kind)).collect::<Vec<_>>();
    let outer = core.wait_for(B, WaitKind::Send);
    let inner = core.wait_for(CoreId::new(2), WaitKind::Execution);
    assert_eq!(kinds(), [(CoreId::new(2), WaitKind::Execution)]);
    drop(inner);
    assert_eq!(kinds(), [(B, WaitKind::Send)]);
    drop(outer);
    assert_eq!(kinds(), []);
}

#[test]
fn a_message_that_has_not_run_is_watched_until_it_has() {
    let scene = Scene::new(2, true);
    let (core, target) = (&scene.cores[0], &scene.cores[1]);
    assert_eq!(core.watch(), None, "nothing was sent");
    core.try_send(B, |_, _| ()).expect("space");
    let due = core.watch().expect("it has not run");
    assert!(due <= INTERVAL_NS);
    assert_eq!(scene.fabric.waits()[0].kind, WaitKind::Call);
    let mut looks = 0;
    while scene.told().is_empty() {
        core.watch();
        looks += 1;
    }
    assert!((9..=11).contains(&looks), "a report after an interval, not after {looks} looks");
    assert_eq!(scene.kicks(), 1);
    target.drain(64);
    assert_eq!(core.watch(), None);
    assert_eq!((scene.fabric.waits(), scene.told()), (Vec::new(), Vec::new()));
}

#[test]
fn a_sleeping_target_is_named_as_such_and_kicked_though_its_doorbell_is_claimed() {
    let scene = Scene::new(2, true);
    let armed = scene.cores[1].arm(|| true).expect("nothing waits");
    scene.cores[0].try_send(B, |_, _| ()).expect("space");
    assert_eq!(scene.kicks(), 1, "the send's own, which this machine loses");
    while scene.kicks() == 0 {
        scene.cores[0].watch();
    }
    assert!(scene.told()[0].ends_with("in call; core 1 sleeps"));
    drop(armed);
    assert_eq!(scene.fabric.pair_counters(A, B).repeated, 1);
}

#[test]
fn messages_to_a_core_that_has_left_are_not_watched() {
    let mut scene = Scene::new(2, true);
    scene.cores[0].try_send(B, |_, _| ()).expect("space");
    assert!(scene.cores[0].watch().is_some());
    drop(scene.cores.pop());
    assert_eq!(scene.cores[0].watch(), None);
    assert_eq!(scene.fabric.waits(), []);
}

#[test]
fn only_watched_sleepers_are_told_when_to_wake() {
    let scene = Scene::new(2, false);
    scene.cores[0].try_send(B, |_, _| ()).expect("space");
    assert_eq!(scene.cores[0].watch(), None);
    assert_eq!(scene.fabric.waits().len(), 1, "but it can be read");
}
