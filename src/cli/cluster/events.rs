//! `huskv events`: prints what happened to nodes, a line each, and follows.
//!
//! Why: who is woken at night asks why the leader changed, and each node knows its part of the answer.
//!
//! Invariants: the lines of all nodes that were asked are in the order of their clocks. While it follows, no event of a node that goes on
//! answering is left out or printed twice, and a node that starts anew is followed from its start on.
//!
//! See also: `http::node_events`, which answers; `docs/monitoring.md` for the kinds.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::Value;

use crate::cli::endpoints::{self, Target};
use crate::cli::exit::{ExitError, advice, exit_code, print_error};
use crate::cli::{access, common};
use crate::client::NodeClient;

const FOLLOW: &str = "follow";
const LIMIT: &str = "limit";

/// The timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The time between two requests to a node that is followed.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// The events of a request that follows, at most.
const MAX_LIMIT: u64 = 1000;

/// The subcommand.
pub(crate) fn command() -> Command {
    Command::new("events")
        .about("Print what happened to nodes and why: leaders, elections, members, disks; a line each")
        .after_help(format!(
            "{}\nA token must have `metrics = true` or be an admin's.\n\
             Exit codes: 0 every node that was asked has answered, 1 otherwise, 2 wrong flags.",
            access::HELP
        ))
        .arg(endpoints::argument())
        .arg(
            Arg::new(LIMIT)
                .long(LIMIT)
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..=MAX_LIMIT))
                .default_value("100")
                .help("The latest events of each node, at most"),
        )
        .arg(Arg::new(FOLLOW).long(FOLLOW).short('f').action(ArgAction::SetTrue).help("Go on with each new event"))
        .arg(common::json_argument())
}

/// Runs the subcommand and returns the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let limit = matches.get_one(LIMIT).copied().unwrap_or(MAX_LIMIT);
    exit_code(endpoints::target(matches).map_err(ExitError::usage).and_then(|target| {
        let (as_json, follows) = (common::json(matches), matches.get_flag(FOLLOW));
        common::block_on(print_events(&target, limit, follows, as_json))?
    }))
}

/// A node that is asked.
struct Node<'a> {
    endpoint: &'a str,
    /// The cursor after its last event, once it has answered.
    since: Option<String>,
    /// Its last failure, which is printed once.
    failure: Option<String>,
}

async fn print_events(target: &Target, limit: u64, follows: bool, as_json: bool) -> Result<(), ExitError> {
    let client = NodeClient::with_access(TIMEOUT, target.access.clone());
    let mut nodes: Vec<_> =
        target.addresses.iter().map(|endpoint| Node { endpoint, since: None, failure: None }).collect();
    loop {
        let answers = futures_util::future::join_all(nodes.iter().map(|node| ask(&client, node, limit))).await;
        let mut events = Vec::new();
        for (node, answer) in nodes.iter_mut().zip(answers) {
            match answer {
                Ok(mut answer) => {
                    node.failure = None;
                    events.extend(take_events(node, &mut answer));
                }
                Err(failure) if node.failure.as_ref() == Some(&failure) => {}
                Err(failure) => {
                    if follows {
                        print_error(&failure);
                    }
                    node.failure = Some(failure);
                }
            }
        }
        // A stable sort: events of one node keep their order, whatever its clock does.
        events.sort_by(|a, b| a["at"].as_str().cmp(&b["at"].as_str()));
        for event in &events {
            common::print_line(line(event, as_json))?;
        }
        if !follows {
            let failed: Vec<_> = nodes.into_iter().filter_map(|node| node.failure).collect();
            let Some((last, others)) = failed.split_last() else { return Ok(()) };
            others.iter().for_each(print_error);
            return Err(ExitError::failed(last));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Asks a node for its events; an error is one line.
async fn ask(client: &NodeClient, node: &Node<'_>, limit: u64) -> Result<Value, String> {
    let path = match &node.since {
        Some(since) => format!("/events?since={since}&limit={MAX_LIMIT}"),
        None => format!("/events?limit={limit}"),
    };
    let answer = client.get(node.endpoint, &path).await.map_err(|error| error.to_string())?;
    if answer.status == 200 && answer.body["events"].is_array() {
        return Ok(answer.body);
    }
    let detail = answer.body["detail"].as_str().unwrap_or("not a response of a huskv node");
    Err(format!("{}: {detail}{}", node.endpoint, advice(answer.status)))
}

/// Takes the events out of an answer, each with the name of the node, and moves the cursor behind them.
fn take_events(node: &mut Node<'_>, answer: &mut Value) -> Vec<Value> {
    let Value::Array(mut events) = answer["events"].take() else { return Vec::new() };
    let last = events.last().map_or(&answer["last"], |event| &event["id"]);
    node.since = answer["boot"].as_str().zip(last.as_u64()).map(|(boot, last)| format!("{boot}.{last}"));
    for event in &mut events {
        event["node"] = answer["node"].clone();
    }
    events
}

/// Formats `2026-11-29T20:50:01.000Z node1 leader_changed node2 leads instead of ...`, or the event as JSON.
fn line(event: &Value, as_json: bool) -> String {
    if as_json {
        return event.to_string();
    }
    let text = |name: &str| event[name].as_str().unwrap_or("-");
    format!("{} {} {} {}", text("at"), text("node"), text("kind"), text("detail"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_cursor_is_behind_what_was_printed() {
        let mut node = Node { endpoint: "h:1", since: None, failure: None };
        let mut answer = json!({ "node": "n1", "boot": "ab", "first": 1, "last": 9, "events": [
            { "id": 3, "at": "2026-11-29T20:50:01.000Z", "kind": "draining", "detail": "why" }] });
        let events = take_events(&mut node, &mut answer);
        assert_eq!(node.since.as_deref(), Some("ab.3"), "of a thousand more the rest comes next");
        assert_eq!(line(&events[0], false), "2026-11-29T20:50:01.000Z n1 draining why");
        assert_eq!(serde_json::from_str::<Value>(&line(&events[0], true)).unwrap()["node"], "n1");
        let mut none = json!({ "node": "n1", "boot": "ab", "first": 1, "last": 9, "events": [] });
        assert!(take_events(&mut node, &mut none).is_empty());
        assert_eq!(node.since.as_deref(), Some("ab.9"));
    }
}
