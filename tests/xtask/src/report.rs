//! The closing lines of a test run.

use std::fmt;
use std::time::Duration;

pub(crate) enum Outcome {
    Passed { took: Duration },
    Failed { took: Duration, reason: String },
    NotRun,
}

/// One line per part, then a summary.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<(&'static str, Outcome)>,
}

impl Report {
    pub(crate) fn add(&mut self, part: &'static str, outcome: Outcome) {
        self.rows.push((part, outcome));
    }

    pub(crate) fn failed(&self) -> bool {
        self.rows.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed { .. }))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut passed, mut total) = (0, Duration::ZERO);
        for (part, outcome) in &self.rows {
            match outcome {
                Outcome::Passed { took } => {
                    passed += 1;
                    total += *took;
                    writeln!(f, "{part:<12} passed   {:>7.1} s", took.as_secs_f64())?;
                }
                Outcome::Failed { took, reason } => {
                    total += *took;
                    writeln!(f, "{part:<12} FAILED   {:>7.1} s   {reason}", took.as_secs_f64())?;
                }
                Outcome::NotRun => writeln!(f, "{part:<12} not run")?,
            }
        }
        let verdict = if self.failed() { "FAILED" } else { "passed" };
        writeln!(f, "{verdict}: {passed} of {} parts passed in {:.0} s", self.rows.len(), total.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_with_its_reason_and_what_was_not_run() {
        let mut report = Report::default();
        report.add("fmt", Outcome::Passed { took: Duration::from_millis(1500) });
        report.add("clippy", Outcome::Failed { took: Duration::from_secs(2), reason: "cargo clippy: exit 1".into() });
        report.add("test", Outcome::NotRun);
        let text = report.to_string();
        assert!(report.failed());
        assert!(text.contains("clippy       FAILED") && text.contains("cargo clippy: exit 1"), "{text}");
        assert!(text.contains("test         not run"), "{text}");
        assert!(text.ends_with("FAILED: 1 of 3 parts passed in 4 s\n"), "{text}");
    }

    #[test]
    fn all_passed_is_no_failure() {
        let mut report = Report::default();
        report.add("fmt", Outcome::Passed { took: Duration::ZERO });
        assert!(!report.failed());
        assert!(report.to_string().ends_with("passed: 1 of 1 parts passed in 0 s\n"));
    }
}
