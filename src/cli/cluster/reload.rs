//! `huskv reload`: makes nodes read their settings, certificates and tokens again.
//!
//! Why: an operator who changes a file wants to see at once what is in use, and what waits for a restart.
//!
//! Invariants: each node that is named is asked once, and each has a line. Exit code 0 only if all of them have reloaded.
//!
//! See also: `http::api::admin`, which answers; `status`, which asks in the same way.

use std::time::Duration;

use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use crate::cli::endpoints::{self, Target};
use crate::cli::exit::{ExitError, advice, exit_code, print_error};
use crate::cli::{access, common};
use crate::client::NodeClient;

/// The timeout of a request: the node's own is 10 s.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The subcommand.
pub(crate) fn command() -> Command {
    Command::new("reload")
        .about("Make nodes read their settings, certificates and tokens again")
        .after_help(format!(
            "{}\nA token must be an admin's.\n\
             Exit codes: 0 every node that was asked has reloaded, 1 otherwise: a node whose files are wrong has changed \
             nothing; 2 wrong flags.",
            access::HELP
        ))
        .arg(endpoints::argument())
        .arg(common::json_argument())
}

/// Reloads the nodes and returns the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    exit_code(endpoints::target(matches).map_err(ExitError::usage).and_then(|target| {
        let results = common::block_on(reload(&target))?;
        print(&target, &results, common::json(matches))
    }))
}

/// Asks each endpoint; the result is the report, or one line with the reason.
async fn reload(target: &Target) -> Vec<Result<Value, String>> {
    let client = &NodeClient::with_access(TIMEOUT, target.access.clone());
    let requests = target.addresses.iter().map(|endpoint| async move {
        let mut answer = client.post(endpoint, "/admin/reload", &json!({})).await.map_err(|error| error.to_string())?;
        if answer.status == 200 {
            return Ok(answer.body["data"].take());
        }
        let detail = answer.body["detail"].as_str().unwrap_or("not a response of a huskv node");
        Err(format!("{endpoint}: {detail}{}", advice(answer.status)))
    });
    futures_util::future::join_all(requests).await
}

fn print(target: &Target, results: &[Result<Value, String>], as_json: bool) -> Result<(), ExitError> {
    let mut failed = Vec::new();
    for (endpoint, result) in target.addresses.iter().zip(results) {
        match result {
            Ok(report) if as_json => common::print_line(json!({ "endpoint": endpoint, "report": report }))?,
            Err(reason) if as_json => common::print_line(json!({ "endpoint": endpoint, "error": reason }))?,
            Ok(report) => common::print_line(format_args!("{endpoint}: {}", line(report)))?,
            Err(_) => {}
        }
        failed.extend(result.as_ref().err());
    }
    let Some((last, others)) = failed.split_last() else { return Ok(()) };
    others.iter().for_each(print_error);
    Err(ExitError::failed(last))
}

/// Formats `applied log.level info -> debug; needs a restart: raft.tick_ms 50 -> 40`.
fn line(report: &Value) -> String {
    let list = |name: &str| -> Vec<String> {
        let text = |change: &Value, member: &str| match change[member].as_str() {
            None | Some("") => "none".to_owned(),
            Some(text) => text.to_owned(),
        };
        let one = |change| format!("{} {} -> {}", text(change, "key"), text(change, "old"), text(change, "new"));
        report[name].as_array().into_iter().flatten().map(one).collect()
    };
    let parts = [("applied ", list("applied")), ("needs a restart: ", list("needs_restart"))];
    let parts = parts.into_iter().filter(|(_, changes)| !changes.is_empty());
    let text: Vec<_> = parts.map(|(what, changes)| format!("{what}{}", changes.join(", "))).collect();
    if text.is_empty() { "nothing has changed".to_owned() } else { text.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_was_applied_and_what_needs_a_restart() {
        let change = |key: &str, old: &str, new: &str| json!({ "key": key, "old": old, "new": new });
        let applied = [change("log.level", "info", "debug"), change("http.allowed_hosts", "", "a.b,c.d")];
        let report = json!({ "applied": applied, "needs_restart": [change("raft.tick_ms", "50", "40")] });
        let expected = "applied log.level info -> debug, http.allowed_hosts none -> a.b,c.d; needs a restart: \
                        raft.tick_ms 50 -> 40";
        assert_eq!(line(&report), expected);
        assert_eq!(line(&json!({ "applied": [], "needs_restart": [] })), "nothing has changed");
    }
}
