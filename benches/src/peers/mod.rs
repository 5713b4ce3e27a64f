//! The runtimes compared: one file each, all implementing [`Peer`].

use crate::work::Peer;

pub mod fabric;
#[cfg(all(feature = "glommio", target_arch = "x86_64"))]
mod glommio;
mod ipiq;
mod raw;
mod tokio;

/// All peers in all their variants, references first.
pub static PEERS: &[&dyn Peer] = &[
    &raw::LINE,
    &raw::FUTEX,
    &raw::RING,
    &raw::BARRIER,
    &fabric::FABRIC,
    &ipiq::ADAPTIVE,
    &ipiq::PARK,
    &tokio::CURRENT_THREAD,
    &tokio::CURRENT_THREAD_BUSY,
    &tokio::CURRENT_THREAD_SPAWN,
    &tokio::CURRENT_THREAD_SPAWN_BUSY,
    &tokio::MULTI_THREAD,
    #[cfg(all(feature = "glommio", target_arch = "x86_64"))]
    &glommio::ONE,
];
