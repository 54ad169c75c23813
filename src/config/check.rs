//! What a setting may look like, and which settings must fit each other.
//!
//! Why: a wrong setting must be named before anything is created or bound, not discovered by a node that cannot be
//! reached an hour later.
//!
//! Laws: pure functions of the text; nothing is resolved or opened.
//!
//! Not here: which source a value came from; [`crate::config`] adds that to the message.

use std::net::Ipv6Addr;

use super::Config;
pub(super) use crate::model::is_unspecified;
use crate::model::{check_address, check_dialable, check_host, check_name};

/// The most addresses that `join` may list.
const JOIN_ENTRIES: usize = 64;
/// What a body needs besides key and value: `{"key":"","value":}` and some air.
const BODY_ROOM: u64 = 64;

/// An IPv6 address without the brackets that people put around it; anything else as it is.
pub(super) fn bare(host: &str) -> String {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).to_owned()
}

/// A host as it stands before a `:port`: an IPv6 address gets its brackets.
pub(super) fn bracketed(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

fn no_scheme_or_path(text: &str) -> Result<(), String> {
    if text.contains("://") {
        return Err(format!("{text:?} has a scheme; give the bare address"));
    }
    if text.contains('/') {
        return Err(format!("{text:?} has a path; give the bare address"));
    }
    Ok(())
}

/// A name or an IP address, nothing else.
pub(super) fn host(text: &str) -> Result<(), String> {
    no_scheme_or_path(text)?;
    if bare(text).parse::<Ipv6Addr>().is_ok() {
        return Ok(());
    }
    if text.contains(':') {
        return Err(format!("{text:?} is not a host; the port is a setting of its own"));
    }
    check_host(text).map_err(|reason| format!("{text:?} is not a host: {reason}"))
}

/// A host that other nodes can dial.
pub(super) fn advertised(text: &str) -> Result<(), String> {
    host(text)?;
    check_dialable(text).map_err(|reason| format!("{text:?} cannot be dialled by other nodes: {reason}"))
}

/// `host:port` with a port that can be dialled.
pub(super) fn address(text: &str) -> Result<(), String> {
    check_address(text).map_err(|reason| format!("{text:?} is not host:port: {reason}"))
}

/// A node's name.
pub(super) fn name(text: &str) -> Result<(), String> {
    check_name(text).map_err(|reason| format!("{text:?} is not a name: {reason}"))
}

/// A path that the system can open.
pub(super) fn directory(text: &str) -> Result<(), String> {
    if text.contains('\0') { Err(format!("{text:?} is not a path")) } else { Ok(()) }
}

/// A browser's origin.
pub(super) fn origin(text: &str) -> Result<(), String> {
    let wrong = || format!("{text:?} is not an origin such as https://ui.example.org");
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or_else(wrong)?;
    let with_port = rest.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    if with_port { address(rest) } else { host(rest) }.map_err(|_| wrong())
}

/// A host that requests may be for, without its port, or `*`.
pub(super) fn allowed_host(text: &str) -> Result<(), String> {
    if text == "*" { Ok(()) } else { host(text) }
}

/// A log level.
pub(super) fn level(text: &str) -> Result<(), String> {
    match text.to_lowercase().as_str() {
        "critical" | "error" | "warning" | "warn" | "info" | "debug" | "trace" => Ok(()),
        _ => Err(format!("{text:?} is none of critical, error, warning, info, debug, trace")),
    }
}

/// A log format.
pub(super) fn format(text: &str) -> Result<(), String> {
    match text.to_lowercase().as_str() {
        "terminal" | "json" => Ok(()),
        _ => Err(format!("{text:?} is neither terminal nor json")),
    }
}

/// What is wrong between two settings: the key to blame, the other one, and why.
pub(super) fn together(config: &Config) -> Option<(&'static str, Option<&'static str>, String)> {
    let limits = &config.limits;
    let raft = &config.raft;
    let wrong = |key, other, why: String| Some((key, other, why));
    if config.server.port != 0 && config.server.port == raft.port {
        return wrong("server.port", Some("raft.port"), format!("SERVER_PORT and RAFT_PORT are both {}", raft.port));
    }
    if raft.advertise_port != 0 && config.server.advertise_port == raft.advertise_port {
        let why = format!("HUSKV_ADVERTISE_PORT and server.advertise_port are both {}", raft.advertise_port);
        return wrong("raft.advertise_port", Some("server.advertise_port"), why);
    }
    if config.advertise_host.is_empty() && is_unspecified(&config.host) {
        let why =
            format!("with host {} HUSKV_ADVERTISE_HOST is required: say what other nodes shall dial", config.host);
        return wrong("advertise_host", Some("host"), why);
    }
    if config.join.len() > JOIN_ENTRIES {
        return wrong("join", None, format!("more than {JOIN_ENTRIES} addresses"));
    }
    if raft.election_ticks < 2 * raft.heartbeat_ticks {
        let why = format!(
            "{} election ticks are less than twice {} heartbeat ticks",
            raft.election_ticks, raft.heartbeat_ticks
        );
        return wrong("raft.election_ticks", Some("raft.heartbeat_ticks"), why);
    }
    let needed = limits.key_bytes + limits.value_bytes + BODY_ROOM;
    if limits.body_bytes < needed {
        let why =
            format!("a body of {} bytes cannot hold the longest key and value, {needed} bytes", limits.body_bytes);
        return wrong("limits.body_bytes", Some("limits.value_bytes"), why);
    }
    None
}

/// A whole number from `min` to `max`.
pub(super) fn number(text: &str, min: u64, max: u64) -> Result<u64, String> {
    // The standard parser takes a leading plus; a setting does not.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(value) if digits && (min..=max).contains(&value) => Ok(value),
        _ => Err(format!("{text:?} is not a whole number from {min} to {max}")),
    }
}

/// `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["127.0.0.1", "::1", "[::1]", "0.0.0.0", "localhost", "huskv_node-1.example.org", "a1"] {
            assert_eq!(host(good), Ok(()), "{good}");
        }
        for bad in ["http://a", "a/b", "a:1", "a..b", "1.2.3", "256.1.1.1", "a b", "[::1", &"a".repeat(254)] {
            assert!(host(bad).is_err(), "{bad}");
        }
        assert!(advertised("0.0.0.0").is_err() && advertised("[::]").is_err() && advertised("::ffff:0.0.0.0").is_err());
    }

    #[test]
    fn addresses() {
        for good in ["localhost:1", "node_1:2221", "[::1]:65535", "10.0.0.1:80"] {
            assert_eq!(address(good), Ok(()), "{good}");
        }
        for bad in ["a", "a:", "a:0", "a:65536", "a:+1", "::1:22", "[::1]", "http://a:1", "a:1/b", ":1", "0.0.0.0:1"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_origins() {
        for good in ["node1", "node_2", "a.b-c"] {
            assert_eq!(name(good), Ok(()), "{good}");
        }
        for bad in ["..", ".", "a b", "a/b", &"a".repeat(65), "\u{e9}"] {
            assert!(name(bad).is_err(), "{bad}");
        }
        for good in ["https://a.b", "http://localhost:3000", "http://[::1]:80", "http://[::1]"] {
            assert_eq!(origin(good), Ok(()), "{good}");
        }
        for bad in ["*", "null", "a.b", "https://a.b/", "https://a:b", "ftp://a"] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
