//! What CONFIG GET tells, CONFIG SET changes, and the command line sets first.

use std::fmt::Display;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipiq::{CoreLocal, Handle, Local, Replicated};

use crate::pubsub::OutputLimit;
use crate::resp::MAX_BULK_BYTES;

/// The settings that may change while the server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) max_clients: usize,
    pub(crate) max_memory_bytes: Option<usize>,
    /// A client that has sent nothing for so long is closed; zero for never.
    pub(crate) timeout_s: u64,
    /// Where snapshots are written and loaded from.
    pub(crate) dir: PathBuf,
    pub(crate) db_filename: String,
    pub(crate) save_points: Vec<SavePoint>,
    pub(crate) subscriber_limit: OutputLimit,
}

/// A snapshot is taken once so many changes are so old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SavePoint {
    pub(crate) seconds: u64,
    pub(crate) changes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_clients: 10_000,
            max_memory_bytes: None,
            timeout_s: 0,
            dir: PathBuf::from("."),
            db_filename: "dump.kv".to_owned(),
            save_points: Vec::new(),
            subscriber_limit: OutputLimit::default(),
        }
    }
}

/// The settings of now: each core has its own copy, and changes them on all before CONFIG SET is answered.
#[derive(Clone)]
pub(crate) enum Live {
    Replicated {
        settings: Replicated<Settings>,
        copies: CoreLocal<Local<Settings>>,
    },
    #[cfg(test)]
    Fixed(Settings),
}

impl Live {
    /// Settings for all cores of a runtime.
    pub(crate) fn new(settings: Settings, runtime: &Handle) -> Self {
        let settings = runtime.replicated(settings);
        let source = settings.clone();
        Self::Replicated { settings, copies: runtime.core_local(move || source.local()) }
    }

    /// This core's copy.
    pub(crate) fn local(&self) -> Local<Settings> {
        match self {
            Self::Replicated { copies, .. } => Local::clone(&copies.get()),
            #[cfg(test)]
            Self::Fixed(_) => unreachable!("a core has a copy of what is replicated"),
        }
    }

    /// Reads this core's copy.
    pub(crate) fn read<R>(&self, f: impl FnOnce(&Settings) -> R) -> R {
        match self {
            Self::Replicated { copies, .. } => copies.get().read(f),
            #[cfg(test)]
            Self::Fixed(settings) => f(settings),
        }
    }

    /// CONFIG SET: changes all of `changes` or none; every core has them when this returns.
    ///
    /// # Errors
    ///
    /// The text of the reply that says why not.
    pub(crate) async fn change(&self, changes: &Changes, protected: bool) -> Result<(), String> {
        // What is refused here goes to no core.
        apply(&mut self.read(Settings::clone), changes, protected)?;
        match self {
            Self::Replicated { settings, .. } => {
                // Applied to the settings of now: another core may have changed others meanwhile. A directory may have gone since.
                let mut outcome = Ok(());
                let update = settings.modify(|settings| outcome = apply(settings, changes, protected));
                update.await.map_err(|error| format!("ERR CONFIG SET did not reach every core: {error}"))?;
                outcome
            }
            #[cfg(test)]
            Self::Fixed(_) => Ok(()),
        }
    }
}

/// The names and values of a CONFIG SET.
pub(crate) type Changes = Vec<(String, String)>;

/// Carries out all of `changes` or, with an error, none.
fn apply(settings: &mut Settings, changes: &Changes, protected: bool) -> Result<(), String> {
    let mut changed = settings.clone();
    for (index, (name, value)) in changes.iter().enumerate() {
        let lower = name.to_ascii_lowercase();
        let outcome = if PROTECTED.contains(&&lower[..]) && !protected {
            Err(wrong("can't set protected config"))
        } else if changes[..index].iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(name)) {
            Err(wrong("duplicate parameter"))
        } else {
            changed.set(&lower, value)
        };
        outcome.map_err(|refused| match refused {
            Refused::Unknown => format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"),
            Refused::Wrong(reason) => {
                format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}")
            }
        })?;
    }
    *settings = changed;
    Ok(())
}

/// Why a setting is not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Unknown,
    /// The reason, in redis's words where it has some.
    Wrong(String),
}

/// Settings that decide which files a client can have written, and so are changed only where the command line allows it.
const PROTECTED: [&str; 2] = ["dbfilename", "dir"];
/// Settings that CONFIG GET tells and nothing changes.
const FIXED: [&str; 6] = ["appendonly", "bind", "databases", "maxmemory-policy", "port", "proto-max-bulk-len"];

impl Settings {
    /// All settings that may change, with their values as CONFIG GET tells them.
    pub(crate) fn list(&self) -> Vec<(&'static str, String)> {
        let limit = self.subscriber_limit;
        let points = self.save_points.iter().map(|point| format!("{} {}", point.seconds, point.changes));
        vec![
            ("client-output-buffer-limit", {
                let OutputLimit { hard_bytes, soft_bytes, soft_s } = limit;
                format!("normal 0 0 0 slave 268435456 67108864 60 pubsub {hard_bytes} {soft_bytes} {soft_s}")
            }),
            ("dbfilename", self.db_filename.clone()),
            ("dir", self.shown_dir()),
            ("maxclients", self.max_clients.to_string()),
            ("maxmemory", self.max_memory_bytes.unwrap_or(0).to_string()),
            ("save", points.collect::<Vec<_>>().join(" ")),
            ("timeout", self.timeout_s.to_string()),
        ]
    }

    /// The file that snapshots are written to and loaded from.
    pub(crate) fn snapshot_path(&self) -> PathBuf {
        self.dir.join(&self.db_filename)
    }

    /// Changes the setting `name`, in lower case, to `value`.
    ///
    /// # Errors
    ///
    /// Says why not; the settings are then as before.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), Refused> {
        match name {
            "client-output-buffer-limit" => self.subscriber_limit = output_limit(value, self.subscriber_limit)?,
            "dbfilename" => self.db_filename = file_name(value)?,
            "dir" => self.dir = directory(value)?,
            "maxclients" => self.max_clients = integer(value, 1, u64::from(u32::MAX))? as usize,
            "maxmemory" => self.max_memory_bytes = memory(value)?,
            "save" => self.save_points = save_points(value)?,
            "timeout" => self.timeout_s = integer(value, 0, i32::MAX as u64)?,
            fixed if FIXED.contains(&fixed) => return Err(wrong("can't set immutable config")),
            _ => return Err(Refused::Unknown),
        }
        Ok(())
    }

    fn shown_dir(&self) -> String {
        fs::canonicalize(&self.dir).unwrap_or_else(|_| self.dir.clone()).display().to_string()
    }
}

/// The settings that never change, for CONFIG GET.
pub(crate) fn constants(address: SocketAddr) -> Vec<(&'static str, String)> {
    let [no, one, no_eviction] = ["no", "1", "noeviction"].map(str::to_owned);
    let (ip, port, bulk) = (address.ip().to_string(), address.port().to_string(), MAX_BULK_BYTES.to_string());
    FIXED.into_iter().zip([no, ip, one, no_eviction, port, bulk]).collect()
}

fn wrong(reason: impl Display) -> Refused {
    Refused::Wrong(reason.to_string())
}

fn integer(value: &str, least: u64, most: u64) -> Result<u64, Refused> {
    let number: i64 = value.parse().map_err(|_| wrong("argument couldn't be parsed into an integer"))?;
    match u64::try_from(number) {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(wrong(format!("argument must be between {least} and {most} inclusive"))),
    }
}

/// A size as in redis: `k` is 1000, `kb` is 1024; zero is no limit.
fn memory(value: &str) -> Result<Option<usize>, Refused> {
    let bytes = bytes(value).ok_or(wrong("argument must be a memory value"))?;
    Ok((bytes > 0).then_some(bytes))
}

fn bytes(value: &str) -> Option<usize> {
    let lower = value.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: usize = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

fn directory(value: &str) -> Result<PathBuf, Refused> {
    let metadata = fs::metadata(value).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => wrong("No such file or directory"),
        _ => wrong(error),
    })?;
    if metadata.is_dir() { Ok(PathBuf::from(value)) } else { Err(wrong("Not a directory")) }
}

fn file_name(value: &str) -> Result<String, Refused> {
    if value.is_empty() || Path::new(value).file_name() != Some(value.as_ref()) {
        return Err(wrong("dbfilename can't be a path, just a filename"));
    }
    Ok(value.to_owned())
}

/// Pairs of seconds and changes; nothing for no save points.
fn save_points(value: &str) -> Result<Vec<SavePoint>, Refused> {
    let numbers: Option<Vec<u64>> = value.split_ascii_whitespace().map(|word| word.parse().ok()).collect();
    let numbers = numbers.ok_or(wrong("Invalid save parameters"))?;
    let (points, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() || points.iter().any(|[seconds, _]| *seconds == 0) {
        return Err(wrong("Invalid save parameters"));
    }
    Ok(points.iter().map(|&[seconds, changes]| SavePoint { seconds, changes }).collect())
}

/// Quadruples of a class of clients, a hard limit, a soft one and its seconds; only subscribers have limits here.
fn output_limit(value: &str, mut limit: OutputLimit) -> Result<OutputLimit, Refused> {
    let words: Vec<&str> = value.split_ascii_whitespace().collect();
    let (quadruples, rest) = words.as_chunks::<4>();
    if !rest.is_empty() || quadruples.is_empty() {
        return Err(wrong("Wrong number of arguments in buffer limit configuration."));
    }
    for [class, hard, soft, seconds] in quadruples {
        let error = || wrong("Error in hard, soft or soft_seconds setting in buffer limit configuration.");
        let (hard_bytes, soft_bytes) = (bytes(hard).ok_or_else(error)?, bytes(soft).ok_or_else(error)?);
        let soft_s = seconds.parse().map_err(|_| error())?;
        match *class {
            "pubsub" => limit = OutputLimit { hard_bytes, soft_bytes, soft_s },
            "normal" | "slave" | "replica" => return Err(wrong("only subscribers have a limit: use the class pubsub")),
            _ => return Err(wrong("Invalid client class specified in buffer limit configuration.")),
        }
    }
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn refused(name: &str, value: &str) -> String {
        let mut settings = Settings::default();
        let outcome = settings.set(name, value);
        assert_eq!(settings, Settings::default(), "{name} {value}");
        match outcome.expect_err(value) {
            Refused::Wrong(reason) => reason,
            Refused::Unknown => "unknown".to_owned(),
        }
    }

    #[test]
    fn what_is_set_is_told() {
        let mut settings = Settings::default();
        for (name, value, told) in [
            ("maxmemory", "2mb", "2097152"),
            ("maxmemory", "0", "0"),
            ("maxclients", "7", "7"),
            ("timeout", "30", "30"),
            ("save", "900 1 300 10", "900 1 300 10"),
            ("save", "", ""),
            ("dbfilename", "other.kv", "other.kv"),
            ("dir", "/", "/"),
            (
                "client-output-buffer-limit",
                "pubsub 1mb 2k 3",
                "normal 0 0 0 slave 268435456 67108864 60 pubsub 1048576 2000 3",
            ),
        ] {
            assert_eq!(settings.set(name, value), Ok(()), "{name} {value}");
            let list = settings.list();
            assert!(list.contains(&(name, told.to_owned())), "{name} {value}: {list:?}");
        }
    }

    #[test]
    fn what_is_refused_in_the_middle_changes_nothing() {
        let changes = [("timeout", "3"), ("dir", "/no/such/directory"), ("maxclients", "7")];
        let changes: Changes = changes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let mut settings = Settings::default();
        assert!(apply(&mut settings, &changes, true).is_err());
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn all_is_changed_or_nothing() {
        let change = |line: &str, protected| {
            let words: Vec<&str> = line.split(' ').collect();
            let changes: Changes = words
                .as_chunks::<2>()
                .0
                .iter()
                .map(|[name, value]| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            let live = Live::Fixed(Settings::default());
            live.change(&changes, protected).now_or_never().expect("nothing is waited for")
        };
        assert_eq!(change("MaxMemory 1mb timeout 3", false), Ok(()));
        assert_eq!(change("dbfilename x dir /", true), Ok(()));
        for (line, expected) in [
            ("nosuch 1", "ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'"),
            (
                "maxmemory 1 MAXMEMORY 2",
                "ERR CONFIG SET failed (possibly related to argument 'MAXMEMORY') - duplicate parameter",
            ),
            ("dir /", "ERR CONFIG SET failed (possibly related to argument 'dir') - can't set protected config"),
            ("port 1", "ERR CONFIG SET failed (possibly related to argument 'port') - can't set immutable config"),
        ] {
            assert_eq!(change(line, false), Err(expected.to_owned()));
        }
    }

    #[test]
    fn what_is_wrong_changes_nothing_and_says_why() {
        for (name, value, reason) in [
            ("maxmemory", "x", "memory value"),
            ("maxmemory", "99999999999999999999gb", "memory value"),
            ("maxclients", "0", "between 1 and 4294967295"),
            ("timeout", "-1", "between 0 and 2147483647"),
            ("timeout", "x", "parsed into an integer"),
            ("save", "1", "Invalid save"),
            ("save", "0 1", "Invalid save"),
            ("dbfilename", "a/b", "can't be a path"),
            ("dbfilename", "..", "can't be a path"),
            ("dbfilename", "", "can't be a path"),
            ("dir", "/no/such/directory", "No such file"),
            ("client-output-buffer-limit", "pubsub 1 2", "Wrong number"),
            ("client-output-buffer-limit", "nobody 1 2 3", "Invalid client class"),
            ("port", "1", "immutable"),
            ("nonsense", "1", "unknown"),
        ] {
            let text = refused(name, value);
            assert!(text.contains(reason), "{name} {value}: {text}");
        }
    }
}
