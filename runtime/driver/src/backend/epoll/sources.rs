//! Registering sockets.

use std::io;
use std::rc::Rc;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::Epoll;
use crate::socket::Shared;
use crate::table::Key;

impl Epoll {
    pub(super) fn add(&self, shared: &Rc<Shared>) -> io::Result<()> {
        let key = self.sources.borrow_mut().insert(Rc::clone(shared));
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let added = epoll::add(&self.fd, shared, EventData::new_u64(key.to_bits()), interest);
        if let Err(e) = added {
            self.sources.borrow_mut().remove(key);
            return Err(e.into());
        }
        shared.registration.set(key);
        Ok(())
    }

    pub(super) fn remove(&self, shared: &Shared) {
        let key = shared.registration.replace(Key::NONE);
        let removed = self.sources.borrow_mut().remove(key);
        if removed.is_some() {
            // Closing is not enough: a duplicate held by a child would keep the registration alive.
            let _ = epoll::delete(&self.fd, shared);
        }
    }
}
