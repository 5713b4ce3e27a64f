//! The bytes of a snapshot file, as `FORMAT.md` describes them.

use std::fmt;
use std::io::{self, Read};
use std::num::NonZeroI64;

use crate::resp::MAX_BULK_BYTES;
use crate::store::Entry;

const MAGIC: [u8; 8] = *b"IPIQKV\r\n";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
const BLOCK_HEADER_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;
const ENTRY_HEADER_BYTES: usize = 16;
/// The shard number of the end.
const END: u32 = u32::MAX;
/// More shards than any server has; bounds what a reader believes.
const MOST_SHARDS: u32 = 1 << 16;

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) shards: u32,
    pub(crate) taken_ms: i64,
}

impl Header {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.shards.to_le_bytes());
        bytes.extend_from_slice(&self.taken_ms.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        seal(&mut bytes, 0);
        bytes
    }
}

/// Entries of one shard on their way into the file.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub(crate) shard: u32,
    entries: u32,
    payload: Vec<u8>,
}

impl Block {
    /// An empty block of `shard` with room for `bytes`.
    pub(crate) fn new(shard: usize, bytes: usize) -> Self {
        Self { shard: shard as u32, entries: 0, payload: Vec::with_capacity(bytes) }
    }

    pub(crate) fn push(&mut self, entry: Entry<'_>) {
        let Entry { key, value, deadline } = entry;
        self.entries += 1;
        self.payload.reserve(ENTRY_HEADER_BYTES + key.len() + value.len());
        self.payload.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.payload.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.payload.extend_from_slice(&deadline.map_or(0, NonZeroI64::get).to_le_bytes());
        self.payload.extend_from_slice(key);
        self.payload.extend_from_slice(value);
    }

    /// Bytes that its entries take.
    pub(crate) fn len(&self) -> usize {
        self.payload.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    /// What lies before the payload in the file, the payload, and what lies behind it.
    pub(crate) fn encode(&self) -> [Vec<u8>; 2] {
        frame(self.shard, self.entries, &self.payload)
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// The end of a file whose sections hold so many entries.
pub(crate) fn encode_end(entries: &[u64]) -> Vec<u8> {
    let payload: Vec<u8> = entries.iter().flat_map(|count| count.to_le_bytes()).collect();
    let [before, behind] = frame(END, entries.len() as u32, &payload);
    [before, payload, behind].concat()
}

fn frame(shard: u32, entries: u32, payload: &[u8]) -> [Vec<u8>; 2] {
    let mut before = Vec::with_capacity(BLOCK_HEADER_BYTES);
    for number in [shard, entries, payload.len() as u32] {
        before.extend_from_slice(&number.to_le_bytes());
    }
    seal(&mut before, 0);
    [before, crc32fast::hash(payload).to_le_bytes().to_vec()]
}

/// Appends the checksum of what follows `start`.
fn seal(bytes: &mut Vec<u8>, start: usize) {
    let checksum = crc32fast::hash(&bytes[start..]);
    bytes.extend_from_slice(&checksum.to_le_bytes());
}

/// Why a file is not loaded.
#[derive(Debug)]
pub(crate) enum Damage {
    Io(io::Error),
    At {
        offset: u64,
        what: &'static str,
    },
    /// Of a later version of this program.
    Version(u32),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::At { offset, what } => write!(f, "damaged at byte {offset}: {what}"),
            Self::Version(version) => {
                write!(f, "version {version} at byte 8, of which this program knows {VERSION} only")
            }
        }
    }
}

/// A file being read.
pub(crate) struct Reader<R> {
    input: R,
    offset: u64,
    header: Header,
    /// Entries met, by shard.
    entries: Vec<u64>,
    ended: bool,
    payload: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub(crate) fn new(mut input: R) -> Result<Self, Damage> {
        let mut bytes = [0; HEADER_BYTES];
        let got = read_up_to(&mut input, &mut bytes)?;
        let damage = |offset: usize, what| Err(Damage::At { offset: offset as u64, what });
        if got < MAGIC.len() || bytes[..8] != MAGIC {
            return damage(0, "this is no snapshot of kv");
        }
        if got < HEADER_BYTES {
            return damage(got, "the file ends in its header");
        }
        if !sealed(&bytes) {
            return damage(HEADER_BYTES - CHECKSUM_BYTES, "the checksum of the header is wrong");
        }
        let version = u32_at(&bytes, 8);
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        let header = Header { shards: u32_at(&bytes, 12), taken_ms: i64_at(&bytes, 16) };
        if !(1..=MOST_SHARDS).contains(&header.shards) {
            return damage(12, "no server has so many shards");
        }
        let entries = vec![0; header.shards as usize];
        Ok(Self { input, offset: HEADER_BYTES as u64, header, entries, ended: false, payload: Vec::new() })
    }

    /// Passes the entries of the next block to `visit`; false at the end of the file, where all of it was sound.
    ///
    /// # Errors
    ///
    /// Says what is wrong, and at which byte of the file. Nothing of a damaged block is visited.
    pub(crate) fn next_block(&mut self, visit: impl FnMut(Entry<'_>)) -> Result<bool, Damage> {
        if self.ended {
            return Ok(false);
        }
        let mut head = [0; BLOCK_HEADER_BYTES];
        let start = self.offset;
        self.fill(&mut head)?;
        if !sealed(&head) {
            return Err(Damage::At { offset: start, what: "the checksum of a block's header is wrong" });
        }
        let [shard, count, length] = [0, 4, 8].map(|at| u32_at(&head, at));
        self.fill_payload(length as usize)?;
        let mut checksum = [0; CHECKSUM_BYTES];
        self.fill(&mut checksum)?;
        let at_payload = start + BLOCK_HEADER_BYTES as u64;
        if crc32fast::hash(&self.payload).to_le_bytes() != checksum {
            return Err(Damage::At { offset: at_payload, what: "the checksum of a block is wrong" });
        }
        if shard == END {
            self.end(start, count)?;
            return Ok(false);
        }
        let Some(entries) = self.entries.get_mut(shard as usize) else {
            return Err(Damage::At { offset: start, what: "a block of a shard that is not there" });
        };
        *entries += u64::from(count);
        visit_entries(&self.payload, count, at_payload, visit)?;
        Ok(true)
    }

    fn end(&mut self, start: u64, shards: u32) -> Result<(), Damage> {
        let damage = |offset, what| Err(Damage::At { offset, what });
        let (counts, rest) = self.payload.as_chunks::<8>();
        if shards != self.header.shards || counts.len() != self.entries.len() || !rest.is_empty() {
            return damage(start, "the end counts other shards than the header");
        }
        if counts.iter().zip(&self.entries).any(|(count, met)| u64::from_le_bytes(*count) != *met) {
            return damage(start, "a shard has not as many entries as the end counts");
        }
        if read_up_to(&mut self.input, &mut [0])? > 0 {
            return damage(self.offset, "bytes follow the end");
        }
        self.ended = true;
        Ok(())
    }

    /// Reads a payload; a length is believed only as far as its bytes come.
    fn fill_payload(&mut self, length: usize) -> Result<(), Damage> {
        self.payload.clear();
        let got = self.input.by_ref().take(length as u64).read_to_end(&mut self.payload).map_err(Damage::Io)?;
        self.offset += got as u64;
        if got < length { Err(self.truncated()) } else { Ok(()) }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Damage> {
        let got = read_up_to(&mut self.input, bytes)?;
        self.offset += got as u64;
        if got < bytes.len() { Err(self.truncated()) } else { Ok(()) }
    }

    fn truncated(&self) -> Damage {
        Damage::At { offset: self.offset, what: "the file ends before its end was written" }
    }
}

/// All entries are checked before the first is visited.
fn visit_entries(payload: &[u8], count: u32, offset: u64, mut visit: impl FnMut(Entry<'_>)) -> Result<(), Damage> {
    let damage = |rest: &[u8], what| Damage::At { offset: offset + (payload.len() - rest.len()) as u64, what };
    let mut rest = payload;
    for _ in 0..count {
        (_, rest) = split_entry(rest).ok_or(damage(rest, "an entry passes its block"))?;
    }
    if !rest.is_empty() {
        return Err(damage(rest, "bytes follow the last entry of a block"));
    }
    rest = payload;
    while let Some((entry, behind)) = split_entry(rest) {
        visit(entry);
        rest = behind;
    }
    Ok(())
}

fn split_entry(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(ENTRY_HEADER_BYTES)?;
    let [key_len, value_len] = [0, 4].map(|at| u32_at(head, at) as usize);
    if key_len > MAX_BULK_BYTES || value_len > MAX_BULK_BYTES {
        return None;
    }
    let (key, rest) = rest.split_at_checked(key_len)?;
    let (value, rest) = rest.split_at_checked(value_len)?;
    Some((Entry { key, value, deadline: NonZeroI64::new(i64_at(head, 8)) }, rest))
}

/// Whether the last four bytes are the checksum of those before.
fn sealed(bytes: &[u8]) -> bool {
    let (content, checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    crc32fast::hash(content).to_le_bytes() == checksum
}

fn read_up_to(input: &mut impl Read, bytes: &mut [u8]) -> Result<usize, Damage> {
    let mut got = 0;
    while got < bytes.len() {
        match input.read(&mut bytes[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Damage::Io(error)),
        }
    }
    Ok(got)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    i64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entries = Vec<(Vec<u8>, Vec<u8>, i64)>;

    fn sample() -> (Vec<u8>, Entries) {
        let entries: Entries =
            (0..40u8).map(|n| (vec![b'k', n], vec![n; usize::from(n)], i64::from(n % 3) * 1000)).collect();
        let mut file = Header { shards: 3, taken_ms: 77 }.encode();
        let mut counts = [0; 3];
        for (index, some) in entries.chunks(7).enumerate() {
            let mut block = Block::new(index % 3, 0);
            for (key, value, deadline_ms) in some {
                block.push(Entry { key, value, deadline: NonZeroI64::new(*deadline_ms) });
            }
            counts[index % 3] += u64::from(block.entries());
            let [before, behind] = block.encode();
            file.extend([&before, block.payload(), &behind].concat());
        }
        file.extend(encode_end(&counts));
        (file, entries)
    }

    fn load(file: &[u8]) -> Result<Entries, String> {
        let mut reader = Reader::new(file).map_err(|damage| damage.to_string())?;
        let mut entries = Vec::new();
        let visit = |entries: &mut Entries, entry: Entry<'_>| {
            let deadline_ms = entry.deadline.map_or(0, NonZeroI64::get);
            entries.push((entry.key.to_vec(), entry.value.to_vec(), deadline_ms));
        };
        while reader.next_block(|entry| visit(&mut entries, entry)).map_err(|damage| damage.to_string())? {}
        Ok(entries)
    }

    #[test]
    fn what_is_written_is_read() {
        let (file, entries) = sample();
        assert_eq!(load(&file), Ok(entries));
        let header = Reader::new(&file[..]).ok().unwrap().header;
        assert_eq!(header, Header { shards: 3, taken_ms: 77 });
    }

    #[test]
    fn a_file_cut_at_any_byte_is_refused_there() {
        let (file, _) = sample();
        for cut in 0..file.len() {
            let text = load(&file[..cut]).expect_err("a part of a file");
            let offset = if cut < 8 { 0 } else { cut };
            assert!(text.starts_with(&format!("damaged at byte {offset}: ")), "cut at {cut}: {text}");
        }
    }

    #[test]
    fn a_file_with_any_bit_turned_is_refused_near_it() {
        let (file, _) = sample();
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1 << (at % 8);
            let text = load(&damaged).expect_err("a damaged file");
            let offset = text.strip_prefix("damaged at byte ").and_then(|rest| rest.split(':').next()?.parse().ok());
            let offset: usize = offset.unwrap_or_else(|| panic!("{text}"));
            assert!(offset <= at + HEADER_BYTES && at <= offset + 500, "turned at {at}: {text}");
        }
    }

    #[test]
    fn what_is_sound_but_wrong_is_refused() {
        let (file, _) = sample();
        let header = Header { shards: 1, taken_ms: 0 }.encode();
        let block = |payload: &[u8], entries| {
            let [before, behind] = frame(0, entries, payload);
            [&header[..], &before, payload, &behind].concat()
        };
        let mut later = file[..28].to_vec();
        later[8] = 9;
        seal(&mut later, 0);
        let huge = [[0xff; 4], [0; 4], [0; 4], [0; 4]].concat();
        for (damaged, expected) in [
            ([&file[..], b"x"].concat(), "bytes follow the end"),
            (block(&[0; 15], 1), "damaged at byte 48: an entry passes its block"),
            (block(&huge, 1), "an entry passes its block"),
            (block(&[0; 17], 1), "damaged at byte 64: bytes follow the last entry"),
            ([&block(&[0; 16], 1)[..], &encode_end(&[2])].concat(), "not as many entries"),
            ([&header[..], &encode_end(&[0, 0])].concat(), "other shards than the header"),
            ([&Header { shards: 0, taken_ms: 0 }.encode()[..], &encode_end(&[])].concat(), "so many shards"),
            (later, "version 9"),
            (b"REDIS0011".to_vec(), "damaged at byte 0: this is no snapshot"),
        ] {
            let text = load(&damaged).expect_err(expected);
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
