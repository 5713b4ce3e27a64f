//! What must not leave its core.

use std::cell::Cell;
use std::rc::Rc;

use ipiq::{CoreId, core_id};

use crate::runtimes::{Census, Token};

/// Must be dropped where it was made, while that core can still be asked who it is.
#[derive(Debug)]
pub struct Homebound {
    /// Where it was made.
    pub home: CoreId,
    /// For tests to write.
    pub count: Cell<u64>,
    _not_send: Rc<()>,
    _token: Token,
}

impl Homebound {
    /// At home on the calling core; counted by `census` while it lives.
    #[must_use]
    pub fn new(census: &Census) -> Self {
        Self { home: core_id(), count: Cell::new(0), _not_send: Rc::new(()), _token: census.token() }
    }
}

impl Drop for Homebound {
    fn drop(&mut self) {
        assert_eq!(core_id(), self.home, "dropped elsewhere");
    }
}
