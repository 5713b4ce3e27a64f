//! The ipiq fabric's port to Linux: threads as cores.
//!
//! | Module | What it does |
//! |---|---|
//! | [`membarrier`] | the heavy half of the asymmetric fence, for all threads or one |
//! | [`kick`] | ends a core's sleep |
//! | [`fork`] | whether this process is a forked child |
//! | [`interrupt`] | reaches a core in the middle of what it does, by a signal |
//! | [`port`] | the fabric's [`Port`](ipiq_fabric::port::Port) from these |
//! | [`clock`] | the monotonic clock |
//! | [`cpus`] | which CPUs this process may use |
//! | [`topology`] | what the machine looks like: nodes, packages, physical cores, caches |
//! | [`placement`] | which CPU each core gets |
//! | [`pin`] | pins a thread to one |
//! | [`inherited`] | undoes that, and more, for a thread that a core starts |
//! | [`stack`] | what a thread was in the middle of when a signal reached it |

mod affinity;
pub mod clock;
pub mod cpus;
pub mod fork;
pub mod inherited;
pub mod interrupt;
pub mod kick;
pub mod membarrier;
pub mod pin;
pub mod placement;
pub mod port;
pub mod stack;
pub mod topology;
