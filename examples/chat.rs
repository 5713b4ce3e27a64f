//! A chat server for `nc` or `telnet`, whose rooms are shards.
//!
//! A connection is served on the core that accepted it. A room belongs to one core, by the hash of its name: whoever joins, leaves or says something calls that core, which
//! alone knows who is in the room, and passes each line on to the cores of its members in one call per core. So no state is shared, and everybody in a room sees its lines in the
//! same order.

mod cli;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use compio_buf::BufResult;
use futures::StreamExt;
use futures::channel::{mpsc, oneshot};
use futures::future::join_all;
use futures::lock::Mutex;
use ipiq::net::{ReadHalf, TcpListener, TcpStream, WriteHalf};
use ipiq::sharded::{JumpHash, Route, Shard, ShardError, Sharded};
use ipiq::{CoreId, Runtime, time};
use lexopt::prelude::*;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

const HELP: &str = "\
chat: a chat server for nc and telnet, whose rooms are shards

  --bind ADDRESS   where to listen (default 127.0.0.1:7000; port 0 for a free one)
  --cores N        cores (default: the CPUs of this process)
  -h, --help       print this

The first line that a client sends is its name. Then: /join ROOM, /leave, /who, /quit; any other line is said in the room.
";

/// The longest line, in bytes.
const LONGEST: usize = 1024;
/// Lines that may wait for one client; who reads so slowly that there are more is disconnected.
const WAITING: usize = 256;

/// How long accepting rests after it has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A client: the core that serves it, and its number there.
type Member = (CoreId, u64);
type Line = Arc<str>;

#[derive(Default)]
struct Room {
    members: BTreeMap<Member, Line>,
    /// Held while a line is passed on: the next one comes after it on every core.
    passing: Rc<Mutex<()>>,
}

/// What one core has: its rooms, and the clients that it serves.
struct Chat {
    peers: Sharded<Chat>,
    route: JumpHash,
    rooms: RefCell<HashMap<String, Room>>,
    clients: RefCell<HashMap<u64, mpsc::Sender<Line>>>,
    next_client: Cell<u64>,
}

impl Chat {
    fn new(peers: Sharded<Self>, route: JumpHash) -> Self {
        let (rooms, clients) = Default::default();
        Self { peers, route, rooms, clients, next_client: Cell::new(0) }
    }

    /// A client of this core, and what it is to be sent.
    fn add_client(&self) -> (Member, mpsc::Receiver<Line>) {
        let number = self.next_client.replace(self.next_client.get() + 1);
        let (sender, lines) = mpsc::channel(WAITING);
        self.clients.borrow_mut().insert(number, sender);
        ((ipiq::core_id(), number), lines)
    }

    /// Gives a line to clients of this core.
    fn deliver(&self, clients: &[u64], line: &Line) {
        let mut known = self.clients.borrow_mut();
        for client in clients {
            let full = known.get_mut(client).is_some_and(|sender| sender.try_send(line.clone()).is_err());
            if full {
                // Its writer ends when nobody can send any more, and its connection with it.
                known.remove(client);
            }
        }
    }

    /// On the room's core: passes a line on to all its members.
    async fn pass_on(&self, room: &str, line: Line) -> Result<(), ShardError> {
        let Some(passing) = self.rooms.borrow().get(room).map(|room| room.passing.clone()) else { return Ok(()) };
        let _passing = passing.lock().await;
        let mut by_core: BTreeMap<CoreId, Vec<u64>> = BTreeMap::new();
        for (core, client) in self.rooms.borrow().get(room).into_iter().flat_map(|room| room.members.keys()) {
            by_core.entry(*core).or_default().push(*client);
        }
        let calls = by_core.into_iter().map(|(core, clients)| {
            let line = line.clone();
            self.peers.on(core).call(move |chat| chat.deliver(&clients, &line))
        });
        join_all(calls).await.into_iter().collect()
    }

    /// On the room's core.
    async fn join(&self, room: &str, member: Member, name: Line) -> Result<(), ShardError> {
        let line = format!("* {name} joins {room}\n").into();
        self.rooms.borrow_mut().entry(room.to_owned()).or_default().members.insert(member, name);
        self.pass_on(room, line).await
    }

    /// On the room's core.
    async fn leave(&self, room: &str, member: Member) -> Result<(), ShardError> {
        let name = self.rooms.borrow_mut().get_mut(room).and_then(|room| room.members.remove(&member));
        let Some(name) = name else { return Ok(()) };
        self.pass_on(room, format!("* {name} leaves {room}\n").into()).await?;
        let mut rooms = self.rooms.borrow_mut();
        if rooms.get(room).is_some_and(|room| room.members.is_empty()) {
            rooms.remove(room);
        }
        Ok(())
    }

    /// On the room's core.
    fn who(&self, room: &str) -> String {
        let rooms = self.rooms.borrow();
        let mut names: Vec<&str> =
            rooms.get(room).into_iter().flat_map(|room| room.members.values()).map(|name| &**name).collect();
        names.sort_unstable();
        format!("* in {room}: {}\n", names.join(", "))
    }
}

/// A client as its connection sees it.
struct Client {
    chat: Sharded<Chat>,
    route: JumpHash,
    member: Member,
    name: Line,
    room: Option<Arc<str>>,
}

impl Client {
    /// Runs `f` with the shard that has `room`.
    async fn in_room<F>(&self, room: &Arc<str>, f: F) -> Result<(), ShardError>
    where
        F: AsyncFnOnce(Shard<Chat>, Arc<str>) -> Result<(), ShardError> + Send + 'static,
    {
        let (owner, room) = (self.route.core_of(&**room), room.clone());
        self.chat.on(owner).spawn(async move |chat: Shard<Chat>| f(chat, room).await).await?
    }

    /// What a client has sent; whether it stays.
    async fn obey(&mut self, line: &str) -> Result<bool, ShardError> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (verb, rest.trim()) {
            ("/quit", _) => return Ok(false),
            ("/join", "") => self.tell("* which room? /join ROOM\n"),
            ("/join", room) => {
                self.leave().await?;
                let room: Arc<str> = room.into();
                self.room = Some(room.clone());
                let (member, name) = (self.member, self.name.clone());
                self.in_room(&room, async move |chat, room| chat.join(&room, member, name).await).await?;
            }
            ("/leave", _) => self.leave().await?,
            ("/who", _) => match &self.room {
                None => self.tell("* you are in no room: /join ROOM\n"),
                Some(room) => {
                    let (owner, room) = (self.route.core_of(&**room), room.clone());
                    let names = self.chat.on(owner).call(move |chat| chat.who(&room)).await?;
                    self.tell(&names);
                }
            },
            (verb, _) if verb.starts_with('/') => self.tell("* there is /join ROOM, /leave, /who, /quit\n"),
            _ => match &self.room {
                None => self.tell("* you are in no room: /join ROOM\n"),
                Some(room) => {
                    let said = format!("{}: {line}\n", self.name).into();
                    self.in_room(room, async move |chat, room| chat.pass_on(&room, said).await).await?;
                }
            },
        }
        Ok(true)
    }

    async fn leave(&mut self) -> Result<(), ShardError> {
        let Some(room) = self.room.take() else { return Ok(()) };
        let member = self.member;
        self.in_room(&room, async move |chat, room| chat.leave(&room, member).await).await
    }

    /// Sends this client a line.
    fn tell(&self, line: &str) {
        if let Some(chat) = self.chat.try_local() {
            chat.deliver(&[self.member.1], &line.into());
        }
    }
}

/// Lines of a stream.
struct Lines {
    stream: ReadHalf,
    bytes: Vec<u8>,
}

impl Lines {
    /// The next line without its end; `None` at the end of the stream, and when it is too long.
    async fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(line.trim_ascii()).into_owned()));
            }
            if self.bytes.len() > LONGEST {
                return Ok(None);
            }
            let BufResult(received, buf) = self.stream.recv(Vec::with_capacity(LONGEST)).await;
            if received? == 0 {
                return Ok(None);
            }
            self.bytes.extend_from_slice(&buf);
        }
    }
}

async fn serve(chat: Sharded<Chat>, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let mut lines = Lines { stream: read, bytes: Vec::new() };
    let Some(name) = lines.next().await? else { return Ok(()) };
    // A server that stops serves nobody new.
    let Some(shard) = chat.try_local() else { return Ok(()) };
    let ((member, waiting), route) = (shard.add_client(), shard.route.clone());
    drop(shard);
    let name: Line = if name.is_empty() { "nobody".into() } else { name.into() };
    let mut client = Client { chat: chat.clone(), route, member, name, room: None };
    let writer = ipiq::spawn_local(send(write, waiting));
    client.tell("* welcome; /join ROOM, /leave, /who, /quit\n");
    let served = converse(&mut client, &mut lines).await;
    // An error is the service's end.
    let _ = client.leave().await;
    if let Some(shard) = chat.try_local() {
        shard.clients.borrow_mut().remove(&member.1);
    }
    // It sends what is waiting, and ends.
    let _ = writer.await;
    served
}

/// Obeys the client's lines until it goes, or the service stops.
async fn converse(client: &mut Client, lines: &mut Lines) -> io::Result<()> {
    while let Some(line) = lines.next().await? {
        if !client.obey(&line).await.unwrap_or(false) {
            break;
        }
    }
    Ok(())
}

/// Sends lines until there are no more, then ends the stream.
async fn send(stream: WriteHalf, mut waiting: mpsc::Receiver<Line>) -> io::Result<()> {
    while let Some(line) = waiting.next().await {
        let BufResult(sent, _) = stream.send_all(line.as_bytes().to_vec()).await;
        sent?;
    }
    // So that a client that was too slow, and only listens, is told, and the reading half ends too.
    stream.stream().shutdown(std::net::Shutdown::Both)
}

async fn run(bind: String) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let route = JumpHash::new(ipiq::core_count());
    let made = Sharded::start(move |peers| async move { Chat::new(peers, route) });
    let chat = made.await.expect("making a shard does not fail");
    let service = chat.clone();
    let servers = TcpListener::bind_each_core(bind.as_str(), move |listener| accept(service.clone(), listener))
        .map_err(|error| format!("cannot listen on {bind}: {error}"))?;
    println!("chat: listening on {}", servers.local_addr());
    signalled()?.await?;
    servers.abort();
    chat.stop().await?;
    println!("chat: ended");
    Ok(())
}

async fn accept(chat: Sharded<Chat>, listener: TcpListener) -> io::Result<Infallible> {
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => drop(ipiq::spawn_local(serve(chat.clone(), stream))),
            Err(error) => {
                // For want of descriptors, mostly: some come back when clients go.
                eprintln!("cannot accept: {error}");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Told of SIGINT or SIGTERM.
fn signalled() -> io::Result<oneshot::Receiver<()>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("chat-signals".to_owned()).spawn(move || {
        signals.forever().next();
        // Nobody listens any more: then it is ending.
        let _ = tell.send(());
    })?;
    Ok(told)
}

struct Flags {
    bind: String,
    cores: Option<usize>,
}

impl Flags {
    /// `None`: help is wanted.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut flags = Self { bind: "127.0.0.1:7000".to_owned(), cores: None };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("bind") => flags.bind = arguments.value()?.string()?,
                Long("cores") => flags.cores = Some(arguments.value()?.parse()?),
                Long("help") | Short('h') => return Ok(None),
                other => return Err(other.unexpected()),
            }
        }
        Ok(Some(flags))
    }
}

fn main() -> ExitCode {
    let flags = match cli::flags(Flags::parse(), HELP) {
        Ok(flags) => flags,
        Err(end) => return end,
    };
    let builder = Runtime::builder();
    let builder = match flags.cores {
        Some(cores) => builder.cores(cores),
        None => builder,
    };
    let ended = builder.build().map_err(Into::into).and_then(|runtime| runtime.block_on(|| run(flags.bind)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
