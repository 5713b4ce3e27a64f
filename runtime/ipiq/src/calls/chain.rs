//! Who waits for whom.

use std::cell::Cell;
use std::fmt::Write;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;

use ipiq_fabric::CoreId;

use super::context;
use crate::home;

/// A service, as long as it is in use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) key: home::Key,
    /// The type of its shards.
    pub(crate) type_name: &'static str,
}

/// One call of a chain, or the use of a service in which the next one was made.
pub(crate) struct Link {
    service: Option<Service>,
    core: CoreId,
    depth: u8,
    before: Option<Arc<Self>>,
}

/// How many calls may wait for one another.
pub(super) const DEEPEST: u8 = 32;

thread_local! {
    /// Whose use the task that is polled has.
    static IN_USE: Cell<Option<Service>> = const { Cell::new(None) };
}

/// `future`, which has a use of `service`.
pub(crate) async fn using<F: Future>(service: Service, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        // [calls C3]
        let _before = Before(IN_USE.replace(Some(service)));
        future.as_mut().poll(cx)
    })
    .await
}

struct Before(Option<Service>);

impl Drop for Before {
    fn drop(&mut self) {
        IN_USE.set(self.0);
    }
}

/// Whether who asks has a use of the service of `key`, or is called by one who has.
pub(crate) fn is_in_use(key: home::Key) -> bool {
    let is_it = |service: Option<Service>| service.is_some_and(|service| service.key == key);
    // [calls C3]
    is_it(IN_USE.get()) || context::look(|context| before(context.chain.as_ref()).any(|link| is_it(link.service)))
}

/// The link and those before it.
fn before(link: Option<&Arc<Link>>) -> impl Iterator<Item = &Link> {
    std::iter::successors(link.map(|link| &**link), |link| link.before.as_deref())
}

/// The link of a call to `core`, behind the current chain.
///
/// # Errors
///
/// What the chain looks like, if it is too long.
pub(super) fn lengthen(service: Option<Service>, core: CoreId, here: CoreId) -> Result<Arc<Link>, String> {
    let mut last = context::current().chain;
    let depth = last.as_ref().map_or(0, |last| last.depth) + 1;
    // [calls C1]
    if let Some(service) = IN_USE.get() {
        last = Some(Arc::new(Link { service: Some(service), core: here, depth: depth - 1, before: last }));
    }
    let link = Link { service, core, depth, before: last };
    // [calls C2]
    if depth > DEEPEST { Err(circle(&link)) } else { Ok(Arc::new(link)) }
}

impl Link {
    pub(super) fn depth(&self) -> u8 {
        self.depth
    }

    fn is_same_place(&self, other: &Self) -> bool {
        self.service == other.service && self.core == other.core
    }

    fn name(&self) -> String {
        let core = self.core.index();
        match self.service {
            Some(service) => format!("{}@{core}", short(service.type_name)),
            None => format!("core {core}"),
        }
    }
}

/// From the last time that the chain was where it ends now; else all of it.
fn circle(last: &Link) -> String {
    let mut links: Vec<_> = before(last.before.as_ref()).collect();
    if let Some(same) = links.iter().position(|link| link.is_same_place(last)) {
        links.truncate(same + 1);
    }
    let mut text = String::new();
    for link in links.iter().rev() {
        let _ = write!(text, "{} → ", link.name());
    }
    text + &last.name()
}

/// A type's name without the modules.
fn short(type_name: &str) -> String {
    let mut short = String::new();
    let mut word = 0;
    for part in type_name.split_inclusive(|letter: char| !letter.is_alphanumeric() && letter != '_') {
        short.push_str(part);
        if part.ends_with(':') {
            short.truncate(word);
        } else if part.ends_with(|letter: char| !letter.is_alphanumeric() && letter != '_') {
            word = short.len();
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_without_their_modules() {
        for (long, expected) in [
            ("u64", "u64"),
            ("shop::cart::Cart", "Cart"),
            (
                "core::cell::RefCell<std::collections::HashMap<alloc::string::String, u64>>",
                "RefCell<HashMap<String, u64>>",
            ),
            ("(a::B, c_d::e::F_1)", "(B, F_1)"),
        ] {
            assert_eq!(short(long), expected);
        }
    }
}
