//! Parsers of single settings, and the checks between settings.
//!
//! Why: a wrong setting must be refused before anything is created or bound, not discovered an hour later on a node that no
//! peer can reach.
//!
//! Invariants: pure functions of the text; nothing is resolved or opened. An error repeats the text.
//!
//! See also: [`crate::config`], which adds the source of the value to the error.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use super::Config;
pub(super) use crate::model::is_unspecified;
use crate::model::{NodeAddress, NodeName, check_dialable, check_host};

/// The maximum number of addresses in `join`.
const MAX_JOIN_ADDRESSES: usize = 64;
/// What a body needs besides key and value: `{"key":"","value":}` and white space.
const BODY_OVERHEAD: u64 = 64;
/// The length of the prefix before an IPv4 address in IPv6, in bits.
const IPV4_IN_IPV6_BITS: u8 = 96;

/// Removes the brackets of an IPv6 address.
fn bare(host: &str) -> String {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).to_owned()
}

/// Formats a host for `host:port`: an IPv6 address gets brackets.
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

/// Applies `parse` to each element of a list.
pub(super) fn each<T>(items: &[String], parse: fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    items.iter().map(|item| parse(item)).collect()
}

/// Parses a host name or an IP address; IPv6 with or without brackets, which are removed.
pub(super) fn host(text: &str) -> Result<String, String> {
    no_scheme_or_path(text)?;
    // `::1` is a host though it has colons; `a:1` has a port.
    if bare(text).parse::<Ipv6Addr>().is_ok() {
        return Ok(bare(text));
    }
    if text.contains(':') {
        return Err(format!("{text:?} is not a host; the port is a setting of its own"));
    }
    check_host(text).map(|()| text.to_owned()).map_err(|reason| format!("{text:?} is not a host: {reason}"))
}

/// Parses a host that other nodes can dial.
pub(super) fn advertised(text: &str) -> Result<String, String> {
    let host = host(text)?;
    check_dialable(text).map(|()| host).map_err(|reason| format!("{text:?} cannot be dialled by other nodes: {reason}"))
}

/// Parses the `host:port` of a node.
///
/// # Errors
/// The reason, with the text.
pub fn parse_address(text: &str) -> Result<NodeAddress, String> {
    NodeAddress::from_str(text).map_err(|reason| format!("{text:?} is not host:port: {reason}"))
}

/// Parses the name of a node.
pub(super) fn name(text: &str) -> Result<NodeName, String> {
    NodeName::from_str(text).map_err(|reason| format!("{text:?} is not a name: {reason}"))
}

/// Parses a path.
pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') { Err(format!("{text:?} is not a path")) } else { Ok(text.into()) }
}

/// Parses the origin of a web page (RFC 6454), in lower case.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not an origin such as https://ui.example.org");
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or_else(wrong)?;
    // The last colon begins a port, unless it is part of an IPv6 address: `http://[::1]` has none.
    let with_port = rest.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let checked = if with_port { parse_address(rest).map(drop) } else { host(rest).map(drop) };
    checked.map(|()| text.to_lowercase()).map_err(|_| wrong())
}

/// Parses a host that requests may be for, without a port, or `*`; in lower case.
pub(super) fn allowed_host(text: &str) -> Result<String, String> {
    if text != "*" {
        host(text)?;
    }
    Ok(text.to_lowercase())
}

/// Parses an IP address, or a network such as `10.0.0.0/8`. IPv4 in IPv6 (`::ffff:10.0.0.1`) becomes IPv4, as addresses of clients do.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let wrong = || format!("{text:?} is neither an IP address nor a network such as 10.0.0.0/8");
    let network: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().map_err(|_| wrong())?,
    };
    if network != network.trunc() {
        return Err(format!("{text:?} has bits set beyond its prefix; write {}", network.trunc()));
    }
    let network = match network {
        IpNet::V6(whole) => whole
            .prefix_len()
            .checked_sub(IPV4_IN_IPV6_BITS)
            .and_then(|prefix| Ipv4Net::new(whole.addr().to_ipv4_mapped()?, prefix).ok())
            .map_or(network, IpNet::V4),
        IpNet::V4(_) => network,
    };
    if network.prefix_len() == 0 {
        return Err(format!("{text:?} would let every client name its own address; list the proxies"));
    }
    Ok(network)
}

/// Parses a log level, in lower case.
pub(super) fn level(text: &str) -> Result<String, String> {
    match text.to_lowercase() {
        level if ["critical", "error", "warning", "warn", "info", "debug", "trace"].contains(&level.as_str()) => {
            Ok(level)
        }
        _ => Err(format!("{text:?} is none of critical, error, warning, info, debug, trace")),
    }
}

/// Parses a log format, in lower case.
pub(super) fn format(text: &str) -> Result<String, String> {
    match text.to_lowercase() {
        format if ["terminal", "json"].contains(&format.as_str()) => Ok(format),
        _ => Err(format!("{text:?} is neither terminal nor json")),
    }
}

/// Finds settings that contradict each other: the key to name, the other one, and the reason.
pub(super) fn together(config: &Config) -> Option<(&'static str, Option<&'static str>, String)> {
    let limits = &config.limits;
    let raft = &config.raft;
    let wrong = |key, other, why: String| Some((key, other, why));
    // Port 0 is picked by the system, which does not pick one port twice.
    if config.server.port != 0 && config.server.port == raft.port {
        return wrong("server.port", Some("raft.port"), format!("SERVER_PORT and RAFT_PORT are both {}", raft.port));
    }
    let metrics_port = config.http.metrics_port;
    for (key, port) in [("server.port", config.server.port), ("raft.port", raft.port)] {
        if metrics_port != 0 && metrics_port == port {
            return wrong("http.metrics_port", Some(key), format!("both are {port}"));
        }
    }
    if raft.advertise_port != 0 && config.server.advertise_port == raft.advertise_port {
        let why = format!("HUSKV_ADVERTISE_PORT and server.advertise_port are both {}", raft.advertise_port);
        return wrong("raft.advertise_port", Some("server.advertise_port"), why);
    }
    if config.advertise_host.is_empty() && is_unspecified(&config.host) {
        let why = format!("with host {} HUSKV_ADVERTISE_HOST is required: the host that other nodes dial", config.host);
        return wrong("advertise_host", Some("host"), why);
    }
    if config.advertise_host.is_empty() && is_unspecified(&raft.host) {
        let why =
            format!("with raft.host {} HUSKV_ADVERTISE_HOST is required: the host that other nodes dial", raft.host);
        return wrong("advertise_host", Some("raft.host"), why);
    }
    if config.join.len() > MAX_JOIN_ADDRESSES {
        return wrong("join", None, format!("more than {MAX_JOIN_ADDRESSES} addresses"));
    }
    // One lost heartbeat must not cause an election.
    if raft.election_ticks < 2 * raft.heartbeat_ticks {
        let why = format!(
            "{} election ticks are less than twice {} heartbeat ticks",
            raft.election_ticks, raft.heartbeat_ticks
        );
        return wrong("raft.election_ticks", Some("raft.heartbeat_ticks"), why);
    }
    let needed = limits.key_bytes + limits.value_bytes + BODY_OVERHEAD;
    if limits.body_bytes < needed {
        let why =
            format!("a body of {} bytes cannot hold the longest key and value, {needed} bytes", limits.body_bytes);
        return wrong("limits.body_bytes", Some("limits.value_bytes"), why);
    }
    config.tls.contradiction()
}

/// Parses a whole number from `min` to `max`.
pub(super) fn number(text: &str, min: u64, max: u64) -> Result<u64, String> {
    // The standard parser accepts a leading plus.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(value) if digits && (min..=max).contains(&value) => Ok(value),
        _ => Err(format!("{text:?} is not a whole number from {min} to {max}")),
    }
}

/// Parses `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["127.0.0.1", "::1", "[::1]", "0.0.0.0", "localhost", "huskv_node-1.example.org", "a1"] {
            assert_eq!(host(good), Ok(good.trim_matches(['[', ']']).to_owned()), "{good}");
        }
        for bad in ["http://a", "a/b", "a:1", "a..b", "1.2.3", "256.1.1.1", "a b", "[::1", &"a".repeat(254)] {
            assert!(host(bad).is_err(), "{bad}");
        }
        assert!(advertised("0.0.0.0").is_err() && advertised("[::]").is_err() && advertised("::ffff:0.0.0.0").is_err());
    }

    #[test]
    fn addresses() {
        for good in ["localhost:1", "node_1:2221", "[::1]:65535", "10.0.0.1:80"] {
            assert_eq!(parse_address(good).unwrap().to_string(), good);
        }
        for bad in ["a", "a:", "a:0", "a:65536", "a:+1", "::1:22", "[::1]", "http://a:1", "a:1/b", ":1", "0.0.0.0:1"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks() {
        for (text, parsed) in [
            ("10.0.0.1", "10.0.0.1/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("fd00::/8", "fd00::/8"),
            ("::1", "::1/128"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ] {
            assert_eq!(network(text).map(|network| network.to_string()), Ok(parsed.to_owned()), "{text}");
        }
        for bad in [
            "",
            "proxy",
            "10.0.0",
            "10.0.0.0/33",
            "10.0.0.1:80",
            "10.0.0.0/",
            "[::1]",
            "0.0.0.0/0",
            "::/0",
            "::ffff:0.0.0.0/96",
        ] {
            assert!(network(bad).is_err(), "{bad}");
        }
        assert!(network("10.0.0.1/8").unwrap_err().ends_with("write 10.0.0.0/8"));
    }

    #[test]
    fn names_and_origins() {
        for good in ["node1", "node_2", "a.b-c"] {
            assert_eq!(name(good).unwrap().to_string(), good);
        }
        for bad in ["..", ".", "a b", "a/b", &"a".repeat(65), "\u{e9}"] {
            assert!(name(bad).is_err(), "{bad}");
        }
        for good in ["https://a.b", "http://localhost:3000", "http://[::1]:80", "http://[::1]"] {
            assert_eq!(origin(good).unwrap(), good);
        }
        for bad in ["*", "null", "a.b", "https://a.b/", "https://a:b", "ftp://a"] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
