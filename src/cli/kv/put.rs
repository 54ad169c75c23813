//! `huskv put`: stores a value from the command line or from stdin.
//!
//! Invariants: the value is stored byte for byte; a line feed at the end of stdin is part of it.

use std::ffi::OsString;

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::json;

use super::input;
use super::write_flags;
use crate::cli::common;
use crate::cli::exit::ExitError;

const KEY: &str = "key";
const VALUE: &str = "value";
const CONTENT_TYPE: &str = "content-type";
const TTL: &str = "ttl";
/// The longest TTL, in seconds.
const MAX_TTL: u64 = 315_360_000;

/// The subcommand.
pub(crate) fn command() -> Command {
    common::command("put", "10s")
        .about("Store a value and print its version")
        .arg(Arg::new(KEY).value_name("KEY").required(true).help("The key"))
        .arg(
            Arg::new(VALUE)
                .value_name("VALUE")
                .value_parser(value_parser!(OsString))
                .allow_negative_numbers(true)
                .help("The value; `-`, or none, reads it from stdin"),
        )
        .arg(
            Arg::new(CONTENT_TYPE)
                .long(CONTENT_TYPE)
                .value_name("TYPE")
                .help("Content type [default text/plain for UTF-8, else application/octet-stream]"),
        )
        .arg(
            Arg::new(TTL)
                .long(TTL)
                .value_name("SECONDS")
                .value_parser(value_parser!(u64).range(1..=MAX_TTL))
                .help("Time to live: the key expires after so many seconds"),
        )
        .args(write_flags::conditions())
        .arg(write_flags::create_only())
        .arg(write_flags::idempotency_key())
}

/// Runs the subcommand and returns the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let key = common::text(matches, KEY).unwrap_or_default();
    let mut write = write_flags::given(matches);
    write.content_type = common::text(matches, CONTENT_TYPE);
    write.ttl = matches.get_one(TTL).copied();
    common::run(matches, |client| async move {
        let value = match matches.get_one::<OsString>(VALUE).filter(|value| *value != "-") {
            Some(value) => value.clone().into_encoded_bytes(),
            None => input::stdin().map_err(ExitError::failed)?,
        };
        let version = client.put(&key, value, &write).await?;
        if common::json(matches) {
            return common::print_line(json!({ "key": key, "version": version }));
        }
        common::print_line(version)
    })
}
