//! RESP2 requests: an incremental parser over a byte buffer that copies nothing.
//!
//! A request may arrive cut at any byte. The parser remembers where it stopped, as offsets from the start of the
//! frame, so the caller may move the unread part of the buffer between two calls. What it accepts, what it refuses
//! and the texts are those of redis 7.0, with one limit kept where redis 6 had it: [`MAX_ARGUMENTS`].

/// Longest bulk string of a request, in bytes (`proto-max-bulk-len`).
pub(crate) const MAX_BULK_BYTES: usize = 512 << 20;
/// Most bulk strings in one request.
pub(crate) const MAX_ARGUMENTS: usize = 1 << 20;
/// Longest inline request and longest header line, in bytes.
pub(crate) const MAX_LINE_BYTES: usize = 64 << 10;

/// Argument vectors longer than this are given back to the allocator after their request.
const KEPT_ARGUMENTS: usize = 1024;

/// One argument's bytes, as a range of the buffer that the frame lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The range `start..end`; a request is bounded to 1 GiB before it comes here, so both fit.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= u32::MAX as usize);
        Self { start: start as u32, end: end as u32 }
    }

    /// The bytes in `buffer`.
    pub(crate) fn of(self, buffer: &[u8]) -> &[u8] {
        &buffer[self.start as usize..self.end as usize]
    }
}

/// The arguments of one request; the first is the command's name.
#[derive(Clone, Copy)]
pub(crate) struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// Arguments lying in `bytes` at `spans`.
    pub(crate) fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        Self { bytes, spans }
    }

    /// How many arguments there are, the command's name included.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The argument at `index`.
    pub(crate) fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|span| span.of(self.bytes))
    }

    /// The arguments from `first` on; none where there are fewer.
    pub(crate) fn from(&self, first: usize) -> Self {
        Self { bytes: self.bytes, spans: self.spans.get(first..).unwrap_or_default() }
    }

    /// The arguments in order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let bytes = self.bytes;
        self.spans.iter().map(move |span| span.of(bytes))
    }
}

/// A request that is not RESP; the connection is closed after its text is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProtocolError {
    InlineTooBig,
    UnbalancedQuotes,
    CountLineTooBig,
    InvalidCount,
    BulkLineTooBig,
    ExpectedBulk(u8),
    InvalidBulkLength,
}

impl ProtocolError {
    /// The error's text without its `ERR`; raw bytes, since it may quote what came.
    pub(crate) fn text(self) -> Vec<u8> {
        let reason: &[u8] = match self {
            Self::InlineTooBig => b"too big inline request",
            Self::UnbalancedQuotes => b"unbalanced quotes in request",
            Self::CountLineTooBig => b"too big mbulk count string",
            Self::InvalidCount => b"invalid multibulk length",
            Self::BulkLineTooBig => b"too big bulk count string",
            // A line break would end the reply early, and redis formats through C strings.
            Self::ExpectedBulk(b'\r' | b'\n') => b"expected '$', got ' '",
            Self::ExpectedBulk(0) => b"expected '$', got '",
            Self::ExpectedBulk(byte) => &[b"expected '$', got '", &[byte][..], b"'"].concat(),
            Self::InvalidBulkLength => b"invalid bulk length",
        };
        [b"Protocol error: ", reason].concat()
    }
}

/// What a call of [`Parser::advance`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A whole request ends `consumed` bytes after the frame's start; it may have no argument at all.
    Frame { consumed: usize },
    /// The buffer ends inside the request.
    Incomplete,
}

/// Where in a request the parser stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// At the first byte.
    Start,
    /// Before the header of a bulk string.
    BulkHeader,
    /// Before the body of a bulk string of this many bytes.
    BulkBody(usize),
}

/// The state of one request that is being received.
pub(crate) struct Parser {
    stage: Stage,
    /// Bulk strings still to come, the current one included.
    missing: usize,
    /// First byte not consumed, from the frame's start.
    position: usize,
    spans: Vec<Span>,
    /// An inline request's arguments without their quotes and escapes.
    unquoted: Vec<u8>,
    inline: bool,
}

impl Parser {
    /// A parser before its first byte.
    pub(crate) fn new() -> Self {
        Self { stage: Stage::Start, missing: 0, position: 0, spans: Vec::new(), unquoted: Vec::new(), inline: false }
    }

    /// Goes on with the request that starts at the first byte of `frame`, which holds all bytes received since.
    ///
    /// After a `Frame` its arguments can be read with [`args`](Self::args) until the next call.
    pub(crate) fn advance(&mut self, frame: &[u8]) -> Result<Progress, ProtocolError> {
        if self.stage == Stage::Start {
            self.spans.clear();
            if self.spans.capacity() > KEPT_ARGUMENTS {
                self.spans.shrink_to(KEPT_ARGUMENTS);
            }
            match frame.first() {
                None => return Ok(Progress::Incomplete),
                Some(b'*') => self.inline = false,
                Some(_) => {
                    self.inline = true;
                    return self.advance_inline(frame);
                }
            }
            let Some(header) = header(frame, 0) else {
                return incomplete_line(frame.len(), ProtocolError::CountLineTooBig);
            };
            let count = header.value.ok_or(ProtocolError::InvalidCount)?;
            if count > MAX_ARGUMENTS as i64 {
                return Err(ProtocolError::InvalidCount);
            }
            if count <= 0 {
                return Ok(Progress::Frame { consumed: header.next });
            }
            self.missing = count as usize;
            self.position = header.next;
            self.stage = Stage::BulkHeader;
        }
        self.advance_bulks(frame)
    }

    /// The arguments of the request that [`advance`](Self::advance) has just completed in `frame`.
    pub(crate) fn args<'a>(&'a self, frame: &'a [u8]) -> Args<'a> {
        let bytes = if self.inline { &self.unquoted } else { frame };
        Args::new(bytes, &self.spans)
    }

    /// At least how many bytes the request is still short of, as far as its headers tell.
    pub(crate) fn wanted(&self, received: usize) -> usize {
        match self.stage {
            Stage::BulkBody(length) => (self.position + length + 2).saturating_sub(received),
            _ => 1,
        }
    }

    fn advance_bulks(&mut self, frame: &[u8]) -> Result<Progress, ProtocolError> {
        while self.missing > 0 {
            let length = match self.stage {
                Stage::BulkBody(length) => length,
                _ => {
                    let Some(header) = header(frame, self.position) else {
                        let pending = frame.len() - self.position;
                        return incomplete_line(pending, ProtocolError::BulkLineTooBig);
                    };
                    let marker = frame[self.position];
                    if marker != b'$' {
                        return Err(ProtocolError::ExpectedBulk(marker));
                    }
                    let length = match header.value {
                        Some(value) if (0..=MAX_BULK_BYTES as i64).contains(&value) => value as usize,
                        _ => return Err(ProtocolError::InvalidBulkLength),
                    };
                    self.position = header.next;
                    length
                }
            };
            let end = self.position + length;
            // The two bytes behind a bulk string are skipped unread, as redis does.
            if frame.len() < end + 2 {
                self.stage = Stage::BulkBody(length);
                return Ok(Progress::Incomplete);
            }
            self.spans.push(Span::new(self.position, end));
            self.position = end + 2;
            self.stage = Stage::BulkHeader;
            self.missing -= 1;
        }
        self.stage = Stage::Start;
        Ok(Progress::Frame { consumed: self.position })
    }

    fn advance_inline(&mut self, frame: &[u8]) -> Result<Progress, ProtocolError> {
        // A zero byte ends redis's search for the line break, so such a line never completes.
        let Some(line_end) = memchr::memchr2(b'\n', 0, frame).filter(|&at| frame[at] == b'\n') else {
            return incomplete_line(frame.len(), ProtocolError::InlineTooBig);
        };
        let line = &frame[..line_end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.unquoted.clear();
        split_line(line, &mut self.unquoted, &mut self.spans).ok_or(ProtocolError::UnbalancedQuotes)?;
        Ok(Progress::Frame { consumed: line_end + 1 })
    }
}

/// A header line `<marker><number>\r\n`.
struct Header {
    /// `None` where the line holds no number.
    value: Option<i64>,
    /// First byte behind the line.
    next: usize,
}

/// Reads the header line at `start`; `None` while its end has not come.
fn header(frame: &[u8], start: usize) -> Option<Header> {
    let line = &frame[start..];
    // The usual headers: one digit or two.
    if let [1..=255, digit @ b'0'..=b'9', b'\r', _, ..] = line {
        return Some(Header { value: Some(i64::from(digit - b'0')), next: start + 4 });
    }
    if let [1..=255, tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', _, ..] = line {
        return Some(Header { value: Some(i64::from(tens - b'0') * 10 + i64::from(ones - b'0')), next: start + 5 });
    }
    let end = memchr::memchr2(b'\r', 0, line).filter(|&at| line[at] == b'\r')?;
    // The byte behind the carriage return must be there, whatever it is.
    if end + 2 > line.len() {
        return None;
    }
    Some(Header { value: line.get(1..end).and_then(parse_integer), next: start + end + 2 })
}

fn incomplete_line(pending: usize, too_big: ProtocolError) -> Result<Progress, ProtocolError> {
    if pending > MAX_LINE_BYTES {
        return Err(too_big);
    }
    Ok(Progress::Incomplete)
}

/// A decimal integer in its only spelling: no plus, no spaces, no leading zeros, no `-0`.
pub(crate) fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    // Nineteen digits always fit a u64.
    let mut magnitude: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        magnitude = magnitude * 10 + u64::from(digit - b'0');
    }
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// Splits an inline request into arguments as a shell would; `None` where a quote is not closed.
fn split_line(line: &[u8], unquoted: &mut Vec<u8>, spans: &mut Vec<Span>) -> Option<()> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start_c();
        if rest.is_empty() {
            return Some(());
        }
        let start = unquoted.len();
        rest = split_word(rest, unquoted)?;
        spans.push(Span::new(start, unquoted.len()));
    }
}

/// Takes one argument off `rest`, which does not start with a space.
fn split_word<'a>(mut rest: &'a [u8], unquoted: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return Some(rest),
            [b'"', tail @ ..] => return closed(double_quoted(tail, unquoted)?),
            [b'\'', tail @ ..] => return closed(single_quoted(tail, unquoted)?),
            [byte, ..] if is_space(*byte) => return Some(rest),
            [byte, tail @ ..] => {
                unquoted.push(*byte);
                rest = tail;
            }
        }
    }
}

/// A closing quote must end the argument.
fn closed(rest: &[u8]) -> Option<&[u8]> {
    match rest.first() {
        Some(&byte) if !is_space(byte) => None,
        _ => Some(rest),
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], unquoted: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return None,
            [b'"', tail @ ..] => return Some(tail),
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                unquoted.push(hex_digit(*high) << 4 | hex_digit(*low));
                rest = tail;
            }
            [b'\\', escaped, tail @ ..] => {
                unquoted.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                rest = tail;
            }
            [byte, tail @ ..] => {
                unquoted.push(*byte);
                rest = tail;
            }
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], unquoted: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return None,
            [b'\'', tail @ ..] => return Some(tail),
            [b'\\', b'\'', tail @ ..] => {
                unquoted.push(b'\'');
                rest = tail;
            }
            [byte, tail @ ..] => {
                unquoted.push(*byte);
                rest = tail;
            }
        }
    }
}

fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => byte - b'A' + 10,
    }
}

/// C's `isspace`, which unlike Rust's ASCII whitespace counts the vertical tab.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

trait TrimStart {
    fn trim_ascii_start_c(&self) -> &Self;
}

impl TrimStart for [u8] {
    fn trim_ascii_start_c(&self) -> &Self {
        let start = self.iter().position(|&byte| !is_space(byte));
        &self[start.unwrap_or(self.len())..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(parser: &Parser, frame: &[u8]) -> Vec<Vec<u8>> {
        parser.args(frame).iter().map(<[u8]>::to_vec).collect()
    }

    fn parse_all(mut input: &[u8]) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
        let mut parser = Parser::new();
        let mut requests = Vec::new();
        loop {
            match parser.advance(input) {
                Ok(Progress::Frame { consumed }) => {
                    requests.push(words(&parser, input));
                    input = &input[consumed..];
                }
                Ok(Progress::Incomplete) => return (requests, None),
                Err(error) => return (requests, Some(error)),
            }
        }
    }

    fn refused(input: &[u8]) -> String {
        let error = parse_all(input).1.expect("an error");
        String::from_utf8(error.text()).expect("ASCII")
    }

    #[test]
    fn a_pipeline_cut_at_each_byte_gives_the_same_requests() {
        let input: &[u8] = b"*3\r\n$3\r\nSET\r\n$2\r\nk1\r\n$12\r\nhello\r\nworld\r\nPING\r\n*0\r\n\
            set 'a b' \"\\x41\\n\"\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n";
        let (whole, error) = parse_all(input);
        assert_eq!(error, None);
        assert_eq!(whole.len(), 5);
        for cut in 0..=input.len() {
            let mut parser = Parser::new();
            let mut received = Vec::new();
            let mut requests = Vec::new();
            for part in [&input[..cut], &input[cut..]] {
                received.extend_from_slice(part);
                while let Progress::Frame { consumed } = parser.advance(&received).unwrap() {
                    requests.push(words(&parser, &received));
                    received.drain(..consumed);
                }
            }
            assert_eq!(requests, whole, "cut at {cut}");
            assert!(received.is_empty());
        }
    }

    #[test]
    fn a_request_that_arrives_byte_by_byte_completes_at_its_last_byte() {
        let input = b"*2\r\n$4\r\nECHO\r\n$101\r\n";
        let mut whole = input.to_vec();
        whole.extend_from_slice(&[b'x'; 101]);
        whole.extend_from_slice(b"\r\n");
        let mut parser = Parser::new();
        for end in 0..whole.len() {
            assert_eq!(parser.advance(&whole[..end]), Ok(Progress::Incomplete));
        }
        let consumed = whole.len();
        assert_eq!(parser.advance(&whole), Ok(Progress::Frame { consumed }));
        assert_eq!(parser.args(&whole).get(1), Some(&[b'x'; 101][..]));
    }

    #[test]
    fn empty_requests_are_skipped() {
        assert_eq!(parse_all(b"*0\r\n*-1\r\n\r\n  \n").0, vec![Vec::<Vec<u8>>::new(); 4]);
    }

    #[test]
    fn limits_are_refused_with_redis_texts() {
        let over_line = vec![b'1'; MAX_LINE_BYTES + 1];
        let inline = refused(&over_line);
        assert_eq!(inline, "Protocol error: too big inline request");
        let count = refused(&[b"*", &over_line[..]].concat());
        assert_eq!(count, "Protocol error: too big mbulk count string");
        let bulk = refused(&[b"*1\r\n$", &over_line[..]].concat());
        assert_eq!(bulk, "Protocol error: too big bulk count string");
        for input in ["*1048577\r\n", "*x\r\n", "*\r\n", "*01\r\n", "*+1\r\n", "* 1\r\n"] {
            let text = refused(input.as_bytes());
            assert_eq!(text, "Protocol error: invalid multibulk length", "{input:?}");
        }
        for input in ["$536870913", "$-1", "$", "$-", "$1a", "$99999999999999999999"] {
            let text = refused(format!("*1\r\n{input}\r\n").as_bytes());
            assert_eq!(text, "Protocol error: invalid bulk length", "{input:?}");
        }
        assert_eq!(parse_all(b"*1048576\r\n*1\r\n$536870912\r\n").1, Some(ProtocolError::ExpectedBulk(b'*')));
        assert_eq!(parse_all(b"*1\r\n$536870912\r\n").1, None);
    }

    #[test]
    fn a_wrong_marker_is_named() {
        assert_eq!(refused(b"*1\r\n!3\r\n"), "Protocol error: expected '$', got '!'");
        assert_eq!(refused(b"*1\r\n\r\n"), "Protocol error: expected '$', got ' '");
    }

    #[test]
    fn unbalanced_quotes_are_refused() {
        for input in ["\"abc\n", "'abc\n", "get \"a\"b\n", "get 'a'b\n", "\"a\\\"\n"] {
            assert_eq!(refused(input.as_bytes()), "Protocol error: unbalanced quotes in request", "{input:?}");
        }
    }

    #[test]
    fn inline_quoting_follows_redis() {
        let (requests, _) = parse_all(b"set a\"b c\" 'd\\'e' \"\\q\\t\\xzz\" \"\"\r\n");
        let expected: [&[u8]; 5] = [b"set", b"ab c", b"d'e", b"q\txzz", b""];
        assert_eq!(requests, [expected.map(<[u8]>::to_vec).to_vec()]);
    }

    #[test]
    fn integers_have_one_spelling() {
        for (text, value) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("99999999999999999999", None),
            ("-0", None),
            ("00", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("", None),
            ("-", None),
        ] {
            assert_eq!(parse_integer(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn a_bulk_body_says_how_much_is_missing() {
        let mut parser = Parser::new();
        let input = b"*1\r\n$1000\r\nabc";
        assert_eq!(parser.advance(input), Ok(Progress::Incomplete));
        assert_eq!(parser.wanted(input.len()), 999);
    }
}
