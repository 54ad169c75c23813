//! `huskv watch`: a line for every change.
//!
//! Why: a script reacts to changes with a loop over lines.
//!
//! Laws: each change is one line, in order, none missing and none twice, until the watch ends; then the last line on
//! stderr says how to go on. Where the cluster was made anew since, it says so there and goes on from what there is.
//!
//! Not here: finding another node ([`crate::client::Watch`]).

use clap::{Arg, ArgGroup, ArgMatches, Command, value_parser};
use serde_json::value::RawValue;

use super::render;
use crate::cli::common;
use crate::cli::common::ExitError;
use crate::cli::complain;
use crate::client::{Client, Event, EventKind, Failure, Scope};

const KEY: &str = "key";
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
        .arg(Arg::new(KEY).value_name("KEY").help("The key"))
        .arg(
            Arg::new(PREFIX).long(PREFIX).value_name("PREFIX").help("Keys that begin with this; all where it is empty"),
        )
        .group(ArgGroup::new("scope").args([KEY, PREFIX]).required(true))
        .arg(
            Arg::new(FROM)
                .long(FROM)
                .value_name("INDEX")
                .value_parser(value_parser!(u64))
                .help("Begin with the changes of this raft index [default: what comes now]"),
        )
        .arg(
            Arg::new(AFTER)
                .long(AFTER)
                .value_name("ID")
                .conflicts_with(FROM)
                .help("Go on after the event with this id"),
        )
        .mut_arg("json", |arg| arg.help("Print JSON, {\"id\", \"event\", \"data\"}, with `progress` events too"))
        .mut_arg("timeout", |arg| arg.help("How long to look for a node that takes the watch, such as 500ms or 2s"))
}

/// Does it; the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let scope = match common::text(matches, KEY) {
        Some(key) => Scope::Key(key),
        None => Scope::Prefix(common::text(matches, PREFIX).unwrap_or_default()),
    };
    let (from, after) = (matches.get_one(FROM).copied(), common::text(matches, AFTER));
    common::run(matches, |client| follow(client, scope, from, after, common::json(matches)))
}

async fn follow(
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
            Ok(event) => common::say(line(&event, json)?)?,
            Err(Failure { newest_index: Some(newest), .. }) => {
                let next = newest.saturating_add(1).get();
                complain(format!(
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

/// Why the watch ended, and what to do.
fn advice(failure: &Failure, last: Option<&str>) -> String {
    let anew =
        "keep the number that `huskv status` calls applied, list the keys again, and watch --from that number + 1";
    match (failure.code.as_str(), last) {
        ("compacted", _) => format!("{failure}; no node has changes from so long ago: {anew}"),
        ("lagged", _) => format!("{failure}; {anew}"),
        (_, Some(last)) => format!("{failure}; go on with --after {last}"),
        (_, None) => failure.to_string(),
    }
}
