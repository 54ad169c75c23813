//! `huskv status`: prints the state of nodes, a line each, with an exit code for readiness.
//!
//! Why: scripts and container engines probe readiness without curl and without parsing JSON. Without arguments it asks
//! the node that the same environment starts, so a container's health check needs no flags.
//!
//! Invariants: a node is ready when it responds, belongs to a cluster, knows its leader and does not lag behind, as
//! `/readyz` defines it. Exit code 0 only if every node is ready, 1 otherwise, 2 for a wrong setting. Each node gets one
//! request, which changes nothing; without a token that it wants, a second one, to `/readyz`.
//!
//! See also: `node_summary` for the meaning of the stats.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use super::node_summary::{NodeSummary, role};
use crate::cli::endpoints::{self, Target};
use crate::cli::exit::{FAILED, USAGE, advice, exit_code, print_error};
use crate::cli::{access, common};
use crate::client::{NodeClient, NodeClientError};

/// The name of the subcommand.
const NAME: &str = "status";

/// The characters of a hash that are enough to tell files apart.
const SHOWN_HASH: usize = 8;

/// The timeout of a request.
const STATS_TIMEOUT: Duration = Duration::from_secs(2);

/// The subcommand.
pub(crate) fn command() -> Command {
    Command::new(NAME)
        .about("Print the state of nodes, a line each")
        .after_help(format!(
            "{}\n\
             Exit codes: 0 every node that was asked takes requests: it belongs to a cluster, knows its leader and does not \
             lag behind it; 1 otherwise, 2 wrong settings.",
            access::HELP
        ))
        .arg(endpoints::argument())
        .arg(common::json_argument())
}

/// Runs the subcommand and returns the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let target = match endpoints::target(matches) {
        Ok(target) => target,
        Err(error) => {
            print_error(error);
            return USAGE;
        }
    };
    let results = match common::block_on(fetch_stats(&target)) {
        Ok(results) => results,
        Err(error) => return exit_code(Err(error)),
    };
    let json = common::json(matches);
    let lines: Vec<String> = target
        .addresses
        .iter()
        .zip(&results)
        .map(|(endpoint, result)| match result {
            _ if json => object(endpoint, result.as_ref()),
            Ok(stats) if is_outline(stats) => {
                format!("{endpoint}: is ready; with a token (HUSKV_TOKEN) this shows more")
            }
            Ok(stats) => format!("{endpoint}: {}", line(&NodeSummary::new(stats))),
            Err(error) => error.clone(),
        })
        .collect();
    // With stdout closed the exit code is still the result.
    writeln!(io::stdout().lock(), "{}", lines.join("\n")).ok();
    if let Some(warning) = token_warning(&results) {
        print_error(warning);
    }
    if results.iter().all(|stats| stats.as_ref().is_ok_and(is_ready)) { 0 } else { FAILED }
}

/// `the token files differ: node1 and node2 have 1f3870be, node3 has none`; none where all nodes that tell it have the same.
fn token_warning(results: &[Result<Value, String>]) -> Option<String> {
    let mut nodes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for stats in results.iter().flatten().filter(|stats| !is_outline(stats)) {
        let hash = stats["auth_tokens_sha256"].as_str().map_or("none", |hash| hash.get(..SHOWN_HASH).unwrap_or(hash));
        nodes.entry(hash).or_default().push(stats["node_id"].as_str().unwrap_or_default());
    }
    let group = |(hash, names): (&&str, &Vec<&str>)| {
        format!("{} {} {hash}", names.join(" and "), if names.len() == 1 { "has" } else { "have" })
    };
    let groups: Vec<String> = nodes.iter().map(group).collect();
    (groups.len() > 1)
        .then(|| format!("the token files differ, so rights depend on the node that is asked: {}", groups.join(", ")))
}

/// The result of one node as a JSON object.
fn object(endpoint: &str, result: Result<&Value, &String>) -> String {
    match result {
        Ok(stats) => json!({ "endpoint": endpoint, "ready": is_ready(stats), "stats": stats }),
        Err(error) => json!({ "endpoint": endpoint, "ready": false, "error": error }),
    }
    .to_string()
}

/// Fetches the stats of each endpoint of `target`; an error is one line.
async fn fetch_stats(target: &Target) -> Vec<Result<Value, String>> {
    let client = &NodeClient::with_access(STATS_TIMEOUT, target.access.clone());
    let requests = target.addresses.iter().map(|endpoint| async move {
        let stats = client.stats(endpoint).await.map_err(explain)?;
        if is_outline(&stats) && !client.is_ready(endpoint).await.map_err(explain)? {
            return Err(format!("{endpoint}: is not ready; with a token (HUSKV_TOKEN) this shows why"));
        }
        Ok(stats)
    });
    futures_util::future::join_all(requests).await
}

/// Whether these are the few fields that a node with tokens shows without one; such a node was found to be ready.
fn is_outline(stats: &Value) -> bool {
    stats.get("state").is_none()
}

fn is_ready(stats: &Value) -> bool {
    is_outline(stats) || NodeSummary::new(stats).ready()
}

fn explain(error: NodeClientError) -> String {
    let advice = match &error {
        NodeClientError::NoStats { status, .. } => advice(*status),
        _ => "",
    };
    format!("{error}{advice}")
}

/// Formats `node2 follows node1, term 3, 3 voters, applied 17`, with warnings.
fn line(node: &NodeSummary) -> String {
    let name = &node.stats.node_id;
    let state = match (role(Some(node)), node.leader()) {
        (role @ ("follows" | "lags behind"), Some(leader)) => format!("{name} {role} {leader}"),
        ("follows", None) => format!("{name} knows no leader"),
        (role, _) => format!("{name} {role}"),
    };
    let warnings = [node.unheard_warning(), node.disk_warning()];
    let warnings: String = warnings.into_iter().flatten().map(|warning| format!(", {warning}")).collect();
    let reason = node.not_ready().filter(|_| node.lags()).map(|reason| format!("\n  not ready: {reason}"));
    let reason = reason.unwrap_or_default();
    let conflicts = node.stats.identity_conflict.iter();
    let conflicts: String = conflicts.map(|conflict| format!("\n  identity conflict: {conflict}")).collect();
    let certificate = node.certificate_warning(SystemTime::now());
    let certificate = certificate.map(|warning| format!("\n  warning: {warning}")).unwrap_or_default();
    let (term, voters, applied) = (&node.stats.term, node.voters().count(), &node.stats.applied_index);
    format!("{state}, term {term}, {voters} voters, applied {applied}{warnings}{reason}{conflicts}{certificate}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_files_that_differ_are_a_warning() {
        let node =
            |name: &str, hash: Value| Ok(json!({ "node_id": name, "state": "Leader", "auth_tokens_sha256": hash }));
        let (one, two) = (json!("1".repeat(64)), json!("2".repeat(64)));
        let unknown = || [Err("down".to_owned()), Ok(json!({ "raft_id": 1 }))];
        let same = [node("a", one.clone()), node("b", one.clone())];
        assert_eq!(token_warning(&[&same[..], &unknown()].concat()), None);
        assert_eq!(token_warning(&[node("a", json!(null)), node("b", json!(null))]), None);
        let other = [node("c", two), node("d", json!(null))];
        let warning = token_warning(&[&same[..], &other, &unknown()].concat()).unwrap();
        assert!(warning.ends_with(": a and b have 11111111, c has 22222222, d has none"), "{warning}");
    }

    #[test]
    fn a_line_has_the_state_of_the_node_and_its_warnings() {
        let mut stats = json!({
            "node_id": "node2", "state": "Follower", "term": "3", "applied_index": "17",
            "members": [{"raft_id": 1, "role": "voter"}, {"raft_id": 2, "role": "voter"}],
            "leader": {"node_id": "node1", "http_address": "127.0.0.1:2221"},
        });
        assert_eq!(line(&NodeSummary::new(&stats)), "node2 follows node1, term 3, 2 voters, applied 17");
        stats["members"][0]["node_id"] = json!("node1");
        stats["members"][0]["connected"] = json!(false);
        let suffix = ", does not hear node1 (never): no majority";
        assert_eq!(
            line(&NodeSummary::new(&stats)),
            format!("node2 follows node1, term 3, 2 voters, applied 17{suffix}")
        );
        stats["members"][0]["connected"] = json!(true);
        stats["not_ready"] = json!({"code": "lagging", "detail": "it is receiving a snapshot"});
        let suffix = ", 2 voters, applied 17\n  not ready: it is receiving a snapshot";
        assert_eq!(line(&NodeSummary::new(&stats)), format!("node2 lags behind node1, term 3{suffix}"));
        stats["not_ready"] = json!(null);
        stats["leader"] = json!(null);
        assert_eq!(line(&NodeSummary::new(&stats)), "node2 knows no leader, term 3, 2 voters, applied 17");
        stats["identity_conflict"] = json!(["node1 refuses this node"]);
        let conflict = "\n  identity conflict: node1 refuses this node";
        assert_eq!(
            line(&NodeSummary::new(&stats)),
            format!("node2 knows no leader, term 3, 2 voters, applied 17{conflict}")
        );
        stats["identity_conflict"] = json!([]);
        stats["tls_http_not_after"] = json!("2001-02-03T04:05:06Z");
        let warning = "\n  warning: the certificate expired on 2001-02-03T04:05:06Z";
        assert_eq!(
            line(&NodeSummary::new(&stats)),
            format!("node2 knows no leader, term 3, 2 voters, applied 17{warning}")
        );
        stats["tls_http_not_after"] = json!("2901-02-03T04:05:06Z");
        stats["removed"] = json!(true);
        assert_eq!(line(&NodeSummary::new(&stats)), "node2 is removed, term 3, 2 voters, applied 17");
    }
}
