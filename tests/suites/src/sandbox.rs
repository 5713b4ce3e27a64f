//! A child process in which the kernel refuses some system calls, by a real seccomp filter.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{c_int, c_long};
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter, apply_filter_all_threads,
};

use crate::watchdog;

/// Tells the test program that it is the child.
const IN_CHILD: &str = "IPIQ_TEST_CHILD";

/// System calls that fail, and how.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// The numbers of the calls.
    pub calls: &'a [c_long],
    /// Only with this first argument.
    pub first_argument: Option<u64>,
    /// What they fail with, such as `ENOSYS` or `EPERM`.
    pub errno: c_int,
}

/// Runs `scenario` in a process of its own, and in everything it starts, under `refusals`.
///
/// A filter cannot be taken off again; so the test program is started again with `test`, the full name of the test that calls this,
/// and in there the call applies the filter and runs the scenario.
///
/// # Panics
///
/// If the scenario panics or hangs in the child, or there is no test of that name, with what the child has printed.
pub fn refusing(test: &str, refusals: &[Refusal<'_>], scenario: impl FnOnce()) {
    if env::var_os(IN_CHILD).is_some() {
        let _watchdog = watchdog::watch(test);
        refusals.iter().for_each(refuse);
        return scenario();
    }
    let this = env::current_exe().expect("this program has a path");
    let mut child = Command::new(this);
    child.args([test, "--exact", "--nocapture"]).env(IN_CHILD, "1");
    let output = child.output().expect("this program starts again");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "in the child: {}\n{out}\n{err}", output.status);
}

/// Closes a sandbox around the calling thread, and whatever it starts from here on; threads that exist already stay free.
///
/// # Panics
///
/// If the kernel refuses the filter.
pub fn refuse(refusal: &Refusal<'_>) {
    apply_filter(&filter(refusal)).expect("the kernel takes a filter");
}

/// Closes a sandbox around every thread of the process, those that exist included. Only for a process of one's own: inside
/// [`refusing`].
///
/// # Panics
///
/// If the kernel refuses the filter.
pub fn refuse_to_all_threads(refusal: &Refusal<'_>) {
    apply_filter_all_threads(&filter(refusal)).expect("the kernel takes a filter");
}

fn filter(refusal: &Refusal<'_>) -> BpfProgram {
    let rule = |argument| {
        let equal = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, argument);
        SeccompRule::new(vec![equal.expect("there is a first argument")]).expect("one condition")
    };
    let conditions: Vec<SeccompRule> = refusal.first_argument.into_iter().map(rule).collect();
    let rules: BTreeMap<_, _> = refusal.calls.iter().map(|call| (*call, conditions.clone())).collect();
    let errno = SeccompAction::Errno(refusal.errno.unsigned_abs());
    let arch = env::consts::ARCH.try_into().expect("seccompiler knows this architecture");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, arch).expect("the rules are sound");
    filter.try_into().expect("the filter compiles")
}
