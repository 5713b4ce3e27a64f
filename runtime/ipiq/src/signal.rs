//! Signals of the system, such as the one of ctrl-c, as futures.
//!
//! In most programs [`Handle::shutdown_on_signals`] is all that is wanted:
//!
//! ```no_run
//! # fn spawn_servers() {}
//! #[ipiq::main]
//! async fn main() -> std::io::Result<()> {
//!     ipiq::handle().shutdown_on_signals()?;
//!     spawn_servers();
//!     drop(ipiq::shutdown::phase("drain").await);
//!     Ok(())
//! }
//! ```
//!
//! [`ctrl_c`] and [`terminate`] await one signal, [`listen`] makes something that awaits any number of any:
//!
//! ```no_run
//! # fn reload() {}
//! # async fn f() -> std::io::Result<()> {
//! let mut hang_ups = ipiq::signal::listen([ipiq::signal::SIGHUP])?;
//! loop {
//!     hang_ups.recv().await;
//!     reload();
//! }
//! # }
//! ```
//!
//! While somebody listens to a signal, it does nothing else; when nobody does, again what it did before: by default, or nothing where it was ignored. A handler that the process had set for it before is
//! called in any case. Signals of one number that come before they were received are one. The first to listen starts a thread, `ipiq-signals`, which stays as long as the process; the crate `signal-hook`
//! does the work. A child that is forked without `execve` has no such thread: there no signal of these does anything until somebody listens again.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::thread;

use ipiq_fabric::contain;
use ipiq_linux::interrupt::is_default;
use ipiq_linux::{fork, inherited};
use signal_hook::consts::FORBIDDEN;
pub use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::{Handle as HookHandle, Signals as Hook};
use signal_hook::low_level::emulate_default_handler;
use slab::Slab;

use crate::Handle;
use crate::shutdown::{self, Board};

/// The last real-time signal of Linux.
const MOST: i32 = 64;

/// Awaits the signal of ctrl-c, `SIGINT`. It listens from the call on.
///
/// ```no_run
/// #[ipiq::main]
/// async fn main() -> std::io::Result<()> {
///     println!("press ctrl-c");
///     ipiq::signal::ctrl_c().await
/// }
/// ```
///
/// # Errors
///
/// The future resolves to what the system says if it has no handler or thread for it.
///
/// # Cancel safety
///
/// A signal that came before it was dropped is lost.
pub fn ctrl_c() -> Once {
    Once { signals: Some(listen([SIGINT])) }
}

/// As [`ctrl_c`], for `SIGTERM`, by which services are asked to end.
///
/// # Errors
///
/// As [`ctrl_c`].
///
/// # Cancel safety
///
/// As [`ctrl_c`].
pub fn terminate() -> Once {
    Once { signals: Some(listen([SIGTERM])) }
}

/// Listens to signals, by their numbers, until the value is dropped. May be called on any thread.
///
/// # Errors
///
/// `InvalidInput` for numbers that are no signals, or cannot be listened to: `SIGKILL`, `SIGSTOP`, and those of faults. What the system says if it has no handler or thread for it.
pub fn listen(signals: impl IntoIterator<Item = i32>) -> io::Result<Signals> {
    let signals: Vec<i32> = signals.into_iter().collect();
    let key = hear(&signals, Listener::Future { came: Vec::new(), waker: None })?;
    Ok(Signals { key })
}

/// What [`listen`] gives: signals as they come.
#[derive(Debug)]
#[must_use = "nobody listens when it is dropped"]
pub struct Signals {
    key: usize,
}

impl Signals {
    /// The number of the next signal, in the order in which they came.
    ///
    /// # Cancel safety
    ///
    /// No signal is lost when it is dropped.
    pub async fn recv(&mut self) -> i32 {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<i32> {
        let new = cx.waker().clone();
        let mut hub = hub();
        let Some(Heard { listener: Listener::Future { came, waker }, .. }) = hub.listeners.get_mut(self.key) else {
            unreachable!("it listens until it is dropped")
        };
        if !came.is_empty() {
            return Poll::Ready(came.remove(0));
        }
        let before = waker.replace(new);
        drop(hub);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let heard = hub().listeners.try_remove(self.key);
        drop(heard);
    }
}

/// One signal: from [`ctrl_c`] or [`terminate`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Once {
    signals: Option<io::Result<Signals>>,
}

impl Future for Once {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.signals.take().expect("a signal is not awaited after it has come") {
            Err(error) => Poll::Ready(Err(error)),
            Ok(mut signals) => {
                if signals.poll_recv(cx).is_ready() {
                    return Poll::Ready(Ok(()));
                }
                self.signals = Some(Ok(signals));
                Poll::Pending
            }
        }
    }
}

impl Handle {
    /// Has `SIGINT`, the signal of ctrl-c, or `SIGTERM` begin the [end in phases](crate::shutdown), until the runtime has ended. A second one meanwhile ends the process at once, with the status that shells
    /// give it: 128 and the signal's number.
    ///
    /// With several runtimes that ask for it the signal begins the end of all of them. [`Runtime::block_on`](crate::Runtime::block_on), and so `#[ipiq::main]`, panics if its task is cut in the phase
    /// `cancel`: let it await [`shutdown::phase`](crate::shutdown::phase()), and return; the phases come to their end all the same. A plain `main` is told how they went by
    /// `Runtime::wait(handle.shutdown())` after its `block_on`: who asks later is given the same report.
    ///
    /// ```no_run
    /// use ipiq::shutdown;
    ///
    /// #[ipiq::main]
    /// async fn main() -> std::io::Result<()> {
    ///     ipiq::handle().shutdown_on_signals()?;
    ///     // Spawn what serves, and then:
    ///     drop(shutdown::phase(shutdown::DRAIN).await);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// What the system says if it has no handler or thread for it.
    pub fn shutdown_on_signals(&self) -> io::Result<()> {
        hear(&[SIGINT, SIGTERM], Listener::End { board: Arc::downgrade(self.board()), begun: false }).map(drop)
    }
}

/// Who listens, process-wide.
struct Hub {
    listeners: Slab<Heard>,
    hook: Option<Hooked>,
    /// Signals that did what they do by default before they were listened to.
    defaults: Vec<i32>,
}

/// What brings signals here, and the process that it does so in: a forked child has not got the thread.
struct Hooked {
    handle: HookHandle,
    generation: u32,
}

struct Heard {
    signals: Vec<i32>,
    listener: Listener,
}

enum Listener {
    Future { came: Vec<i32>, waker: Option<Waker> },
    End { board: Weak<Board>, begun: bool },
}

/// What a signal asks for, outside the lock.
enum Effect {
    Wake(Waker),
    Begin(Arc<Board>),
    Exit,
}

fn hub() -> MutexGuard<'static, Hub> {
    static HUB: Mutex<Hub> = Mutex::new(Hub { listeners: Slab::new(), hook: None, defaults: Vec::new() });
    // No code of a user's runs under it.
    HUB.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hear(signals: &[i32], listener: Listener) -> io::Result<usize> {
    if let Some(signal) = signals.iter().find(|signal| FORBIDDEN.contains(signal) || !(1..=MOST).contains(*signal)) {
        let text = format!("signal {signal} cannot be listened to");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut hub = hub();
    let hook = hub.hook()?;
    let new: Vec<i32> = signals.iter().copied().filter(|signal| is_default(*signal)).collect();
    hub.defaults.extend(new);
    // It comes in from here on, and waits for the lock.
    signals.iter().try_for_each(|signal| hook.add_signal(*signal))?;
    let ended = hub.forget_the_ended();
    let key = hub.listeners.insert(Heard { signals: signals.to_vec(), listener });
    drop(hub);
    drop(ended);
    Ok(key)
}

/// On the thread of the signals.
fn came(signal: i32) {
    let mut hub = hub();
    let (effects, ended) = hub.tell(signal);
    let by_default = effects.is_empty() && hub.defaults.contains(&signal);
    drop(hub);
    // Where they are the last to have it, it is dropped here, outside the lock.
    drop(ended);
    if by_default {
        // What it does by default; where that cannot be done, nothing.
        let _ = emulate_default_handler(signal);
    }
    for effect in effects {
        match effect {
            Effect::Wake(waker) => contain(|| waker.wake()),
            Effect::Begin(board) => drop(shutdown::begin(&board)),
            Effect::Exit => process::exit(128 + signal),
        }
    }
}

impl Hub {
    /// What brings signals here, started where it is not there yet.
    fn hook(&mut self) -> io::Result<HookHandle> {
        fork::watch();
        let generation = fork::generation();
        if let Some(hooked) = self.hook.as_ref().filter(|hooked| hooked.generation == generation) {
            return Ok(hooked.handle.clone());
        }
        // In a forked child, of those that listened before, too.
        let mut hook = Hook::new(self.listeners.iter().flat_map(|(_, heard)| &heard.signals))?;
        let handle = hook.handle();
        // A core has a runtime, which has done so before.
        inherited::remember();
        let hear = move || {
            shutdown::be_no_cores_own();
            hook.forever().for_each(came);
        };
        thread::Builder::new().name("ipiq-signals".into()).spawn(hear)?;
        self.hook = Some(Hooked { handle: handle.clone(), generation });
        Ok(handle)
    }

    /// Tells whoever listens to the signal; no effect: nobody does. Returns, to be dropped outside the lock, what it has looked at, too.
    fn tell(&mut self, signal: i32) -> (Vec<Effect>, Vec<Arc<Board>>) {
        let ended = self.forget_the_ended();
        let concerned = self.listeners.iter_mut().filter(|(_, heard)| heard.signals.contains(&signal));
        (concerned.map(|(_, heard)| heard.listener.hear(signal)).collect(), ended)
    }

    /// Forgets runtimes that have ended. Returns all of them, to be dropped outside the lock.
    fn forget_the_ended(&mut self) -> Vec<Arc<Board>> {
        let mut ended = Vec::new();
        self.listeners.retain(|_, heard| match &heard.listener {
            Listener::Future { .. } => true,
            Listener::End { board, .. } => board.upgrade().is_some_and(|board| {
                let goes_on = !board.has_ended();
                ended.push(board);
                goes_on
            }),
        });
        ended
    }
}

impl Listener {
    fn hear(&mut self, signal: i32) -> Effect {
        match self {
            Self::Future { came, waker } => {
                if !came.contains(&signal) {
                    came.push(signal);
                }
                Effect::Wake(waker.take().unwrap_or_else(|| Waker::noop().clone()))
            }
            Self::End { begun: true, .. } => Effect::Exit,
            Self::End { board, begun } => {
                *begun = true;
                // It was alive just before.
                board.upgrade().map_or_else(|| Effect::Wake(Waker::noop().clone()), Effect::Begin)
            }
        }
    }
}
