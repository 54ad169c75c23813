//! `huskv put`: stores a value from the command line or from stdin.
//!
//! Invariants: the value is stored byte for byte; a line feed at the end of stdin is part of it. An empty value is stored
//! only where a flag says that it is meant, as at `PUT /store/KEY`.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;

use super::input;
use super::write_flags;
use crate::cli::common::{self, KEY};
use crate::cli::exit::ExitError;

const VALUE: &str = "value";
const CONTENT_TYPE: &str = "content-type";
const EMPTY: &str = "empty";
const TTL: &str = "ttl";
/// The longest TTL, in seconds.
const MAX_TTL: u64 = 315_360_000;

/// The subcommand.
pub(crate) fn command() -> Command {
    common::command("put", "10s")
        .about("Store a value and print its version")
        .arg(common::key_argument().required(true))
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
            Arg::new(EMPTY)
                .long(EMPTY)
                .action(ArgAction::SetTrue)
                .help("Store an empty value too; without this or --content-type it is refused as a mistake"),
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
    // An empty value is the usual mistake of a shell: `"$UNSET"`, or a pipe whose first command failed.
    let may_be_empty = matches.get_flag(EMPTY) || write.content_type.as_ref().is_some_and(|kind| !kind.is_empty());
    common::run(matches, |client| async move {
        let value = match matches.get_one::<OsString>(VALUE).filter(|value| *value != "-") {
            Some(value) => value.clone().into_encoded_bytes(),
            None => input::stdin().map_err(ExitError::failed)?,
        };
        if value.is_empty() && !may_be_empty {
            return Err(ExitError::usage(
                "the value is empty, and nothing was stored; if that is meant, say so with --empty or --content-type",
            ));
        }
        let version = client.put(&key, value, &write).await?;
        if common::json(matches) {
            return common::print_line(json!({ "key": key, "version": version }));
        }
        common::print_line(version)
    })
}
