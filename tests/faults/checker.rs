//! Checker of histories and of healed nodes: linearizability, versions, equal states.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::harness::{Node, Request, secs};
use crate::history::{Event, History};
use crate::linear::{self, Operation, Seen};
use crate::ttl;

/// Every key's history has an order, and versions are in line with it.
pub fn check_history(history: &History) -> Result<(), String> {
    if let Some(wrong) = history.wrong.first() {
        return Err(format!("{} answers are wrong, such as: {wrong}", history.wrong.len()));
    }
    for (key, events) in &history.events {
        let asked = history.leases.get(key).map_or(&[][..], Vec::as_slice);
        ttl::shown(key, events, asked)?;
        let mut operations: Vec<Operation> = events.iter().map(|event| event.operation.clone()).collect();
        operations.extend(ttl::ends(events, asked));
        linear::check(&operations).map_err(|timeline| format!("{key}, times in us: {timeline}"))?;
    }
    versions(history)
}

/// No node has ever panicked, in none of its lives.
pub fn check_logs(nodes: &[Node]) -> Result<(), String> {
    for node in nodes {
        let log = fs::read(node.home().join("stderr")).map_err(|error| error.to_string())?;
        let log = String::from_utf8_lossy(&log);
        if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
            return Err(format!("{}: {line}", node.name()));
        }
    }
    Ok(())
}

/// Versions are raft indexes: one write each, the same for every reader, never less than that of a write that was
/// acknowledged before, over all keys at once. It takes no search, so it sees what spans keys.
fn versions(history: &History) -> Result<(), String> {
    let all = || history.events.iter().flat_map(|(key, events)| events.iter().map(move |event| (key, event)));
    let mut values: BTreeMap<u64, u64> = BTreeMap::new();
    let mut writes = Vec::new();
    for (key, event) in all() {
        let Some(version) = event.version else { continue };
        let (Seen::Put(value) | Seen::Get(Some(value)) | Seen::Cas { new: Some(value), .. }) = event.operation.seen
        else {
            continue;
        };
        let known = *values.entry(version).or_insert(value);
        if known != value {
            return Err(format!("version {version} is that of the values {known} and {value}, the latter of {key}"));
        }
        if matches!(event.operation.seen, Seen::Put(_)) {
            writes.push((event.operation.returned.unwrap_or(u64::MAX), version, key));
        }
    }
    writes.sort_unstable();
    let mut highest = Vec::with_capacity(writes.len());
    let mut most = 0;
    for &(_, version, _) in &writes {
        most = most.max(version);
        highest.push(most);
    }
    for (key, event) in all() {
        let (Some(version), Seen::Put(_)) = (event.version, &event.operation.seen) else { continue };
        let before = writes.partition_point(|&(returned, _, _)| returned < event.operation.called);
        if let Some(&earlier) = before.checked_sub(1).and_then(|at| highest.get(at))
            && earlier >= version
        {
            return Err(format!("{event:?} of {key} came after a write of version {earlier} was acknowledged"));
        }
    }
    for (key, events) in &history.events {
        reads(key, events)?;
    }
    Ok(())
}

/// What a read finds is no older than any write of the key that was acknowledged before.
fn reads(key: &str, events: &[Event]) -> Result<(), String> {
    let found = |event: &&Event| matches!(event.operation.seen, Seen::Get(Some(_)));
    for read in events.iter().filter(found) {
        let stale = events.iter().find(|event| {
            matches!(event.operation.seen, Seen::Put(_))
                && event.operation.returned.is_some_and(|returned| returned < read.operation.called)
                && event.version > read.version
        });
        if let Some(write) = stale {
            return Err(format!("a stale read of {key}: {read:?} after {write:?}"));
        }
    }
    Ok(())
}

/// All nodes have the same keys, values, versions and members.
pub fn check_equal(nodes: &[Node], history: &History) -> Result<usize, String> {
    let mut first: Option<(String, Contents)> = None;
    for node in nodes {
        let contents = Contents::of(node, history)?;
        let (name, expected) = first.get_or_insert_with(|| (node.name().to_owned(), contents.clone()));
        for (key, value) in &contents.data {
            if expected.data.get(key) != Some(value) {
                let theirs = expected.data.get(key);
                return Err(format!("{key} is {value:?} on {} and {theirs:?} on {name}", node.name()));
            }
        }
        if contents.members != expected.members || contents.keys != expected.keys {
            return Err(format!("{}: {contents:?}, {name}: {expected:?}", node.name()));
        }
    }
    let (name, contents) = first.ok_or("there are no nodes")?;
    let there = contents.data.values().filter(|value| value.is_some()).count();
    if contents.keys != there.to_string() {
        return Err(format!("{name} counts {} keys and has {there}", contents.keys));
    }
    Ok(there)
}

/// Everything that a node holds, by its own word.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    /// The text of the value and its version.
    data: BTreeMap<String, Option<(String, u64)>>,
    members: Vec<String>,
    keys: String,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} keys, members {:?}", self.keys, self.members)
    }
}

impl Contents {
    fn of(node: &Node, history: &History) -> Result<Self, String> {
        let mut data = BTreeMap::new();
        for key in history.events.keys() {
            let path = format!("/store/{key}?consistency=stale");
            let answer = node.try_request(Request::new("GET", path).within(secs(10)))?;
            let found = match answer.status {
                200 => Some((answer.raw_value(), answer.data()["version"].as_u64().unwrap_or(0))),
                404 => None,
                _ => return Err(format!("{} on {key}: {answer}", node.name())),
            };
            data.insert(key.clone(), found);
        }
        let stats = node.try_stats()?;
        let text = |row: &Value, field: &str| row[field].to_string();
        let fields = ["node_id", "raft_id", "raft_address", "http_address", "role"];
        let rows = stats["members"].as_array().ok_or(format!("{} shows no members", node.name()))?;
        let mut members: Vec<String> = rows.iter().map(|row| fields.map(|field| text(row, field)).join(" ")).collect();
        members.push(stats["cluster_id"].to_string());
        members.sort();
        let health = node.try_request(Request::new("GET", "/health").within(secs(10)))?;
        Ok(Self { data, members, keys: health.word("keys") })
    }
}
