//! The Linux port.

use ipiq_fabric::port::{FenceKind, Port};
use ipiq_linux::cpus;
use ipiq_linux::membarrier::Membarrier;
use ipiq_linux::pin::pin_current;
use ipiq_linux::port::{FenceChoice, LinuxPort};
use ipiq_suites::sandbox::refusing;

use crate::{MEMBARRIER, forbidden, unknown};

fn fences_are_symmetric_and_the_reason_is_told(reason: &str) {
    let error = Membarrier::register().expect_err("refused").to_string();
    assert!(error.contains(reason), "{error}");
    assert_eq!(Membarrier::register().expect_err("the same answer").to_string(), error);
    assert_eq!(LinuxPort::new(2, FenceChoice::Auto).fence_kind(), FenceKind::Symmetric);
    assert_eq!(Membarrier::issued(), 0);
}

#[test]
fn membarrier_unknown() {
    refusing("port::membarrier_unknown", &[unknown(MEMBARRIER)], || {
        fences_are_symmetric_and_the_reason_is_told("os error 38");
    });
}

#[test]
fn membarrier_forbidden() {
    refusing("port::membarrier_forbidden", &[forbidden(MEMBARRIER)], || {
        fences_are_symmetric_and_the_reason_is_told("os error 1");
    });
}

#[test]
fn pinning_forbidden() {
    refusing("port::pinning_forbidden", &[forbidden(&[libc::SYS_sched_setaffinity])], || {
        let error = pin_current(0).expect_err("refused");
        assert!(error.is_refused() && !error.is_not_allowed(), "{error}");
    });
}

#[test]
fn the_affinity_mask_forbidden() {
    refusing("port::the_affinity_mask_forbidden", &[forbidden(&[libc::SYS_sched_getaffinity])], || {
        let cpus = cpus::allowed();
        assert!(cpus.default_cores() >= 1);
        assert!(cpus.to_string().contains("guessed"), "{cpus}");
    });
}

#[test]
fn membarrier_granted_makes_fences_asymmetric_unless_asked_not_to() {
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
