//! Node names and node addresses: one type and one parser each.
//!
//! Why: both come from operators, over HTTP, and from peers before they are authenticated. They end up in the member table, in
//! logs and in dials, so all of these accept the same syntax.
//!
//! Invariants: pure functions of the text; no name is resolved. Error messages never repeat the input.
//!
//! See also: `transport::handshake::dial` (name resolution).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::str::FromStr;

/// The maximum node name, in bytes.
pub const NAME_BYTES: usize = 64;
/// The maximum host name, in bytes, as in DNS.
const HOST_BYTES: usize = 253;
/// The maximum label of a host name, in bytes, as in DNS.
const LABEL_BYTES: usize = 63;
/// The maximum `host:port`, in bytes.
pub const ADDRESS_BYTES: usize = HOST_BYTES + 6;

/// The name of a node: 1 to [`NAME_BYTES`] of `A-Z a-z 0-9 . _ -`, not dots alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

impl FromStr for NodeName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, &'static str> {
        check_name(name).map(|()| Self(name.to_owned()))
    }
}

impl Deref for NodeName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The address of a node, `host:port`, as another node can dial it.
///
/// Examples: `node1:1111`, `10.0.0.1:1111`, `[::1]:1111`. Not `0.0.0.0:1111` (a bind address), not `node1` (no port), not
/// `http://node1:1111` (a URL).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress(String);

impl FromStr for NodeAddress {
    type Err = &'static str;

    fn from_str(address: &str) -> Result<Self, &'static str> {
        check_address(address).map(|()| Self(address.to_owned()))
    }
}

impl Deref for NodeAddress {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks the syntax of a node name; the parser of [`NodeName`].
///
/// # Errors
/// The syntax, as a message.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(plain) {
        return Err("a name is 1 to 64 of A-Z a-z 0-9 . _ -");
    }
    // The default data directory is `data/NAME`, and `..` would leave it.
    if name.bytes().all(|byte| byte == b'.') {
        return Err("dots alone are no name: they would be a directory of their own meaning");
    }
    Ok(())
}

/// Checks the host of an address: a host name (underscores are common in container
/// networks), an IPv4 address, or an IPv6 address in brackets.
///
/// # Errors
/// The reason, as a message.
pub fn check_host(host: &str) -> Result<(), &'static str> {
    if host.is_empty() {
        return Err("the host is missing");
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().map(drop).map_err(|_| "what is in brackets is no IPv6 address");
    }
    if host.contains(':') {
        return Err("an IPv6 address goes in brackets, as in [::1]:1111");
    }
    // `10.0.1` and `0x7f.1` are hosts to DNS but addresses to resolvers; only the plain dotted form is accepted.
    if is_numeric(host.rsplit('.').next().unwrap_or(host)) {
        return host.parse::<Ipv4Addr>().map(drop).map_err(|_| "the host is no IPv4 address");
    }
    let label = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !part.is_empty() && part.len() <= LABEL_BYTES && part.bytes().all(plain) && part.trim_matches('-') == part
    };
    if host.len() > HOST_BYTES || !host.split('.').all(label) {
        return Err("the host is neither an IP address nor a host name");
    }
    Ok(())
}

/// Whether resolvers parse a host with this last label as an IPv4 address in one of its old forms (`127.1`, `0x7f000001`).
fn is_numeric(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        || !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit())
}

/// Checks that another node can dial `host`: it is no unspecified, multicast or broadcast address. IPv6 with or without
/// brackets.
///
/// # Errors
/// The reason, as a message.
pub fn check_dialable(host: &str) -> Result<(), &'static str> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let Ok(address) = bare.parse::<IpAddr>() else { return Ok(()) };
    // Canonical first: `::ffff:0.0.0.0` is 0.0.0.0.
    match address.to_canonical() {
        address if address.is_unspecified() => {
            Err("the host stands for every address of a machine, which no other node can dial")
        }
        address if address.is_multicast() => Err("the host is a multicast address, which no node can dial"),
        IpAddr::V4(address) if address.is_broadcast() => {
            Err("the host is the broadcast address, which no node can dial")
        }
        IpAddr::V4(address) if address.octets()[0] == 0 => Err("the host is of the network 0, which no node can dial"),
        _ => Ok(()),
    }
}

/// Whether `host` is an unspecified address (`0.0.0.0`, `::`), which can be bound but not dialled. IPv6 with or without
/// brackets.
#[must_use]
pub fn is_unspecified(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_unspecified())
}

/// Checks that `address` is a `host:port` that other nodes can dial; the parser of [`NodeAddress`].
///
/// # Errors
/// The reason, as a message.
pub fn check_address(address: &str) -> Result<(), &'static str> {
    if address.contains("://") {
        return Err("leave the scheme away");
    }
    if address.contains('/') {
        return Err("leave the path away");
    }
    if address.ends_with(']') {
        return Err("the port is missing");
    }
    // The last colon: an IPv6 host has more, inside of its brackets.
    let (host, port) = address.rsplit_once(':').ok_or("the port is missing")?;
    check_host(host)?;
    check_dialable(host)?;
    match port.parse::<u16>() {
        // The standard parser accepts `+1`.
        Ok(1..) if port.bytes().all(|byte| byte.is_ascii_digit()) => Ok(()),
        _ => Err("the port is no number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port_and_nothing_else() {
        let long = format!("{}:65535", vec!["abc"; 63].join("."));
        for good in ["localhost:1111", "10.0.0.1:1", "[::1]:1111", "[fd00::2]:80", "node_2.example:65535", "h:1", &long]
        {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        let longer = format!("{}:1", "h".repeat(254));
        for bad in [
            "",
            "h",
            ":1",
            "h:",
            "h:0",
            "h:65536",
            "h:+1",
            "h:1 ",
            "h:x",
            "http://h:1",
            "h:1/",
            "h/:1",
            "::1:80",
            "[::1]",
            "[h]:1",
            "[::1:1",
            "a b:1",
            "u@h:1",
            "a..b:1",
            ".:1",
            "1.2.3:1",
            "256.1.1.1:1",
            "h\n:1",
            "h\x1b[1m:1",
            "h\u{202e}:1",
            "\u{e9}:1",
            "0.0.0.0:1",
            "[::]:1",
            "[::ffff:0.0.0.0]:1",
            "0.0.0.7:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "[ff02::1]:1",
            "[::ffff:239.1.1.1]:1",
            "-a:1",
            "a.b-:1",
            "a.:1",
            "a.0x7f:1",
            "0x0:1",
            "h.1:1",
            &format!("{}:1", "h".repeat(64)),
            &longer,
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_short_and_plain() {
        for good in ["node1", "node_2", "a.b-c", "..a", &"a".repeat(NAME_BYTES)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "a\n", "a\x1b[31m", "\u{e9}", &"a".repeat(NAME_BYTES + 1)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
