//! `huskv txn`: a transaction from a file or from stdin.
//!
//! Laws: its result is printed whichever branch was taken; the exit code says which.
//!
//! Not here: what a transaction is (the node's `POST /txn`).

use clap::{Arg, ArgMatches, Command};
use serde::Deserialize;

use super::ask::{self, Ending};
use super::{input, show, write};

const FILE: &str = "file";

#[derive(Deserialize)]
struct Result {
    /// None where it was done before, and the result was too large to be kept.
    succeeded: Option<bool>,
}

/// The subcommand.
pub(super) fn command() -> Command {
    ask::command("txn", "10s")
        .about("Apply a transaction and print its result; exit code 4 where `if` was not true and `else` was done")
        .arg(
            Arg::new(FILE)
                .value_name("FILE")
                .default_value("-")
                .help("JSON, {\"if\": [...], \"then\": [...], \"else\": [...]}; `-` reads it from stdin"),
        )
        .arg(write::idempotency_key())
}

/// Does it; the exit code.
pub(super) fn run(matches: &ArgMatches) -> u8 {
    let key = ask::text(matches, write::IDEMPOTENCY_KEY);
    ask::run(matches, |client| async move {
        let body = input::file(&ask::text(matches, FILE).unwrap_or_default()).map_err(Ending::failed)?;
        let data = client.txn(body.into(), key.as_deref()).await?;
        ask::say(show::json(&data))?;
        let result: Result = serde_json::from_str(data.get())
            .map_err(|error| Ending::failed(format_args!("the node sent a result that is none: {error}")))?;
        match result.succeeded {
            Some(true) => Ok(()),
            Some(false) => Err(Ending::condition("a condition was not true, so `else` was done")),
            None => Err(Ending::failed("it was done before, and whether by `then` or `else` was too large to be kept")),
        }
    })
}
