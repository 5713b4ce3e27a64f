//! What must not compile, each beside its closest relative that does.
//!
//! What travels to another core must be `Send`:
//!
//! ```
//! # async fn f() { let core = ipiq::CoreId::new(1);
//! let count = std::sync::Arc::new(1);
//! let _ = ipiq::call_on(core, move || *count).await;
//! # }
//! ```
//! ```compile_fail,E0277
//! # async fn f() { let core = ipiq::CoreId::new(1);
//! let count = std::rc::Rc::new(1);
//! let _ = ipiq::call_on(core, move || *count).await;
//! # }
//! ```
//!
//! So must what comes back:
//!
//! ```compile_fail,E0277
//! # async fn f() { let core = ipiq::CoreId::new(1);
//! let _ = ipiq::call_on(core, || std::rc::Rc::new(1)).await;
//! # }
//! ```
//!
//! The future of a remote task need not be, for it is made there; the closure that makes it must:
//!
//! ```
//! # async fn f() { let core = ipiq::CoreId::new(1);
//! let task = ipiq::spawn_on(core, || async {
//!     let count = std::rc::Rc::new(1);
//!     ipiq::yield_now().await;
//!     *count
//! });
//! # let _ = task.await; }
//! ```
//! ```compile_fail,E0277
//! # async fn f() { let core = ipiq::CoreId::new(1);
//! let count = std::rc::Rc::new(1);
//! let task = ipiq::spawn_on(core, move || async move { *count });
//! # let _ = task.await; }
//! ```
//!
//! A core's use of its own value of a `CoreLocal` stays there, while the variable itself may go anywhere; so do a use of a shard, and its service:
//!
//! ```
//! # async fn f(hits: std::sync::Arc<ipiq::CoreLocal<std::cell::Cell<u32>>>, counts: ipiq::sharded::Sharded<u32>) { let core = ipiq::CoreId::new(1);
//! let _ = ipiq::call_on(core, move || (hits.get().get(), *counts.local())).await;
//! # }
//! ```
//! ```compile_fail,E0277
//! # async fn f(hits: std::sync::Arc<ipiq::CoreLocal<std::cell::Cell<u32>>>) { let core = ipiq::CoreId::new(1);
//! let own = hits.get();
//! let _ = ipiq::call_on(core, move || own.get()).await;
//! # }
//! ```
//! ```compile_fail,E0277
//! # async fn f(counts: ipiq::sharded::Sharded<u32>) { let core = ipiq::CoreId::new(1);
//! let own = counts.local();
//! let _ = ipiq::call_on(core, move || *own).await;
//! # }
//! ```
//!
//! Nor does it come back from another core:
//!
//! ```compile_fail,E0277
//! # async fn f(hits: std::sync::Arc<ipiq::CoreLocal<std::cell::Cell<u32>>>) { let core = ipiq::CoreId::new(1);
//! let _ = ipiq::call_on(core, move || hits.get()).await;
//! # }
//! ```
//!
//! A guard that holds a phase of the end open may go anywhere:
//!
//! ```
//! fn is_send_and_sync<T: Send + Sync>() {}
//! is_send_and_sync::<ipiq::shutdown::Guard>();
//! is_send_and_sync::<ipiq::shutdown::PhaseBegin>();
//! ```
//!
//! A stream belongs to the driver of its core:
//!
//! ```compile_fail,E0277
//! # async fn f(stream: ipiq::net::TcpStream) { let core = ipiq::CoreId::new(1);
//! let _ = ipiq::call_on(core, move || drop(stream)).await;
//! # }
//! ```
//!
//! A runtime may be driven from any thread, and a handle may be sent to one; what borrows from the caller's stack may not be
//! handed to a core:
//!
//! ```
//! fn is_send_and_sync<T: Send + Sync>() {}
//! is_send_and_sync::<ipiq::Runtime>();
//! is_send_and_sync::<ipiq::Handle>();
//! ```
//! ```compile_fail,E0373
//! let runtime = ipiq::Runtime::new().unwrap();
//! let local = String::new();
//! runtime.block_on(|| async { local.len() });
//! ```
//!
//! A program returns what any `main` may:
//!
//! ```compile_fail,E0277
//! #[ipiq::main]
//! async fn main() -> u8 {
//!     0
//! }
//! ```
//!
//! A single producer has one end, on its core; a queue's receiver stays where it was made, its senders travel and multiply:
//!
//! ```
//! fn travels<T: Send + Clone>() {}
//! fn travels_alone<T: Send>() {}
//! travels::<ipiq::sync::cross::mpsc::Sender<u32>>();
//! travels::<ipiq::sync::cross::watch::Receiver<u32>>();
//! travels_alone::<ipiq::sync::cross::oneshot::Sender<u32>>();
//! ```
//! ```compile_fail,E0277
//! fn multiplies<T: Clone>() {}
//! multiplies::<ipiq::mesh::Sender<u32>>();
//! ```
//! ```compile_fail,E0277
//! fn multiplies<T: Clone>() {}
//! multiplies::<ipiq::sync::cross::oneshot::Sender<u32>>();
//! ```
//! ```compile_fail,E0277
//! fn travels<T: Send>() {}
//! travels::<ipiq::mesh::Sender<u32>>();
//! ```
//! ```compile_fail,E0277
//! fn travels<T: Send>() {}
//! travels::<ipiq::sync::cross::mpsc::Receiver<u32>>();
//! ```
//! ```compile_fail,E0277
//! fn travels<T: Send>() {}
//! travels::<ipiq::sync::cross::mpsc::Permit<u32>>();
//! ```
//!
//! What waits on one core does not leave it:
//!
//! ```compile_fail,E0277
//! fn is_shared<T: Sync>() {}
//! is_shared::<ipiq::sync::Mutex<u32>>();
//! ```
//!
//! The builder of an attribute is one:
//!
//! ```compile_fail,E0308
//! #[ipiq::main(builder = 7)]
//! async fn main() {}
//! ```
