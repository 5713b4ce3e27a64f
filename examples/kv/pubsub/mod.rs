#![doc = include_str!("README.md")]

mod hub;
mod mailbox;
mod post;

pub(crate) use hub::{Hub, Subscriber, Topic};
pub(crate) use mailbox::{Arrival, Mailbox, OutputLimit};
pub(crate) use post::{Post, Publication};
