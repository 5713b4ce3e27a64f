//! What the system says to the process.

use std::io;
use std::pin::pin;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::{Either, select};
use ipiq::shutdown::{STOP_ACCEPTING, ShutdownReport};
use ipiq::signal::{self, SIGINT, SIGTERM, Signals};
use ipiq::{CoreId, Handle};
use signal_hook::consts::SIGXFSZ;

use crate::command::Shutdown;
use crate::server::Server;

/// Listens from now on to the signals that end the server.
///
/// # Errors
///
/// Says why no handler can be set up.
pub(crate) fn listen() -> io::Result<Signals> {
    signal::listen([SIGINT, SIGTERM])
}

/// Waits for the end of the server, which a signal begins as SHUTDOWN does; a second one meanwhile ends the process at once.
pub(crate) async fn wait_for_end(handle: &Handle, server: Arc<Server>, mut signals: Signals) -> ShutdownReport {
    let mut ended = pin!(async {
        drop(handle.phase(STOP_ACCEPTING).await);
        handle.shutdown().await
    });
    let ending = Arc::new(AtomicBool::new(false));
    loop {
        match select(ended.as_mut(), pin!(signals.recv())).await {
            Either::Left((report, _)) => return report,
            Either::Right(_) if ending.swap(true, Ordering::Relaxed) => {
                eprintln!("kv: ended by a second signal");
                process::exit(1);
            }
            Either::Right(_) => {}
        }
        let (server, ending) = (Arc::clone(&server), Arc::clone(&ending));
        drop(handle.spawn_on(CoreId::new(0), move || async move {
            if let Err(text) = server.shut_down(Shutdown::default()).await {
                eprintln!("kv: goes on, since it cannot save ({text}); SHUTDOWN NOSAVE ends it");
                ending.store(false, Ordering::Relaxed);
            }
        }));
    }
}

/// Makes a write beyond the limit of file sizes an error instead of the end.
pub(crate) fn tolerate_file_limit() {
    // Where the handler cannot be set up, the signal ends the process, as it would by default.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}
