//! Snapshots by themselves, at the save points.

use std::sync::Arc;
use std::time::Duration;

use ipiq::time;

use crate::server::Server;
use crate::settings::SavePoint;
use crate::snapshot::{self, Age};

const PERIOD: Duration = Duration::from_secs(1);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// Looks for a save point that is reached, for ever.
pub(crate) async fn run(server: Arc<Server>) {
    loop {
        time::sleep(PERIOD).await;
        let facts = &server.context.facts;
        let (age, changes) = (facts.snapshots.age(), facts.ledger.changes());
        if server.context.live.read(|settings| is_due(&settings.save_points, age, changes)) {
            // A failure is reported by INFO and on the standard error; one that runs already is as good.
            let _ = snapshot::save_in_background(&server).await;
        }
    }
}

fn is_due(points: &[SavePoint], age: Age, changes: u64) -> bool {
    let unsaved = changes.saturating_sub(age.changes);
    let reached = |point: &SavePoint| unsaved >= point.changes.max(1) && age.seconds >= point.seconds;
    age.since_failure.is_none_or(|since| since >= RETRY) && points.iter().any(reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_due_when_old_enough_and_changed_enough() {
        let points = [SavePoint { seconds: 10, changes: 5 }, SavePoint { seconds: 100, changes: 1 }];
        for (seconds, changes, since_failure, expected) in [
            (10, 105, None, true),
            (10, 104, None, false),
            (9, 1000, None, false),
            (100, 101, None, true),
            (100, 100, None, false),
            (100, 101, Some(4), false),
            (100, 101, Some(5), true),
        ] {
            let age = Age { seconds, changes: 100, since_failure: since_failure.map(Duration::from_secs) };
            assert_eq!(is_due(&points, age, changes), expected, "{age:?} {changes}");
        }
        assert!(!is_due(&[], Age { seconds: 1000, changes: 0, since_failure: None }, 9));
    }
}
