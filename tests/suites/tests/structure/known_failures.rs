//! The list of what has ended other systems, and the tests that show that it does not end this one.

use std::collections::BTreeSet;
use std::fs;

use crate::named_tests::{cells, fault};
use crate::{assert_none, root};

const FILE: &str = "tests/suites/KNOWN_FAILURES.md";
/// The scenarios that must have a row.
const SCENARIOS: [(&str, usize); 3] = [("life", 7), ("timers", 2), ("env", 6)];
/// The reports that must have a row.
const REPORTS: [u32; 13] = [54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 65, 66, 70];

/// `| id | scenario | tests |`.
struct Row {
    id: String,
    tests: Vec<String>,
}

fn rows(text: &str) -> Vec<Row> {
    let rows = cells(text).filter(|cells| cells.len() == 3 && cells[2].contains("::"));
    rows.map(|cells| {
        let tests = cells[2].split(',').map(|name| name.trim().trim_matches('`').to_owned()).collect();
        Row { id: cells[0].clone(), tests }
    })
    .collect()
}

fn required() -> impl Iterator<Item = String> {
    let scenarios =
        SCENARIOS.iter().flat_map(|(kind, count)| (1..=*count).map(move |number| format!("{kind}-{number}")));
    scenarios.chain(REPORTS.iter().map(ToString::to_string))
}

#[test]
fn every_known_failure_has_tests_that_there_are() {
    let text = fs::read_to_string(root().join(FILE)).expect("the list is there");
    let rows = rows(&text);
    let have: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let missing = required().filter(|id| !have.contains(&id.as_str())).map(|id| format!("{id}: no row"));
    let distinct: BTreeSet<&&str> = have.iter().collect();
    let twice = (distinct.len() != have.len()).then(|| "an id has two rows".to_owned());
    let unknown = rows.iter().flat_map(|row| &row.tests).filter_map(|test| fault(test));
    assert_none(missing.chain(twice).chain(unknown).collect());
}
