//! `huskv txn`: a transaction from a file or from stdin.
//!
//! Laws: its result is printed whichever branch was taken; the exit code says which.
//!
//! Not here: what a transaction is (the node's `POST /txn`).

use clap::{Arg, ArgMatches, Command};
use serde::Deserialize;

use super::{input, render, write_flags};
use crate::cli::common;
use crate::cli::common::ExitError;

const FILE: &str = "file";

#[derive(Deserialize)]
struct Result {
    /// None where it was done before, and the result was too large to be kept.
    succeeded: Option<bool>,
}

/// The subcommand.
pub(crate) fn command() -> Command {
    common::command("txn", "10s")
        .about("Apply a transaction and print its result; exit code 4 where `if` was not true and `else` was done")
        .arg(
            Arg::new(FILE)
                .value_name("FILE")
                .default_value("-")
                .help("JSON, {\"if\": [...], \"then\": [...], \"else\": [...]}; `-` reads it from stdin"),
        )
        .arg(write_flags::idempotency_key())
}

/// Does it; the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let key = common::text(matches, write_flags::IDEMPOTENCY_KEY);
    common::run(matches, |client| async move {
        let body = input::file(&common::text(matches, FILE).unwrap_or_default()).map_err(ExitError::failed)?;
        let data = client.txn(body.into(), key.as_deref()).await?;
        common::say(render::json(&data))?;
        let result: Result = serde_json::from_str(data.get())
            .map_err(|error| ExitError::failed(format_args!("the node sent a result that is none: {error}")))?;
        match result.succeeded {
            Some(true) => Ok(()),
            Some(false) => Err(ExitError::condition("a condition was not true, so `else` was done")),
            None => {
                Err(ExitError::failed("it was done before, and whether by `then` or `else` was too large to be kept"))
            }
        }
    })
}
