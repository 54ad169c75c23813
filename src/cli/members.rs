//! `huskv members`: who belongs to the cluster, a line each.
//!
//! Laws: a node that belongs to no cluster is not asked who belongs to one.
//!
//! Not here: what nodes do at the moment (`status`).

use clap::{ArgMatches, Command};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ask::{self, Ending};
use crate::client::Leader;

/// What is read of a node's stats.
#[derive(Deserialize)]
struct Stats {
    node_id: String,
    leader: Option<Leader>,
    members: Vec<Value>,
    #[serde(default)]
    removed: bool,
    #[serde(default)]
    joining: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Table {
    leader: Option<Leader>,
    members: Vec<Value>,
}

/// The subcommand.
pub(super) fn command() -> Command {
    ask::command("members", "10s").about("Print the members of the cluster, a line each")
}

/// Does it; the exit code.
pub(super) fn run(matches: &ArgMatches) -> u8 {
    ask::run(matches, |client| async move {
        let stats = client.stats().await?;
        let stats: Stats = serde_json::from_str(stats.get())
            .map_err(|error| Ending::failed(format_args!("the node sent stats that are none: {error}")))?;
        if stats.removed || stats.joining {
            let name = stats.node_id;
            return Err(Ending::failed(format_args!("{name} belongs to no cluster; ask a member, see --endpoints")));
        }
        if ask::json(matches) {
            let table = Table { leader: stats.leader, members: stats.members };
            return ask::say(serde_json::to_string(&table).map_err(Ending::failed)?);
        }
        let leader = stats.leader.map(|leader| leader.node_id);
        stats.members.iter().try_for_each(|member| ask::say(row(member, leader.as_deref())))
    })
}

/// `node1  voter, leads  raft localhost:1111  http localhost:2221`.
fn row(member: &Value, leader: Option<&str>) -> String {
    let text = |name: &str| member[name].as_str().unwrap_or("?");
    let leads = if leader == Some(text("node_id")) { ", leads" } else { "" };
    format!(
        "{}  {}{leads}  raft {}  http {}",
        text("node_id"),
        text("role"),
        text("raft_address"),
        text("http_address")
    )
}
