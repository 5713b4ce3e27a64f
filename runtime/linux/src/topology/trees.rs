//! Machines as sysfs shows them, for tests: the recorded one, and others after the kernel's documentation of the files. Each line is a path below
//! `/sys/devices/system` and what the file holds; `[0-3]` in a path stands for each number of the list.

use std::collections::HashMap;
use std::path::PathBuf;

use super::{Machine, SYSTEM, parse};
use crate::cpus::list;

pub(crate) const TWO_SOCKETS: &str = include_str!("trees/two_sockets.txt");
pub(crate) const CHIPLETS: &str = include_str!("trees/chiplets.txt");
pub(crate) const HOLES: &str = include_str!("trees/holes.txt");
pub(crate) const SMT_OFF: &str = include_str!("trees/smt_off.txt");
pub(crate) const BIG_LITTLE: &str = include_str!("trees/big_little.txt");
pub(crate) const VIRTUAL: &str = include_str!("trees/virtual.txt");
/// A container that shows no sysfs.
pub(crate) const NOTHING: &str = "";

/// The machine of a tree.
pub(crate) fn machine(tree: &str) -> Machine {
    let mut files = HashMap::new();
    for line in tree.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (path, text) = line.split_once(": ").expect("a path and what is there");
        for path in expand(path) {
            files.insert(PathBuf::from(format!("{SYSTEM}/{path}")), format!("{text}\n"));
        }
    }
    parse(&|path| files.get(path).cloned())
}

fn expand(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('[') else { return vec![path.to_owned()] };
    let (numbers, after) = rest.split_once(']').expect("an end");
    let numbers = list::parse(numbers).expect("a list");
    numbers.into_iter().map(|number| format!("{before}{number}{after}")).collect()
}
