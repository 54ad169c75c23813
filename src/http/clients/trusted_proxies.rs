//! Trusted proxies: whose `X-Forwarded-For` names the client.
//!
//! Why: behind a proxy every connection comes from the proxy, so one client could use up the limit of all. But a client writes
//! any header it likes, so only what a known proxy has appended says something.
//!
//! ```text
//!   trusted: 10.0.0.0/8        X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.0.0.2
//!   connection from 10.0.0.1   the client wrote 6.6.6.6, the first proxy appended 203.0.113.9, the second one 10.0.0.2
//!   -> 203.0.113.9             the last entry that is no trusted proxy
//! ```
//!
//! Invariants: entries are read from the last to the first, and none before the client's is looked at: a client can neither choose
//! its address nor hide by a malformed entry. Where an entry that is looked at is malformed, the header is ignored and the address of
//! the connection counts. `Forwarded` (RFC 7239) is never read.

use std::net::{IpAddr, SocketAddr};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use warp::http::header::{HeaderMap, HeaderName};

/// The header to which each proxy appends the address that it was connected from.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The networks of the trusted proxies, which can be replaced while the node runs.
#[derive(Debug, Default)]
pub struct TrustedProxies(ArcSwap<Vec<IpNet>>);

impl TrustedProxies {
    /// The proxies in these networks; none of them of IPv4 in IPv6.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(ArcSwap::from_pointee(networks))
    }

    /// Replaces the networks, for all requests whose head arrives later.
    pub fn set(&self, networks: Vec<IpNet>) {
        self.0.store(networks.into());
    }

    /// Returns the address of the client of a request on a connection from `connection`.
    pub(crate) fn client_address(&self, connection: IpAddr, headers: &HeaderMap) -> IpAddr {
        let networks = self.0.load();
        let is_trusted = |address: IpAddr| networks.iter().any(|network| network.contains(&address));
        let connection = connection.to_canonical();
        if !is_trusted(connection) {
            return connection;
        }
        let mut client = connection;
        // Several headers of one name are one list, in their order (RFC 9110, 5.3).
        let values = headers.get_all(X_FORWARDED_FOR).iter().rev();
        for entry in values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b',')) {
            let entry = entry.trim_ascii();
            if entry.is_empty() {
                continue;
            }
            let Some(address) = parse(entry) else { return connection };
            client = address;
            if !is_trusted(address) {
                break;
            }
        }
        client
    }
}

/// Parses an address with or without a port; that of IPv6 has brackets where there is a port, and may have them without.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match bare {
        Some(bare) => IpAddr::V6(bare.parse().ok()?),
        None => text.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip())).ok()?,
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use warp::http::HeaderValue;

    #[test]
    fn the_last_entry_that_is_no_trusted_proxy_is_the_client() {
        let networks = ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"].map(|text| text.parse().unwrap());
        let proxies = TrustedProxies::new(networks.into());
        let (proxy, stranger) = ("10.0.0.1", "203.0.113.9");
        for (connection, headers, expected) in [
            // Without the header, or from a stranger, the connection counts.
            (proxy, &[][..], proxy),
            (stranger, &[][..], stranger),
            (stranger, &["198.51.100.7"], stranger),
            (stranger, &["10.0.0.5"], stranger),
            // One proxy, two, and a header for each.
            (proxy, &["203.0.113.9"], stranger),
            (proxy, &["203.0.113.9, 10.0.0.2"], stranger),
            (proxy, &["203.0.113.9", "192.0.2.1,10.0.0.2"], stranger),
            ("::ffff:10.0.0.1", &["203.0.113.9"], stranger),
            ("fd00::1", &["203.0.113.9"], stranger),
            // What the client has written itself stands before its address, whatever it is.
            (proxy, &["10.0.0.7, 203.0.113.9"], stranger),
            (proxy, &["198.51.100.7", "203.0.113.9"], stranger),
            (proxy, &["<script>, 203.0.113.9"], stranger),
            (proxy, &["\u{e9}, 203.0.113.9, 10.0.0.2"], stranger),
            // Every entry is trusted: the request began at the first one.
            (proxy, &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // Forms of an address.
            (proxy, &["203.0.113.9:4711"], stranger),
            (proxy, &["::ffff:203.0.113.9"], stranger),
            (proxy, &["2001:db8::7"], "2001:db8::7"),
            (proxy, &["[2001:db8::7]"], "2001:db8::7"),
            (proxy, &["[2001:db8::7]:4711"], "2001:db8::7"),
            (proxy, &["\t203.0.113.9 ,, "], stranger),
            // Malformed where it matters.
            (proxy, &[""], proxy),
            (proxy, &["unknown"], proxy),
            (proxy, &["203.0.113.9, unknown"], proxy),
            (proxy, &["203.0.113.9, unknown, 10.0.0.2"], proxy),
            (proxy, &["203.0.113"], proxy),
            (proxy, &["203.0.113.9:x"], proxy),
            (proxy, &["203.0.113.9:70000"], proxy),
            (proxy, &["[203.0.113.9]"], proxy),
            (proxy, &["fe80::1%eth0"], proxy),
            (proxy, &["for=203.0.113.9"], proxy),
        ] {
            let map: HeaderMap = headers
                .iter()
                .map(|value| (X_FORWARDED_FOR, HeaderValue::from_bytes(value.as_bytes()).unwrap()))
                .collect();
            let client = proxies.client_address(connection.parse().unwrap(), &map);
            assert_eq!(client.to_string(), expected, "from {connection}: {headers:?}");
        }
    }

    #[test]
    fn without_proxies_no_header_is_believed_and_they_can_be_replaced() {
        let proxies = TrustedProxies::default();
        let headers = HeaderMap::from_iter([(X_FORWARDED_FOR, HeaderValue::from_static("203.0.113.9"))]);
        let client = || proxies.client_address("127.0.0.1".parse().unwrap(), &headers).to_string();
        assert_eq!(client(), "127.0.0.1");
        proxies.set(vec!["127.0.0.1/32".parse().unwrap()]);
        assert_eq!(client(), "203.0.113.9");
        proxies.set(Vec::new());
        assert_eq!(client(), "127.0.0.1");
    }
}
