//! Scenarios in a process of their own: what they count is theirs, and a hang or an abort is one scenario's.

use std::env;
use std::process::Command;
use std::time::Duration;

use crate::watchdog::with_watchdog;

const CHILD: &str = "IPIQ_SCENARIO";

/// Runs `scenario` in a child process, under a watchdog. `test` is the name of the calling test, as the harness knows it.
///
/// What the scenario prints is printed by the caller.
///
/// # Panics
///
/// If the child did not pass, with what it said.
pub fn alone(test: &str, limit: Duration, scenario: impl FnOnce()) {
    if env::var_os(CHILD).is_some_and(|name| name == test) {
        return with_watchdog(test, limit, scenario);
    }
    let harness = env::current_exe().expect("a running program has a path");
    let output = Command::new(harness)
        .args([test, "--exact", "--nocapture", "--include-ignored", "--test-threads=1"])
        .env(CHILD, test)
        .output()
        .expect("the harness starts again");
    let said = String::from_utf8_lossy(&output.stdout);
    // A child that found no such test would pass too.
    let passed = output.status.success() && said.contains("1 passed");
    assert!(passed, "{}\n{said}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    said.lines().filter_map(|line| told(test, line)).for_each(|line| println!("{test}: {line}"));
}

/// What the scenario itself said in a line of the harness's output.
fn told<'a>(test: &str, line: &'a str) -> Option<&'a str> {
    // The harness has begun the line in which the first word of the scenario stands.
    let begun =
        line.strip_prefix("test ").and_then(|rest| rest.strip_prefix(test)).and_then(|rest| rest.strip_prefix(" ... "));
    let line = begun.unwrap_or(line);
    let of_the_harness = line.is_empty() || line == "ok" || line.starts_with("running ") || line.starts_with("test ");
    (!of_the_harness).then_some(line)
}
