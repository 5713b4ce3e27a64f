//! Figures that are handed to the recorder of the crate `metrics`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipiq::classes::ClassSpec;
use ipiq::metrics::{Publisher, record};
use ipiq::{CoreId, Runtime};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

const WATCHDOG: Duration = Duration::from_secs(60);

/// What was recorded, by name and labels.
fn recorded(snapshotter: &Snapshotter) -> HashMap<String, DebugValue> {
    let entries = snapshotter.snapshot().into_vec().into_iter();
    entries
        .map(|(key, _, description, value)| {
            assert!(description.is_some_and(|text| text.ends_with('.')), "each is described");
            let key = key.key();
            let labels = key.labels().map(|label| format!(" {}={}", label.key(), label.value()));
            (format!("{}{}", key.name(), labels.collect::<String>()), value)
        })
        .collect()
}

#[test]
fn counts_and_gauges_are_published_with_their_labels_now_and_each_interval() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().expect("the only recorder of this process");
    let runtime = Runtime::builder().cores(2).build().expect("a runtime");
    let mut publisher = Publisher::new(runtime.handle());
    publisher.publish();
    let silent = recorded(&snapshotter);
    assert!(!silent.contains_key("ipiq_messages_sent_total source=0 target=1"), "they have not talked");
    assert!(silent.contains_key("ipiq_polls_total core=1"));

    runtime.block_on(|| async {
        for _ in 0..7 {
            ipiq::call_on(CoreId::new(1), || ()).await.expect("a core that runs");
        }
    });
    // A core counts what it has received after it has answered.
    let begun = Instant::now();
    while runtime.handle().pair_counters(CoreId::new(0), CoreId::new(1)).queued > 0 {
        assert!(begun.elapsed() < WATCHDOG);
        std::thread::yield_now();
    }
    runtime.handle().create_class(ClassSpec::new("late").shares(7)).expect("a free name");
    publisher.publish();
    let published = recorded(&snapshotter);
    for figure in ["up_nanoseconds", "ticks", "mailbox_full"] {
        assert!(published.contains_key(&format!("ipiq_{figure}_total core=0")), "{figure}");
    }
    assert!(published.contains_key("ipiq_kicks_repeated_total source=0 target=1"));
    assert!(published.contains_key("ipiq_heavy_fences_targeted_total"));
    // A class that was made after the first time is there, too.
    assert!(silent.contains_key("ipiq_class_polls_total class=default core=1"));
    assert_eq!(published["ipiq_class_shares class=late core=0"], DebugValue::Gauge(7.0.into()));
    assert!(matches!(published["ipiq_class_run_nanoseconds_total class=default core=0"], DebugValue::Counter(1..)));
    let pair = runtime.handle().pair_counters(CoreId::new(0), CoreId::new(1));
    assert!(pair.sent >= 7);
    assert_eq!(published["ipiq_messages_sent_total source=0 target=1"], DebugValue::Counter(pair.sent));
    assert_eq!(published["ipiq_messages_queued source=0 target=1"], DebugValue::Gauge(0.0.into()));
    assert!(matches!(published["ipiq_blocking_threads"], DebugValue::Gauge(threads) if threads.0 == 0.0));

    let publishing = runtime.handle().spawn_on(CoreId::new(0), {
        let handle = runtime.handle();
        move || record(handle, Duration::from_millis(1))
    });
    drop(publisher);
    let begun = Instant::now();
    // The task itself fires timers, and tells of those that fired before.
    loop {
        let fired = recorded(&snapshotter).remove("ipiq_timers_fired_total core=0");
        if matches!(fired, Some(DebugValue::Counter(3..))) {
            break;
        }
        assert!(begun.elapsed() < WATCHDOG, "{fired:?}");
        std::thread::yield_now();
    }
    publishing.abort();
    drop(runtime);
}
