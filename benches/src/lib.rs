//! Compares ipiq with its peers on the same work, each figure beside a floor measured just before it.
//!
//! `README.md` of this package tells the method and how to read the table.
//!
//! A peer is one file under [`peers`] that implements [`work::Peer`]; a work is one entry of
//! [`work::WORKS`]. [`compare`] runs the one on the other.

pub mod compare;
pub mod drive;
pub mod flags;
pub mod floor;
pub mod machine;
pub mod memory;
pub mod peers;
pub mod report;
pub mod stats;
pub mod work;
