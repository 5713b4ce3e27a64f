//! The tables: `| id | what the source promises | what ipiq does | tests |`.

use std::collections::BTreeSet;
use std::fmt;

/// How many requirements of each kind the reference lists.
const REQUIREMENTS: [(&str, usize, usize); 8] = [
    ("D-", 26, 2),
    ("N-", 14, 2),
    ("X-", 6, 2),
    ("F-", 7, 2),
    ("G-D", 8, 1),
    ("G-N", 3, 1),
    ("G-X", 3, 1),
    ("A-", 17, 2),
];

/// A requirement and the tests that show it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) tests: Vec<TestName>,
}

/// `package::target::path`, where the target is `lib`, `loom` or the name of an integration test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TestName {
    pub(crate) package: String,
    pub(crate) target: String,
    pub(crate) path: String,
}

impl fmt::Display for TestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}::{}", self.package, self.target, self.path)
    }
}

impl TestName {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, "::").map(str::to_owned);
        let name = Self { package: parts.next()?, target: parts.next()?, path: parts.next()? };
        let is_word = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':'))
        };
        let is_name = is_word(&name.package) && is_word(&name.target) && is_word(&name.path);
        is_name.then_some(name)
    }
}

/// Every id that needs a row.
fn ids() -> impl Iterator<Item = String> {
    let of = |(kind, count, digits): (&'static str, usize, usize)| {
        (1..=count).map(move |number| format!("{kind}{number:0digits$}"))
    };
    REQUIREMENTS.into_iter().flat_map(of)
}

/// The rows of `text`, and what is wrong with them.
pub(crate) fn parse(text: &str) -> (Vec<Row>, Vec<String>) {
    let known: BTreeSet<String> = ids().collect();
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let id = cells[0];
        if !known.contains(id) {
            // Heads and rules of tables, and other tables.
            let looks_like_one = REQUIREMENTS.iter().any(|(kind, ..)| id.starts_with(kind));
            faults.extend(looks_like_one.then(|| format!("{id}: no such requirement")));
            continue;
        }
        let [_, promise, answer, tests] = cells[..] else {
            faults.push(format!("{id}: {} cells instead of 4", cells.len()));
            continue;
        };
        if promise.is_empty() || answer.is_empty() {
            faults.push(format!("{id}: an empty cell"));
        }
        let named: Vec<&str> = tests.split(',').map(|name| name.trim().trim_matches('`')).collect();
        let parsed: Vec<TestName> = named.iter().filter_map(|name| TestName::parse(name)).collect();
        if parsed.len() != named.len() {
            faults.push(format!("{id}: not a list of package::target::path: {tests:?}"));
        }
        rows.push(Row { id: id.to_owned(), tests: parsed });
    }
    (rows, faults)
}

/// Ids that have more than one row.
pub(crate) fn repeated(rows: &[Row]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let again = rows.iter().filter(|row| !seen.insert(&row.id));
    again.map(|row| format!("{}: a second row", row.id)).collect()
}

/// Ids that have none.
pub(crate) fn missing(rows: &[Row]) -> Vec<String> {
    let have: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    ids().filter(|id| !have.contains(id.as_str())).map(|id| format!("{id}: no row")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_among_heads_rules_and_prose() {
        let text = "| id | promise | answer | tests |\n|---|---|---|---|\nprose\n\
                    | D-01 | runs inline | same | `a-b::lib::tests::one`, a-b::suite::two |\n";
        let (rows, faults) = parse(text);
        assert_eq!(faults, [""; 0]);
        let names: Vec<String> = rows[0].tests.iter().map(ToString::to_string).collect();
        assert_eq!(
            (rows[0].id.as_str(), names),
            ("D-01", vec!["a-b::lib::tests::one".into(), "a-b::suite::two".into()])
        );
    }

    #[test]
    fn a_row_without_tests_cells_or_a_known_id_is_a_fault() {
        let text = "| D-01 | a | b | |\n| D-02 | a | b |\n| D-99 | a | b | p::lib::t |\n| N-01 | | b | p::lib::t |\n\
                    | N-02 | a | b | not a name |\n";
        let (_, faults) = parse(text);
        assert_eq!(faults.len(), 5, "{faults:?}");
        for (fault, id) in faults.iter().zip(["D-01", "D-02", "D-99", "N-01", "N-02"]) {
            assert!(fault.starts_with(id), "{faults:?}");
        }
    }

    #[test]
    fn every_requirement_is_asked_for_once() {
        assert_eq!(ids().count(), 84);
        let (rows, _) = parse("| D-01 | a | b | p::lib::t |\n| D-01 | a | b | p::lib::t |\n");
        assert_eq!(repeated(&rows), ["D-01: a second row"]);
        let missing = missing(&rows);
        assert_eq!(missing.len(), 83);
        assert_eq!((missing[0].as_str(), missing[82].as_str()), ("D-02: no row", "A-17: no row"));
    }
}
