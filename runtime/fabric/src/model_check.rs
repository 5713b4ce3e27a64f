//! What model checking needs in this crate and in those above it: the seam for mutants, how a scenario is explored, and the
//! proof that each mutant is missed.

use crate::sync::Ordering;

/// `true` while the model checker runs the mutant of this name: the step it guards is then left out, and a model must
/// fail. Always `false` in a normal build.
#[doc(hidden)]
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {{
        #[cfg(loom)]
        let on = $crate::model_check::mutant_is($name);
        #[cfg(not(loom))]
        let on = false;
        on
    }};
}
pub use mutant;

/// `order`, or none at all under a mutant.
#[inline(always)]
#[must_use]
pub const fn relaxed_if(mutant: bool, order: Ordering) -> Ordering {
    if mutant { Ordering::Relaxed } else { order }
}

#[cfg(loom)]
mod checker {
    use alloc::string::{String, ToString};
    use std::path::Path;
    use std::process::Command;
    use std::vec::Vec;
    use std::{eprintln, format, fs};

    use crate::sync::Counter;
    use crate::sync::checker::Builder;

    pub use crate::sync::mutant_is;

    /// Explores `scenario` with at most `preemptions` switches away from a thread that could go on.
    pub fn explore(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
        let mut builder = Builder::new();
        builder.preemption_bound.get_or_insert(preemptions);
        let explored = alloc::sync::Arc::new(Counter::default());
        let count = explored.clone();
        builder.check(move || {
            count.add(1);
            scenario();
        });
        eprintln!("{}: {} executions", std::thread::current().name().unwrap_or_default(), explored.get());
    }

    /// The mutants of a crate.
    ///
    /// The models are tests of the crate's module `models`. Each is run in a process of its own: a mutant is on in all of a process.
    pub struct Mutants {
        /// `CARGO_MANIFEST_DIR` of the crate.
        pub crate_dir: &'static str,
        /// Each mutant and the model that kills it, by its path below `models`.
        ///
        /// `a+b` is both at once: what `a` leaves out would make up for `b`. Leaving it out alone does no harm to that model.
        pub killed_by: &'static [(&'static str, &'static str)],
    }

    impl Mutants {
        /// Panics unless each mutant makes its model fail.
        pub fn assert_killed(&self) {
            let survivors: Vec<String> =
                self.killed_by.iter().filter_map(|(mutants, model)| survivor(mutants, model)).collect();
            assert!(survivors.is_empty(), "{survivors:#?}");
        }

        /// Panics if, of two mutants at once, the first alone makes the model fail.
        pub fn assert_pairs_needed(&self) {
            for (mutants, model) in self.killed_by {
                if let Some((first, _)) = mutants.split_once('+') {
                    assert!(survivor(first, model).is_some(), "{first} alone makes {model} fail");
                }
            }
        }

        /// Panics unless the mutants in the crate's code are those of the list.
        pub fn assert_complete(&self) {
            let mut in_code = Vec::new();
            collect(&Path::new(self.crate_dir).join("src"), &mut in_code);
            let mut listed: Vec<String> =
                self.killed_by.iter().flat_map(|(mutants, _)| mutants.split('+').map(str::to_string)).collect();
            for names in [&mut in_code, &mut listed] {
                names.sort();
                names.dedup();
            }
            assert_eq!(in_code, listed);
        }
    }

    /// Runs one model with one mutant in a process of its own; says so if it passed.
    fn survivor(mutants: &str, model: &str) -> Option<String> {
        let program = std::env::current_exe().expect("the path of this test");
        let output = Command::new(program)
            .args(["--exact", &format!("models::{model}"), "--nocapture"])
            .env("IPIQ_MUTANT", mutants)
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("this test, run again");
        if output.status.success() {
            return Some(format!("{mutants} survives {model}"));
        }
        let text = String::from_utf8_lossy(&output.stderr).to_string();
        let reason = text.lines().skip_while(|line| !line.contains("panicked at")).nth(1).unwrap_or("no panic");
        eprintln!("{mutants}: {reason}");
        None
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
}

#[cfg(loom)]
pub use checker::{Mutants, explore, mutant_is};
