//! The trace events of the fabric, as a subscriber sees them.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use ipiq_fabric::{Config, Core, CoreId, Fabric, Seat};
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

/// Writes down `name source>target` of each event.
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
        self.0.lock().expect("not poisoned").push(format!("{name} {source}>{target}"));
    }
    fn enter(&self, _span: &Id) {}
    fn exit(&self, _span: &Id) {}
}

#[derive(Default)]
struct Fields {
    name: String,
    source: u64,
    target: u64,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "source" => self.source = value,
            "target" => self.target = value,
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

const B: CoreId = CoreId::new(1);

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
fn refusals_and_the_end_of_a_wait_for_space_are_told() {
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
