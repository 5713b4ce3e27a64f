#![doc = include_str!("README.md")]

mod inspect;
mod report;
mod teller;
mod turns;
mod watch;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use inspect::{Inspect, current, install};
pub use report::{Backtrace, CoreBacktrace, CoreBacktraces, CoreState, NoBacktrace, PolledTask, StallReport};
pub(crate) use teller::Teller;
pub(crate) use turns::Seen;
pub(crate) use watch::StallWatch;

use crate::Handle;

/// Told of every report.
pub(crate) type OnStall = Arc<dyn Fn(&StallReport) + Send + Sync>;

/// What is to be told.
#[derive(Clone, Default)]
pub(crate) struct Stalls {
    pub(crate) limit: Option<Duration>,
    pub(crate) on_stall: Option<OnStall>,
}

impl Handle {
    /// What every core is in the middle of: asleep, or in which task and where in its code, as the `l` of a kernel's magic SysRq key tells it of all CPUs.
    ///
    /// Each core that is awake is interrupted for it. One that does not answer within a tenth of a second is reported without a backtrace; finding
    /// names comes on top: some milliseconds per core, and up to seconds for the first ones of a process in debug builds.
    ///
    /// ```
    /// let runtime = ipiq::Runtime::builder().cores(2).build()?;
    /// let all = runtime.handle().backtrace_all_cores();
    /// assert_eq!(all.cores.len(), 2);
    /// println!("{all}");
    /// # Ok::<(), ipiq::BuildError>(())
    /// ```
    ///
    /// # Context
    ///
    /// Blocks the calling thread, so call it on one that runs no core; where a core calls it all the same, that core is held up, and reported without a
    /// backtrace. What it does to system calls on the cores is told with [`Builder::stall_limit`](crate::Builder::stall_limit).
    #[must_use]
    pub fn backtrace_all_cores(&self) -> CoreBacktraces {
        self.inspect().all_cores()
    }
}
