//! Urgent handlers on real threads: cores that are reached in the middle of anything.

mod busy;
mod calls;
mod hostile;
mod machine;
mod paused;
mod prompt;
mod sections;
mod shootdowns;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipiq::urgent::{Handler, InterruptSafe};
use ipiq::{Builder, CoreId, Handle, Runtime};

const A: CoreId = CoreId::new(0);
const B: CoreId = CoreId::new(1);

fn two_cores(builder: Builder) -> Runtime {
    builder.cores(2).build().expect("a runtime")
}

/// Registers a handler. Those of these tests use atomics only.
fn register(handle: &Handle, f: impl Fn(CoreId) + Send + Sync + 'static) -> Handler {
    // SAFETY: 1. to 5. the functions of these tests load and store atomics, and trigger.
    handle.register_urgent(unsafe { InterruptSafe::new(f) }).expect("a free slot")
}

/// What triggers tell of, and what the handler has seen of it.
#[derive(Clone, Default)]
struct Told {
    written: Arc<AtomicU64>,
    seen: Arc<AtomicU64>,
}

impl Told {
    fn handler(&self, handle: &Handle) -> Handler {
        let this = self.clone();
        register(handle, move |_| this.seen.store(this.written.load(Ordering::Relaxed), Ordering::Release))
    }

    fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// Writes `n`, triggers, and waits until the handler has seen it.
    fn tell(&self, handler: &Handler, core: CoreId, n: u64) {
        self.written.store(n, Ordering::Relaxed);
        handler.trigger(core).expect("live");
        while self.seen() < n {
            std::thread::yield_now();
        }
    }
}
