//! `huskv get`: a value, byte for byte.
//!
//! Not here: how fresh it is ([`super::ask::freshness`]).

use clap::{Arg, ArgMatches, Command};

use super::ask::{self, Ending};
use super::show;

const KEY: &str = "key";

/// The subcommand.
pub(super) fn command() -> Command {
    ask::command("get", "10s")
        .about("Print the value of a key, byte for byte; with --json the item with its version and type")
        .arg(Arg::new(KEY).value_name("KEY").required(true).help("The key"))
        .args(ask::freshness())
}

/// Does it; the exit code.
pub(super) fn run(matches: &ArgMatches) -> u8 {
    let key = ask::text(matches, KEY).unwrap_or_default();
    let read = ask::read(matches);
    ask::run(matches, |client| async move {
        if ask::json(matches) {
            let item = client.item(&key, &read).await?.ok_or_else(|| Ending::no_key(&key))?;
            return ask::say(show::json(&item));
        }
        let stored = client.get(&key, &read).await?.ok_or_else(|| Ending::no_key(&key))?;
        ask::print(&stored.bytes)
    })
}
