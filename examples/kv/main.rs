//! `kv`: a RESP2 key-value server for redis's clients, one shard of the keys per core.
//!
//! A connection is served by the core that accepted it. Commands on keys of that core's shard run at once; those on
//! other shards travel as one message per core for all that one read brought, and their replies come back the same way.
//! Nothing is locked. A command over several keys is atomic on each shard: where its keys lie on several, another
//! connection may see it done on one and not yet on the next; a snapshot does not.

mod autosave;
mod command;
mod connection;
mod errand;
mod flags;
mod glob;
mod info;
mod keyspace;
mod pubsub;
mod reply;
mod resp;
mod route;
mod server;
mod session;
mod settings;
mod shard;
mod signals;
mod snapshot;
mod store;

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use ipiq::classes::ClassSpec;
use ipiq::shutdown::DRAIN;
use ipiq::{CoreId, DriverKind, FenceKind, Placement, Runtime, RuntimeInfo};
use rustix::net::sockopt::set_socket_reuseport;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use flags::{Asked, Flags};
use info::Facts;
use pubsub::Post;
use route::Router;
use server::{Server, cannot_listen};
use session::Context;
use settings::{Live, Settings};

/// How long requests that are under way may hold up the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// The class of what nobody waits for: the search for expired keys, save points, and what of a snapshot is read behind its moment. It has a sixth of
/// a core's time while requests want all of it.
const BACKGROUND: &str = "background";

fn main() -> ExitCode {
    let outcome = match Flags::from_env() {
        Ok(Asked::Serve(flags)) => run(flags),
        Ok(Asked::Help) => {
            print(flags::HELP);
            Ok(())
        }
        Ok(Asked::Version) => {
            print(concat!("kv ", env!("CARGO_PKG_VERSION"), "\n"));
            Ok(())
        }
        Err(error) => Err(format!("{error}; see --help")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("kv: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Flags) -> Result<(), String> {
    signals::tolerate_file_limit();
    let claim = claim(flags.address)?;
    let address = claim.local_addr().map_err(|error| error.to_string())?;
    raise_descriptor_limit(flags.settings.max_clients);
    let runtime = Runtime::builder()
        .cores(flags.cores)
        .placement(if flags.pin { Placement::Pinned } else { Placement::Auto })
        .driver(flags.driver)
        .ring_capacity(flags.ring_capacity)
        .scheduling_class(ClassSpec::new(BACKGROUND).shares(20))
        .phase(DRAIN, DRAIN_LIMIT)
        .stall_limit(flags.stall_limit)
        .on_stall(|report| eprintln!("kv: {report}"))
        .build()
        .map_err(|error| error.to_string())?;
    let info = runtime.info();
    let banner = banner(address, info);
    let limits = limits(&flags.settings);
    let path = flags.settings.snapshot_path();
    let handle = runtime.handle();
    let post = Arc::new(Post::new(flags.cores));
    let context = Context {
        router: Router::new(flags.cores),
        post,
        live: Live::new(flags.settings, &handle),
        facts: Facts {
            protected_configs: flags.protected_configs,
            debug_command: flags.debug_command,
            handle: Some(handle.clone()),
            ..Facts::new(address, flags.cores, driver_name(info.driver), fence_name(info.fence))
        },
    };
    let mut signals = signals::listen().map_err(|error| error.to_string())?;
    let start = handle.spawn_on(CoreId::new(0), move || async move {
        let server = Server::new(context).await?;
        let loaded = server.start().await?;
        drop(claim);
        print(&format!("{banner}snapshot: {}, {} keys loaded\n{limits}", path.display(), loaded.keys));
        Ok::<_, String>(server)
    });
    let server = match Runtime::wait(select(start, pin!(signals.recv()))) {
        Either::Left((started, _)) => started.map_err(|error| error.to_string())??,
        Either::Right(_) => return Err("ended by a signal before it had started".to_owned()),
    };
    let report = Runtime::wait(signals::wait_for_end(&handle, server, signals));
    // Connections that wait for requests are cut; what else is, is worth a word.
    report.phases.iter().filter(|phase| !phase.is_clean()).for_each(|phase| eprintln!("kv: {phase}"));
    drop(runtime);
    snapshot::wait_for_writers();
    Ok(())
}

/// Runs `work` on this core, and what it calls on others, behind requests.
fn in_background(work: impl Future<Output = ()> + 'static) {
    let class = ipiq::handle().scheduling_class(BACKGROUND).expect("it is made with the runtime");
    drop(class.spawn_local(work));
}

/// Takes the address, with its port made definite, from everybody but this process's listeners.
///
/// The cores' listeners share their port by `SO_REUSEPORT`, and so a second server of the same user could join them
/// unseen. This listener asks for the address alone and shares it only once it has it; it goes when the others are there.
///
/// The kernel takes an io_uring apart after its process has ended, so a predecessor's listener may outlive it a little:
/// a taken address is tried again for half a second.
fn claim(address: SocketAddr) -> Result<TcpListener, String> {
    const PAUSE: Duration = Duration::from_millis(50);
    let last_try = Instant::now() + 10 * PAUSE;
    loop {
        match try_claim(address) {
            Ok(claim) => return Ok(claim),
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < last_try => thread::sleep(PAUSE),
            Err(error) => return Err(cannot_listen(address, error)),
        }
    }
}

fn try_claim(address: SocketAddr) -> io::Result<TcpListener> {
    let claim = TcpListener::bind(address)?;
    set_socket_reuseport(&claim, true)?;
    Ok(claim)
}

/// Asks for a descriptor per client, and warns where the system gives fewer.
pub(crate) fn raise_descriptor_limit(clients: usize) {
    const BESIDE_CLIENTS: u64 = 64;
    let wanted = clients as u64 + BESIDE_CLIENTS;
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current.filter(|current| *current < wanted) else {
        return;
    };
    let raised = wanted.min(limit.maximum.unwrap_or(wanted));
    let granted = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum })
        .map_or(current, |()| raised);
    if granted < wanted {
        eprintln!(
            "kv: {granted} file descriptors are too few for {clients} clients: those beyond wait to be accepted; \
             raise `ulimit -n` or lower --max-clients"
        );
    }
}

/// What INFO and the banner call the driver.
fn driver_name(kind: DriverKind) -> &'static str {
    match kind {
        DriverKind::Uring => "io_uring",
        DriverKind::Epoll => "epoll",
        DriverKind::Auto => "auto",
    }
}

/// What INFO and the banner call the fences.
fn fence_name(kind: FenceKind) -> &'static str {
    match kind {
        FenceKind::Asymmetric => "membarrier",
        FenceKind::Symmetric => "both sides (membarrier is refused)",
    }
}

fn banner(address: SocketAddr, info: &RuntimeInfo) -> String {
    let cpus: Vec<_> = info.cpus.iter().map(|cpu| cpu.map_or("any".to_owned(), |cpu| cpu.to_string())).collect();
    let fallback = match &info.driver_fallback {
        Some(reason) => format!(" (not io_uring: {reason})"),
        None => String::new(),
    };
    format!(
        "kv {} listens on {address}\ncores: {} on CPUs {}\ndriver: {}{fallback}\nfence: {}\n",
        env!("CARGO_PKG_VERSION"),
        info.cores,
        cpus.join(" "),
        driver_name(info.driver),
        fence_name(info.fence),
    )
}

fn limits(settings: &Settings) -> String {
    let memory = match settings.max_memory_bytes {
        Some(bytes) => format!("{bytes} bytes"),
        None => "no limit".to_owned(),
    };
    format!("limits: {} clients, memory: {memory}\n", settings.max_clients)
}

/// Writes to standard output, whether or not anybody reads it.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
