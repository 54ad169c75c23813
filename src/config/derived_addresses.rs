//! Derived addresses, which follow from the settings: what the node advertises, and where clients on this machine reach it.
//!
//! Why: hosts and ports are separate settings, configured or picked, and a proxy or a port mapping may be in front of
//! either port.
//!
//! See also: [`crate::model::NodeAddress`] (the syntax).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Config, validate};

impl Config {
    /// Returns the advertised address with this port: `host:port`, IPv6 in brackets.
    #[must_use]
    pub fn advertised(&self, port: u16) -> String {
        format!("{}:{port}", validate::bracketed(&self.advertise_host))
    }

    /// Returns the address that peers dial, given the bound port. Where only the addresses to bind are given, that of the peer
    /// port.
    #[must_use]
    pub fn advertised_raft(&self, bound: u16) -> String {
        let port = if self.raft.advertise_port == 0 { bound } else { self.raft.advertise_port };
        format!("{}:{port}", validate::bracketed(&self.raft.advertise_host))
    }

    /// Returns the address that clients use, given the bound port.
    #[must_use]
    pub fn advertised_http(&self, bound: u16) -> String {
        self.advertised(if self.server.advertise_port == 0 { bound } else { self.server.advertise_port })
    }

    /// Returns the HTTP address for clients on this machine; `None` where the port is still to be picked.
    #[must_use]
    pub fn local_http(&self) -> Option<String> {
        // A wildcard address can be bound but not dialled; loopback reaches it.
        let host = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) if address.is_unspecified() => Ipv6Addr::LOCALHOST.to_string(),
            _ if validate::is_unspecified(&self.host) => Ipv4Addr::LOCALHOST.to_string(),
            _ => self.host.clone(),
        };
        (self.server.port != 0).then(|| format!("{}:{}", validate::bracketed(&host), self.server.port))
    }
}
