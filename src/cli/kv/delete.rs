//! `huskv delete`: removes a key, or all keys with a prefix.
//!
//! Laws: a key that is not there is no failure, since afterwards it is not there either; the number printed says it. A
//! removal by prefix is many small ones, so one that fails in between has removed some.
//!
//! Not here: how many one request removes (the node's limits).

use clap::{Arg, ArgMatches, Command};
use serde_json::json;

use super::write_flags;
use crate::cli::common;
use crate::cli::common::ExitError;
use crate::client::Client;

const KEY: &str = "key";
const PREFIX: &str = "prefix";

/// The subcommand.
pub(crate) fn command() -> Command {
    common::command("delete", "10s")
        .about("Remove a key, or all keys with a prefix, and print how many there were")
        .arg(Arg::new(KEY).value_name("KEY").required_unless_present(PREFIX).help("The key"))
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
                .help("Remove every key that begins with this, in as many requests as it takes"),
        )
        .args(write_flags::conditions())
        .arg(write_flags::idempotency_key())
}

/// Does it; the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    common::run(matches, |client| async move {
        let deleted = match (common::text(matches, KEY), common::text(matches, PREFIX)) {
            (Some(key), _) => u64::from(client.delete(&key, &write_flags::given(matches)).await?),
            (None, prefix) => all(&client, &prefix.unwrap_or_default()).await?,
        };
        if common::json(matches) {
            return common::say(json!({ "deleted": deleted }));
        }
        common::say(deleted)
    })
}

async fn all(client: &Client, prefix: &str) -> Result<u64, ExitError> {
    let mut all = 0;
    loop {
        let (deleted, more) = client.delete_some(prefix).await?;
        all += deleted;
        if !more {
            return Ok(all);
        }
    }
}
