//! The Linux port.

use std::sync::{Arc, mpsc};
use std::thread;

use ipiq_fabric::CoreId;
use ipiq_fabric::port::{FenceKind, Port};
use ipiq_linux::cpus;
use ipiq_linux::membarrier::{Membarrier, Pinned};
use ipiq_linux::pin::pin_current;
use ipiq_linux::port::{FenceChoice, LinuxPort};
use ipiq_suites::sandbox::{Refusal, refuse_to_all_threads, refusing};

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

/// The fence of one CPU; `register` takes the command that asks for the right to it.
fn fence_of_one(register: bool) -> Refusal<'static> {
    let fence = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ;
    let command = if register { libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ } else { fence };
    Refusal { first_argument: Some(command as u64), ..forbidden(MEMBARRIER) }
}

/// A port of two cores, and the thread of the second, which is pinned and waits until its end is dropped.
fn port_and_core() -> (Arc<LinuxPort>, CoreId, mpsc::Sender<()>) {
    let (port, core) = (Arc::new(LinuxPort::new(2, FenceChoice::Auto)), CoreId::new(1));
    let entered = port.clone();
    let ((say, claims), (end, ended)) = (mpsc::channel(), mpsc::channel());
    thread::spawn(move || {
        pin_current(cpus::allowed().cpus[0]).expect("an allowed CPU");
        entered.entered(core);
        say.send(Pinned::current().expect("a pinned thread")).expect("somebody waits");
        let _ = ended.recv();
    });
    port.set_pinned(core, claims.recv().expect("a claim"));
    (port, core, end)
}

fn fences_on(port: &LinuxPort, core: CoreId) -> (u64, u64) {
    let before = (Membarrier::issued(), Membarrier::targeted());
    while !port.heavy_fence_on(core) {}
    (Membarrier::issued() - before.0, Membarrier::targeted() - before.1)
}

#[test]
fn the_fence_of_one_forbidden_from_the_start() {
    for (register, test) in [
        (false, "port::the_fence_of_one_forbidden_from_the_start"),
        (true, "port::the_fence_of_one_forbidden_from_the_start"),
    ] {
        refusing(test, &[fence_of_one(register)], || {
            let (port, core, _end) = port_and_core();
            assert_eq!(port.fence_kind(), FenceKind::Asymmetric, "everyone's is granted");
            assert!(!Membarrier::register().expect("granted").reaches_one());
            assert_eq!(fences_on(&port, core), (1, 0));
        });
    }
}

#[test]
fn the_fence_of_one_forbidden_after_the_start() {
    refusing("port::the_fence_of_one_forbidden_after_the_start", &[], || {
        let (port, core, _end) = port_and_core();
        let membarrier = Membarrier::register().expect("granted");
        if !membarrier.reaches_one() {
            return;
        }
        assert_eq!(fences_on(&port, core), (1, 1));
        refuse_to_all_threads(&fence_of_one(false));
        assert_eq!(fences_on(&port, core), (1, 0), "everyone's instead");
        assert!(!membarrier.reaches_one(), "nobody asks again");
        refuse_to_all_threads(&forbidden(MEMBARRIER));
        let refused = Membarrier::refused();
        assert!(!port.heavy_fence_on(core) && !port.heavy_fence());
        assert_eq!(Membarrier::refused(), refused + 2);
    });
}

#[test]
fn a_core_that_is_not_pinned_is_fenced_with_everyone_and_a_symmetric_port_fences_nobody() {
    if Membarrier::register().is_err() {
        return;
    }
    let port = LinuxPort::new(2, FenceChoice::Auto);
    let before = Membarrier::issued();
    while !port.heavy_fence_on(CoreId::new(1)) {}
    assert!(Membarrier::issued() > before);
    assert!(!LinuxPort::new(2, FenceChoice::Symmetric).heavy_fence_on(CoreId::new(1)));
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
