//! The thread that writes a snapshot's file, so that no core waits for a disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use futures::channel::{mpsc, oneshot};
use futures::executor::block_on;
use futures::stream::StreamExt;

use super::format::{Block, Header, encode_end};

/// Blocks that wait for the disk, beside one per core: what bounds a snapshot's memory.
const WAITING_BLOCKS: usize = 4;
const BUFFER_BYTES: usize = 128 << 10;

/// What the cores send, the header first.
pub(crate) enum Piece {
    Header(Header),
    Block(Block),
    /// This shard has sent all its blocks.
    End {
        shard: usize,
    },
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// A writer whose file is open.
pub(crate) struct Writer {
    /// Refuses once the writer has failed.
    pub(crate) pieces: mpsc::Sender<Piece>,
    /// Comes after every sender is gone.
    pub(crate) outcome: oneshot::Receiver<io::Result<Written>>,
}

impl Writer {
    /// Starts a thread that writes to a temporary file, and renames it to `path` once every shard has ended.
    ///
    /// # Errors
    ///
    /// Says why the temporary file cannot be created, or the thread not be started.
    pub(crate) async fn start(path: PathBuf) -> io::Result<Self> {
        let (pieces, received) = mpsc::channel(WAITING_BLOCKS);
        let (opened, opening) = oneshot::channel();
        let (done, outcome) = oneshot::channel();
        let counted = Counted::new();
        thread::Builder::new().name("kv-snapshot".to_owned()).spawn(move || {
            let _counted = counted;
            match Unfinished::create(&path) {
                Ok((unfinished, file)) => {
                    // Where whoever asked is gone, with the runtime, the file is taken away.
                    if opened.send(Ok(())).is_ok() {
                        let written = write(file, received).and_then(|written| unfinished.finish().map(|()| written));
                        let _ = done.send(written);
                    }
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            }
        })?;
        opening.await.unwrap_or_else(|_| Err(ended()))?;
        Ok(Self { pieces, outcome })
    }
}

/// The error of a writer that is gone without a word.
pub(crate) fn ended() -> io::Error {
    io::Error::other("the writing thread has ended early")
}

/// Writing threads that have not ended.
static WRITERS: Mutex<usize> = Mutex::new(0);
static WRITER_ENDED: Condvar = Condvar::new();

/// Waits, at the end of the process, until writers whose cores are gone have taken their temporary files away; not for long
/// where a disk hangs.
pub(crate) fn wait_for_writers() {
    const LIMIT: Duration = Duration::from_secs(1);
    // Whatever comes of it, the process ends.
    let _ = WRITER_ENDED.wait_timeout_while(writers(), LIMIT, |writers| *writers > 0);
}

fn writers() -> MutexGuard<'static, usize> {
    WRITERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of them.
struct Counted;

impl Counted {
    fn new() -> Self {
        *writers() += 1;
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *writers() -= 1;
        WRITER_ENDED.notify_all();
    }
}

fn write(file: File, mut pieces: mpsc::Receiver<Piece>) -> io::Result<Written> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
    let mut bytes = 0;
    let mut put = |out: &mut BufWriter<File>, part: &[u8]| {
        bytes += part.len() as u64;
        out.write_all(part)
    };
    let (mut entries, mut ended) = (Vec::new(), Vec::new());
    while let Some(piece) = block_on(pieces.next()) {
        match piece {
            Piece::Header(header) => {
                entries = vec![0; header.shards as usize];
                ended = vec![false; header.shards as usize];
                put(&mut out, &header.encode())?;
            }
            Piece::Block(block) => {
                entries[block.shard as usize] += u64::from(block.entries());
                let [before, behind] = block.encode();
                for part in [&before[..], block.payload(), &behind] {
                    put(&mut out, part)?;
                }
            }
            Piece::End { shard } => ended[shard] = true,
        }
    }
    if ended.is_empty() || ended.contains(&false) {
        return Err(io::Error::other("not all shards were read"));
    }
    put(&mut out, &encode_end(&entries))?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(Written { entries: entries.iter().sum(), bytes })
}

/// Takes the temporary files of processes away that were killed while they wrote `path`.
pub(super) fn remove_leftovers(path: &Path) {
    let Ok(entries) = fs::read_dir(directory(path)) else { return };
    for found in entries.flatten().map(|entry| entry.path()) {
        let process = found.file_stem().and_then(|stem| Path::new(stem).extension()?.to_str()?.parse().ok());
        let Some(process) = process.filter(|&process| found == temporary(path, process)) else { continue };
        // One that has this process's number is not of this process, which has written nothing yet.
        if process == std::process::id() || !Path::new("/proc").join(process.to_string()).exists() {
            // What cannot be taken away does no harm.
            let _ = fs::remove_file(found);
        }
    }
}

fn temporary(path: &Path, process: u32) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{process}.tmp"));
    directory(path).join(name)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A temporary file, taken away unless it is finished.
struct Unfinished<'a> {
    path: &'a Path,
    temporary: PathBuf,
}

impl<'a> Unfinished<'a> {
    fn create(path: &'a Path) -> io::Result<(Self, File)> {
        let temporary = temporary(path, std::process::id());
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        Ok((Self { path, temporary }, file))
    }

    /// Gives the file its name, for good.
    fn finish(mut self) -> io::Result<()> {
        fs::rename(&self.temporary, self.path)?;
        self.temporary.clear();
        File::open(directory(self.path))?.sync_all()
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.temporary.as_os_str().is_empty() {
            // What cannot be taken away is overwritten by the next one.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
