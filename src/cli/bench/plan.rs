//! What a run of the benchmark shall do: its flags, read and checked.
//!
//! Not here: doing it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser, value_parser};

use super::api::Api;
use super::load::Shape;
use super::workload::{Keys, MOST_KEYS};

/// The longest value; what etcd takes too.
const MOST_VALUE_BYTES: u64 = 1 << 20;

/// The most clients.
const MOST_CLIENTS: u64 = 10_000;

/// The most threads of the generator.
const MOST_THREADS: u64 = 64;

/// A run.
#[derive(Debug)]
pub(super) struct Plan {
    /// Where to ask.
    pub addresses: Vec<String>,
    /// Whether all clients ask the leader, found through the first address.
    pub leader_only: bool,
    /// Which system.
    pub api: Api,
    /// Connections, each with one operation at a time.
    pub clients: usize,
    /// Threads of the generator.
    pub threads: usize,
    /// How many operations of a hundred are reads.
    pub reads: u64,
    /// Whether reads may be stale.
    pub stale: bool,
    /// Closed, or open with a rate.
    pub shape: Shape,
    /// How long before it counts.
    pub warmup: Duration,
    /// How long it counts.
    pub duration: Duration,
    /// How many keys.
    pub key_count: u64,
    /// How they are chosen.
    pub keys: Keys,
    /// How that is called.
    pub distribution: String,
    /// What keys begin with.
    pub prefix: String,
    /// The length of values.
    pub value_bytes: usize,
    /// Whether every key is put once before.
    pub load: bool,
    /// Where the random numbers begin.
    pub seed: u64,
    /// The processes whose CPU time counts.
    pub processes: Vec<String>,
    /// The directory whose disk is tried first.
    pub disk: Option<PathBuf>,
    /// Whether the result is JSON.
    pub json: bool,
    /// Whether there is a line a second.
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
        list("to", "LIST").value_delimiter(',').default_value("127.0.0.1:2221").help("HTTP addresses, comma-separated"),
        choice("ask", &["all", "leader"], "Whom the clients ask: all addresses in turn, or the leader only"),
        choice("api", &["huskv", "etcd"], "What is asked: huskv, or the JSON gateway of etcd 3"),
        choice("op", &["put", "get", "mixed"], "What the clients do"),
        number("reads", "50", (0, 100), "How many operations of a hundred are reads, for mixed"),
        switch("stale", "Read without asking a majority"),
        number("clients", "64", (1, MOST_CLIENTS), "Connections, each with one operation at a time"),
        rate.help("Operations a second, due whatever happens (open loop); without it each client goes on at once (closed loop)"),
        flag("duration", "SPAN", "10s", "How long is measured, such as 500ms or 30s").value_parser(span),
        flag("warmup", "SPAN", "2s", "How long before that").value_parser(span),
        number("keys", "10000", (1, MOST_KEYS), "How many keys there are"),
        choice("distribution", &["uniform", "zipf"], "How keys are chosen"),
        flag("prefix", "TEXT", "bench-", "What keys begin with").value_parser(plain),
        number("value-bytes", "256", (0, MOST_VALUE_BYTES), "Length of the text that is the value"),
        switch("no-load", "Do not put every key once before reads"),
        number("threads", "1", (1, MOST_THREADS), "Threads of the generator"),
        number("seed", "1", (0, u64::MAX), "Where the random numbers begin"),
        list("pids", "LIST").value_delimiter(',').value_parser(value_parser!(u32)).help("Servers on this machine whose CPU time is told"),
        list("disk", "DIRECTORY").value_parser(value_parser!(PathBuf)).help("Say first what a sync costs on the disk of this directory"),
        switch("json", "Answer with one JSON object"),
        switch("no-progress", "No line a second on stderr"),
    ])
}

/// A span such as 500ms, 10s or 2m.
fn span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let each = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("give a number and ms, s or m, such as 10s".into()),
    };
    let number: u32 = digits.parse().map_err(|_| "give a whole number and ms, s or m, such as 10s".to_owned())?;
    Ok(Duration::from_millis(u64::from(number) * each))
}

/// Text that needs no escape in a path or in JSON.
fn plain(text: &str) -> Result<String, String> {
    let fits = text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    fits.then(|| text.to_owned()).ok_or_else(|| "at most 64 of A-Z a-z 0-9 . _ -".into())
}

impl Plan {
    /// Reads the flags.
    ///
    /// # Errors
    /// What is wrong with them together.
    pub(super) fn of(matches: &ArgMatches) -> Result<Self, String> {
        let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or_default();
        let size = |name: &str| usize::try_from(number(name)).unwrap_or(usize::MAX);
        let word = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
        let span = |name: &str| matches.get_one::<Duration>(name).copied().unwrap_or_default();
        let key_count = number("keys");
        let distribution = word("distribution");
        let reads = match word("op").as_str() {
            "put" => 0,
            "get" => 100,
            _ => number("reads"),
        };
        let rate = matches.get_one::<u64>("rate");
        let plan = Self {
            addresses: matches
                .get_many::<String>("to")
                .unwrap_or_default()
                .map(|text| text.trim().to_owned())
                .collect(),
            leader_only: word("ask") == "leader",
            api: if word("api") == "etcd" { Api::Etcd } else { Api::Huskv },
            clients: size("clients"),
            threads: size("threads").min(size("clients")),
            reads,
            stale: matches.get_flag("stale"),
            shape: rate.map_or(Shape::Closed, |rate| Shape::Open(*rate as f64)),
            warmup: span("warmup"),
            duration: span("duration"),
            key_count,
            keys: if distribution == "zipf" { Keys::zipf(key_count) } else { Keys::Uniform(key_count) },
            distribution,
            prefix: word("prefix"),
            value_bytes: size("value-bytes"),
            load: reads > 0 && !matches.get_flag("no-load"),
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
        if let Some(bad) = self.addresses.iter().find(|address| address.contains('/') || !address.contains(':')) {
            return Err(format!("--to: {bad:?} is not host:port, without a scheme"));
        }
        if self.leader_only && self.api == Api::Etcd {
            return Err("--ask leader is for huskv; give the address of etcd's leader with --to".into());
        }
        Ok(())
    }

    /// Everything about it in one line.
    pub(super) fn describe(&self) -> String {
        let operations = match self.reads {
            0 => "puts".to_owned(),
            100 if self.stale => "stale gets".to_owned(),
            100 => "gets".to_owned(),
            reads => format!("{reads} % gets, {} % puts", 100 - reads),
        };
        let shape = match self.shape {
            Shape::Open(rate) => format!("open loop at {rate} a second"),
            _ => "closed loop".to_owned(),
        };
        let Self { clients, key_count, distribution, value_bytes, .. } = self;
        format!(
            "{operations}, {clients} clients, {shape}, {key_count} keys ({distribution}), {value_bytes}-byte values"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let command = arguments_of_a_test();
        let matches =
            command.try_get_matches_from([&["bench"], arguments].concat()).map_err(|error| error.to_string())?;
        Plan::of(&matches)
    }

    fn arguments_of_a_test() -> Command {
        arguments(Command::new("bench"))
    }

    #[test]
    fn flags_make_a_plan() {
        arguments_of_a_test().debug_assert();
        let closed = plan(&[]).unwrap();
        assert_eq!((closed.reads, closed.shape, closed.clients, closed.load), (0, Shape::Closed, 64, false));
        let open = plan(&["--op", "mixed", "--rate", "500", "--to", "a:1, b:2", "--pids", "1,2"]).unwrap();
        assert_eq!((open.reads, open.shape, open.load), (50, Shape::Open(500.0), true));
        assert_eq!(
            (open.addresses, open.processes),
            (vec!["a:1".to_owned(), "b:2".into()], vec!["1".into(), "2".into()])
        );
        let few =
            plan(&["--clients", "2", "--threads", "8", "--duration", "1500ms", "--distribution", "zipf"]).unwrap();
        assert_eq!((few.threads, few.duration), (2, Duration::from_millis(1_500)));
        assert!(few.describe().contains("zipf"), "{}", few.describe());
    }

    #[test]
    fn mistakes_are_named() {
        for (arguments, word) in [
            (&["--duration", "10"][..], "10s"),
            (&["--duration", "0s"], "zero"),
            (&["--to", "http://a:1"], "scheme"),
            (&["--to", "a"], "host:port"),
            (&["--op", "write"], "--op"),
            (&["--prefix", "a b"], "--prefix"),
            (&["--api", "etcd", "--ask", "leader"], "--to"),
            (&["--clients", "0"], "--clients"),
        ] {
            let Err(error) = plan(arguments) else { panic!("{arguments:?} was taken") };
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
    }
}
