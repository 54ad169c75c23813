//! `huskv members`: who belongs to the cluster, a line each, and whom the asked node hears.
//!
//! Laws: a node that belongs to no cluster is not asked who belongs to one.
//!
//! Not here: what nodes do at the moment (`status`).

use clap::{ArgMatches, Command};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::common;
use crate::cli::common::ExitError;
use crate::client::Leader;

/// What is read of a node's stats.
#[derive(Deserialize)]
struct Stats {
    node_id: String,
    leader: Option<Leader>,
    members: Vec<Value>,
    #[serde(default)]
    voters: u64,
    #[serde(default)]
    voters_unreachable: u64,
    #[serde(default)]
    failure_tolerance: u64,
    #[serde(default)]
    removed: bool,
    #[serde(default)]
    joining: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Table {
    /// The node that was asked.
    node_id: String,
    leader: Option<Leader>,
    members: Vec<Value>,
    voters: u64,
    voters_unreachable: u64,
    failure_tolerance: u64,
}

/// The subcommand.
pub(crate) fn command() -> Command {
    common::command("members", "10s").about("Print the members of the cluster, a line each")
}

/// Does it; the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    common::run(matches, |client| async move {
        let stats = client.stats().await?;
        let stats: Stats = serde_json::from_str(stats.get())
            .map_err(|error| ExitError::failed(format_args!("the node sent stats that are none: {error}")))?;
        if stats.removed || stats.joining {
            let name = stats.node_id;
            return Err(ExitError::failed(format_args!("{name} belongs to no cluster; ask a member, see --endpoints")));
        }
        if common::json(matches) {
            let table = Table {
                node_id: stats.node_id,
                leader: stats.leader,
                members: stats.members,
                voters: stats.voters,
                voters_unreachable: stats.voters_unreachable,
                failure_tolerance: stats.failure_tolerance,
            };
            return common::say(serde_json::to_string(&table).map_err(ExitError::failed)?);
        }
        let leader = stats.leader.map(|leader| leader.node_id);
        stats.members.iter().try_for_each(|member| common::say(row(member, leader.as_deref(), &stats.node_id)))?;
        if stats.voters_unreachable > 0 {
            let (asked, silent, voters) = (&stats.node_id, stats.voters_unreachable, stats.voters);
            let more = stats.failure_tolerance;
            common::say(format_args!("{asked} does not hear {silent} of {voters} voters: {more} more may fail"))?;
        }
        Ok(())
    })
}

/// `node1  voter, leads  raft localhost:1111  http localhost:2221  heard by node2 120 ms ago`.
fn row(member: &Value, leader: Option<&str>, asked: &str) -> String {
    let text = |name: &str| member[name].as_str().unwrap_or("?");
    let leads = if leader == Some(text("node_id")) { ", leads" } else { "" };
    let heard = match (member["heard_ms"].as_u64(), member["connected"].as_bool()) {
        _ if text("node_id") == asked => "asked".to_owned(),
        (Some(ms), Some(true)) => format!("heard by {asked} {ms} ms ago"),
        (Some(ms), _) => format!("not heard by {asked} for {} s", ms / 1000),
        (None, _) => format!("never heard by {asked}"),
    };
    let free = member["disk"]["free_bytes"].as_u64();
    let free = free.map_or_else(String::new, |bytes| format!("  disk {} MiB free", bytes >> 20));
    let full = if member["disk"]["nearly_full"] == true { ", nearly full" } else { "" };
    format!(
        "{}  {}{leads}  raft {}  http {}  {heard}{free}{full}",
        text("node_id"),
        text("role"),
        text("raft_address"),
        text("http_address")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_says_whom_the_asked_node_hears() {
        let member = |heard: Value, connected: bool| {
            json!({ "node_id": "node2", "role": "voter", "raft_address": "h:1", "http_address": "h:2",
                "heard_ms": heard, "connected": connected })
        };
        for (member, asked, end) in [
            (member(json!(120), true), "node1", "heard by node1 120 ms ago"),
            (member(json!(14_900), false), "node1", "not heard by node1 for 14 s"),
            (member(Value::Null, false), "node1", "never heard by node1"),
            (member(json!(0), true), "node2", "asked"),
        ] {
            let mut member = member;
            assert_eq!(row(&member, Some("node2"), asked), format!("node2  voter, leads  raft h:1  http h:2  {end}"));
            member["disk"] = json!({ "free_bytes": 7 << 20, "reserve_bytes": 8 << 20, "nearly_full": true });
            assert!(row(&member, None, asked).ends_with(&format!("{end}  disk 7 MiB free, nearly full")));
        }
    }
}
