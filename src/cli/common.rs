//! Flags and output that the subcommands of a cluster share.
//!
//! Invariants: the result goes to stdout, everything else to stderr. A reader that closes stdout early is no error.
//!
//! See also: `exit` for exit codes, [`crate::client`] for endpoints and retries.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::access;
use super::endpoints::{self, Target};
use super::exit::{EXIT_CODES, ExitError, exit_code};
use crate::client::{Client, Read};

/// The name of the argument with the key.
pub(crate) const KEY: &str = "key";
const TIMEOUT: &str = "timeout";
const JSON: &str = "json";
const STALE: &str = "stale";
const MAX_STALE: &str = "max-stale";
const MIN_INDEX: &str = "min-index";

/// The longest duration of a flag.
const MAX_DURATION: Duration = Duration::from_secs(86_400);

/// A subcommand with the flags that all subcommands of a cluster have.
pub(crate) fn command(name: &'static str, timeout: &'static str) -> Command {
    let timeout = Arg::new(TIMEOUT)
        .long(TIMEOUT)
        .value_name("TIME")
        .value_parser(duration)
        .default_value(timeout)
        .help("Timeout over all attempts, such as 500ms or 2s");
    let notes = format!("{}\n{EXIT_CODES}", access::HELP);
    Command::new(name).after_help(notes).args([endpoints::argument(), timeout, json_argument()])
}

/// The flag for JSON output.
pub(crate) fn json_argument() -> Arg {
    Arg::new(JSON).long(JSON).action(ArgAction::SetTrue).help("Print JSON, one object a line")
}

/// The argument with the key, which must not be empty.
pub(crate) fn key_argument() -> Arg {
    Arg::new(KEY).value_name("KEY").value_parser(key).help("The key")
}

/// The flags for the consistency of a read.
pub(crate) fn consistency_arguments() -> [Arg; 3] {
    [
        Arg::new(STALE)
            .long(STALE)
            .action(ArgAction::SetTrue)
            .help("Read the state of the node that answers; it may be old, and needs no quorum"),
        Arg::new(MAX_STALE)
            .long(MAX_STALE)
            .value_name("TIME")
            .requires(STALE)
            .value_parser(duration)
            .help("Maximum time since that node's last contact with a leader"),
        Arg::new(MIN_INDEX)
            .long(MIN_INDEX)
            .value_name("INDEX")
            .value_parser(clap::value_parser!(u64))
            .help("Wait until that node has applied this raft index"),
    ]
}

/// The consistency that the flags ask for.
pub(crate) fn consistency(matches: &ArgMatches) -> Read {
    Read {
        stale: matches.get_flag(STALE),
        max_stale: matches.get_one(MAX_STALE).copied(),
        min_index: matches.get_one(MIN_INDEX).copied(),
    }
}

/// The value of a text argument.
pub(crate) fn text(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

/// Whether to print JSON.
pub(crate) fn json(matches: &ArgMatches) -> bool {
    matches.get_flag(JSON)
}

/// Runs `work` with a client of the cluster and returns the exit code.
pub(crate) fn run<F>(matches: &ArgMatches, work: impl FnOnce(Client) -> F) -> u8
where
    F: Future<Output = Result<(), ExitError>>,
{
    let timeout = matches.get_one(TIMEOUT).copied().unwrap_or(Client::TIMEOUT);
    let result = endpoints::target(matches).map_err(ExitError::usage).and_then(|Target { addresses, access }| {
        block_on(work(Client::with_access(addresses, timeout, access))).and_then(|result| result)
    });
    exit_code(result)
}

/// Runs a future on a runtime of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, ExitError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| ExitError::failed(format_args!("cannot start: {error}")))?.block_on(work))
}

/// Prints a line to stdout.
pub(crate) fn print_line(line: impl Display) -> Result<(), ExitError> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}

/// Prints bytes to stdout as they are.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), ExitError> {
    let mut out = io::stdout().lock();
    Ok(out.write_all(bytes).and_then(|()| out.flush())?)
}

/// Parses a key: without this check the paths of an empty one would be those of other routes.
fn key(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("the key is empty") } else { Ok(text.to_owned()) }
}

/// Parses a duration of 0 s to 24 h.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).ok();
    span.filter(|span| *span <= MAX_DURATION)
        .ok_or_else(|| format!("{text:?} is not a time such as 500ms or 2s, at most {}s", MAX_DURATION.as_secs()))
}

/// Parses a duration of 1 ms to 24 h.
fn duration(text: &str) -> Result<Duration, String> {
    match span(text)? {
        duration if duration < Duration::from_millis(1) => Err(format!("{text:?} is less than 1ms")),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_and_bounds() {
        for (text, ms) in [("1ms", 1), ("500ms", 500), ("2s", 2_000), ("1m", 60_000), ("86400s", 86_400_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "0s", "1us", "-1s", "s", "ms", "1x", "86401s", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
