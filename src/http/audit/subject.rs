//! What a line of the audit file is about: its route, its event, and the keys or the member that it names.
//!
//! Invariants: a template of a route has no text of a client. What a client sent is bounded, and may be malformed: a denied request was not
//! parsed.
//!
//! See also: the table of routes ([`crate::http::routes`]).

use percent_encoding::percent_decode_str;
use serde::Serialize;
use warp::http::Method;

use crate::model::Command;

/// The most bytes of a key that a line has.
const KEY_BYTES: usize = 256;
/// The most keys of a transaction that a line has.
const TXN_KEYS: usize = 16;
/// What ends a text that was shortened.
const SHORTENED: &str = "...";

/// What a request is about. An empty list of keys is unknown.
#[derive(Debug, Default, Serialize)]
pub(super) struct Subject {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prefix: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) keys: Vec<String>,
    /// The number of keys of a transaction, of which `keys` are the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) keys_total: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) member: Option<String>,
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Write,
    Membership,
    Reload,
    Denial,
}

impl Event {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Membership => "membership",
            Self::Reload => "reload",
            Self::Denial => "denial",
        }
    }
}

/// The template of the route of a path, and the rest of the path where the route has one.
pub(super) fn route(path: &str) -> Option<(&'static str, &str)> {
    let (first, rest) = path.strip_prefix('/')?.split_once('/').unwrap_or((path.get(1..)?, ""));
    // One trailing slash belongs to the route.
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    Some(match (first, rest) {
        ("store", "") => ("/store", ""),
        ("store", key) => ("/store/:key", key),
        ("touch", key) => ("/touch/:key", key),
        ("keys", key) => ("/keys/:key", key),
        ("kv", key) => ("/kv/:key", key),
        ("txn", "") => ("/txn", ""),
        ("watch", "") => ("/watch", ""),
        ("raft", "join") => ("/raft/join", ""),
        ("raft", "remove") => ("/raft/remove", ""),
        ("raft", "transfer") => ("/raft/transfer", ""),
        ("raft", "snapshot") => ("/raft/snapshot", ""),
        ("raft", "stats") => ("/raft/stats", ""),
        ("admin", "reload") => ("/admin/reload", ""),
        ("health", "") => ("/health", ""),
        ("readyz", "") => ("/readyz", ""),
        ("readyz", _) => ("/readyz/:check", ""),
        ("version", "") => ("/version", ""),
        ("livez", "") => ("/livez", ""),
        ("metrics", "") => ("/metrics", ""),
        ("events", "") => ("/events", ""),
        ("load", "") => ("/load", ""),
        ("cluster", "overview") => ("/cluster/overview", ""),
        ("ui", "") => ("/ui/", ""),
        ("ui", "app.js") => ("/ui/app.js", ""),
        ("ui", "app.css") => ("/ui/app.css", ""),
        ("cluster", "events") => ("/cluster/events", ""),
        ("openapi.json", "") => ("/openapi.json", ""),
        _ => return None,
    })
}

/// What a request to a route is, where it has a line whatever its answer is.
pub(super) fn event(method: &Method, route: &str) -> Option<Event> {
    let methods: &[Method] = match route {
        "/store" => &[Method::POST, Method::DELETE],
        "/store/:key" | "/kv/:key" => &[Method::PUT, Method::DELETE],
        "/txn" | "/touch/:key" | "/keys/:key" | "/raft/join" | "/raft/remove" | "/raft/transfer" | "/admin/reload" => {
            &[Method::POST]
        }
        _ => &[],
    };
    let event = match route {
        "/admin/reload" => Event::Reload,
        "/raft/join" | "/raft/remove" | "/raft/transfer" => Event::Membership,
        _ => Event::Write,
    };
    methods.contains(method).then_some(event)
}

impl Subject {
    pub(super) fn is_empty(&self) -> bool {
        self.key.is_none() && self.prefix.is_none() && self.keys_total.is_none() && self.member.is_none()
    }

    /// What the path and the query of a request name, which may be malformed.
    pub(super) fn of_uri(template: Option<&str>, rest: &str, query: &str) -> Self {
        let decoded = |raw: &str| shortened(&percent_decode_str(raw).decode_utf8_lossy());
        if !rest.is_empty() {
            return Self { key: Some(decoded(rest)), ..Self::default() };
        }
        let parameter = |name: &str| {
            let value = query.split('&').find_map(|part| part.split_once('=').filter(|(found, _)| *found == name));
            value.map(|(_, value)| decoded(&value.replace('+', " ")))
        };
        match template {
            Some("/store") => Self { prefix: parameter("prefix"), ..Self::default() },
            Some("/watch") => Self { key: parameter("key"), prefix: parameter("prefix"), ..Self::default() },
            _ => Self::default(),
        }
    }

    pub(super) fn of_command(command: &Command) -> Self {
        let text = |key: &[u8]| shortened(&String::from_utf8_lossy(key));
        match command {
            Command::Put { key, .. } | Command::Delete { key, .. } | Command::Touch { key, .. } => {
                Self { key: Some(text(key)), ..Self::default() }
            }
            Command::DeletePrefix { prefix } => Self { prefix: Some(text(prefix)), ..Self::default() },
            Command::Txn(txn) => {
                let operations = txn.then.iter().chain(&txn.otherwise).map(|operation| operation.key());
                let mut all: Vec<_> = txn.checks.iter().map(|check| &check.key).chain(operations).collect();
                all.sort_unstable();
                all.dedup();
                let keys = all.iter().take(TXN_KEYS).map(|key| text(key)).collect();
                Self { keys, keys_total: Some(all.len()), ..Self::default() }
            }
            // Only the leader itself proposes these.
            Command::Move { .. } | Command::Expire { .. } | Command::Tick => Self::default(),
        }
    }
}

/// Shortens a text to [`KEY_BYTES`], with a mark at its end.
pub(super) fn shortened(text: &str) -> String {
    if text.len() <= KEY_BYTES {
        return text.to_owned();
    }
    let mut end = KEY_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{SHORTENED}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Operation, Txn};
    use bytes::Bytes;
    use serde_json::{Value, json};

    #[test]
    fn every_operation_of_the_document_has_a_route_and_the_changes_an_event() {
        let document: Value = serde_json::from_str(include_str!("../api/openapi.json")).unwrap();
        // A snapshot changes no key and no member.
        let unrecorded = ["/raft/snapshot"];
        for (path, item) in document["paths"].as_object().unwrap() {
            let target = path.replace("{key}", "a%20b/c");
            let (template, rest) = route(&target).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(template.trim_end_matches('/'), path.replace('{', ":").replace('}', "").trim_end_matches('/'));
            assert_eq!(rest, if path.contains("{key}") { "a%20b/c" } else { "" });
            for method in item.as_object().unwrap().keys().filter(|name| *name != "parameters") {
                let is_change = method != "get" && method != "head" && !unrecorded.contains(&path.as_str());
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                assert_eq!(event(&method, template).is_some(), is_change, "{method} {path}");
            }
        }
        for path in ["", "/", "*", "/nowhere", "/raft", "/txn/x", "/raft/join/x"] {
            assert_eq!(route(path), None, "{path}");
        }
        assert_eq!(route("/store/"), Some(("/store", "")));
    }

    #[test]
    fn a_long_text_is_shortened_at_a_character() {
        assert_eq!(shortened(&"a".repeat(KEY_BYTES)).len(), KEY_BYTES);
        let long = shortened(&"\u{e9}".repeat(KEY_BYTES));
        assert_eq!((long.len(), long.ends_with("\u{e9}...")), (KEY_BYTES + SHORTENED.len(), true));
    }

    #[test]
    fn the_keys_of_a_transaction_are_named_once_and_bounded() {
        let get = |number: usize| Operation::Get { key: Bytes::from(format!("k{number:03}")) };
        let then: Vec<_> = (0..40).map(get).collect();
        let txn = Txn { checks: Vec::new(), otherwise: then.clone(), then };
        let subject = Subject::of_command(&Command::Txn(txn));
        assert_eq!((subject.keys.len(), subject.keys_total), (TXN_KEYS, Some(40)));
        assert_eq!(subject.keys[1], "k001");
    }

    #[test]
    fn a_malformed_path_or_query_still_names_its_key() {
        let of = |path: &str, query: &str| {
            let (template, rest) = route(path).unwrap();
            serde_json::to_value(Subject::of_uri(Some(template), rest, query)).unwrap()
        };
        assert_eq!(of("/store/a%2Fb%zz%ff", ""), json!({ "key": "a/b%zz\u{fffd}" }));
        assert_eq!(of("/store", "x=1&prefix=a%2F+b"), json!({ "prefix": "a/ b" }));
        assert_eq!(of("/watch", "key=a"), json!({ "key": "a" }));
        assert_eq!(of("/txn", "prefix=a"), json!({}));
    }
}
