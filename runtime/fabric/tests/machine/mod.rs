//! A machine for tests, whose cores never sleep.

use std::ops::Deref;
use std::ptr;

use ipiq_fabric::CoreId;
use ipiq_fabric::port::{FenceKind, Port};

/// What a test has happen where a real machine would act.
pub(crate) trait Script: Send + Sync + 'static {
    /// [`FenceKind::Asymmetric`] only where all cores are on one thread.
    const FENCE: FenceKind = FenceKind::Symmetric;

    fn refuses_fence(&self) -> bool {
        unreachable!("symmetric")
    }
    fn kick(&self, _target: CoreId) {}
    fn relax(&self, _turn: u32) {
        std::thread::yield_now();
    }
    fn now_ns(&self) -> u64 {
        0
    }
}

/// The machine on which a script is played.
#[derive(Default)]
pub(crate) struct Awake<S>(pub(crate) S);

impl<S> Deref for Awake<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}

// SAFETY: 1. the slot is always null, and nobody sets it. 2. the fence kind is symmetric, or there is no other thread.
unsafe impl<S: Script> Port for Awake<S> {
    fn fence_kind(&self) -> FenceKind {
        S::FENCE
    }
    fn heavy_fence(&self) -> bool {
        !self.0.refuses_fence()
    }
    fn kick(&self, target: CoreId) {
        self.0.kick(target);
    }
    fn relax(&self, turn: u32) {
        self.0.relax(turn);
    }
    fn now_ns(&self) -> u64 {
        self.0.now_ns()
    }
    fn current(&self) -> *const () {
        ptr::null()
    }
    unsafe fn set_current(&self, _slot: *const ()) {}
}
