//! The builder's values from environment variables.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::{Builder, DriverKind, FenceChoice, IdlePolicy, InterruptPolicy, Placement};

/// A variable: its name, what it may be, and what it does.
struct Variable {
    name: &'static str,
    allowed: &'static str,
    set: fn(Builder, &str) -> Option<Builder>,
}

const VARIABLES: [Variable; 10] = [
    Variable {
        name: "IPIQ_CORES",
        allowed: "a number from 1 to 256",
        set: |builder, text| Some(builder.cores(number(text, 1..=256)?)),
    },
    Variable {
        name: "IPIQ_PLACEMENT",
        allowed: "auto, pinned, spread, packed, nodes, unpinned, or the CPUs' numbers, such as 0,2,4",
        set: |builder, text| Some(builder.placement(placement(text)?)),
    },
    Variable {
        name: "IPIQ_DRIVER",
        allowed: "auto, uring or epoll",
        set: |builder, text| {
            let kinds = [("auto", DriverKind::Auto), ("uring", DriverKind::Uring), ("epoll", DriverKind::Epoll)];
            Some(builder.driver(one_of(text, kinds)?))
        },
    },
    Variable {
        name: "IPIQ_IDLE",
        allowed: "adaptive, park or spin",
        set: |builder, text| {
            let kinds = [("adaptive", IdlePolicy::Adaptive), ("park", IdlePolicy::Park), ("spin", IdlePolicy::Spin)];
            Some(builder.idle(one_of(text, kinds)?))
        },
    },
    Variable {
        name: "IPIQ_FENCE",
        allowed: "auto or symmetric",
        set: |builder, text| {
            Some(builder.fence(one_of(text, [("auto", FenceChoice::Auto), ("symmetric", FenceChoice::Symmetric)])?))
        },
    },
    Variable {
        name: "IPIQ_INTERRUPTS",
        allowed: "auto, off, or a signal's number from 1 to 64",
        set: |builder, text| {
            let named = one_of(text, [("auto", InterruptPolicy::Auto), ("off", InterruptPolicy::Off)]);
            let policy = named.or_else(|| Some(InterruptPolicy::Signal(number(text, 1..=64)?)));
            Some(builder.interrupts(policy?))
        },
    },
    Variable {
        name: "IPIQ_RING_CAPACITY",
        allowed: "a power of two from 2 to 1048576",
        set: |builder, text| {
            let capacity: usize = number(text, 2..=1 << 20)?;
            capacity.is_power_of_two().then(|| builder.ring_capacity(capacity))
        },
    },
    Variable {
        name: "IPIQ_BLOCKING_THREADS",
        allowed: "a number from 1 to 65536",
        set: |builder, text| Some(builder.blocking_threads(number(text, 1..=1 << 16)?)),
    },
    Variable {
        name: "IPIQ_TIME_SLICE_MS",
        allowed: "off, or milliseconds from 1 to 3600000",
        set: |builder, text| Some(builder.time_slice(milliseconds(text)?)),
    },
    Variable {
        name: "IPIQ_STALL_LIMIT_MS",
        allowed: "off, or milliseconds from 1 to 3600000",
        set: |builder, text| Some(builder.stall_limit(milliseconds(text)?)),
    },
];

impl Builder {
    /// Takes values from environment variables, in place of those set so far. Nothing else in ipiq reads the environment.
    ///
    /// | Variable | Value | Sets |
    /// |---|---|---|
    /// | `IPIQ_CORES` | 1 to 256 | [`cores`](Self::cores) |
    /// | `IPIQ_PLACEMENT` | `auto`, `pinned`, `spread`, `packed`, `nodes`, `unpinned`, or CPUs such as `0,2,4` | [`placement`](Self::placement) |
    /// | `IPIQ_DRIVER` | `auto`, `uring`, `epoll` | [`driver`](Self::driver) |
    /// | `IPIQ_IDLE` | `adaptive`, `park`, `spin` | [`idle`](Self::idle) |
    /// | `IPIQ_FENCE` | `auto`, `symmetric` | [`fence`](Self::fence) |
    /// | `IPIQ_INTERRUPTS` | `auto`, `off`, or a signal's number | [`interrupts`](Self::interrupts) |
    /// | `IPIQ_RING_CAPACITY` | a power of two from 2 to 1048576 | [`ring_capacity`](Self::ring_capacity) |
    /// | `IPIQ_BLOCKING_THREADS` | 1 to 65536 | [`blocking_threads`](Self::blocking_threads) |
    /// | `IPIQ_TIME_SLICE_MS` | `off`, or 1 to 3600000 | [`time_slice`](Self::time_slice) |
    /// | `IPIQ_STALL_LIMIT_MS` | `off`, or 1 to 3600000 | [`stall_limit`](Self::stall_limit) |
    ///
    /// Values are taken as they stand: without spaces, signs, or leading zeros, in lower case. Other variables that begin with `IPIQ_` are nobody's concern here, unless they
    /// look like one of these misspelt.
    ///
    /// ```
    /// // Two cores; as many as it says, when it is started as `IPIQ_CORES=8 program`.
    /// let runtime = ipiq::Runtime::builder().cores(2).env()?.build()?;
    /// println!("{} cores", runtime.info().cores);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`EnvError`] names the variable, its value and what is allowed. What the machine cannot give is told by [`build`](Self::build).
    pub fn env(self) -> Result<Self, EnvError> {
        self.env_from(env::vars_os())
    }

    fn env_from(self, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, EnvError> {
        let ours = variables.filter(|(name, _)| name.as_encoded_bytes().to_ascii_uppercase().starts_with(b"IPIQ"));
        let mut ours: Vec<_> = ours.collect();
        // The first error is always the same.
        ours.sort();
        ours.into_iter().try_fold(self, |builder, (name, value)| builder.with_variable(&name, &value))
    }

    fn with_variable(self, name: &OsStr, value: &OsStr) -> Result<Self, EnvError> {
        let Some(variable) = VARIABLES.iter().find(|variable| name == variable.name) else {
            let meant = VARIABLES.iter().find(|variable| is_near(&name.to_string_lossy(), variable.name));
            return match meant {
                None => Ok(self),
                Some(meant) => Err(EnvError {
                    name: name.to_owned(),
                    value: value.to_owned(),
                    problem: Problem::Misspelt(meant.name),
                }),
            };
        };
        let set = value.to_str().and_then(|text| (variable.set)(self, text));
        set.ok_or_else(|| EnvError {
            name: name.to_owned(),
            value: value.to_owned(),
            problem: Problem::Value(variable.allowed),
        })
    }
}

/// An environment variable that [`Builder::env`] cannot take.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvError {
    name: OsString,
    value: OsString,
    problem: Problem,
}

#[derive(Clone, PartialEq, Eq)]
enum Problem {
    /// What is allowed.
    Value(&'static str),
    /// What it should be called.
    Misspelt(&'static str),
}

impl EnvError {
    /// The variable's name.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// What it was set to.
    #[must_use]
    pub fn value(&self) -> &OsStr {
        &self.value
    }

    /// Whether there is no such variable, but one of nearly that name.
    #[must_use]
    pub fn is_misspelt(&self) -> bool {
        matches!(self.problem, Problem::Misspelt(_))
    }
}

impl fmt::Debug for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, problem } = self;
        match problem {
            Problem::Value(allowed) => write!(f, "{}={value:?}: set it to {allowed}, or unset it", name.display()),
            Problem::Misspelt(meant) => {
                write!(f, "{}={value:?}: there is no such variable; was {meant} meant?", name.display())
            }
        }
    }
}

impl std::error::Error for EnvError {}

fn one_of<T: Copy, const N: usize>(text: &str, choices: [(&str, T); N]) -> Option<T> {
    choices.into_iter().find(|(name, _)| *name == text).map(|(_, choice)| choice)
}

/// Digits only, without leading zeros.
fn number<T: FromStr + PartialOrd>(text: &str, allowed: std::ops::RangeInclusive<T>) -> Option<T> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|number| digits && allowed.contains(number))
}

fn milliseconds(text: &str) -> Option<Option<Duration>> {
    if text == "off" { Some(None) } else { number(text, 1..=3_600_000).map(Duration::from_millis).map(Some) }
}

fn placement(text: &str) -> Option<Placement> {
    match text {
        "auto" => Some(Placement::Auto),
        "pinned" => Some(Placement::Pinned),
        "spread" => Some(Placement::Spread),
        "packed" => Some(Placement::Packed),
        "nodes" => Some(Placement::Nodes(Vec::new())),
        "unpinned" => Some(Placement::Unpinned),
        _ => text.split(',').map(|cpu| number(cpu, 0..=1 << 16)).collect::<Option<_>>().map(Placement::Fixed),
    }
}

/// Whether `name` may be a slip of `right`: the same but for case and punctuation, or two letters.
fn is_near(name: &str, right: &str) -> bool {
    let plain = |text: &str| -> Vec<char> {
        text.chars().filter(|c| c.is_alphanumeric()).map(|c| c.to_ascii_uppercase()).collect()
    };
    distance(&plain(name), &plain(right)) <= 2
}

/// Insertions, deletions and replacements that make one of the other.
fn distance(from: &[char], to: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.iter().enumerate() {
            let change = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::Runtime;

    fn with(name: &str, value: impl Into<OsString>) -> Result<Builder, EnvError> {
        Runtime::builder().env_from([(OsString::from(name), value.into())].into_iter())
    }

    #[test]
    fn what_is_allowed_is_taken() {
        assert_eq!(with("IPIQ_CORES", "7").expect("allowed").cores, Some(7));
        assert_eq!(with("IPIQ_PLACEMENT", "3,0").expect("allowed").placement, Placement::Fixed(vec![3, 0]));
        assert_eq!(with("IPIQ_PLACEMENT", "unpinned").expect("allowed").placement, Placement::Unpinned);
        assert_eq!(with("IPIQ_PLACEMENT", "nodes").expect("allowed").placement, Placement::Nodes(vec![]));
        assert_eq!(with("IPIQ_DRIVER", "epoll").expect("allowed").driver, DriverKind::Epoll);
        assert_eq!(with("IPIQ_IDLE", "park").expect("allowed").idle, IdlePolicy::Park);
        assert_eq!(with("IPIQ_FENCE", "symmetric").expect("allowed").fence, FenceChoice::Symmetric);
        assert_eq!(with("IPIQ_INTERRUPTS", "10").expect("allowed").interrupts, InterruptPolicy::Signal(10));
        assert_eq!(with("IPIQ_RING_CAPACITY", "64").expect("allowed").ring_capacity, 64);
        assert_eq!(with("IPIQ_BLOCKING_THREADS", "1").expect("allowed").blocking_threads, 1);
        assert_eq!(with("IPIQ_TIME_SLICE_MS", "off").expect("allowed").time_slice, None);
        assert_eq!(with("IPIQ_STALL_LIMIT_MS", "20").expect("allowed").stalls.limit, Some(Duration::from_millis(20)));
    }

    #[test]
    fn garbage_is_refused_with_name_value_and_what_is_allowed() {
        let garbage = [
            "",
            " ",
            "0x1",
            "1e9",
            "1000000000",
            "-1",
            "+1",
            "01",
            "1 ",
            " 1",
            "x",
            "1.5",
            "Auto",
            "1,",
            "99999999999999999999",
        ];
        for variable in &VARIABLES {
            for value in garbage {
                let text = match with(variable.name, value) {
                    // A driver of that name there may be one day.
                    Ok(_) => panic!("{}={value:?} was taken", variable.name),
                    Err(error) => error.to_string(),
                };
                assert!(text.contains(variable.name) && text.contains(variable.allowed), "{text}");
                assert!(text.contains(&format!("{value:?}")), "{text}");
            }
            let error = with(variable.name, OsString::from_vec(vec![b'1', 0xff])).expect_err("no text");
            assert!(error.to_string().contains("\\xFF") && !error.is_misspelt(), "{error}");
        }
        assert!(with("IPIQ_CORES", "0").is_err() && with("IPIQ_CORES", "257").is_err());
        assert!(with("IPIQ_RING_CAPACITY", "3").is_err() && with("IPIQ_INTERRUPTS", "65").is_err());
    }

    #[test]
    fn a_name_that_is_nearly_right_is_refused_and_others_are_nobodys_concern() {
        for name in
            ["IPIQ_CORE", "IPIQ_COERS", "ipiq_cores", "IPIQCORES", "IPIQ_DRIVERS", "IPIQ-DRIVER", "IPIQ_STALL_LIMIT"]
        {
            let error = with(name, "1").expect_err(name);
            assert!(error.is_misspelt() && error.to_string().contains(name), "{error}");
            assert_eq!(error.name(), name);
        }
        for name in ["IPIQ_STRESS", "IPIQ_LOG_LEVEL", "CORES", "IPIQ", "XIPIQ_CORES"] {
            assert!(with(name, "garbage").is_ok(), "{name}");
        }
    }
}
