//! Interrupts between cores, in software: handlers that run when triggered, functions that several cores run while one waits, and
//! doorbells that wake tasks.
//!
//! None of them is a message with a place in a queue: a trigger and a ring set one bit. They never wait for space, never allocate,
//! coalesce, and come from any thread. The idea is NetBSD's `ipi(9)`.
//!
//! | | what it does | how often |
//! |---|---|---|
//! | [`Doorbell`] | wakes a task on a core | however often it was rung before the task looks: once |
//! | [`Handler`] | runs a function on a core, between two polls | however often it was triggered before it runs: once |
//! | [`multicast()`] | runs a function on several cores and waits for all | once per core |
//!
//! A queue per core with a doorbell makes a channel into every core:
//!
//! ```
//! use std::collections::VecDeque;
//! use std::sync::{Arc, Mutex};
//!
//! use ipiq::CoreId;
//! use ipiq::ipi::Doorbell;
//!
//! #[ipiq::main(cores = 2)]
//! async fn main() {
//!     let there = CoreId::new(1);
//!     let queue = Arc::new(Mutex::new(VecDeque::new()));
//!     let doorbell = Doorbell::new();
//!     let task = ipiq::spawn_on(there, {
//!         let (queue, doorbell) = (queue.clone(), doorbell.clone());
//!         move || async move {
//!             let mut sum = 0;
//!             while sum < 6 {
//!                 doorbell.notified().await;
//!                 // One notification stands for everything that is there.
//!                 sum += queue.lock().unwrap().drain(..).sum::<u32>();
//!             }
//!             sum
//!         }
//!     });
//!     for n in [1, 2, 3] {
//!         queue.lock().unwrap().push_back(n);
//!         doorbell.ring(there);
//!     }
//!     assert_eq!(task.await.unwrap(), 6);
//! }
//! ```

mod doorbell;
mod handler;
mod multicast;

use ipiq_fabric::{CoreSet, assert_core};

pub use doorbell::{Doorbell, Notified};
pub use handler::{Handler, MAX_HANDLERS, TableFull, Trigger, TriggerError, Unregister, Unregistered, register};
pub use multicast::{Multicast, Unicast, broadcast, multicast, multicast_blocking, unicast};

#[track_caller]
fn assert_all_exist(set: &CoreSet, cores: usize) {
    for core in set {
        assert_core(core, cores);
    }
}
