//! What the subcommands that use a cluster have in common: their flags, their exit codes, their way out.
//!
//! Why: a script decides by the exit code, so a key that is missing, a condition that is not true and a write that may
//! or may not have happened must not look alike.
//!
//! Laws: what was asked for goes to stdout, everything else to stderr in one line. A reader of stdout that has had
//! enough is no failure.
//!
//! Not here: what each of them does; the client's own rules ([`crate::client`]).

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{FAILED, USAGE, complain, endpoints};
use crate::client::{Client, Failure, Outcome, Read};

/// There is no such key.
const NO_KEY: u8 = 3;
/// The condition was not true, and nothing was changed.
const CONDITION: u8 = 4;
/// The change may have been made, or may yet be.
const UNKNOWN: u8 = 5;

/// The exit codes, as the help tells them.
const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed and nothing was changed, 2 wrong flags or settings, 3 no such \
                          key, 4 the condition is not true, 5 the outcome is unknown: look before you repeat it.";

const TIMEOUT: &str = "timeout";
const JSON: &str = "json";
const STALE: &str = "stale";
const MAX_STALE: &str = "max-stale";
const MIN_INDEX: &str = "min-index";

/// A subcommand that did not do what was asked: its exit code, and why in one line.
#[derive(Debug)]
pub(crate) struct ExitError {
    code: u8,
    why: String,
}

impl ExitError {
    /// It failed, and nothing was changed.
    pub(crate) fn failed(why: impl Display) -> Self {
        Self { code: FAILED, why: why.to_string() }
    }

    /// It was asked in a wrong way.
    pub(crate) fn usage(why: impl Display) -> Self {
        Self { code: USAGE, why: why.to_string() }
    }

    /// There is no such key.
    pub(crate) fn no_key(key: &str) -> Self {
        Self { code: NO_KEY, why: format!("there is no key {key:?}") }
    }

    /// The condition was not true.
    pub(crate) fn condition(why: impl Display) -> Self {
        Self { code: CONDITION, why: why.to_string() }
    }
}

impl From<Failure> for ExitError {
    fn from(failure: Failure) -> Self {
        let code = match failure.code.as_str() {
            "precondition_failed" => CONDITION,
            _ if failure.outcome == Outcome::Unknown => UNKNOWN,
            _ => FAILED,
        };
        let unknown = if code == UNKNOWN { "; whether the change was made is not known" } else { "" };
        Self { code, why: format!("{failure}{unknown}") }
    }
}

impl From<io::Error> for ExitError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self { code: 0, why: String::new() },
            _ => Self::failed(format_args!("stdout: {error}")),
        }
    }
}

/// A subcommand with the flags of all that use a cluster.
pub(crate) fn command(name: &'static str, timeout: &'static str) -> Command {
    let timeout = Arg::new(TIMEOUT)
        .long(TIMEOUT)
        .value_name("TIME")
        .value_parser(duration)
        .default_value(timeout)
        .help("How long it may take, over all attempts, such as 500ms or 2s");
    Command::new(name).after_help(EXIT_CODES).args([endpoints::argument(), timeout, json_argument()])
}

/// The flag that asks for JSON.
pub(crate) fn json_argument() -> Arg {
    Arg::new(JSON).long(JSON).action(ArgAction::SetTrue).help("Print JSON, one object a line")
}

/// The flags that say how fresh a read has to be.
pub(crate) fn freshness() -> [Arg; 3] {
    [
        Arg::new(STALE)
            .long(STALE)
            .action(ArgAction::SetTrue)
            .help("Take what the asked node has; it may be old, and needs no quorum"),
        Arg::new(MAX_STALE)
            .long(MAX_STALE)
            .value_name("TIME")
            .requires(STALE)
            .value_parser(duration)
            .help("How long ago that node's last contact with a leader may be"),
        Arg::new(MIN_INDEX)
            .long(MIN_INDEX)
            .value_name("INDEX")
            .value_parser(clap::value_parser!(u64))
            .help("Wait until that node has applied this raft index"),
    ]
}

/// How fresh the read has to be.
pub(crate) fn read(matches: &ArgMatches) -> Read {
    Read {
        stale: matches.get_flag(STALE),
        max_stale: matches.get_one(MAX_STALE).copied(),
        min_index: matches.get_one(MIN_INDEX).copied(),
    }
}

/// A text argument.
pub(crate) fn text(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

/// Whether JSON is to be printed.
pub(crate) fn json(matches: &ArgMatches) -> bool {
    matches.get_flag(JSON)
}

/// Does `work` with a client of the cluster that is meant; the exit code.
pub(crate) fn run<F>(matches: &ArgMatches, work: impl FnOnce(Client) -> F) -> u8
where
    F: Future<Output = Result<(), ExitError>>,
{
    let timeout = matches.get_one(TIMEOUT).copied().unwrap_or(Client::TIMEOUT);
    let done = endpoints::given(matches)
        .map_err(ExitError::usage)
        .and_then(|given| block_on(work(Client::new(given, timeout))).and_then(|done| done));
    ended(done)
}

/// Tells what went wrong, if anything; the exit code.
pub(crate) fn ended(done: Result<(), ExitError>) -> u8 {
    let Err(ExitError { code, why }) = done else { return 0 };
    if !why.is_empty() {
        complain(why);
    }
    code
}

/// Runs to the end.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, ExitError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| ExitError::failed(format_args!("cannot start: {error}")))?.block_on(work))
}

/// Prints a line.
pub(crate) fn say(line: impl Display) -> Result<(), ExitError> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}

/// Prints bytes as they are.
pub(crate) fn print(bytes: &[u8]) -> Result<(), ExitError> {
    let mut out = io::stdout().lock();
    Ok(out.write_all(bytes).and_then(|()| out.flush())?)
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 500ms or 2s, at most 86400s");
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s').ok_or_else(wrong)?, 1000),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse::<u64>().ok().filter(|_| plain).and_then(|number| number.checked_mul(unit));
    number.filter(|ms| (1..=86_400_000).contains(ms)).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: &str, outcome: Outcome) -> Failure {
        Failure {
            endpoint: "a:1".into(),
            status: None,
            code: code.into(),
            detail: "it broke".into(),
            outcome,
            version: None,
            oldest_index: None,
            newest_index: None,
        }
    }

    #[test]
    fn exit_codes_tell_apart_what_a_script_must_treat_differently() {
        let code = |code, outcome| ExitError::from(failure(code, outcome)).code;
        assert_eq!(code("no_answer", Outcome::NotApplied), 1);
        assert_eq!(code("precondition_failed", Outcome::NotApplied), 4);
        assert_eq!(code("timeout", Outcome::Unknown), 5);
        assert_eq!(ExitError::no_key("k").code, 3);
        let ending = ExitError::from(failure("timeout", Outcome::Unknown));
        assert_eq!(ending.why, "a:1: it broke (timeout); whether the change was made is not known");
        let closed = io::Error::from(ErrorKind::BrokenPipe);
        assert_eq!(ExitError::from(closed).code, 0);
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        for text in ["", "5", "0s", "-1s", "s", "ms", "1m", "1.5s", "86401s", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
