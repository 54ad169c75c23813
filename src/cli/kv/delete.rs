//! `huskv delete`: deletes a key, or all keys with a prefix.
//!
//! Invariants: a key that does not exist is no error; the count that is printed is then 0. A delete by prefix is many
//! requests, so one that fails may have removed some of the keys.

use clap::{Arg, ArgMatches, Command};
use serde_json::json;

use super::write_flags;
use crate::cli::common::{self, KEY};
use crate::cli::exit::ExitError;
use crate::client::Client;

const PREFIX: &str = "prefix";

/// The subcommand.
pub(crate) fn command() -> Command {
    common::command("delete", "10s")
        .about("Delete a key, or all keys with a prefix, and print how many there were")
        .arg(common::key_argument().required_unless_present(PREFIX))
        .arg(
            Arg::new(PREFIX)
                .long(PREFIX)
                .value_name("PREFIX")
                .conflicts_with_all([
                    KEY,
                    write_flags::IF_VERSION,
                    write_flags::IF_EXISTS,
                    write_flags::IDEMPOTENCY_KEY,
                ])
                .help("Delete every key with this prefix, in as many requests as it takes"),
        )
        .args(write_flags::conditions())
        .arg(write_flags::idempotency_key())
}

/// Runs the subcommand and returns the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    common::run(matches, |client| async move {
        let deleted = match (common::text(matches, KEY), common::text(matches, PREFIX)) {
            (Some(key), _) => u64::from(client.delete(&key, &write_flags::given(matches)).await?),
            (None, prefix) => delete_all(&client, &prefix.unwrap_or_default()).await?,
        };
        if common::json(matches) {
            return common::print_line(json!({ "deleted": deleted }));
        }
        common::print_line(deleted)
    })
}

async fn delete_all(client: &Client, prefix: &str) -> Result<u64, ExitError> {
    let mut total = 0;
    loop {
        let (deleted, more) = client.delete_prefix(prefix).await?;
        total += deleted;
        if !more {
            return Ok(total);
        }
    }
}
