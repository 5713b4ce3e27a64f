//! The list of features: each is there with a test, or is not, with a reason.

use std::fs;

use crate::named_tests::{cells, fault};
use crate::{assert_none, root};

const FILE: &str = "runtime/docs/features.md";
/// Fewer rows than this are a list that was not read.
const LEAST_ROWS: usize = 50;

/// What is wrong with the row `| feature | elsewhere | ipiq | test |`.
fn wrong(row: &[String]) -> Option<String> {
    let [feature, _, here, test] = row else { return Some(format!("{row:?}: not four cells")) };
    match here.split([':', ',', ' ']).next() {
        Some("yes") => fault(test.trim_matches('`')),
        Some("no") if here.len() > "no: ".len() => None,
        _ => Some(format!("{feature}: neither yes nor no with a reason")),
    }
}

#[test]
fn every_feature_has_its_test_or_a_reason_why_not() {
    let text = fs::read_to_string(root().join(FILE)).expect("the list is there");
    let heads = ["Feature", "---"];
    let rows: Vec<_> = cells(&text).filter(|row| !heads.contains(&row[0].as_str())).collect();
    assert!(rows.len() >= LEAST_ROWS, "{} rows", rows.len());
    assert_none(rows.iter().filter_map(|row| wrong(row)).collect());
}

#[test]
fn a_row_without_a_word_of_its_own_is_wrong() {
    let row = |here: &str, test: &str| wrong(&["a feature", "all", here, test].map(str::to_owned));
    assert!(row("no: there is no need", "–").is_none());
    for (here, test) in [("no", "–"), ("perhaps", "–"), ("yes: all of it", "–"), ("yes", "`ipiq::lib::none`")] {
        assert!(row(here, test).is_some(), "{here} {test}");
    }
}
