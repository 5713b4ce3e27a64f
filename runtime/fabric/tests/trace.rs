//! The trace events of the fabric, as a subscriber sees them.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use ipiq_fabric::cpusync::{CpuSync, Held};
use ipiq_fabric::port::Clock;
use ipiq_fabric::{Config, Core, CoreId, CoreSet, Fabric, Seat};
use machine::{Awake, Script};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

mod machine;

/// Whoever waits waits for core 1.
struct WaitsForB;

impl Script for WaitsForB {
    fn relax(&self, _turn: u32) {
        REACHED.with_borrow(|cores| cores.as_ref().map(|core| core.drain_all(64)));
    }
}

thread_local!(static REACHED: std::cell::RefCell<Option<Core>> = const { std::cell::RefCell::new(None) });

/// Writes down `name source>target` of each event, `name source*targets` of those of a set.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "ipiq::fabric" && *metadata.level() == Level::TRACE
    }
    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _span: &Id, _values: &Record<'_>) {}
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields { name, source, target } = fields;
        self.0.lock().expect("not poisoned").push(format!("{name} {source}{target}"));
    }
    fn enter(&self, _span: &Id) {}
    fn exit(&self, _span: &Id) {}
}

#[derive(Default)]
struct Fields {
    name: String,
    source: u64,
    target: String,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "source" => self.source = value,
            "target" => self.target = format!(">{value}"),
            "targets" => self.target = format!("*{value}"),
            other => panic!("unknown field {other}"),
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        assert_eq!(field.name(), "message");
        self.name = format!("{value:?}");
    }
}

/// What is told while `scenario` runs with two cores whose rings have four slots.
fn told(scenario: impl FnOnce(&Core, &Core)) -> Vec<String> {
    let recorder = Recorder::default();
    let config = Config { cores: 2, ring_capacity: 4, ..Config::default() };
    let (_fabric, seats) = Fabric::new(config, Arc::new(Awake(WaitsForB))).expect("a valid configuration");
    let mut cores = seats.into_iter().map(Seat::enter);
    let (a, b) = (cores.next().expect("core 0"), cores.next().expect("core 1"));
    tracing::subscriber::with_default(recorder.clone(), || scenario(&a, &b));
    std::mem::take(&mut *recorder.0.lock().expect("not poisoned"))
}

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

struct Noon;

impl Clock for Noon {
    fn now_ns(&self) -> u64 {
        12
    }
}

#[test]
fn stops_are_told_from_when_they_stand_to_their_end_with_the_number_of_other_cores() {
    let recorder = Recorder::default();
    let config = Config { cores: 3, ..Config::default() };
    let (_fabric, seats) = Fabric::new(config, Arc::new(Awake(WaitsForB))).expect("a valid configuration");
    let over = AtomicBool::new(false);
    let serve = |seat: Seat| {
        let core = seat.enter();
        while !over.load(Ordering::Acquire) {
            // SAFETY: 1. and 2. nothing else is on the stack.
            unsafe { core.safe_point() };
            thread::yield_now();
        }
    };
    let serve = &serve;
    thread::scope(|scope| {
        let mut seats = seats.into_iter();
        let seat = seats.next().expect("core 0");
        seats.for_each(|seat| _ = scope.spawn(move || serve(seat)));
        let core = seat.enter();
        core.lead(|lead| {
            let plan = |set| CpuSync { set, each: None, drain: false, deadline_ns: None, clock: &Noon };
            let all = CoreSet::first(3);
            lead.cpusync(&plan(all), |_| ()).expect("no panic");
            let of_b = CoreSet::from_iter([B]);
            let inner = |held: &Held<'_>| held.cpusync(&plan(all), |_| ()).expect("no panic").0;
            lead.cpusync(&plan(of_b), inner).expect("no panic");
            lead.cpusync(&plan(CoreSet::from_iter([A])), |_| ()).expect("no panic");
            lead.quick(&all, &|_| ()).expect("no panic");
        });
        // SAFETY: 1. and 2. nothing else is on the stack.
        tracing::subscriber::with_default(recorder.clone(), || _ = unsafe { core.safe_point() });
        over.store(true, Ordering::Release);
    });
    let expected = [
        "sync_start 0*2",
        "sync_end 0*2",
        "sync_start 0*1",
        "sync_start 0*2",
        "sync_end 0*2",
        "sync_end 0*1",
        "sync_start 0*0",
        "sync_end 0*0",
        "sync_quick 0*2",
    ];
    let events = recorder.0.lock().expect("not poisoned");
    let of_stops: Vec<_> = events.iter().filter(|event| event.starts_with("sync")).collect();
    assert_eq!(of_stops, expected);
}

#[test]
fn sends_receipts_and_kicks_are_told_with_both_cores() {
    let events = told(|a, b| {
        a.send_or_list(B, |_, _| ());
        let _ = a.try_send_passive(B, |_, _| ());
        b.drain(64);
        let armed = b.arm(|| true).expect("nothing waits");
        let _ = a.try_send(B, |_, _| ());
        drop(armed);
        b.drain(64);
    });
    let expected = [
        "send_norm 0>1",
        "send_pasv 0>1",
        "receive 0>1",
        "receive 0>1",
        "send_nbio 0>1",
        "cpu_send 0>1",
        "receive 0>1",
    ];
    assert_eq!(events, expected);
}

#[test]
fn refusals_are_told() {
    let events = told(|a, b| {
        for _ in 0..4 {
            let _ = a.try_send(B, |_, _| ());
        }
        assert!(a.try_send(B, |_, _| ()).is_err());
        b.drain(2);
        assert!(a.try_send_spare(B, |_, _| ()).is_err(), "two thirds of four are two");
    });
    assert_eq!(events.iter().filter(|event| *event == "send_fail 0>1").count(), 2, "{events:?}");
}

#[test]
fn a_send_that_waited_tells_when_it_is_over() {
    let recorder = Recorder::default();
    let config = Config { cores: 2, ring_capacity: 4, ..Config::default() };
    let (_fabric, seats) = Fabric::new(config, Arc::new(Awake(WaitsForB))).expect("a valid configuration");
    let mut cores = seats.into_iter().map(Seat::enter);
    let (a, b) = (cores.next().expect("core 0"), cores.next().expect("core 1"));
    REACHED.with_borrow_mut(|reached| *reached = Some(b));
    tracing::subscriber::with_default(recorder.clone(), || {
        for _ in 0..4 {
            a.send(B, |_, _| ()).map_err(drop).expect("nobody leaves");
        }
    });
    REACHED.take();
    let events = recorder.0.lock().expect("not poisoned");
    let end = events.iter().position(|event| event == "send_end 0>1").expect("the fourth waits");
    assert_eq!(events[end + 1], "send_norm 0>1");
}
