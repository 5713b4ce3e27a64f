//! One connection without its socket: bytes in, commands run, replies out.

use std::sync::Arc;

use crate::command::{Errand, Everywhere, Refusal, parse, refuse_while_listening};
use crate::info::Facts;
use crate::pubsub::Post;
use crate::reply;
use crate::resp::{Parser, Progress};
use crate::route::{Batch, Flow, Router};
use crate::settings::Live;
#[cfg(test)]
use crate::settings::Settings;
use crate::shard::{Shard, Stats};

/// What all connections of all cores share.
pub(crate) struct Context {
    pub(crate) router: Router,
    pub(crate) facts: Facts,
    pub(crate) post: Arc<Post>,
    pub(crate) live: Live,
}

impl Context {
    /// The reply to what was asked of all cores; `stats` are their figures together.
    pub(crate) fn answer(&self, asked: Everywhere, stats: Stats) -> Vec<u8> {
        let mut out = Vec::new();
        match asked {
            Everywhere::Size => reply::integer(&mut out, stats.keys as i64),
            Everywhere::Flush => out.extend_from_slice(reply::OK),
            Everywhere::Info(sections) => {
                self.live.read(|settings| self.facts.info(sections, stats, settings, &mut out));
            }
        }
        out
    }
}

#[cfg(test)]
impl Context {
    /// The context of a server over `cores` cores.
    pub(crate) fn of_test(cores: usize) -> Self {
        Self {
            router: Router::new(cores),
            facts: Facts::of_test(cores),
            post: Arc::new(Post::new(cores)),
            live: Live::Fixed(Settings::default()),
        }
    }
}

/// What a connection does next, after its replies are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Read more.
    Receive,
    /// Run the rest of what was read.
    Run,
    Close,
    /// Do this, then run the rest of what was read.
    Errand(Errand),
}

/// The smallest read buffer, which an idle connection keeps.
const LEAST_READ_BYTES: usize = 4 << 10;
/// The largest read, but for the body of one long bulk string.
const MOST_READ_BYTES: usize = 64 << 10;
/// A request longer than this closes its connection, as redis's `client-query-buffer-limit` does.
const MOST_REQUEST_BYTES: usize = 1 << 30;

/// The state of one connection between two reads.
pub(crate) struct Session {
    input: Vec<u8>,
    /// Where the first request that has not run starts.
    start: usize,
    read_bytes: usize,
    parser: Parser,
    pub(crate) batch: Batch,
}

impl Session {
    /// A connection served by core `home`.
    pub(crate) fn new(home: usize, cores: usize) -> Self {
        Self {
            input: Vec::new(),
            start: 0,
            read_bytes: LEAST_READ_BYTES,
            parser: Parser::new(),
            batch: Batch::new(home, cores),
        }
    }

    /// Lends the buffer for the next read, which appends to it.
    pub(crate) fn lend_input(&mut self) -> Vec<u8> {
        let mut input = std::mem::take(&mut self.input);
        input.drain(..self.start);
        self.start = 0;
        if input.is_empty() && input.capacity() > 2 * MOST_READ_BYTES {
            input = Vec::new();
        }
        // A length that a peer announces is believed only as far as its bytes have come.
        let wanted = self.parser.wanted(input.len());
        let room = wanted.clamp(self.read_bytes, input.len().max(MOST_READ_BYTES));
        if input.capacity() - input.len() < room {
            input.reserve_exact(room);
        }
        input
    }

    /// Takes the buffer back; false where the request has become too long to go on.
    #[must_use]
    pub(crate) fn return_input(&mut self, input: Vec<u8>) -> bool {
        if input.len() == input.capacity() {
            self.read_bytes = (4 * self.read_bytes).min(MOST_READ_BYTES);
        }
        self.input = input;
        self.input.len() <= MOST_REQUEST_BYTES
    }

    /// Runs what has been read, all of it unless the replies grow large.
    pub(crate) fn run(&mut self, context: &Context, shard: &mut Shard, now_ms: i64) -> Next {
        self.batch.begin(now_ms, shard);
        let next = loop {
            if self.batch.is_full() {
                break Next::Run;
            }
            match self.run_one(context, shard, now_ms) {
                None => break Next::Receive,
                Some(Flow::Continue) => {}
                Some(Flow::Close) => break Next::Close,
                Some(Flow::Errand(errand)) => break Next::Errand(errand),
            }
        };
        self.batch.end(shard);
        next
    }

    /// Runs the next request; `None` where it has not come whole.
    fn run_one(&mut self, context: &Context, shard: &mut Shard, now_ms: i64) -> Option<Flow> {
        let frame = &self.input[self.start..];
        let consumed = match self.parser.advance(frame) {
            Ok(Progress::Incomplete) => return None,
            Ok(Progress::Frame { consumed }) => consumed,
            Err(error) => {
                self.batch.refuse(&[b"ERR ", &error.text()[..]].concat());
                return Some(Flow::Close);
            }
        };
        let args = self.parser.args(frame);
        self.start += consumed;
        if args.len() == 0 {
            return Some(Flow::Continue);
        }
        let refused = if self.batch.subscriber.is_listening() { refuse_while_listening(args) } else { None };
        match refused.map_or_else(|| parse(args, now_ms), Err) {
            Ok(command) => Some(self.batch.apply(command, context, shard)),
            Err(Refusal(text)) => {
                self.batch.refuse(&text);
                Some(Flow::Continue)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Ledger;

    /// One connection to a server of one core.
    struct Rig {
        context: Context,
        shard: Shard,
        session: Session,
    }

    impl Rig {
        fn new() -> Self {
            Self {
                context: Context::of_test(1),
                shard: Shard::new(0, 1, Arc::new(Ledger::new(1))),
                session: Session::new(0, 1),
            }
        }

        /// Delivers `bytes` in reads as large as the session has room for, and collects the replies.
        fn deliver(&mut self, mut bytes: &[u8]) -> (Vec<u8>, Next) {
            let mut replies = Vec::new();
            loop {
                let mut input = self.session.lend_input();
                let room = (input.capacity() - input.len()).min(bytes.len());
                input.extend_from_slice(&bytes[..room]);
                bytes = &bytes[room..];
                assert!(self.session.return_input(input));
                let next = loop {
                    let next = self.session.run(&self.context, &mut self.shard, 1000);
                    let sent = self.session.batch.take_replies();
                    replies.extend_from_slice(&sent);
                    self.session.batch.restore(sent);
                    if next != Next::Run {
                        break next;
                    }
                };
                if next != Next::Receive || bytes.is_empty() {
                    return (replies, next);
                }
            }
        }
    }

    #[test]
    fn requests_cut_at_each_byte_are_answered_alike() {
        let input =
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\nGET k\r\n*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
        for cut in 0..=input.len() {
            let mut rig = Rig::new();
            let (mut replies, _) = rig.deliver(&input[..cut]);
            replies.extend(rig.deliver(&input[cut..]).0);
            assert_eq!(replies, b"+OK\r\n$5\r\nvalue\r\n+PONG\r\n$5\r\nvalue\r\n", "cut at {cut}");
        }
    }

    #[test]
    fn a_value_of_many_megabytes_passes_and_leaves_no_large_buffer() {
        let mut rig = Rig::new();
        let length = 20 << 20;
        let mut request = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${length}\r\n").into_bytes();
        request.resize(request.len() + length, b'x');
        request.extend_from_slice(b"\r\n");
        assert_eq!(rig.deliver(&request).0, b"+OK\r\n");
        let (replies, _) = rig.deliver(b"STRLEN k\r\n");
        assert_eq!(replies, format!(":{length}\r\n").as_bytes());
        assert!(rig.session.lend_input().capacity() <= 2 * MOST_READ_BYTES);
    }

    #[test]
    fn an_announced_length_reserves_nothing_before_its_bytes_come() {
        let mut rig = Rig::new();
        rig.deliver(b"*2\r\n$4\r\nECHO\r\n$536870912\r\n");
        assert!(rig.session.lend_input().capacity() <= 2 * MOST_READ_BYTES);
    }

    #[test]
    fn large_replies_go_out_in_parts() {
        let mut rig = Rig::new();
        let value = "x".repeat(100_000);
        rig.deliver(format!("SET k {}\r\n", &value[..60_000]).as_bytes());
        rig.deliver(format!("APPEND k {}\r\n", &value[60_000..]).as_bytes());
        let request = "GET k\r\n".repeat(100);
        let (replies, next) = rig.deliver(request.as_bytes());
        assert_eq!(next, Next::Receive);
        assert_eq!(replies, format!("$100000\r\n{value}\r\n").repeat(100).as_bytes());
    }

    #[test]
    fn a_protocol_error_answers_what_came_before_it_and_closes() {
        let mut rig = Rig::new();
        let (replies, next) = rig.deliver(b"PING\r\n*1\r\n!\r\nPING\r\n");
        assert_eq!(replies, b"+PONG\r\n-ERR Protocol error: expected '$', got '!'\r\n");
        assert_eq!(next, Next::Close);
    }

    #[test]
    fn nothing_runs_after_quit() {
        let mut rig = Rig::new();
        let (replies, next) = rig.deliver(b"QUIT\r\nSET k v\r\n");
        assert_eq!((&replies[..], next), (&b"+OK\r\n"[..], Next::Close));
    }
}
