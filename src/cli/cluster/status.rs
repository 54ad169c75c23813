//! `huskv status`: prints the state of nodes, a line each, with an exit code for readiness.
//!
//! Why: scripts and container engines probe readiness without curl and without parsing JSON. Without arguments it asks
//! the node that the same environment starts, so a container's health check needs no flags.
//!
//! Invariants: a node is ready when its `/readyz` says so. Exit code 0 only if every node is ready, 1 otherwise, 2 for a wrong
//! setting. Each node gets two requests, for its stats and to `/readyz`, which change nothing.
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
use crate::client::{NodeClient, NodeClientError, Readiness};

/// The name of the subcommand.
const NAME: &str = "status";

/// The characters of a hash that are enough to tell files apart.
const SHOWN_HASH: usize = 8;

/// The timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The subcommand.
pub(crate) fn command() -> Command {
    Command::new(NAME)
        .about("Print the state of nodes, a line each")
        .after_help(format!(
            "{}\n\
             Exit codes: 0 every node that was asked takes requests, as its /readyz says; 1 otherwise, 2 wrong settings.",
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
    let reports = match common::block_on(fetch(&target)) {
        Ok(reports) => reports,
        Err(error) => return exit_code(Err(error)),
    };
    let shown = if common::json(matches) { document(&reports).to_string() } else { lines(&reports) };
    // With stdout closed the exit code is still the result.
    writeln!(io::stdout().lock(), "{shown}").ok();
    if let Some(warning) = token_warning(&reports) {
        print_error(warning);
    }
    if all_are_ready(&reports) { 0 } else { FAILED }
}

/// What one node has answered; an error is one line.
struct Report {
    endpoint: String,
    readiness: Result<Readiness, String>,
    stats: Result<Value, String>,
}

impl Report {
    fn is_ready(&self) -> bool {
        self.readiness.as_ref().is_ok_and(|readiness| readiness.ready)
    }

    /// Why it takes no requests, as far as it says so.
    fn reasons(&self) -> Vec<String> {
        self.readiness.as_ref().map(Readiness::reasons).unwrap_or_default()
    }
}

fn all_are_ready(reports: &[Report]) -> bool {
    reports.iter().all(Report::is_ready)
}

fn lines(reports: &[Report]) -> String {
    let line = |report: &Report| {
        let endpoint = &report.endpoint;
        let first = match &report.stats {
            Ok(stats) if is_outline(stats) && report.is_ready() => {
                format!("{endpoint}: is ready; with a token (HUSKV_TOKEN) this shows more")
            }
            Ok(stats) if is_outline(stats) => {
                format!("{endpoint}: is not ready; with a token (HUSKV_TOKEN) this shows why")
            }
            Ok(stats) => format!("{endpoint}: {}", line(&NodeSummary::new(stats))),
            Err(error) => error.clone(),
        };
        let reasons: String = report.reasons().iter().map(|reason| format!("\n  not ready: {reason}")).collect();
        format!("{first}{reasons}")
    };
    reports.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// All of it as one JSON document.
fn document(reports: &[Report]) -> Value {
    let node = |report: &Report| {
        let checks = report.readiness.as_ref().map(|readiness| json!(readiness.checks)).unwrap_or_default();
        let error = report.stats.as_ref().err().or(report.readiness.as_ref().err());
        json!({
            "endpoint": report.endpoint,
            "ready": report.is_ready(),
            "checks": checks,
            "error": error,
            "stats": report.stats.as_ref().ok(),
        })
    };
    json!({ "ready": all_are_ready(reports), "nodes": reports.iter().map(node).collect::<Vec<_>>() })
}

/// `the token files differ: node1 and node2 have 1f3870be, node3 has none`; none where all nodes that tell it have the same.
fn token_warning(reports: &[Report]) -> Option<String> {
    let mut nodes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let stats = reports.iter().filter_map(|report| report.stats.as_ref().ok());
    for stats in stats.filter(|stats| !is_outline(stats)) {
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

/// Asks each endpoint of `target`.
async fn fetch(target: &Target) -> Vec<Report> {
    let client = &NodeClient::with_access(TIMEOUT, target.access.clone());
    let requests = target.addresses.iter().map(|endpoint| async move {
        let stats = client.stats(endpoint).await;
        // A node whose loop stalls has no stats, and says so at once at the other route.
        let readiness = match &stats {
            Err(error @ NodeClientError::Unreachable { .. }) => Err(error.to_string()),
            _ => client.readiness(endpoint).await.map_err(explain),
        };
        Report { endpoint: endpoint.clone(), readiness, stats: stats.map_err(explain) }
    });
    futures_util::future::join_all(requests).await
}

/// Whether these are the few fields that a node with tokens shows without one.
fn is_outline(stats: &Value) -> bool {
    stats.get("state").is_none()
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
    let conflicts = node.stats.identity_conflict.iter();
    let conflicts: String = conflicts.map(|conflict| format!("\n  identity conflict: {conflict}")).collect();
    let certificate = node.certificate_warning(SystemTime::now());
    let certificate = certificate.map(|warning| format!("\n  warning: {warning}")).unwrap_or_default();
    let (term, voters, applied) = (&node.stats.term, node.voters().count(), &node.stats.applied_index);
    format!("{state}, term {term}, {voters} voters, applied {applied}{warnings}{conflicts}{certificate}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(status: u16, body: &str, stats: Result<Value, String>) -> Report {
        Report { endpoint: "a:1".into(), readiness: Ok(Readiness::parse(status, body.as_bytes())), stats }
    }

    const LAGS: &str = "[+]leader ok\n[-]read_index failed: lagging: it is late\n\
                        [-]applied failed: lagging: it is late\nnot ready\n";

    #[test]
    fn a_node_is_ready_by_its_answer_and_each_reason_is_a_line() {
        let stats = || json!({ "node_id": "node1", "state": "Leader", "term": "3", "applied_index": "17" });
        let outline = || Ok(json!({ "raft_id": 1 }));
        let down = Err("a:1: refused".to_owned());
        for (report, expected, ready) in [
            (report(200, "ok\n", Ok(stats())), "a:1: node1 leads, term 3, 0 voters, applied 17", true),
            (
                report(503, LAGS, Ok(stats())),
                "a:1: node1 leads, term 3, 0 voters, applied 17\n  not ready: read_index: it is late",
                false,
            ),
            (
                report(503, LAGS, Err("a:1: no answer".into())),
                "a:1: no answer\n  not ready: read_index: it is late",
                false,
            ),
            (report(200, "ok\n", outline()), "a:1: is ready; with a token (HUSKV_TOKEN) this shows more", true),
            (
                report(503, "not ready\n", outline()),
                "a:1: is not ready; with a token (HUSKV_TOKEN) this shows why",
                false,
            ),
            (Report { readiness: Err("a:1: refused".into()), ..report(200, "", down) }, "a:1: refused", false),
        ] {
            assert_eq!((lines(std::slice::from_ref(&report)).as_str(), report.is_ready()), (expected, ready));
        }
    }

    #[test]
    fn one_document_has_all_nodes() {
        let body = "[+]joined ok\n[-]leader failed: no_leader: none\nnot ready\n";
        let refused = || "a:1: refused".to_owned();
        let down = Report { readiness: Err(refused()), ..report(200, "", Err(refused())) };
        let checks = json!([
            { "name": "joined", "ok": true, "code": null, "detail": null },
            { "name": "leader", "ok": false, "code": "no_leader", "detail": "none" }
        ]);
        assert_eq!(
            document(&[report(503, body, Ok(json!({ "term": "3" }))), down]),
            json!({ "ready": false, "nodes": [
                { "endpoint": "a:1", "ready": false, "checks": checks, "error": null, "stats": { "term": "3" } },
                { "endpoint": "a:1", "ready": false, "checks": null, "error": "a:1: refused", "stats": null }
            ]})
        );
        assert_eq!(document(&[report(200, "ok\n", Ok(json!({})))])["ready"], true);
    }

    #[test]
    fn token_files_that_differ_are_a_warning() {
        let node =
            |name: &str, hash: Value| Ok(json!({ "node_id": name, "state": "Leader", "auth_tokens_sha256": hash }));
        let (one, two) = (json!("1".repeat(64)), json!("2".repeat(64)));
        let warning_of = |stats: &[Result<Value, String>]| {
            token_warning(&stats.iter().map(|stats| report(200, "ok\n", stats.clone())).collect::<Vec<_>>())
        };
        let unknown = || [Err("down".to_owned()), Ok(json!({ "raft_id": 1 }))];
        let same = [node("a", one.clone()), node("b", one.clone())];
        assert_eq!(warning_of(&[&same[..], &unknown()].concat()), None);
        assert_eq!(warning_of(&[node("a", json!(null)), node("b", json!(null))]), None);
        let other = [node("c", two), node("d", json!(null))];
        let warning = warning_of(&[&same[..], &other, &unknown()].concat()).unwrap();
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
        assert_eq!(line(&NodeSummary::new(&stats)), "node2 lags behind node1, term 3, 2 voters, applied 17");
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
