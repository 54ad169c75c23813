//! Exit codes, and the error that carries one.
//!
//! Why: a script decides by the exit code, so a missing key, a condition that is not true and a write of unknown outcome
//! must differ.
//!
//! Invariants: an error is one line on stderr. A closed stdout is no error.

use std::fmt::Display;
use std::io::{self, ErrorKind};

use crate::client::{Failure, Outcome};

/// The subcommand failed and changed nothing.
pub(crate) const FAILED: u8 = 1;
/// Wrong settings or flags.
pub(crate) const USAGE: u8 = 2;
/// There is no such key.
const NO_KEY: u8 = 3;
/// The condition was not true, and nothing was changed.
const CONDITION: u8 = 4;
/// The write may have been applied, or may yet be.
const UNKNOWN: u8 = 5;

/// The exit codes, as the help prints them.
pub(crate) const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed and nothing was changed, 2 wrong flags or settings, 3 no such key, 4 the condition is \
     not true, 5 the outcome is unknown: look before you repeat it.";

/// Why a subcommand failed: its exit code, and the reason in one line.
#[derive(Debug)]
pub(crate) struct ExitError {
    code: u8,
    reason: String,
}

impl ExitError {
    /// The subcommand failed and changed nothing.
    pub(crate) fn failed(reason: impl Display) -> Self {
        Self { code: FAILED, reason: reason.to_string() }
    }

    /// The flags or settings are wrong.
    pub(crate) fn usage(reason: impl Display) -> Self {
        Self { code: USAGE, reason: reason.to_string() }
    }

    /// There is no such key.
    pub(crate) fn no_key(key: &str) -> Self {
        Self { code: NO_KEY, reason: format!("there is no key {key:?}") }
    }

    /// The condition was not true.
    pub(crate) fn condition(reason: impl Display) -> Self {
        Self { code: CONDITION, reason: reason.to_string() }
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
        Self { code, reason: format!("{}{unknown}", explain(&failure)) }
    }
}

impl From<io::Error> for ExitError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self { code: 0, reason: String::new() },
            _ => Self::failed(format_args!("stdout: {error}")),
        }
    }
}

/// A failure, and what to do about it where that is known.
pub(crate) fn explain(failure: &Failure) -> String {
    let advice = match failure.code.as_str() {
        "unauthorized" | "forbidden" => failure.status.map_or("", advice),
        "certificate_refused" => {
            "; HUSKV_CERT and HUSKV_KEY name a client certificate, which the CA of the nodes must have issued"
        }
        _ => "",
    };
    format!("{failure}{advice}")
}

/// What to do about a response with this status, as the end of a sentence; empty where the status does not tell.
pub(crate) fn advice(status: u16) -> &'static str {
    match status {
        401 => {
            "; give a token that the nodes know in HUSKV_TOKEN_FILE or HUSKV_TOKEN, or a client certificate in HUSKV_CERT \
                and HUSKV_KEY"
        }
        403 => "; use a token with this right, or ask who administers the nodes' tokens for it",
        _ => "",
    }
}

/// Prints the error, if there is one, and returns the exit code.
pub(crate) fn exit_code(result: Result<(), ExitError>) -> u8 {
    let Err(ExitError { code, reason }) = result else { return 0 };
    if !reason.is_empty() {
        print_error(reason);
    }
    code
}

/// Prints an error on stderr, in one line.
pub(crate) fn print_error(reason: impl Display) {
    eprintln!("huskv: {reason}");
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
    fn exit_codes_distinguish_what_a_script_must_handle_differently() {
        let code = |code, outcome| ExitError::from(failure(code, outcome)).code;
        assert_eq!(code("no_answer", Outcome::NotApplied), 1);
        assert_eq!(code("precondition_failed", Outcome::NotApplied), 4);
        assert_eq!(code("timeout", Outcome::Unknown), 5);
        assert_eq!(ExitError::no_key("k").code, 3);
        let error = ExitError::from(failure("timeout", Outcome::Unknown));
        assert_eq!(error.reason, "a:1: it broke (timeout); whether the change was made is not known");
        for (status, code, words) in [
            (Some(401), "unauthorized", "HUSKV_TOKEN_FILE"),
            (Some(403), "forbidden", "a token with this right"),
            (None, "certificate_refused", "HUSKV_CERT and HUSKV_KEY"),
        ] {
            let error = ExitError::from(Failure { status, ..failure(code, Outcome::NotApplied) });
            assert!(error.code == FAILED && error.reason.contains(words), "{error:?}");
        }
        let of_a_page = Failure { status: Some(403), ..failure("cross_origin", Outcome::NotApplied) };
        assert_eq!(ExitError::from(of_a_page).reason, "a:1: it broke (cross_origin)");
        let closed = io::Error::from(ErrorKind::BrokenPipe);
        assert_eq!(ExitError::from(closed).code, 0);
    }
}
