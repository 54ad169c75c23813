//! `huskv txn`: applies a transaction from a file or from stdin.
//!
//! Invariants: the result of either branch is printed; the exit code says which one was taken.

use clap::{Arg, ArgMatches, Command};
use serde::Deserialize;

use super::{input, render, write_flags};
use crate::cli::common;
use crate::cli::exit::ExitError;

const FILE: &str = "file";

#[derive(Deserialize)]
struct Result {
    /// None where the transaction was applied before, and its result was too large for the dedup table.
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

/// Runs the subcommand and returns the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let key = common::text(matches, write_flags::IDEMPOTENCY_KEY);
    common::run(matches, |client| async move {
        let body = input::file(&common::text(matches, FILE).unwrap_or_default()).map_err(ExitError::failed)?;
        let data = client.txn(body.into(), key.as_deref()).await?;
        common::print_line(render::json(&data))?;
        let result: Result = serde_json::from_str(data.get())
            .map_err(|error| ExitError::failed(format_args!("the node sent an invalid result: {error}")))?;
        match result.succeeded {
            Some(true) => Ok(()),
            Some(false) => Err(ExitError::condition("a condition was not true, so `else` was done")),
            None => Err(ExitError::failed(
                "it was applied before, and its result was too large to be kept, so the branch is not known",
            )),
        }
    })
}
