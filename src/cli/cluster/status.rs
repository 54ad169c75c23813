//! `huskv status`: what nodes do, one line each, and an exit code that says whether they take requests.
//!
//! Why: scripts and container engines ask a node whether it is ready without curl and without reading JSON. Without
//! arguments it asks the node that the same environment starts, so inside a container it needs none.
//!
//! Laws: a node is ready when it answers, belongs to a cluster, knows who leads and does not lag behind: as `/readyz` says. Exit code 0 only where every node
//! that was asked is ready, 1 otherwise, 2 for a wrong setting. It asks each node once and changes nothing.
//!
//! Not here: what stats mean (`node_summary`).

use std::io::{self, Write};
use std::time::Duration;

use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use super::node_summary::{NodeSummary, role};
use crate::cli::{FAILED, USAGE, common, complain, endpoints};
use crate::client::Direct;

/// The name of the subcommand.
const NAME: &str = "status";

/// How long a node may take to answer.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// The subcommand.
pub(crate) fn command() -> Command {
    Command::new(NAME)
        .about("Say what nodes do")
        .after_help(
            "Exit codes: 0 every node that was asked takes requests: it belongs to a cluster, knows its leader and does not \
             lag behind it; 1 otherwise, 2 wrong settings.",
        )
        .arg(endpoints::argument())
        .arg(common::json_argument())
}

/// Asks and tells; the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let endpoints = match endpoints::given(matches) {
        Ok(endpoints) => endpoints,
        Err(why) => {
            complain(why);
            return USAGE;
        }
    };
    let seen = match common::block_on(look(&endpoints)) {
        Ok(seen) => seen,
        Err(ending) => return common::ended(Err(ending)),
    };
    let json = common::json(matches);
    let lines: Vec<String> = endpoints
        .iter()
        .zip(&seen)
        .map(|(endpoint, seen)| match seen {
            _ if json => object(endpoint, seen.as_ref()),
            Ok(stats) => format!("{endpoint}: {}", line(&NodeSummary::of(stats))),
            Err(why) => why.clone(),
        })
        .collect();
    // Where nobody reads it, the exit code still says it.
    writeln!(io::stdout().lock(), "{}", lines.join("\n")).ok();
    let all_ready = seen.iter().all(|seen| seen.as_ref().is_ok_and(|stats| NodeSummary::of(stats).ready()));
    if all_ready { 0 } else { FAILED }
}

/// What a node said, as one JSON object.
fn object(endpoint: &str, seen: Result<&Value, &String>) -> String {
    match seen {
        Ok(stats) => json!({ "endpoint": endpoint, "ready": NodeSummary::of(stats).ready(), "stats": stats }),
        Err(why) => json!({ "endpoint": endpoint, "ready": false, "error": why }),
    }
    .to_string()
}

/// The stats of each of `endpoints`, or in one line why there are none.
async fn look(endpoints: &[String]) -> Vec<Result<Value, String>> {
    let client = &Direct::new(LOOK_LIMIT);
    let looks = endpoints.iter().map(|endpoint| async move {
        let mut answer = client.get(endpoint, "/raft/stats").await.map_err(|error| error.to_string())?;
        if answer.status == 200 && answer.body["data"].is_object() {
            return Ok(answer.body["data"].take());
        }
        let detail = answer.body["detail"].as_str().unwrap_or("and that is no huskv node");
        Err(format!("{endpoint}: answers {}: {detail}", answer.status))
    });
    futures_util::future::join_all(looks).await
}

/// `node2 follows node1, term 3, 3 voters, applied 17`, and which voters the node does not hear.
fn line(view: &NodeSummary) -> String {
    let name = &view.name;
    let does = match (role(Some(view)), &view.leader) {
        (does @ ("follows" | "lags behind"), Some(leader)) => format!("{name} {does} {leader}"),
        ("follows", None) => format!("{name} knows no leader"),
        (role, _) => format!("{name} {role}"),
    };
    let warnings = [view.warning(), view.space_warning()];
    let warning: String = warnings.into_iter().flatten().map(|warning| format!(", {warning}")).collect();
    let why = view.not_ready().filter(|_| view.lags()).map_or_else(String::new, |why| format!("\n  not ready: {why}"));
    let conflicts: String = view.conflicts.iter().map(|it| format!("\n  identity conflict: {it}")).collect();
    format!(
        "{does}, term {}, {} voters, applied {}{warning}{why}{conflicts}",
        view.term,
        view.members.len(),
        view.applied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_the_node_does() {
        let mut stats = json!({
            "node_id": "node2", "state": "Follower", "term": "3", "applied_index": "17",
            "members": [{"raft_id": 1, "role": "voter"}, {"raft_id": 2, "role": "voter"}],
            "leader": {"node_id": "node1", "http_address": "127.0.0.1:2221"},
        });
        assert_eq!(line(&NodeSummary::of(&stats)), "node2 follows node1, term 3, 2 voters, applied 17");
        stats["members"][0]["node_id"] = json!("node1");
        stats["members"][0]["connected"] = json!(false);
        let told = ", does not hear node1 (never): no majority";
        assert_eq!(line(&NodeSummary::of(&stats)), format!("node2 follows node1, term 3, 2 voters, applied 17{told}"));
        stats["members"][0]["connected"] = json!(true);
        stats["not_ready"] = json!({"code": "lagging", "detail": "it is being sent a copy"});
        let told = ", 2 voters, applied 17\n  not ready: it is being sent a copy";
        assert_eq!(line(&NodeSummary::of(&stats)), format!("node2 lags behind node1, term 3{told}"));
        stats["not_ready"] = json!(null);
        stats["leader"] = json!(null);
        assert_eq!(line(&NodeSummary::of(&stats)), "node2 knows no leader, term 3, 2 voters, applied 17");
        stats["identity_conflict"] = json!(["node1 refuses this node"]);
        let conflict = "\n  identity conflict: node1 refuses this node";
        assert_eq!(
            line(&NodeSummary::of(&stats)),
            format!("node2 knows no leader, term 3, 2 voters, applied 17{conflict}")
        );
        stats["identity_conflict"] = json!([]);
        stats["removed"] = json!(true);
        assert_eq!(line(&NodeSummary::of(&stats)), "node2 is removed, term 3, 2 voters, applied 17");
    }
}
