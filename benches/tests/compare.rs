//! `compare` as its users run it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

fn compare(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_compare")).args(args).output().expect("compare starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_unknown_work_ends_with_the_list_and_no_backtrace() {
    let output = compare(&["--only", "call_rtt,nothing"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("'nothing'") && error.contains("wake_parked"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_cpu_named_twice_is_refused() {
    let output = compare(&["--cpus", "0,0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("two different CPUs"));
}

#[test]
fn the_table_and_the_json_tell_the_same_figures() {
    if ipiq_benches::machine::first_two_cpus().is_err() {
        // A comparison needs two CPUs; what happens without them is another scenario.
        return;
    }
    let json = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compare.jsonl");
    let path = json.to_str().expect("a path of text");
    let output = compare(&["--quick", "--rounds", "1", "--only", "call_rtt,post", "--runtime", "raw", "--json", path]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    let lines: Vec<serde_json::Value> = fs::read_to_string(&json)
        .expect("the file was written")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is one object"))
        .collect();
    let figures: Vec<_> = lines.iter().map(|line| (line["work"].as_str(), line["metric"].as_str())).collect();
    assert_eq!(
        figures,
        [
            (Some("call_rtt"), Some("per_call")),
            (Some("post"), Some("per_message")),
            (Some("post"), Some("per_message_by_32")),
        ],
    );
    for line in &lines {
        let (value, floor_ns) = (line["value"].as_f64().unwrap(), line["floor_ns"].as_f64().unwrap());
        assert!(value > 0.0 && floor_ns > 0.0, "{line}");
        assert!((line["ratio"].as_f64().unwrap() - value / floor_ns).abs() < 1e-9, "{line}");
        assert!(table.contains(line["metric"].as_str().unwrap()), "{table}");
    }
}

#[test]
fn memory_is_told_in_bytes_and_a_task_of_ours_takes_its_bound() {
    if ipiq_benches::machine::first_two_cpus().is_err() {
        return;
    }
    let json = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("memory.jsonl");
    let path = json.to_str().expect("a path of text");
    let output = compare(&["--quick", "--rounds", "1", "--only", "memory", "--json", path]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines = fs::read_to_string(&json).expect("the file was written");
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("a line is one object")).collect();
    let bytes = |runtime: &str, variant: &str, metric: &str| {
        let is = |line: &&serde_json::Value| {
            line["runtime"] == runtime && line["variant"] == variant && line["metric"] == metric
        };
        let line = lines.iter().find(is).unwrap_or_else(|| panic!("no {runtime} {variant} {metric} in {lines:#?}"));
        assert_eq!((&line["unit"], line["ratio"].is_null()), (&serde_json::json!("bytes"), true));
        line["value"].as_f64().expect("a number")
    };
    // 96 bytes, the outcome's 24, and its place in a list that may have grown to twice its need.
    let task = bytes("ipiq", "adaptive", "bytes_per_task");
    assert!((96.0..=96.0 + 24.0 + 16.0).contains(&task), "{task}");
    assert!(bytes("ipiq", "adaptive", "resident_per_task") > 0.0);
    assert!(bytes("ipiq", "adaptive", "bytes_per_call") > 0.0);
    for variant in ["ct", "ct-spawn", "mt"] {
        assert!(bytes("tokio", variant, "bytes_per_task") > 0.0);
    }
    for variant in ["ct", "ct-spawn"] {
        assert!(bytes("tokio", variant, "bytes_per_call") > 0.0);
    }
    assert!(lines.iter().any(|line| line["variant"] == "fabric" && line["metric"].is_null()), "not offered");
}
