//! Names that certificates are issued for: labels of nodes, clients and clusters, and hosts.
//!
//! Why: a name with an upper-case letter or a dot makes a certificate that no peer ever matches, and one with a slash a file
//! outside of its folder, so names are refused before anything is created.
//!
//! See also: RFC 1123, section 2.1; [`super::authority`], which puts them into certificates.

use std::fmt;
use std::net::IpAddr;

use rustls_pki_types::DnsName;

/// The label of the name `node.CLUSTER.huskv`, which every node has.
pub const SHARED_LABEL: &str = "node";
/// The last label of the names of nodes, `node.CLUSTER.huskv` and `NAME.CLUSTER.huskv`.
pub const DOMAIN: &str = "huskv";
/// The longest label of a DNS name, in bytes.
const MAX_LABEL: usize = 63;

/// One lower-case label of a DNS name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label(String);

impl Label {
    /// Parses one.
    ///
    /// # Errors
    /// The rule, where the text breaks it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_label = (1..=MAX_LABEL).contains(&text.len())
            && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !text.starts_with('-')
            && !text.ends_with('-');
        if is_label {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "use 1 to {MAX_LABEL} of a to z, 0 to 9 and -, with no - at either end: it becomes a label of a DNS name"
        ))
    }

    /// Parses the name of one node or client.
    ///
    /// # Errors
    /// The rule, where the text breaks it.
    pub fn parse_own(text: &str) -> Result<Self, String> {
        match Self::parse(text)? {
            label if label.0 == SHARED_LABEL => {
                Err(format!("every node shares the name {SHARED_LABEL}; choose another"))
            }
            label => Ok(label),
        }
    }

    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host at which clients and peers reach a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A DNS name, in lower case.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

impl Host {
    /// Parses one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        match bare.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => {
                return Err("clients dial no such address; name the one that they use".to_owned());
            }
            Ok(ip) => return Ok(Self::Ip(ip)),
            Err(_) => {}
        }
        if text.contains([':', '/']) {
            return Err("give the host alone, without a scheme or a port".to_owned());
        }
        if text.ends_with('.') || DnsName::try_from(text).is_err() {
            return Err("it is neither an IP address nor a DNS name such as kv1.example.org".to_owned());
        }
        let name = text.to_ascii_lowercase();
        if name == DOMAIN || name.ends_with(&format!(".{DOMAIN}")) {
            return Err(format!("names in .{DOMAIN} say which node it is; NAME and the cluster make them"));
        }
        Ok(Self::Dns(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_dns_in_lower_case() {
        let longest = "a".repeat(63);
        for good in ["a", "0", "kv1", "kv-1", "a--b", "xn--bcher-kva", &longest] {
            assert_eq!(Label::parse(good).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(64);
        for bad in ["", "-", "-a", "a-", "KV1", "kv_1", "kv.1", "../kv", "a/b", "k v", "kv\n", "\u{e4}", "*", &too_long]
        {
            assert!(Label::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Label::parse("node").is_ok(), "a cluster may be called so");
        assert!(Label::parse_own("node").unwrap_err().contains("every node"));
        assert!(Label::parse_own("node1").is_ok());
    }

    #[test]
    fn hosts_are_addresses_or_dns_names() {
        let ip = |text: &str| Host::Ip(text.parse().unwrap());
        for (text, host) in [
            ("10.0.0.1", ip("10.0.0.1")),
            ("fd00::1", ip("fd00::1")),
            ("[fd00::1]", ip("fd00::1")),
            ("KV1.Example.org", Host::Dns("kv1.example.org".into())),
            ("kv1.huskv.example.org", Host::Dns("kv1.huskv.example.org".into())),
            ("kv_1", Host::Dns("kv_1".into())),
        ] {
            assert_eq!(Host::parse(text).unwrap(), host);
        }
        for bad in [
            "",
            ".",
            "a.",
            "a..b",
            "-a",
            "0.0.0.0",
            "::",
            "10.0.0.300",
            "10.0.0.1:2221",
            "kv1:2221",
            "https://kv1",
            "[kv1]",
            "*.example.org",
            "k v",
            "10.0.0.0/8",
            "kv2.prod.huskv",
            "KV2.prod.HUSKV",
            "huskv",
        ] {
            assert!(Host::parse(bad).is_err(), "{bad:?}");
        }
    }
}
