//! `huskv members`: prints the member table, a line each, with the reachability that the asked node sees.
//!
//! Invariants: the stats of a node outside any cluster are refused.
//!
//! See also: `status` for the state of single nodes.

use clap::{ArgMatches, Command};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::common;
use crate::cli::exit::ExitError;
use crate::client::{Leader, MemberStats, NodeStats};

/// The JSON that `--json` prints.
#[derive(Serialize)]
struct Table<'a> {
    /// The node that was asked.
    node_id: &'a str,
    leader: Option<&'a Leader>,
    /// The rows as the node sent them, with fields that [`MemberStats`] does not have.
    members: &'a Value,
    voters: u64,
    voters_unreachable: u64,
    failure_tolerance: u64,
}

/// The subcommand.
pub(crate) fn command() -> Command {
    common::command("members", "10s").about("Print the members of the cluster, a line each")
}

/// Runs the subcommand and returns the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    common::run(matches, |client| async move {
        let invalid = |error| ExitError::failed(format_args!("the node sent invalid stats: {error}"));
        let data: Value = serde_json::from_str(client.stats().await?.get()).map_err(invalid)?;
        let stats = NodeStats::deserialize(&data).map_err(invalid)?;
        let asked = &stats.node_id;
        if stats.removed || stats.joining {
            return Err(ExitError::failed(format_args!(
                "{asked} belongs to no cluster; ask a member, see --endpoints"
            )));
        }
        if common::json(matches) {
            let table = Table {
                node_id: asked,
                leader: stats.leader.as_ref(),
                members: &data["members"],
                voters: stats.voters,
                voters_unreachable: stats.voters_unreachable,
                failure_tolerance: stats.failure_tolerance,
            };
            return common::print_line(serde_json::to_string(&table).map_err(ExitError::failed)?);
        }
        let leader = stats.leader.as_ref().map(|leader| leader.node_id.as_str());
        stats.members.iter().try_for_each(|member| common::print_line(row(member, leader, asked)))?;
        if stats.voters_unreachable > 0 {
            let (unreachable, voters, more) = (stats.voters_unreachable, stats.voters, stats.failure_tolerance);
            let has_majority = 2 * (voters - unreachable.min(voters)) > voters;
            let left = if has_majority { format!("{more} more may fail") } else { "no majority".to_owned() };
            let line = format!("{asked} does not hear {unreachable} of {voters} voters: {left}");
            common::print_line(line)?;
        }
        Ok(())
    })
}

/// `node1  voter, leads  raft localhost:1111  http localhost:2221  heard by node2 120 ms ago`.
fn row(member: &MemberStats, leader: Option<&str>, asked: &str) -> String {
    let MemberStats { node_id, role, raft_address, http_address, .. } = member;
    let leads = if leader == Some(node_id.as_str()) { ", leads" } else { "" };
    let heard = match (member.heard_ms, member.connected) {
        _ if node_id == asked => "asked".to_owned(),
        (Some(ms), Some(true)) => format!("heard by {asked} {ms} ms ago"),
        (Some(ms), _) => format!("not heard by {asked} for {} s", ms / 1000),
        (None, _) => format!("never heard by {asked}"),
    };
    let disk = member.disk.as_ref().map_or_else(String::new, |disk| {
        let full = if disk.nearly_full { ", nearly full" } else { "" };
        format!("  disk {} MiB free{full}", disk.free_bytes >> 20)
    });
    format!("{node_id}  {role}{leads}  raft {raft_address}  http {http_address}  {heard}{disk}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_has_the_reachability_that_the_asked_node_sees() {
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
            let row = |member: &Value, leader| row(&MemberStats::deserialize(member).unwrap(), leader, asked);
            let mut member = member;
            assert_eq!(row(&member, Some("node2")), format!("node2  voter, leads  raft h:1  http h:2  {end}"));
            member["disk"] = json!({ "free_bytes": 7 << 20, "reserve_bytes": 8 << 20, "nearly_full": true });
            assert!(row(&member, None).ends_with(&format!("{end}  disk 7 MiB free, nearly full")));
        }
    }
}
