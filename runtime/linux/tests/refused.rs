//! A sandbox that refuses `membarrier`: fences on both sides, with the reason told.
//!
//! A filter cannot be taken off again, so each scenario runs in a child: this program, started again with the name of the
//! scenario's test and a variable that says so.

use std::collections::BTreeMap;
use std::env;
use std::process::Command;

use ipiq_fabric::port::{FenceKind, Port};
use ipiq_linux::membarrier::Membarrier;
use ipiq_linux::pin::pin_current;
use ipiq_linux::port::{FenceChoice, LinuxPort};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

const IN_CHILD: &str = "IPIQ_TEST_CHILD";

/// Runs `scenario` in a process of its own whose `syscall` fails with `errno`.
fn refused(test: &str, syscall: libc::c_long, errno: libc::c_int, scenario: fn()) {
    if env::var_os(IN_CHILD).is_some() {
        refuse(syscall, errno);
        return scenario();
    }
    let this = env::current_exe().expect("a path");
    let child = Command::new(this).args([test, "--exact", "--nocapture"]).env(IN_CHILD, "1").output().expect("a child");
    let (out, err) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && out.contains("1 passed"), "{}\n{out}\n{err}", child.status);
}

fn refuse(syscall: libc::c_long, errno: libc::c_int) {
    let rules = BTreeMap::from([(syscall, vec![])]);
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    let arch = env::consts::ARCH.try_into().expect("an architecture that seccompiler knows");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a program");
    apply_filter(&program).expect("the kernel takes a filter");
}

fn the_port_is_symmetric_and_says_why(reason: &str) {
    let error = Membarrier::register().expect_err("refused").to_string();
    assert!(error.contains(reason), "{error}");
    assert_eq!(Membarrier::register().expect_err("the same answer").to_string(), error);
    assert_eq!(LinuxPort::new(2, FenceChoice::Auto).fence_kind(), FenceKind::Symmetric);
    assert_eq!(Membarrier::issued(), 0);
}

#[test]
fn membarrier_refused_as_unknown() {
    refused("membarrier_refused_as_unknown", libc::SYS_membarrier, libc::ENOSYS, || {
        the_port_is_symmetric_and_says_why("os error 38");
    });
}

#[test]
fn membarrier_refused_as_forbidden() {
    refused("membarrier_refused_as_forbidden", libc::SYS_membarrier, libc::EPERM, || {
        the_port_is_symmetric_and_says_why("os error 1");
    });
}

#[test]
fn pinning_refused_says_so() {
    refused("pinning_refused_says_so", libc::SYS_sched_setaffinity, libc::EPERM, || {
        let error = pin_current(0).expect_err("refused");
        assert!(error.is_refused() && !error.is_not_allowed(), "{error}");
    });
}

#[test]
fn the_affinity_mask_refused_still_gives_cpus() {
    refused("the_affinity_mask_refused_still_gives_cpus", libc::SYS_sched_getaffinity, libc::EPERM, || {
        let cpus = ipiq_linux::cpus::allowed();
        assert!(cpus.default_cores() >= 1);
        assert!(cpus.to_string().contains("guessed"), "{cpus}");
    });
}

#[test]
fn membarrier_granted_makes_the_fences_asymmetric_unless_asked_not_to() {
    if Membarrier::register().is_err() {
        return;
    }
    let port = LinuxPort::new(2, FenceChoice::Auto);
    assert_eq!(port.fence_kind(), FenceKind::Asymmetric);
    let before = Membarrier::issued();
    while !port.heavy_fence() {}
    assert!(Membarrier::issued() > before);
    assert_eq!(LinuxPort::new(2, FenceChoice::Symmetric).fence_kind(), FenceKind::Symmetric);
}
