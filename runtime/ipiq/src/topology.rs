//! What a runtime runs on, as [`Handle::topology`](crate::Handle::topology) tells it.
//!
//! ```
//! use ipiq::topology::Spot;
//! use ipiq::{Placement, Runtime};
//!
//! let runtime = Runtime::builder().cores(1).placement(Placement::Spread).build()?;
//! let handle = runtime.handle();
//! match &handle.topology().cores[0] {
//!     Spot::Cpu(cpu) => println!("core 0 runs on CPU {cpu}"),
//!     other => println!("core 0 is on no CPU of its own: {other}"),
//! }
//! # Ok::<(), ipiq::BuildError>(())
//! ```
//!
//! Files that a container hides, and CPUs that are offline, leave what they would tell unknown. See [`Placement`](crate::Placement) for what is made of it.

pub use ipiq_linux::cpus::Cpus;
pub use ipiq_linux::placement::{PlacementError, Spot, WhyUnpinned};
pub use ipiq_linux::topology::{Cache, CacheKind, Cpu, Machine, Topology};
