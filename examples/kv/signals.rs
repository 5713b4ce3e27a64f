//! What the system says to the process.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ipiq::{CoreId, Handle};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::command::Shutdown;
use crate::server::Server;

/// Ends the server at SIGTERM and SIGINT as SHUTDOWN does; a second one meanwhile ends the process at once.
///
/// # Errors
///
/// Says why no thread or handler can be set up.
pub(crate) fn end_on_signal(handle: Handle, server: Arc<Server>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let ending = Arc::new(AtomicBool::new(false));
    thread::Builder::new().name("kv-signals".to_owned()).spawn(move || {
        for _ in &mut signals {
            if ending.swap(true, Ordering::Relaxed) {
                eprintln!("kv: ended by a second signal");
                process::exit(1);
            }
            let (server, ending) = (Arc::clone(&server), Arc::clone(&ending));
            drop(handle.spawn_on(CoreId::new(0), move || async move {
                if let Err(text) = server.shut_down(Shutdown::default()).await {
                    eprintln!("kv: goes on, since it cannot save ({text}); SHUTDOWN NOSAVE ends it");
                    ending.store(false, Ordering::Relaxed);
                }
            }));
        }
    })?;
    Ok(())
}

/// Makes a write beyond the limit of file sizes an error instead of the end.
pub(crate) fn tolerate_file_limit() {
    // Where the handler cannot be set up, the signal ends the process, as it would by default.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}
