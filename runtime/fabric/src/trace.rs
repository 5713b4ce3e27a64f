//! What the fabric tells a tracer, under the target `ipiq::fabric`: the trace points of DragonFly's ipiq.
//!
//! With the feature `tracing` each is an event of level `TRACE` whose fields `source` and `target` are the cores' indices; without it,
//! nothing at all. While no subscriber wants the level, an event costs a load and a branch that is never taken: about ten instructions with what the
//! compiler does around it, 38 in a round trip of 630. That is why the feature is off unless asked for.
//!
//! | Event | When |
//! |---|---|
//! | `send_norm` | a message was published, by a send that takes it in any case |
//! | `send_pasv` | one was published passively |
//! | `send_nbio` | one was published by a send that may refuse |
//! | `send_fail` | a send was refused: no space, or the target has left |
//! | `send_end` | a send that had to wait for space has ended its wait |
//! | `receive` | a message is about to run |
//! | `cpu_send` | a core was kicked |
//! | `sync_start`, `sync_end` | a cpusync stands, and has ended |
//! | `sync_quick` | a cpusync without a stop was sent out |
//!
//! A prompt cpusync tells of its beginning at its end: while it stands, some core may hold what a tracer wants. The three of cpusync have the number of other cores as `targets`. Kicks that no core gives on its own behalf, those of other threads and of handlers,
//! are not told.

use crate::CoreId;

/// The target under which the events stand.
#[cfg(feature = "tracing")]
const TARGET: &str = "ipiq::fabric";

#[cfg(feature = "tracing")]
macro_rules! event {
    ($name:ident, $source:expr, $field:ident = $value:expr) => {{
        use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
        #[cold]
        #[inline(never)]
        fn emit(source: CoreId, value: usize) {
            tracing::trace!(target: TARGET, source = source.index(), $field = value, stringify!($name));
        }
        if STATIC_MAX_LEVEL >= LevelFilter::TRACE && LevelFilter::current() >= LevelFilter::TRACE {
            emit($source, $value);
        }
    }};
}

#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($name:ident, $source:expr, $field:ident = $value:expr) => {{
        let _ = ($source, $value);
    }};
}

macro_rules! events_between_two_cores {
    ($($name:ident)*) => {$(
        #[inline(always)]
        pub(crate) fn $name(source: CoreId, target: CoreId) {
            event!($name, source, target = target.index());
        }
    )*};
}

macro_rules! events_of_a_set {
    ($($name:ident)*) => {$(
        #[inline(always)]
        pub(crate) fn $name(master: CoreId, targets: usize) {
            event!($name, master, targets = targets);
        }
    )*};
}

events_between_two_cores!(send_norm send_pasv send_nbio send_fail send_end receive cpu_send);
events_of_a_set!(sync_start sync_end sync_quick);
