//! Starting the `kv` example and a redis-server beside it, and speaking RESP2 to either.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::program::built;

/// How long anything here may take before a test fails.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// The `kv` binary: the one named in `IPIQ_KV`, else one that cargo builds now.
///
/// # Panics
///
/// Panics where the build fails.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match env::var_os("IPIQ_KV") {
        Some(path) => path.into(),
        None => built("ipiq-examples", "kv"),
    })
}

/// A `kv` server of a test, killed when dropped.
pub struct Kv {
    process: Process,
    address: SocketAddr,
    banner: Vec<String>,
    errors: mpsc::Receiver<String>,
}

impl Kv {
    /// Starts `kv` on a free port with `arguments`, separated by spaces.
    ///
    /// # Panics
    ///
    /// Panics where it does not come up; the text holds what it wrote.
    pub fn start(arguments: &str) -> Self {
        Self::try_start(arguments).unwrap_or_else(|text| panic!("kv {arguments}: {text}"))
    }

    /// Starts `kv` as [`start`](Self::start) does.
    ///
    /// # Errors
    ///
    /// Answers what it wrote where it ends instead of listening.
    pub fn try_start(arguments: &str) -> Result<Self, String> {
        let mut command = Command::new(binary());
        command.args(["--port", "0"]);
        command.args(arguments.split_ascii_whitespace());
        Self::spawn(command)
    }

    /// Starts `kv` on a free port under a shell's `ulimit` options, such as `-n 64`.
    ///
    /// # Panics
    ///
    /// Panics where it does not come up.
    pub fn start_limited(ulimit: &str, arguments: &str) -> Self {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit {ulimit} && exec '{}' --port 0 {arguments}", binary().display()));
        Self::spawn(command).unwrap_or_else(|text| panic!("kv {arguments}: {text}"))
    }

    fn spawn(mut command: Command) -> Result<Self, String> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kv starts");
        let lines = lines_of(child.stdout.take().expect("stdout is piped"));
        let errors = lines_of(child.stderr.take().expect("stderr is piped"));
        let mut process = Process::new(child);
        let mut banner = Vec::new();
        while let Ok(line) = lines.recv_timeout(WATCHDOG) {
            banner.push(line);
            // The driver and the fence follow the address; the last line is the limits'.
            if banner.last().is_some_and(|line| line.starts_with("limits:")) {
                break;
            }
        }
        let address = banner.first().and_then(|line| line.rsplit(' ').next()?.parse().ok());
        match address {
            Some(address) => Ok(Self { process, address, banner, errors }),
            None => {
                process.wait();
                let errors: Vec<_> = errors.iter().collect();
                Err([banner, errors].concat().join("\n"))
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.child.id()
    }

    /// Waits for a line on its standard error that contains `text`.
    ///
    /// # Panics
    ///
    /// Panics where no such line comes.
    pub fn wait_for_error(&self, text: &str) {
        while let Ok(line) = self.errors.recv_timeout(WATCHDOG) {
            if line.contains(text) {
                return;
            }
        }
        panic!("kv does not report {text:?}");
    }

    /// Whether one of the lines that it has written to its standard error so far, and that nobody has read before, is `wanted`.
    pub fn has_reported(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.errors.try_iter().any(|line| wanted(&line))
    }

    /// What it printed when it started.
    pub fn banner(&self) -> &[String] {
        &self.banner
    }

    /// A new connection.
    ///
    /// # Panics
    ///
    /// Panics where the connection is refused.
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Sends the process a signal.
    ///
    /// # Panics
    ///
    /// Panics where it cannot be signalled.
    pub fn signal(&self, signal: libc::c_int) {
        let id = libc::pid_t::try_from(self.id()).expect("a process id");
        // SAFETY: `kill` reads no memory of this process.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0, "the process is there");
    }

    /// Ends the process without a warning.
    ///
    /// # Panics
    ///
    /// Panics where the process cannot be signalled.
    pub fn kill(&mut self) {
        self.process.child.kill().expect("it is ours");
        self.process.wait();
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Panics
    ///
    /// Panics where it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait()
    }
}

/// A redis-server of a test, without persistence, killed when dropped.
pub struct Redis {
    _process: Process,
    address: SocketAddr,
}

impl Redis {
    /// Starts a redis-server with one database on a free port.
    ///
    /// # Panics
    ///
    /// Panics where redis-server is not installed or does not come up.
    pub fn start() -> Self {
        // Another program may take the port before redis binds it.
        (0..5).find_map(|_| Self::try_start(free_port())).expect("redis-server comes up")
    }

    fn try_start(port: u16) -> Option<Self> {
        let directory = Scratch::new();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--databases", "1"])
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => panic!("redis-server not found: run `cargo xtask setup`"),
            _ => panic!("redis-server does not start: {error}"),
        });
        let mut process = Process::new(child);
        process._directory = Some(directory);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let deadline = Instant::now() + WATCHDOG;
        while process.is_running() && Instant::now() < deadline {
            if TcpStream::connect(address).is_ok() {
                return Some(Self { _process: process, address });
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new connection.
    ///
    /// # Panics
    ///
    /// Panics where the connection is refused.
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }
}

/// A port of the loopback interface on which nobody listens now.
///
/// # Panics
///
/// Panics where there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it has an address").port()
}

/// A RESP2 client that keeps replies as they came.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects to `address`; a reply that does not come within [`WATCHDOG`] panics.
    ///
    /// # Panics
    ///
    /// Panics where the connection is refused.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
        Self { stream: BufReader::new(stream) }
    }

    /// The socket, for what a client should not do.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// Fails where the server has closed the connection.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends one command, its words separated by spaces, and answers the reply.
    ///
    /// # Panics
    ///
    /// Panics where the connection ends before the reply.
    pub fn ask(&mut self, line: &str) -> String {
        let words: Vec<_> = line.split(' ').map(str::as_bytes).collect();
        self.send(&request(&words)).expect("the request is sent");
        let reply = self.reply().expect("a reply comes");
        String::from_utf8_lossy(&reply).trim_end().to_owned()
    }

    /// The next reply, whole and raw.
    ///
    /// # Errors
    ///
    /// Fails where the connection ends before it, or after [`WATCHDOG`].
    pub fn reply(&mut self) -> io::Result<Vec<u8>> {
        let mut reply = Vec::new();
        self.read_reply(&mut reply)?;
        Ok(reply)
    }

    /// Everything that comes until the server closes, after no more is sent.
    ///
    /// A reset counts as the end: a server that closes with input unread sends one.
    ///
    /// # Panics
    ///
    /// Panics where the server does not close within [`WATCHDOG`].
    pub fn read_to_close(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the server does not close: {error}"),
        }
        rest
    }

    /// Says that nothing more will be sent.
    ///
    /// # Panics
    ///
    /// Panics where the connection is gone.
    pub fn finish_sending(&self) {
        self.socket().shutdown(Shutdown::Write).expect("the connection stands");
    }

    fn read_reply(&mut self, reply: &mut Vec<u8>) -> io::Result<()> {
        let start = reply.len();
        self.stream.read_until(b'\n', reply)?;
        let line = &reply[start..];
        if !line.ends_with(b"\r\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let number = || {
            let digits = std::str::from_utf8(&line[1..line.len() - 2]).ok();
            digits.and_then(|digits| digits.parse::<i64>().ok()).ok_or(io::ErrorKind::InvalidData)
        };
        match line[0] {
            b'+' | b'-' | b':' => {}
            b'$' => {
                if let Ok(length) = usize::try_from(number()?) {
                    let body = reply.len();
                    reply.resize(body + length + 2, 0);
                    self.stream.read_exact(&mut reply[body..])?;
                }
            }
            b'*' => {
                for _ in 0..number()? {
                    self.read_reply(reply)?;
                }
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(())
    }
}

/// Looks again and again until `observed` holds.
///
/// # Panics
///
/// Panics where it does not within [`WATCHDOG`].
pub fn wait_until(what: &str, mut observed: impl FnMut() -> bool) {
    let deadline = Instant::now() + WATCHDOG;
    while !observed() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A request in RESP2.
pub fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A directory of a test, taken away when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty directory.
    ///
    /// # Panics
    ///
    /// Panics where none can be made.
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = env::temp_dir().join(format!("ipiq-suites-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        Self(directory)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test may have taken it away itself.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A child process and the directory it may use; both are gone when this is dropped.
struct Process {
    child: Child,
    _directory: Option<Scratch>,
}

impl Process {
    fn new(child: Child) -> Self {
        Self { child, _directory: None }
    }

    fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + WATCHDOG;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status;
            }
            assert!(Instant::now() < deadline, "the process does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe as they come; a thread keeps reading, so that the writer never blocks.
fn lines_of(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // Nobody may be listening any more; the pipe is drained all the same.
            let _ = sender.send(line);
        }
    });
    receiver
}
