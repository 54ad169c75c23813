//! The addresses that follow from the settings: what others are told to dial, and where this machine finds the node.
//!
//! Why: hosts and ports are settings of their own, given or picked, and a relay may stand before either.
//!
//! Not here: what a host or an address may look like ([`crate::model::check_address`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Config, check};

impl Config {
    /// Where this node tells others to dial it, at this port: `host:port`, IPv6 in brackets.
    #[must_use]
    pub fn advertised(&self, port: u16) -> String {
        format!("{}:{port}", check::bracketed(&self.advertise_host))
    }

    /// Where this node tells its peers to dial it, given the port that it listens on.
    #[must_use]
    pub fn advertised_raft(&self, real: u16) -> String {
        self.advertised(if self.raft.advertise_port == 0 { real } else { self.raft.advertise_port })
    }

    /// Where this node tells its clients to find it, given the port that it listens on.
    #[must_use]
    pub fn advertised_http(&self, real: u16) -> String {
        self.advertised(if self.server.advertise_port == 0 { real } else { self.server.advertise_port })
    }

    /// Where a client on this machine reaches the HTTP port; `None` where that port is still to be picked.
    #[must_use]
    pub fn local_http(&self) -> Option<String> {
        let host = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) if address.is_unspecified() => Ipv6Addr::LOCALHOST.to_string(),
            _ if check::is_unspecified(&self.host) => Ipv4Addr::LOCALHOST.to_string(),
            _ => self.host.clone(),
        };
        (self.server.port != 0).then(|| format!("{}:{}", check::bracketed(&host), self.server.port))
    }

    /// Checks `text` as `host:port` of a node.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn check_address(text: &str) -> Result<(), String> {
        check::address(text)
    }
}
