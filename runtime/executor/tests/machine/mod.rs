//! A machine whose cores never sleep.

use std::cell::Cell;
use std::ptr;

use ipiq_fabric::port::{Clock, FenceKind, Idle, Port};
use ipiq_fabric::{Armed, CoreId};

thread_local! {
    static CURRENT: Cell<*const ()> = const { Cell::new(ptr::null()) };
}

/// Threads that look on.
pub(crate) struct Machine;

// SAFETY: 1. the slot is a cell of the thread. 2. the fence kind is symmetric.
unsafe impl Port for Machine {
    fn fence_kind(&self) -> FenceKind {
        FenceKind::Symmetric
    }
    fn heavy_fence(&self) -> bool {
        unreachable!("symmetric")
    }
    fn kick(&self, _target: CoreId) {}
    fn relax(&self, _turn: u32) {
        std::thread::yield_now();
    }
    fn current(&self) -> *const () {
        CURRENT.get()
    }
    unsafe fn set_current(&self, slot: *const ()) {
        CURRENT.set(slot);
    }
}

impl Idle for Machine {
    fn poll(&mut self) -> usize {
        0
    }
    fn park(&mut self, _armed: &Armed<'_>, _timeout_ns: Option<u64>) {}
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        0
    }
}
