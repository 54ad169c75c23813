//! `huskv status`: what nodes do, one line each, and an exit code that says whether they take requests.
//!
//! Why: scripts and container engines ask a node whether it is ready without curl and without reading JSON. Without
//! arguments it asks the node that the same environment starts, so inside a container it needs none.
//!
//! Laws: a node is ready when it answers, belongs to a cluster and knows who leads. Exit code 0 only where every node
//! that was asked is ready, 1 otherwise, 2 for a wrong setting. It asks each node once and changes nothing.
//!
//! Not here: what stats mean (`view`).

use std::io::{self, Write};
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};

use super::view::{View, role};
use super::{FAILED, USAGE, complain};
use crate::client::Client;
use crate::config::{Config, Given, load};

/// The name of the subcommand.
pub(super) const NAME: &str = "status";

/// The flag of the addresses.
const ENDPOINTS: &str = "endpoints";

/// How long a node may take to answer.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// The subcommand.
pub(super) fn command() -> Command {
    let endpoints = Arg::new(ENDPOINTS)
        .long(ENDPOINTS)
        .value_name("LIST")
        .value_delimiter(',')
        .value_parser(|text: &str| Config::check_address(text).map(|()| text.to_owned()))
        .help("HTTP addresses (host:port) of the nodes to ask, comma-separated; without it, the node that the same variables start");
    Command::new(NAME)
        .about("Say what nodes do")
        .after_help(
            "Exit codes: 0 every node that was asked answers, belongs to a cluster and knows its leader, 1 otherwise, \
             2 wrong settings.",
        )
        .arg(endpoints)
}

/// Asks and tells; the exit code.
pub(super) fn run(matches: &ArgMatches) -> u8 {
    let endpoints = match matches.get_many::<String>(ENDPOINTS) {
        Some(given) => given.cloned().collect(),
        None => match own_endpoint() {
            Ok(own) => vec![own],
            Err(error) => {
                complain(error);
                return USAGE;
            }
        },
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            return FAILED;
        }
    };
    let seen = runtime.block_on(look(&endpoints));
    let lines: Vec<String> = endpoints
        .iter()
        .zip(&seen)
        .map(|(endpoint, seen)| match seen {
            Ok(view) => format!("{endpoint}: {}", line(view)),
            Err(why) => why.clone(),
        })
        .collect();
    // Where nobody reads it, the exit code still says it.
    writeln!(io::stdout().lock(), "{}", lines.join("\n")).ok();
    let all_ready = seen.iter().all(|seen| seen.as_ref().is_ok_and(View::ready));
    if all_ready { 0 } else { FAILED }
}

/// The address of the node that the environment of this process would start.
fn own_endpoint() -> Result<String, String> {
    let given = Given { variables: std::env::vars_os().collect(), ..Given::default() };
    let config = load(&given).map_err(|error| error.to_string())?;
    config.local_http().ok_or_else(|| {
        let directory = config.raft.vol_dir.display();
        format!(
            "SERVER_PORT is 0, so the node has picked a port; give --{ENDPOINTS}, {directory}/addresses.json has it"
        )
    })
}

/// What each of `endpoints` says of itself, or in one line why not.
async fn look(endpoints: &[String]) -> Vec<Result<View, String>> {
    let client = &Client::new(LOOK_LIMIT);
    let looks = endpoints.iter().map(|endpoint| async move {
        let answer = client.get(endpoint, "/raft/stats").await.map_err(|error| error.to_string())?;
        if answer.status == 200 && answer.body["data"].is_object() {
            return Ok(View::of(&answer.body["data"]));
        }
        let detail = answer.body["detail"].as_str().unwrap_or("and that is no huskv node");
        Err(format!("{endpoint}: answers {}: {detail}", answer.status))
    });
    futures_util::future::join_all(looks).await
}

/// `node2 follows node1, term 3, 3 voters, applied 17`.
fn line(view: &View) -> String {
    let name = &view.name;
    let does = match (role(Some(view)), &view.leader) {
        ("follows", Some(leader)) => format!("{name} follows {leader}"),
        ("follows", None) => format!("{name} knows no leader"),
        (role, _) => format!("{name} {role}"),
    };
    format!("{does}, term {}, {} voters, applied {}", view.term, view.members.len(), view.applied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_says_what_the_node_does() {
        let mut stats = json!({
            "node_id": "node2", "state": "Follower", "term": "3", "applied_index": "17",
            "members": [{"raft_id": 1, "role": "voter"}, {"raft_id": 2, "role": "voter"}],
            "leader": {"node_id": "node1", "http_address": "127.0.0.1:2221"},
        });
        assert_eq!(line(&View::of(&stats)), "node2 follows node1, term 3, 2 voters, applied 17");
        stats["leader"] = json!(null);
        assert_eq!(line(&View::of(&stats)), "node2 knows no leader, term 3, 2 voters, applied 17");
        stats["removed"] = json!(true);
        assert_eq!(line(&View::of(&stats)), "node2 is removed, term 3, 2 voters, applied 17");
    }
}
