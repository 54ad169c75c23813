//! `huskv watch`: prints a line for every change.
//!
//! Invariants: each change is one line, in order, none missing and none twice, until the watch ends; the last line on
//! stderr then says how to resume. If the cluster was created anew, a line on stderr says so and the watch continues
//! from its newest index.
//!
//! See also: [`crate::client::Watch`], which changes nodes.

use clap::{Arg, ArgGroup, ArgMatches, Command, value_parser};
use serde_json::value::RawValue;

use super::render;
use crate::cli::common::{self, KEY};
use crate::cli::exit::{ExitError, explain, print_error};
use crate::client::{Client, Event, EventKind, Failure, Scope};

const PREFIX: &str = "prefix";
const FROM: &str = "from";
const AFTER: &str = "after";

/// An event with its id and kind, as JSON.
#[derive(serde::Serialize)]
struct Line<'a> {
    id: &'a str,
    event: &'static str,
    data: &'a RawValue,
}

/// The subcommand.
pub(crate) fn command() -> Command {
    common::command("watch", "10s")
        .about("Print a line for every change of a key, or of the keys with a prefix, until it is stopped")
        .arg(common::key_argument())
        .arg(
            Arg::new(PREFIX)
                .long(PREFIX)
                .value_name("PREFIX")
                .help("All keys with this prefix; every key where it is empty"),
        )
        .group(ArgGroup::new("scope").args([KEY, PREFIX]).required(true))
        .arg(
            Arg::new(FROM)
                .long(FROM)
                .value_name("INDEX")
                .value_parser(value_parser!(u64))
                .help("Begin with the changes of this raft index [default: the next change]"),
        )
        .arg(
            Arg::new(AFTER)
                .long(AFTER)
                .value_name("ID")
                .conflicts_with(FROM)
                .help("Resume after the event with this id"),
        )
        .mut_arg("json", |arg| arg.help("Print JSON, {\"id\", \"event\", \"data\"}, with `progress` events too"))
        .mut_arg("timeout", |arg| arg.help("Timeout to find a node that accepts the watch, such as 500ms or 2s"))
}

/// Runs the subcommand and returns the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let scope = match common::text(matches, KEY) {
        Some(key) => Scope::Key(key),
        None => Scope::Prefix(common::text(matches, PREFIX).unwrap_or_default()),
    };
    let (from, after) = (matches.get_one(FROM).copied(), common::text(matches, AFTER));
    common::run(matches, |client| print_events(client, scope, from, after, common::json(matches)))
}

async fn print_events(
    client: Client,
    scope: Scope,
    from: Option<u64>,
    after: Option<String>,
    json: bool,
) -> Result<(), ExitError> {
    let mut watch = client.watch(scope.clone(), from, after);
    loop {
        match watch.next().await {
            Ok(Event { kind: EventKind::Progress, .. }) if !json => {}
            Ok(event) => common::print_line(line(&event, json)?)?,
            Err(Failure { newest_index: Some(newest), .. }) => {
                // The cursor is of the former cluster, index 5 000, and the new one is at 6: resume at 7. A resume after 5 000
                // would skip every change up to there.
                let next = newest.saturating_add(1).get();
                print_error(format!(
                    "the cluster was made anew and has come to index {newest} only; going on from {next}, so list the keys \
                     again"
                ));
                watch = client.watch(scope.clone(), Some(next), None);
            }
            Err(failure) => return Err(ExitError::failed(advice(&failure, watch.last_id()))),
        }
    }
}

fn line(event: &Event, json: bool) -> Result<String, ExitError> {
    let (id, event, data) = (&event.id, event.kind.as_str(), &*event.data);
    if !json {
        return Ok(format!("{id}\t{event}\t{}", render::item(data)?));
    }
    let line = serde_json::value::to_raw_value(&Line { id, event, data });
    Ok(render::json(&line.map_err(ExitError::failed)?))
}

/// Why the watch ended, and how to resume it.
fn advice(failure: &Failure, last: Option<&str>) -> String {
    let relist =
        "keep the number that `huskv status` calls applied, list the keys again, and watch --from that number + 1";
    match (failure.code.as_str(), last) {
        ("compacted", _) => format!("{failure}; no node has changes from so long ago: {relist}"),
        ("lagged", _) => format!("{failure}; {relist}"),
        (_, Some(last)) => format!("{}; go on with --after {last}", explain(failure)),
        (_, None) => explain(failure),
    }
}
