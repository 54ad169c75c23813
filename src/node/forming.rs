//! Forming a cluster without curl: a pristine node asks the nodes of its list until one cluster takes it.
//!
//! Why: one list given to all nodes of a deployment must make one cluster, in whatever order they start, and must never
//! make a second one beside the first when one of them comes back with an empty disk.
//!
//! Laws: a node begins by itself only where every listed address answers, waits too and has the same list, and only the
//! node behind the first address in byte order. Which address is its own it learns by asking, never by guessing. A
//! missing node is therefore waited for, for ever, and named in the log. So are two nodes that share a name or an
//! address: one cluster would take them for one, and acknowledge on one disk what is meant for several.
//!
//! Not here: what a join does (`consensus::membership`), and whether the node is still pristine (the loop knows).

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use slog::{Logger, debug, info, warn};
use tokio::time::{Instant, sleep};

use crate::client::{NodeClient, Response};
use crate::consensus::{Handle, Input};

/// How long a look at one address may take.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// How long a cluster may take to take this node; what [`JOIN_PATH`] asks for, and the way there and back.
const JOIN_LIMIT: Duration = Duration::from_secs(65);

/// The request of a join, with the deadline that the server is to keep.
const JOIN_PATH: &str = "/raft/join?timeout=60s";

/// The shortest pause between two rounds; up to [`JITTER_MS`] longer, so that a list of nodes does not ask in step.
const PAUSE_MS: u64 = 400;

/// See [`PAUSE_MS`].
const JITTER_MS: u64 = 200;

/// How long after the start the log says for the first time what is waited for.
const FIRST_REPORT: Duration = Duration::from_secs(2);

/// How often the log says it again.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Which nodes are to be one cluster, and what this one says of itself.
pub(super) struct List {
    addresses: BTreeSet<String>,
    join: Value,
}

impl List {
    /// The list of a node called `name` that peers dial at `raft_address`.
    pub(super) fn new(addresses: &[String], name: &str, raft_address: &str) -> Self {
        Self {
            addresses: addresses.iter().cloned().collect(),
            join: json!({ "node_id": name, "raft_address": raft_address }),
        }
    }
}

/// What one address said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// Nothing, or nothing that makes sense; why.
    Silent(String),
    /// A node that waits, with its list and what it calls itself.
    Waiting { raft_id: u64, list: BTreeSet<String>, card: Card },
    /// A node that a cluster has taken and that has heard nothing from it yet.
    Joining { raft_id: u64 },
    /// A node that was removed from its cluster.
    Removed,
    /// A node of a cluster, maybe of one node.
    Member { raft_id: u64 },
}

/// What a node would be known by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Card {
    name: String,
    raft_address: String,
    http_address: String,
}

/// What to do after a round.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Ask these, in this order, to be taken.
    Ask(Vec<String>),
    /// Begin as the cluster.
    Begin,
    /// Wait, for these reasons.
    Wait(Vec<String>),
}

/// Asks until the node belongs to a cluster, then returns.
pub(super) async fn form(list: List, handle: Handle, log: Logger) {
    let looks = NodeClient::new(LOOK_LIMIT);
    let joins = NodeClient::new(JOIN_LIMIT);
    let mut report = Instant::now() + FIRST_REPORT;
    loop {
        // A node that is stopping has no status any more.
        let Ok(status) = handle.status().await else { return };
        if !status.forming && !status.joining {
            return;
        }
        let seen = look(&looks, &list).await;
        let reasons = match decide(status.raft_id, status.forming, &list.addresses, &seen) {
            Step::Begin => {
                info!(log, "every node of the list waits and this one is the first: it begins as the cluster");
                handle.deliver(Input::Begin).await;
                Vec::new()
            }
            Step::Ask(addresses) => ask(&joins, &list, &addresses, &log).await,
            Step::Wait(reasons) => reasons,
        };
        if Instant::now() >= report && !reasons.is_empty() {
            warn!(log, "waits to be part of a cluster: {}", reasons.join("; "));
            report = Instant::now() + REPORT_EVERY;
        }
        sleep(pause()).await;
    }
}

fn pause() -> Duration {
    let jitter = getrandom::u64().unwrap_or_default() % JITTER_MS;
    Duration::from_millis(PAUSE_MS + jitter)
}

async fn look(client: &NodeClient, list: &List) -> Vec<(String, Seen)> {
    let looks = list.addresses.iter().map(|address| async move {
        let seen = match client.get(address, "/raft/stats").await {
            Ok(response) => read(&response),
            Err(error) => {
                let why = error.to_string();
                Seen::Silent(why.trim_start_matches(&format!("{address}: ")).to_owned())
            }
        };
        (address.clone(), seen)
    });
    futures_util::future::join_all(looks).await
}

/// Asks one after the other to be taken, until one agrees; otherwise the reasons of all.
async fn ask(client: &NodeClient, list: &List, addresses: &[String], log: &Logger) -> Vec<String> {
    let mut reasons = Vec::new();
    for address in addresses {
        match client.post(address, JOIN_PATH, &list.join).await {
            Ok(response) if response.status == 200 => {
                debug!(log, "a join was answered"; "through" => address);
                return Vec::new();
            }
            Ok(response) => {
                let detail = response.body.get("detail").and_then(Value::as_str).unwrap_or("without a reason");
                reasons.push(format!("{address} answers {}: {detail}", response.status));
            }
            Err(error) => reasons.push(error.to_string()),
        }
    }
    reasons
}

/// Makes sense of the stats of a node, or does not.
fn read(response: &Response) -> Seen {
    let data = &response.body["data"];
    // Numbers of 53 bits are safe in JSON, but some writers prefer texts.
    let number = |name: &str| {
        let value = &data[name];
        value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()))
    };
    let says = |name: &str| data[name].as_bool().unwrap_or(false) || data[name].as_str() == Some("true");
    let Some(raft_id) = number("raft_id").filter(|_| response.status == 200) else {
        return Seen::Silent(format!("answers {}, but not like a huskv node", response.status));
    };
    if let Some(list) = data["forming"].as_array() {
        let list = list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect();
        // A node that waits has no other member than itself.
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let row = &data["members"][0];
        let (raft_address, http_address) = (text(&row["raft_address"]), text(&row["http_address"]));
        return Seen::Waiting {
            raft_id,
            list,
            card: Card { name: text(&data["node_id"]), raft_address, http_address },
        };
    }
    if says("removed") {
        return Seen::Removed;
    }
    if says("joining") { Seen::Joining { raft_id } } else { Seen::Member { raft_id } }
}

/// What two nodes that wait have in common and must not, each with whether this node is one of them.
fn clashes(own: u64, seen: &[(String, Seen)]) -> Vec<(bool, String)> {
    let waiting = seen.iter().filter_map(|(address, seen)| match seen {
        Seen::Waiting { raft_id, card, .. } => Some((address, *raft_id, card)),
        _ => None,
    });
    let waiting: Vec<_> = waiting.collect();
    let mut found = Vec::new();
    for (place, (address, raft_id, card)) in waiting.iter().enumerate() {
        // Two addresses may lead to one node.
        for (other_address, other_id, other) in waiting[place + 1..].iter().filter(|(_, other, _)| other != raft_id) {
            let mut clash = |same: &str, others: &str, why: &str| {
                if !same.is_empty() && same == others {
                    let mine = [*raft_id, *other_id].contains(&own);
                    found.push((mine, format!("{address} and {other_address} {why}")));
                }
            };
            let (name, raft, http) = (&card.name, &card.raft_address, &card.http_address);
            clash(
                name,
                &other.name,
                &format!("are both called {name}: give each a RAFT_NODE_ID and a RAFT_VOL_DIR of its own"),
            );
            clash(
                raft,
                &other.raft_address,
                &format!(
                    "both tell their peers to dial {raft}: give each its own HUSKV_ADVERTISE_HOST, RAFT_PORT or \
                     HUSKV_ADVERTISE_PORT"
                ),
            );
            clash(
                http,
                &other.http_address,
                &format!(
                    "both tell their clients to find them at {http}: give each its own HUSKV_ADVERTISE_HOST, SERVER_PORT \
                     or HUSKV_SERVER_ADVERTISE_PORT"
                ),
            );
        }
    }
    found
}

/// The rule. `own` is this node's raft id; `pristine` says that no cluster has taken it yet.
fn decide(own: u64, pristine: bool, list: &BTreeSet<String>, seen: &[(String, Seen)]) -> Step {
    let mut ask = Vec::new();
    let mut reasons = Vec::new();
    let mut here = None;
    // Between two looks a cluster may have taken this node; its own answer is the later word.
    let mut waits = pristine;
    for (address, seen) in seen {
        match seen {
            Seen::Silent(why) => reasons.push(format!("{address} is missing ({why})")),
            Seen::Waiting { raft_id, .. } if *raft_id == own => here = here.or(Some(address)),
            Seen::Joining { raft_id } | Seen::Member { raft_id } if *raft_id == own => {
                here = here.or(Some(address));
                waits = false;
            }
            Seen::Waiting { list: other, .. } if other != list => {
                let other: Vec<&str> = other.iter().map(String::as_str).collect();
                reasons.push(format!("{address} has another list ({})", other.join(",")));
            }
            Seen::Waiting { .. } => {}
            Seen::Joining { .. } => reasons.push(format!("{address} is being taken by a cluster")),
            Seen::Removed => reasons.push(format!("{address} was removed from its cluster")),
            Seen::Member { .. } => ask.push(address.clone()),
        }
    }
    let clashes = clashes(own, seen);
    let mine = clashes.iter().any(|(mine, _)| *mine);
    reasons.extend(clashes.into_iter().map(|(_, why)| why));
    // Whoever dials an address that two nodes have may reach the other one.
    if mine {
        return Step::Wait(reasons);
    }
    if !ask.is_empty() {
        return Step::Ask(ask);
    }
    let Some(here) = here else {
        reasons.push("no address of this node's own list is this node".into());
        return Step::Wait(reasons);
    };
    if !reasons.is_empty() {
        return Step::Wait(reasons);
    }
    if waits && list.first() == Some(here) {
        return Step::Begin;
    }
    let first = list.first().map_or("nobody", String::as_str);
    Step::Wait(vec![if waits {
        format!("all are there, {first} is the first and is to begin")
    } else {
        "the cluster that takes this node is not heard from".into()
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[&str]) -> BTreeSet<String> {
        addresses.iter().map(|&address| address.to_owned()).collect()
    }

    fn waiting(raft_id: u64, list: &[&str]) -> Seen {
        let card = Card {
            name: format!("n{raft_id}"),
            raft_address: format!("raft:{raft_id}"),
            http_address: format!("http:{raft_id}"),
        };
        Seen::Waiting { raft_id, list: set(list), card }
    }

    fn round(seen: &[(&str, Seen)]) -> Vec<(String, Seen)> {
        seen.iter().map(|(address, seen)| ((*address).to_owned(), seen.clone())).collect()
    }

    fn why(step: &Step) -> String {
        match step {
            Step::Wait(reasons) => reasons.join("; "),
            other => format!("{other:?}"),
        }
    }

    const ALL: &[&str] = &["a:1", "b:1"];

    #[test]
    fn the_first_begins_and_only_when_all_wait_with_one_list() {
        let both = round(&[("a:1", waiting(7, ALL)), ("b:1", waiting(8, ALL))]);
        assert_eq!(decide(7, true, &set(ALL), &both), Step::Begin);
        assert!(matches!(decide(8, true, &set(ALL), &both), Step::Wait(_)));

        let missing = round(&[("a:1", waiting(7, ALL)), ("b:1", Seen::Silent("refused".into()))]);
        assert_eq!(why(&decide(7, true, &set(ALL), &missing)), "b:1 is missing (refused)");

        let other = round(&[("a:1", waiting(7, ALL)), ("b:1", waiting(8, &["b:1", "c:1"]))]);
        assert_eq!(why(&decide(7, true, &set(ALL), &other)), "b:1 has another list (b:1,c:1)");
    }

    #[test]
    fn a_wiped_first_node_asks_the_others_instead_of_beginning() {
        let seen = round(&[("a:1", waiting(9, ALL)), ("b:1", Seen::Member { raft_id: 8 })]);
        assert_eq!(decide(9, true, &set(ALL), &seen), Step::Ask(vec!["b:1".into()]));
        let gone = round(&[("a:1", waiting(9, ALL)), ("b:1", Seen::Removed)]);
        assert!(matches!(decide(9, true, &set(ALL), &gone), Step::Wait(_)));
    }

    #[test]
    fn a_node_that_is_missing_from_its_own_list_says_so_but_may_still_be_taken() {
        let seen = round(&[("a:1", waiting(7, ALL)), ("b:1", waiting(8, ALL))]);
        assert!(why(&decide(9, true, &set(ALL), &seen)).contains("own list"));
        let seen = round(&[("a:1", Seen::Member { raft_id: 7 }), ("b:1", waiting(8, ALL))]);
        assert_eq!(decide(9, true, &set(ALL), &seen), Step::Ask(vec!["a:1".into()]));
    }

    #[test]
    fn a_node_that_is_being_taken_goes_on_asking_and_never_begins() {
        let alone = round(&[("a:1", Seen::Joining { raft_id: 7 }), ("b:1", waiting(8, ALL))]);
        assert!(matches!(decide(7, false, &set(ALL), &alone), Step::Wait(_)));
        let seen = round(&[("a:1", Seen::Joining { raft_id: 7 }), ("b:1", Seen::Member { raft_id: 8 })]);
        assert_eq!(decide(7, false, &set(ALL), &seen), Step::Ask(vec!["b:1".into()]));
        let itself = round(&[("a:1", Seen::Member { raft_id: 7 }), ("b:1", waiting(8, ALL))]);
        assert!(matches!(decide(7, true, &set(ALL), &itself), Step::Wait(_)));
    }

    #[test]
    fn two_addresses_of_one_node_do_not_hide_that_it_is_the_first() {
        let list = &["127.0.0.1:1", "b:1", "localhost:1"];
        let seen =
            round(&[("127.0.0.1:1", waiting(7, list)), ("b:1", waiting(8, list)), ("localhost:1", waiting(7, list))]);
        assert_eq!(decide(7, true, &set(list), &seen), Step::Begin);
    }

    #[test]
    fn nobody_begins_while_two_share_a_name_or_an_address() {
        let all = &["a:1", "b:1", "c:1"];
        let with = |change: fn(&mut Card)| {
            let mut seen = round(&[("a:1", waiting(7, all)), ("b:1", waiting(8, all)), ("c:1", waiting(9, all))]);
            for (_, seen) in &mut seen[1..] {
                if let Seen::Waiting { card, .. } = seen {
                    change(card);
                }
            }
            seen
        };
        assert_eq!(decide(7, true, &set(all), &with(|_| {})), Step::Begin);
        type Change = fn(&mut Card);
        let table: [(Change, &str); 3] = [
            (|card| card.name = "same".into(), "RAFT_NODE_ID"),
            (|card| card.raft_address = "same:1".into(), "HUSKV_ADVERTISE_HOST, RAFT_PORT or HUSKV_ADVERTISE_PORT"),
            (|card| card.http_address = "same:1".into(), "SERVER_PORT"),
        ];
        for (change, setting) in table {
            for own in 7..10 {
                let why = why(&decide(own, true, &set(all), &with(change)));
                assert!(why.contains("b:1 and c:1") && why.contains(setting) && why.contains("same"), "{own}: {why}");
            }
            // A cluster that is there already takes the one that shares nothing.
            let mut seen = with(change);
            seen.push(("d:1".into(), Seen::Member { raft_id: 4 }));
            assert_eq!(decide(7, true, &set(all), &seen), Step::Ask(vec!["d:1".into()]));
            assert!(matches!(decide(8, true, &set(all), &seen), Step::Wait(_)));
        }
    }

    #[test]
    fn stats_are_understood_and_anything_else_is_silence() {
        let answer = |status, data: Value| read(&Response { status, body: json!({ "data": data }) });
        let members = json!([{ "raft_id": 7, "raft_address": "raft:7", "http_address": "http:7" }]);
        let waits = json!({ "node_id": "n7", "raft_id": 7, "forming": ["a:1", "b:1"], "members": members });
        assert_eq!(answer(200, waits), waiting(7, ALL));
        let old = Seen::Waiting { raft_id: 7, list: set(ALL), card: Card::default() };
        assert_eq!(answer(200, json!({ "raft_id": 7, "forming": ["a:1", "b:1"] })), old);
        assert_eq!(
            answer(200, json!({ "raft_id": "7", "forming": null, "joining": true })),
            Seen::Joining { raft_id: 7 }
        );
        assert_eq!(answer(200, json!({ "raft_id": 7, "joining": false })), Seen::Member { raft_id: 7 });
        assert_eq!(answer(200, json!({ "raft_id": 7, "removed": true })), Seen::Removed);
        assert!(matches!(answer(200, json!({ "colour": 7 })), Seen::Silent(_)));
        assert!(matches!(answer(404, json!({ "raft_id": 7 })), Seen::Silent(_)));
        assert!(matches!(read(&Response { status: 200, body: Value::Null }), Seen::Silent(_)));
    }
}
