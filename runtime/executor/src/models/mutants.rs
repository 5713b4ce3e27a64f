//! What the models are worth: with any step left out, one of them must fail.

use alloc::string::{String, ToString};
use std::path::Path;
use std::process::Command;
use std::vec::Vec;
use std::{eprintln, format, fs};

/// Each mutant and the model that kills it.
const MUTANTS: [(&str, &str); 19] = [
    ("aborted-no-acquire", "an_abort_seen_by_a_poll_brings_what_led_to_it"),
    ("wait-no-acquire", WAIT),
    ("wait-no-release", WAIT),
    ("wait-in-two-steps", WAIT),
    ("abort-no-acquire", WAIT),
    ("abort-no-release", WAIT),
    ("abort-counts-later", ABORT),
    ("abort-counts-after-the-finish", ABORT),
    ("release-no-acquire", TWO),
    ("release-no-release", TWO),
    ("notify-looks-first", WAKES),
    ("notify-no-release", WAKES),
    ("take-notified-no-acquire", WAKES),
    ("finish-load-no-acquire", "a_task_that_never_waited_ends_after_every_use_of_it"),
    ("finish-no-acquire", "a_task_that_has_waited_ends_after_every_use_of_it"),
    ("finish-no-release", TWO),
    ("finish-before-own", "a_reference_cloned_woken_and_dropped_around_the_finish_keeps_task_and_home"),
    ("finish-keeps-late", TWO),
    ("finish-forgets-nobody", TWO),
];

const WAIT: &str = "an_abort_around_the_first_wait_is_seen_before_it_or_wakes";
const ABORT: &str = "aborts_around_the_finish_keep_the_home_or_leave_it_alone";
const WAKES: &str = "wake_ups_that_travel_as_one_bring_what_each_is_for";
const TWO: &str = "the_last_of_two_references_dropped_elsewhere_gives_up_what_was_kept";

#[test]
fn every_mutant_makes_its_model_fail() {
    let survivors: Vec<String> = MUTANTS.iter().filter_map(|(mutant, model)| survivor(mutant, model)).collect();
    assert!(survivors.is_empty(), "{survivors:#?}");
}

/// Runs one model with one mutant in a process of its own; says so if it passed.
fn survivor(mutant: &str, model: &str) -> Option<String> {
    let program = std::env::current_exe().expect("the path of this test");
    let output = Command::new(program)
        .args(["--exact", &format!("models::word::{model}"), "--nocapture"])
        .env("IPIQ_MUTANT", mutant)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("this test, run again");
    if output.status.success() {
        return Some(format!("{mutant} survives {model}"));
    }
    let text = String::from_utf8_lossy(&output.stderr).to_string();
    let reason = text.lines().skip_while(|line| !line.contains("panicked at")).nth(1).unwrap_or("no panic");
    eprintln!("{mutant}: {reason}");
    None
}

#[test]
fn the_mutants_in_the_code_are_those_in_the_list() {
    let mut in_code = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut in_code);
    let mut listed: Vec<String> = MUTANTS.iter().map(|(mutant, _)| (*mutant).to_string()).collect();
    in_code.sort();
    listed.sort();
    assert_eq!(in_code, listed);
}

fn collect(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a readable file");
            let names = text.split(concat!("mutant", "!(\"")).skip(1).filter_map(|rest| rest.split_once("\")"));
            found.extend(names.map(|(name, _)| name.to_string()));
        }
    }
}
