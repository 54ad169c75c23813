//! Plan of a benchmark run: its flags, parsed and checked.
//!
//! See also: `load_generator`, which carries it out.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser, value_parser};

use super::systems_under_test::{Api, HttpApi};
use super::workload::{Keys, MAX_KEYS};
use crate::cli::common::span;
use crate::config::parse_address;

/// The maximum size of a value, within etcd's limit too.
const MAX_VALUE_BYTES: u64 = 1 << 20;

/// The maximum number of keys of a page; a node may have a lower one.
const MAX_PAGE: u64 = 100_000;

/// The maximum number of clients.
const MAX_CLIENTS: u64 = 10_000;

/// The maximum number of generator threads.
const MAX_THREADS: u64 = 64;

/// The load model: which operations are sent when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum LoadModel {
    /// Every key is put once.
    Preload,
    /// Closed loop: each client sends its next operation when the last one has ended.
    Closed,
    /// Open loop: a fixed number of operations a second is due, whatever the system does.
    Open(f64),
}

/// A benchmark run.
#[derive(Debug)]
pub(super) struct Plan {
    /// The HTTP addresses of the nodes.
    pub addresses: Vec<String>,
    /// Whether all clients use the leader, found through the first address.
    pub leader_only: bool,
    /// The system under test.
    pub api: Api,
    /// Clients, each with one operation at a time, and with a connection of its own except in gRPC.
    pub clients: usize,
    /// gRPC connections that the clients of a thread share.
    pub connections: usize,
    /// Generator threads.
    pub threads: usize,
    /// The percentage of reads.
    pub reads: u64,
    /// Whether reads may be stale.
    pub stale: bool,
    /// The path of a page, where the reads are pages.
    pub page: Option<String>,
    /// The load model.
    pub model: LoadModel,
    /// The time before the measured window.
    pub warmup: Duration,
    /// The measured window.
    pub duration: Duration,
    /// The number of keys.
    pub key_count: u64,
    /// The distribution of keys.
    pub keys: Keys,
    /// The name of the distribution.
    pub distribution: String,
    /// The prefix of all keys.
    pub prefix: String,
    /// The size of values.
    pub value_bytes: usize,
    /// Whether every key is put once before the run.
    pub preload: bool,
    /// The seed of the random numbers.
    pub seed: u64,
    /// The server processes whose CPU time is measured.
    pub processes: Vec<String>,
    /// The directory whose disk is measured first.
    pub disk: Option<PathBuf>,
    /// Whether the report is JSON.
    pub json: bool,
    /// Whether to print a progress line every second.
    pub progress: bool,
}

fn flag(name: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).default_value(default).help(help)
}

fn number(name: &'static str, default: &'static str, bounds: (u64, u64), help: &'static str) -> Arg {
    flag(name, "NUMBER", default, help).value_parser(value_parser!(u64).range(bounds.0..=bounds.1))
}

fn choice(name: &'static str, choices: &[&'static str], help: &'static str) -> Arg {
    let parser = PossibleValuesParser::new(choices.to_vec());
    flag(name, "WORD", choices.first().copied().unwrap_or_default(), help).value_parser(parser)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// The flags.
pub(super) fn arguments(command: Command) -> Command {
    let rate =
        Arg::new("rate").long("rate").value_name("NUMBER").value_parser(value_parser!(u64).range(1..=10_000_000));
    let list = |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    command.args([
        list("to", "LIST").value_delimiter(',').value_parser(address).default_value("127.0.0.1:2221").help("HTTP addresses, comma-separated"),
        choice("ask", &["all", "leader"], "Targets of the clients: all addresses in turn, or the leader only"),
        choice("api", &["huskv", "etcd", "etcd-grpc"], "API of the system under test: huskv, the JSON gateway of etcd 3, or its gRPC port (plain)"),
        choice("op", &["put", "get", "mixed", "list"], "Operations of the clients; list reads the first page of the keys (huskv only)"),
        number("reads", "50", (0, 100), "Percentage of reads, for mixed"),
        switch("stale", "Stale reads, without a quorum"),
        number("limit", "1000", (1, MAX_PAGE), "Keys of a page, for list"),
        switch("reverse", "Pages in descending order, for list"),
        number("clients", "64", (1, MAX_CLIENTS), "Clients, each with one operation at a time on a connection of its own"),
        number("connections", "1", (1, MAX_CLIENTS), "Connections that the clients of a thread share, for etcd-grpc"),
        rate.help("Operations a second of an open loop; without it the loop is closed: each client sends its next operation at once"),
        flag("duration", "SPAN", "10s", "Length of the measured window, such as 500ms or 30s").value_parser(span),
        flag("warmup", "SPAN", "2s", "Time before the measured window").value_parser(span),
        number("keys", "10000", (1, MAX_KEYS), "Number of keys"),
        choice("distribution", &["uniform", "zipf"], "Distribution of keys"),
        flag("prefix", "TEXT", "bench-", "Prefix of all keys").value_parser(unescaped),
        number("value-bytes", "256", (0, MAX_VALUE_BYTES), "Size of values"),
        switch("no-load", "Do not put every key once before reads"),
        number("threads", "1", (1, MAX_THREADS), "Generator threads"),
        number("seed", "1", (0, u64::MAX), "Seed of the random numbers"),
        list("pids", "LIST").value_delimiter(',').value_parser(value_parser!(u32)).help("Processes on this machine whose CPU time is measured, in all and by thread name (Linux only)"),
        list("disk", "DIRECTORY").value_parser(value_parser!(PathBuf)).help("First measure the fsync latency of the disk of this directory"),
        switch("json", "Print the report as one JSON object"),
        switch("no-progress", "No progress line every second on stderr"),
    ])
}

fn address(text: &str) -> Result<String, String> {
    parse_address(text.trim()).map(|address| address.to_string())
}

/// Checks that a text needs no escape in a path or in JSON.
fn unescaped(text: &str) -> Result<String, String> {
    let fits = text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    fits.then(|| text.to_owned()).ok_or_else(|| "at most 64 of A-Z a-z 0-9 . _ -".into())
}

/// The path of the first page of the keys with this prefix.
fn page(matches: &ArgMatches, prefix: &str, limit: u64) -> String {
    let word = |flag: &str, text: &'static str| if matches.get_flag(flag) { text } else { "" };
    let (reverse, stale) = (word("reverse", "&reverse"), word("stale", "&consistency=stale"));
    format!("/store?prefix={prefix}&limit={limit}{reverse}{stale}")
}

impl Plan {
    /// Parses the flags.
    ///
    /// # Errors
    /// A message where flags contradict each other.
    pub(super) fn new(matches: &ArgMatches) -> Result<Self, String> {
        let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or_default();
        let size = |name: &str| usize::try_from(number(name)).unwrap_or(usize::MAX);
        let word = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
        let duration = |name: &str| matches.get_one::<Duration>(name).copied().unwrap_or_default();
        let key_count = number("keys");
        let distribution = word("distribution");
        // `--op put` and `--op get` or `list` are the ends of the scale of `--reads`.
        let reads = match word("op").as_str() {
            "put" => 0,
            "get" | "list" => 100,
            _ => number("reads"),
        };
        let rate = matches.get_one::<u64>("rate");
        let plan = Self {
            addresses: matches.get_many::<String>("to").unwrap_or_default().cloned().collect(),
            leader_only: word("ask") == "leader",
            api: match word("api").as_str() {
                "etcd-grpc" => Api::EtcdGrpc,
                "etcd" => Api::Http(HttpApi::Etcd),
                _ => Api::Http(HttpApi::Huskv),
            },
            clients: size("clients"),
            connections: size("connections"),
            threads: size("threads").min(size("clients")),
            reads,
            stale: matches.get_flag("stale"),
            page: (word("op") == "list").then(|| page(matches, &word("prefix"), number("limit"))),
            model: rate.map_or(LoadModel::Closed, |rate| LoadModel::Open(*rate as f64)),
            warmup: duration("warmup"),
            duration: duration("duration"),
            key_count,
            keys: if distribution == "zipf" { Keys::zipf(key_count) } else { Keys::Uniform(key_count) },
            distribution,
            prefix: word("prefix"),
            value_bytes: size("value-bytes"),
            preload: reads > 0 && !matches.get_flag("no-load"),
            seed: number("seed"),
            processes: matches.get_many::<u32>("pids").unwrap_or_default().map(u32::to_string).collect(),
            disk: matches.get_one::<PathBuf>("disk").cloned(),
            json: matches.get_flag("json"),
            progress: !matches.get_flag("no-progress"),
        };
        plan.check().map(|()| plan)
    }

    fn check(&self) -> Result<(), String> {
        if self.duration.is_zero() {
            return Err("--duration is zero".into());
        }
        if self.page.is_some() && self.api != Api::Http(HttpApi::Huskv) {
            return Err("--op list is for huskv".into());
        }
        if self.leader_only && self.api != Api::Http(HttpApi::Huskv) {
            return Err("--ask leader is for huskv; give the address of etcd's leader with --to".into());
        }
        Ok(())
    }

    /// Describes the run in one line.
    pub(super) fn describe(&self) -> String {
        let operations = match self.reads {
            0 => "puts".to_owned(),
            100 if self.page.is_some() => format!("{}pages", if self.stale { "stale " } else { "" }),
            100 if self.stale => "stale gets".to_owned(),
            100 => "gets".to_owned(),
            reads => format!("{reads} % gets, {} % puts", 100 - reads),
        };
        let model = match self.model {
            LoadModel::Open(rate) => format!("open loop at {rate} a second"),
            _ => "closed loop".to_owned(),
        };
        let Self { clients, key_count, distribution, value_bytes, .. } = self;
        format!(
            "{operations}, {clients} clients, {model}, {key_count} keys ({distribution}), {value_bytes}-byte values"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let matches =
            command().try_get_matches_from([&["bench"], arguments].concat()).map_err(|error| error.to_string())?;
        Plan::new(&matches)
    }

    fn command() -> Command {
        arguments(Command::new("bench"))
    }

    #[test]
    fn flags_are_parsed_into_a_plan() {
        command().debug_assert();
        let closed = plan(&[]).unwrap();
        assert_eq!((closed.reads, closed.model, closed.clients, closed.preload), (0, LoadModel::Closed, 64, false));
        let open = plan(&["--op", "mixed", "--rate", "500", "--to", "a:1, b:2", "--pids", "1,2"]).unwrap();
        assert_eq!((open.reads, open.model, open.preload), (50, LoadModel::Open(500.0), true));
        assert_eq!(
            (open.addresses, open.processes),
            (vec!["a:1".to_owned(), "b:2".into()], vec!["1".into(), "2".into()])
        );
        let few =
            plan(&["--clients", "2", "--threads", "8", "--duration", "1500ms", "--distribution", "zipf"]).unwrap();
        assert_eq!((few.threads, few.duration), (2, Duration::from_millis(1_500)));
        assert!(few.describe().contains("zipf"), "{}", few.describe());
        let pages = plan(&["--op", "list", "--limit", "9", "--reverse", "--stale"]).unwrap();
        let path = "/store?prefix=bench-&limit=9&reverse&consistency=stale";
        assert_eq!((pages.page.as_deref(), pages.reads, pages.preload), (Some(path), 100, true));
        assert!(pages.describe().starts_with("stale pages"), "{}", pages.describe());
    }

    #[test]
    fn an_error_names_the_wrong_flag() {
        for (arguments, word) in [
            (&["--duration", "10"][..], "such as 500ms"),
            (&["--duration", "0s"], "zero"),
            (&["--to", "http://a:1"], "scheme"),
            (&["--to", "a"], "host:port"),
            (&["--op", "write"], "--op"),
            (&["--prefix", "a b"], "--prefix"),
            (&["--api", "etcd", "--ask", "leader"], "--to"),
            (&["--api", "etcd-grpc", "--ask", "leader"], "--to"),
            (&["--connections", "0"], "--connections"),
            (&["--api", "etcd", "--op", "list"], "--op list"),
            (&["--clients", "0"], "--clients"),
        ] {
            let Err(error) = plan(arguments) else { panic!("{arguments:?} was taken") };
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
    }
}
