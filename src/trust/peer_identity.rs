//! The identity of a node: what its certificate says about its name and its cluster.
//!
//! Why: hosts and addresses change, and any machine can claim a raft id. A node's certificate names its cluster, in
//! `node.CLUSTER.huskv`, and the node, in `NAME.CLUSTER.huskv`; so it goes with the node to another host.
//!
//! Invariants: only a certificate that webpki has verified is read here. Names are compared as they stand: a wildcard names no
//! node. A certificate that names two nodes names none.
//!
//! See also: [`super::authority`] (issues them), [`super::peer_tls`] (verifies them).

use std::fmt;

use super::certificate::CertificateInfo;
use super::names::{DOMAIN, Label, SHARED_LABEL};

/// The node that a certificate belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The name of the node.
    pub name: String,
    /// The name of its cluster in certificates.
    pub cluster: String,
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host(&self.name, &self.cluster))
    }
}

/// The DNS name of a node, or of any node where `name` is [`SHARED_LABEL`].
#[must_use]
pub fn host(name: &str, cluster: &str) -> String {
    format!("{name}.{cluster}.{DOMAIN}")
}

impl PeerIdentity {
    /// Reads the identity of a node out of its own certificate, which alone says what the cluster is called.
    ///
    /// # Errors
    /// What is missing or ambiguous among the names.
    pub fn of_own(info: &CertificateInfo) -> Result<Self, String> {
        let mut clusters = info.dns_names.iter().filter_map(|name| cluster_of(name));
        match (clusters.next(), clusters.next()) {
            (Some(cluster), None) => Self::of(info, cluster),
            (None, _) => Err(format!(
                "the certificate is of no node: {}; `huskv certs node` issues such certificates",
                info.lacks(&format!("{SHARED_LABEL}.CLUSTER.{DOMAIN}"))
            )),
            (Some(one), Some(other)) => {
                Err(format!("the certificate is of two clusters, {one} and {other}; issue one for each"))
            }
        }
    }

    /// Reads the identity of a node of `cluster` out of its certificate.
    ///
    /// # Errors
    /// What is missing or ambiguous among the names.
    pub fn of(info: &CertificateInfo, cluster: &str) -> Result<Self, String> {
        let shared = host(SHARED_LABEL, cluster);
        if !info.dns_names.contains(&shared) {
            return Err(info.lacks(&format!("{shared}, which every node of the cluster has,")));
        }
        let mut names =
            info.dns_names.iter().filter_map(|name| label_of(name, cluster)).filter(|it| *it != SHARED_LABEL);
        match (names.next(), names.next()) {
            (Some(name), None) => Ok(Self { name: name.to_owned(), cluster: cluster.to_owned() }),
            (None, _) => Err(format!("no name NAME.{cluster}.{DOMAIN} is among {}", info.names())),
            (Some(one), Some(other)) => Err(format!("the certificate names two nodes, {one} and {other}")),
        }
    }
}

/// The cluster of a name `node.CLUSTER.huskv`.
fn cluster_of(name: &str) -> Option<&str> {
    let cluster = name.strip_prefix(SHARED_LABEL)?.strip_prefix('.')?.strip_suffix(DOMAIN)?.strip_suffix('.')?;
    Label::parse(cluster).is_ok().then_some(cluster)
}

/// The first label of a name `LABEL.CLUSTER.huskv`.
fn label_of<'a>(name: &'a str, cluster: &str) -> Option<&'a str> {
    let label = name.strip_suffix(DOMAIN)?.strip_suffix('.')?.strip_suffix(cluster)?.strip_suffix('.')?;
    Label::parse(label).is_ok().then_some(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn info(names: &[&str]) -> CertificateInfo {
        CertificateInfo {
            subject: "CN=kv1".into(),
            issuer: "CN=ca".into(),
            dns_names: names.iter().map(ToString::to_string).collect(),
            ip_addresses: Vec::new(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_certificate_names_one_node_of_one_cluster() {
        let own = |names: &[&str]| PeerIdentity::of_own(&info(names)).map(|it| it.to_string());
        assert_eq!(own(&["localhost", "node.prod.huskv", "kv1.prod.huskv"]).unwrap(), "kv1.prod.huskv");
        assert_eq!(own(&["node.node.huskv", "kv1.node.huskv"]).unwrap(), "kv1.node.huskv");
        for (names, words) in [
            (&["localhost"][..], "of no node"),
            (&["kv1.prod.huskv"], "of no node"),
            (&["node.huskv"], "of no node"),
            (&["node.a.b.huskv", "kv1.a.b.huskv"], "of no node"),
            (&["node.prod.huskv"], "no name NAME.prod.huskv"),
            (&["node.prod.huskv", "*.prod.huskv"], "no name NAME.prod.huskv"),
            (&["node.prod.huskv", "kv1.test.huskv"], "no name NAME.prod.huskv"),
            (&["node.prod.huskv", "kv1.prod.huskv", "kv2.prod.huskv"], "two nodes, kv1 and kv2"),
            (&["node.prod.huskv", "node.test.huskv", "kv1.prod.huskv"], "two clusters"),
        ] {
            let error = own(names).unwrap_err();
            assert!(error.contains(words), "{names:?}: {error}");
        }
    }

    #[test]
    fn another_cluster_is_another_cluster() {
        let of = |names: &[&str]| PeerIdentity::of(&info(names), "prod").map(|it| it.name);
        assert_eq!(of(&["node.prod.huskv", "kv1.prod.huskv"]).unwrap(), "kv1");
        // One certificate for two clusters is taken by others in either; its owner cannot start with it.
        assert_eq!(of(&["node.test.huskv", "kv2.test.huskv", "node.prod.huskv", "kv1.prod.huskv"]).unwrap(), "kv1");
        assert!(of(&["node.test.huskv", "kv1.test.huskv"]).unwrap_err().contains("node.prod.huskv"));
        assert!(of(&["node.xprod.huskv", "kv1.xprod.huskv"]).is_err());
    }
}
