//! `huskv get`: prints a value, byte for byte.

use clap::{ArgMatches, Command};

use super::render;
use crate::cli::common::{self, KEY};
use crate::cli::exit::ExitError;

/// The subcommand.
pub(crate) fn command() -> Command {
    common::command("get", "10s")
        .about("Print the value of a key, byte for byte; with --json the item with its version and type")
        .arg(common::key_argument().required(true))
        .args(common::consistency_arguments())
}

/// Runs the subcommand and returns the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let key = common::text(matches, KEY).unwrap_or_default();
    let read = common::consistency(matches);
    common::run(matches, |client| async move {
        if common::json(matches) {
            let item = client.item(&key, &read).await?.ok_or_else(|| ExitError::no_key(&key))?;
            return common::print_line(render::json(&item));
        }
        let stored = client.get(&key, &read).await?.ok_or_else(|| ExitError::no_key(&key))?;
        common::print_bytes(&stored.bytes)
    })
}
