//! `cargo xtask conformance`: every requirement has a row, every row has tests, and they pass.

mod builds;
mod rows;
mod tests_of_rows;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::parts::root;
use rows::{Row, TestName};
use tests_of_rows::{Outcome, run};

/// The file with the rows.
const FILE: &str = "runtime/fabric/CONFORMANCE.md";

/// Which rows to show.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Prefixes of ids; none: all rows, and none may be missing.
    pub(crate) only: Vec<String>,
    /// Name the rows and their tests, and run nothing.
    pub(crate) list: bool,
}

/// Prints a line per row and a summary; `true`: all is well.
pub(crate) fn conformance(options: &Options) -> bool {
    match report(options) {
        Ok(passed) => passed,
        Err(faults) => {
            faults.iter().for_each(|fault| println!("error: {fault}"));
            println!("FAILED: {} faults before any test of {FILE} ran", faults.len());
            false
        }
    }
}

fn report(options: &Options) -> Result<bool, Vec<String>> {
    let (all, mut faults) = rows::parse(&read(&root())?);
    faults.extend(rows::repeated(&all));
    if options.only.is_empty() {
        faults.extend(rows::missing(&all));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let wanted = |row: &&Row| options.only.is_empty() || options.only.iter().any(|prefix| row.id.starts_with(prefix));
    let rows: Vec<&Row> = all.iter().filter(wanted).collect();
    if options.list {
        rows.iter().for_each(|row| row.tests.iter().for_each(|test| println!("{:<6} {test}", row.id)));
        return Ok(true);
    }
    let names: BTreeSet<&TestName> = rows.iter().flat_map(|row| &row.tests).collect();
    let outcomes = run(&names).map_err(|error| vec![error])?;
    let passed = rows.iter().filter(|row| print_row(row, &outcomes)).count();
    let verdict = if passed == rows.len() { "passed" } else { "FAILED" };
    println!("{verdict}: {passed} of {} rows passed, by {} tests", rows.len(), names.len());
    Ok(passed == rows.len())
}

/// Prints the row's line; `true`: all its tests passed.
fn print_row(row: &Row, outcomes: &BTreeMap<&TestName, Outcome>) -> bool {
    let failed = row.tests.iter().filter_map(|test| match outcomes.get(test) {
        Some(Outcome::Passed) => None,
        Some(Outcome::Failed(reason)) => Some(format!("{test}: {reason}")),
        None => Some(format!("{test}: did not run")),
    });
    let failed: Vec<String> = failed.collect();
    if failed.is_empty() {
        println!("{:<6} passed, {} tests", row.id, row.tests.len());
    } else {
        println!("{:<6} FAILED: {}", row.id, failed.join("; "));
    }
    failed.is_empty()
}

/// The text of the tables.
fn read(root: &Path) -> Result<String, Vec<String>> {
    fs::read_to_string(root.join(FILE)).map_err(|error| vec![format!("{FILE}: {error}")])
}
