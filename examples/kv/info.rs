//! What the server tells about itself: INFO, CONFIG GET, COMMAND.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use ipiq::{Handle, Metrics};

use crate::command::{CATALOGUE, Sections};
use crate::glob;
use crate::reply;
use crate::resp::Args;
use crate::settings::{self, Settings};
use crate::shard::{Ledger, Stats};
use crate::snapshot::Status;

/// What is fixed at the start, and the connection counters that all cores share.
pub(crate) struct Facts {
    pub(crate) address: SocketAddr,
    pub(crate) cores: usize,
    pub(crate) driver: String,
    pub(crate) fence: String,
    /// Whether CONFIG SET may change where snapshots are written.
    pub(crate) protected_configs: bool,
    /// Whether DEBUG is obeyed.
    pub(crate) debug_command: bool,
    pub(crate) started: Instant,
    /// Of the runtime whose figures are told; in unit tests there is none.
    pub(crate) handle: Option<Handle>,
    pub(crate) clients: AtomicUsize,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Subscribers that were closed because they read too slowly.
    pub(crate) too_slow: AtomicU64,
    pub(crate) snapshots: Arc<Status>,
    pub(crate) ledger: Arc<Ledger>,
}

impl Facts {
    /// The facts of a server that starts now, and refuses what may be allowed.
    pub(crate) fn new(address: SocketAddr, cores: usize, driver: &str, fence: &str) -> Self {
        Self {
            address,
            cores,
            driver: driver.to_owned(),
            fence: fence.to_owned(),
            protected_configs: false,
            debug_command: false,
            started: Instant::now(),
            handle: None,
            clients: 0.into(),
            accepted: 0.into(),
            refused: 0.into(),
            too_slow: 0.into(),
            snapshots: Arc::new(Status::new()),
            ledger: Arc::new(Ledger::new(cores)),
        }
    }

    /// The facts of a server over `cores` cores.
    #[cfg(test)]
    pub(crate) fn of_test(cores: usize) -> Self {
        Self::new(([127, 0, 0, 1], 6379).into(), cores, "epoll", "membarrier")
    }
}

impl Facts {
    /// Appends the reply to INFO; `stats` are the figures of all shards together.
    pub(crate) fn info(&self, sections: Sections, stats: Stats, settings: &Settings, out: &mut Vec<u8>) {
        let mut text = String::new();
        for name in Sections::NAMES {
            if !sections.has(name) {
                continue;
            }
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let (first, rest) = name.split_at(1);
            let lines = self.section(name, stats, settings);
            write!(text, "# {}{rest}\r\n{lines}", first.to_ascii_uppercase()).expect("a string takes every write");
        }
        reply::bulk(out, text.as_bytes());
    }

    fn section(&self, name: &str, stats: Stats, settings: &Settings) -> String {
        let line = |name: &str, value: &dyn std::fmt::Display| format!("{name}:{value}\r\n");
        match name {
            "server" => [
                line("server_name", &"ipiq-kv"),
                line("version", &env!("CARGO_PKG_VERSION")),
                line("process_id", &std::process::id()),
                line("tcp_port", &self.address.port()),
                line("cores", &self.cores),
                line("driver", &self.driver),
                line("fence", &self.fence),
                line("uptime_in_seconds", &self.started.elapsed().as_secs()),
            ]
            .concat(),
            "clients" => [
                line("connected_clients", &self.clients.load(Ordering::Relaxed)),
                line("maxclients", &settings.max_clients),
            ]
            .concat(),
            "memory" => [
                line("used_memory", &stats.used_bytes),
                line("maxmemory", &settings.max_memory_bytes.unwrap_or(0)),
                line("maxmemory_policy", &"noeviction"),
            ]
            .concat(),
            "persistence" => self.snapshots.lines(self.ledger.changes()),
            "stats" => [
                line("total_connections_received", &self.accepted.load(Ordering::Relaxed)),
                line("total_commands_processed", &stats.commands),
                line("rejected_connections", &self.refused.load(Ordering::Relaxed)),
                line("expired_keys", &stats.expired),
                line("client_output_buffer_limit_disconnections", &self.too_slow.load(Ordering::Relaxed)),
            ]
            .concat(),
            "cores" => self.handle.as_ref().map(|handle| of_cores(&handle.metrics())).unwrap_or_default(),
            "classes" => self.handle.as_ref().map(|handle| of_classes(&handle.metrics())).unwrap_or_default(),
            _ if stats.keys == 0 => String::new(),
            _ => format!("db0:keys={},expires={},avg_ttl=0\r\n", stats.keys, stats.volatile),
        }
    }

    /// Appends the reply to CONFIG GET: names and values of what matches any of `patterns`.
    pub(crate) fn config(&self, patterns: Args<'_>, settings: &Settings, out: &mut Vec<u8>) {
        let mut settings = [settings.list(), settings::constants(self.address)].concat();
        settings.sort_unstable();
        let mut found: Vec<(&[u8], &str)> = Vec::new();
        for pattern in patterns.iter() {
            let lower = pattern.to_ascii_lowercase();
            let exact = !lower.iter().any(|byte| b"[*?".contains(byte));
            for (name, value) in &settings {
                let listed = found.iter().any(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()));
                if listed || !glob::matches(&lower, name.as_bytes()) {
                    continue;
                }
                // A name asked for as such is answered as it was spelled.
                found.push((if exact { pattern } else { name.as_bytes() }, value));
            }
        }
        reply::array(out, 2 * found.len());
        for (name, value) in found {
            reply::bulk(out, name);
            reply::bulk(out, value.as_bytes());
        }
    }
}

/// A line for each core, and one for each pair that has talked.
fn of_cores(metrics: &Metrics) -> String {
    let mut text = String::new();
    for core in &metrics.cores {
        let (load, driver) = (core.load, core.driver);
        let [busy, spin, park] = [load.busy_ns, load.spinning_ns, load.parked_ns].map(|ns| ns / 1000);
        let (tasks, ready) = (load.tasks_alive(), load.tasks_ready);
        write!(
            text,
            "core{}:busy_usec={busy},spin_usec={spin},park_usec={park},polls={},tasks={tasks},ready={ready},timers={},sleeps={},stalls={},io_completions={},io_system_calls={}\r\n",
            core.core.index(),
            load.polls,
            load.timers,
            core.counters.parked,
            core.stalls,
            driver.completions,
            driver.system_calls(),
        )
        .expect("a string takes every write");
    }
    for pair in &metrics.pairs {
        let (source, target, counters) = (pair.source.index(), pair.target.index(), pair.counters);
        write!(
            text,
            "core{source}_to_core{target}:sent={},queued={},kicked={},full={}\r\n",
            counters.sent, counters.queued, counters.kicked, counters.full
        )
        .expect("a string takes every write");
    }
    text
}

/// A line for each class on each core.
fn of_classes(metrics: &Metrics) -> String {
    let mut text = String::new();
    for class in &metrics.classes {
        let counters = class.counters;
        let [run, waited, longest] = [class.run_ns, counters.waited_ns, counters.longest_wait_ns].map(|ns| ns / 1000);
        write!(
            text,
            "{}_core{}:shares={},run_usec={run},polls={},ready={},contended={},waited_usec={waited},longest_wait_usec={longest}\r\n",
            class.class,
            class.core.index(),
            class.shares,
            counters.polls,
            counters.queued,
            counters.contended_turns,
        )
        .expect("a string takes every write");
    }
    text
}

/// Appends the reply to COMMAND: every command with its arity, flags and key positions.
pub(crate) fn catalogue(out: &mut Vec<u8>) {
    reply::array(out, CATALOGUE.len());
    for entry in CATALOGUE {
        describe(entry, out);
    }
}

/// Appends the reply to COMMAND COUNT.
pub(crate) fn catalogue_count(out: &mut Vec<u8>) {
    reply::integer(out, CATALOGUE.len() as i64);
}

/// Appends the reply to COMMAND INFO: the named commands, or all where none is named.
pub(crate) fn catalogue_info(names: Args<'_>, out: &mut Vec<u8>) {
    if names.len() == 0 {
        return catalogue(out);
    }
    reply::array(out, names.len());
    for name in names.iter() {
        let known = CATALOGUE.iter().find(|(known, ..)| name.eq_ignore_ascii_case(known.as_bytes()));
        match known {
            Some(entry) => describe(entry, out),
            None => out.extend_from_slice(b"*-1\r\n"),
        }
    }
}

fn describe((name, arity, writes, keys): &(&str, i64, bool, [i64; 3]), out: &mut Vec<u8>) {
    reply::array(out, 10);
    reply::bulk(out, name.as_bytes());
    reply::integer(out, *arity);
    reply::array(out, 1);
    reply::status(out, if *writes { "write" } else { "readonly" });
    for position in keys {
        reply::integer(out, *position);
    }
    // ACL categories, tips, key specifications and subcommands: none are told.
    for _ in 0..4 {
        reply::array(out, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Span;

    fn config(pattern: &str) -> String {
        let mut out = Vec::new();
        let spans = [Span::new(0, pattern.len())];
        Facts::of_test(2).config(Args::new(pattern.as_bytes(), &spans), &Settings::default(), &mut out);
        String::from_utf8(out).unwrap().replace("\r\n", " ")
    }

    #[test]
    fn settings_are_found_by_name_and_by_pattern() {
        assert_eq!(config("save"), "*2 $4 save $0  ");
        assert_eq!(config("SAVE"), "*2 $4 SAVE $0  ");
        assert_eq!(config("maxmem*"), "*4 $9 maxmemory $1 0 $16 maxmemory-policy $10 noeviction ");
        assert_eq!(config("nothing"), "*0 ");
    }

    #[test]
    fn the_catalogue_counts_what_it_lists() {
        let (mut all, mut count, mut some) = (Vec::new(), Vec::new(), Vec::new());
        catalogue(&mut all);
        catalogue_count(&mut count);
        assert!(all.starts_with(&[b"*", &count[1..]].concat()));
        let spans = [Span::new(0, 3), Span::new(3, 7)];
        catalogue_info(Args::new(b"GETnope", &spans), &mut some);
        assert!(some.starts_with(b"*2\r\n*10\r\n$3\r\nget\r\n:2\r\n"));
        assert!(some.ends_with(b"*-1\r\n"));
    }
}
