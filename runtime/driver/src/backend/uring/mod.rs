//! The io_uring backend: owned-buffer operations by completion, readiness by multishot poll.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode, squeue};
use rustix::io::Errno;

use crate::counters::Counts;
use crate::table::Table;
use crate::{Config, DriverError, Notifier};

mod payload;
mod slot;
mod sources;
mod teardown;
mod transfer;
mod wait;

pub(crate) use slot::Slot;

/// One ring. Every cell is borrowed for moments only, never while a waker or a buffer's code runs.
pub(crate) struct Uring {
    ring: RefCell<IoUring>,
    /// Submissions that found the queue full; they go first at the next submission.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    /// What the kernel has not answered for the last time, by the key in its `user_data`.
    flying: RefCell<Table<Rc<Slot>>>,
    /// Slots ready for use again.
    idle: RefCell<Vec<Rc<Slot>>>,
    notifier: Notifier,
    /// A `poll` saw a notification that the next `wait` must return for.
    notified: Cell<bool>,
    counts: Arc<Counts>,
}

/// The smallest ring worth having before falling back.
const MIN_ENTRIES: u32 = 64;

impl Uring {
    pub(crate) fn new(config: &Config, notifier: &Notifier, counts: &Arc<Counts>) -> Result<Self, DriverError> {
        let refused = |e| DriverError::new("setting up io_uring failed", e);
        let mut entries = config.batch();
        let ring = loop {
            match build(entries) {
                // Locked memory is counted per user and may be short only now: a smaller ring may fit.
                Err(e) if is(&e, Errno::NOMEM) && entries > MIN_ENTRIES => entries /= 2,
                built => break built.map_err(refused)?,
            }
        };
        check(&ring)?;
        let uring = Self {
            ring: RefCell::new(ring),
            backlog: RefCell::new(VecDeque::new()),
            flying: RefCell::new(Table::new()),
            idle: RefCell::new(Vec::new()),
            notifier: notifier.clone(),
            notified: Cell::new(false),
            counts: counts.clone(),
        };
        uring.watch_notifier();
        Ok(uring)
    }
}

/// Asks for the modes in which only this thread submits and completions run only when it looks.
fn build(entries: u32) -> std::io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_clamp().setup_submit_all().setup_cqsize(entries.saturating_mul(4)).setup_taskrun_flag();
    match builder.clone().setup_single_issuer().setup_defer_taskrun().build(entries) {
        // Linux 5.19 to 6.0.
        Err(e) if is(&e, Errno::INVAL) => builder.setup_coop_taskrun().build(entries),
        built => built,
    }
}

fn check(ring: &IoUring) -> Result<(), DriverError> {
    let lacking = |what: &str| {
        let error = std::io::Error::new(std::io::ErrorKind::Unsupported, what.to_owned());
        Err(DriverError::new("the kernel's io_uring lacks a feature", error))
    };
    let params = ring.params();
    if !params.is_feature_nodrop() {
        return lacking("NODROP");
    }
    if !params.is_feature_ext_arg() {
        return lacking("EXT_ARG");
    }
    if !params.is_feature_fast_poll() {
        return lacking("FAST_POLL");
    }
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|e| DriverError::new("asking io_uring for its operations failed", e))?;
    for (code, name) in [
        (opcode::Recv::CODE, "IORING_OP_RECV"),
        (opcode::Send::CODE, "IORING_OP_SEND"),
        (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
        (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
    ] {
        if !probe.is_supported(code) {
            return lacking(name);
        }
    }
    // A sandbox may let a ring be made and refuse its use. Submits nothing.
    ring.submit().map_err(|e| DriverError::new("entering io_uring failed", e))?;
    Ok(())
}

fn is(error: &std::io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
