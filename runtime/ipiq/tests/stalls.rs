//! What a program's subscriber of `tracing` is told of a core that is stuck.

use std::fmt::Debug;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use ipiq::{CoreId, Runtime};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Hands on the fields of each warning, and fails at each.
struct Warnings(Sender<Vec<(String, String)>>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(Vec::new());
        event.record(&mut fields);
        self.0.send(fields.0).expect("somebody reads");
        panic!("a subscriber that fails keeps the callback from nothing");
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Fields(Vec<(String, String)>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push((field.name().to_owned(), format!("{value:?}")));
    }
}

#[test]
fn a_warning_has_what_is_known_as_fields_and_the_report_as_its_text() {
    std::panic::set_hook(Box::new(|_| ()));
    let (warn, warnings) = channel();
    tracing::subscriber::set_global_default(Warnings(warn)).expect("the first one");
    let (report, reports) = channel();
    let builder = Runtime::builder().cores(2).stall_limit(Duration::from_millis(20));
    let builder = builder.on_stall(move |found| report.send(found.clone()).expect("somebody reads"));
    let runtime = builder.build().expect("a runtime");
    let (end, ended) = channel::<()>();
    let stuck = runtime.handle().spawn_on(CoreId::new(1), move || {
        ipiq::named("stuck", async move { ended.recv().expect_err("it ends with the sender") })
    });
    let patience = Duration::from_secs(60);
    let (mut fields, report) = loop {
        // One after the other; on a busy machine there may be others, of threads that have no CPU.
        let fields = warnings.recv_timeout(patience).expect("a warning");
        let report = reports.recv_timeout(patience).expect("a report");
        if report.core == CoreId::new(1) && report.task.is_some() {
            break (fields, report);
        }
    };
    drop(end);
    Runtime::wait(stuck).expect("no panic");
    let mut field = |name: &str| {
        let at = fields.iter().position(|(field, _)| field == name).unwrap_or_else(|| panic!("{name} in {fields:?}"));
        fields.swap_remove(at).1
    };
    assert_eq!(field("core"), "1");
    assert_eq!(field("lasted_ms"), report.lasted.as_millis().to_string());
    assert_eq!(field("suppressed"), report.suppressed.to_string());
    let task = report.task.as_ref().expect("it has one");
    assert_eq!(field("future"), format!("{:?}", task.future));
    let name = task.name.as_ref().expect("the core has answered");
    assert_eq!(field("task"), name.to_string());
    assert_eq!(field("message"), report.to_string());
}
