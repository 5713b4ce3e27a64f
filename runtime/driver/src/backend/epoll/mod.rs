//! The epoll backend: readiness by edge, one registration per socket.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::counters::Counts;
use crate::socket::Shared;
use crate::table::{Key, Table};
use crate::{Config, DriverError, Notifier};

mod pwait2;
mod sources;
mod transfer;
mod wait;

/// One epoll instance. Every cell is borrowed for moments only, never while a waker runs.
pub(crate) struct Epoll {
    fd: OwnedFd,
    sources: RefCell<Table<Rc<Shared>>>,
    batch: RefCell<Batch>,
    /// A `poll` saw a notification that the next `wait` must return for.
    notified: Cell<bool>,
    /// The kernel has no `epoll_pwait2`: timeouts are rounded up to milliseconds.
    coarse: Cell<bool>,
    counts: Arc<Counts>,
}

/// Events taken from the kernel; those before `next` are dispatched. Kept between calls, so a waker that
/// panics or calls back loses none.
struct Batch {
    events: Vec<Event>,
    next: usize,
}

impl Epoll {
    pub(crate) fn new(config: &Config, notifier: &Notifier, counts: &Arc<Counts>) -> Result<Self, DriverError> {
        let fd = epoll::create(CreateFlags::CLOEXEC)
            .map_err(|e| DriverError::new("creating an epoll instance failed", e))?;
        epoll::add(&fd, notifier, EventData::new_u64(Key::NOTIFIER.to_bits()), EventFlags::IN | EventFlags::ET)
            .map_err(|e| DriverError::new("watching the eventfd with epoll failed", e))?;
        Ok(Self {
            fd,
            sources: RefCell::new(Table::new()),
            batch: RefCell::new(Batch { events: Vec::with_capacity(config.batch() as usize), next: 0 }),
            notified: Cell::new(false),
            coarse: Cell::new(false),
            counts: counts.clone(),
        })
    }
}
