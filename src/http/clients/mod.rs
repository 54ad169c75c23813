//! Clients of requests: the address that a request comes from, its caller, and how often that caller may ask.
//!
//! Why: limits and shares are per client, so one place says which client a request is of, for all of them.
//!
//! Invariants: a client is found out before its request reaches a route, from head and connection alone. An address is that of the
//! connection, unless a trusted proxy names another one ([`trusted_proxies`]).
//!
//! See also: the check of each request ([`super::server`]), shares of memory ([`super::server::fair_memory`]).

pub(crate) mod rate_limit;
pub(crate) mod trusted_proxies;

use std::net::IpAddr;

use warp::http::header::HeaderMap;

use super::options::Options;
use super::request::caller::Caller;
use super::request::client_certificate::ClientCertificate;

/// The client of one request.
#[derive(Debug, Clone)]
pub(crate) struct RequestClient {
    /// Its address, behind trusted proxies where there are some.
    pub(crate) address: IpAddr,
    /// Which client it is by its token.
    pub(crate) caller: Caller,
    /// The certificate of its connection.
    pub(crate) certificate: ClientCertificate,
}

impl RequestClient {
    /// Finds the client of a request on a connection from this address with this certificate.
    pub(crate) fn of(
        options: &Options,
        headers: &HeaderMap,
        (connection, certificate): (IpAddr, ClientCertificate),
    ) -> Self {
        Self {
            address: options.trusted_proxies.client_address(connection, headers),
            caller: Caller::of(options.tokens.as_deref(), headers, certificate.info()),
            certificate,
        }
    }
}

/// Returns what addresses of one host have in common: an IPv4 address itself, and the first 64 bits of an IPv6 address.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    // A host gets a whole /64 and may use each of its 2^64 addresses, so one address of it says nothing.
    // ::ffff:10.0.0.1 is what a dual-stack listener makes of 10.0.0.1.
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// The clients of new tokens with these names, all at 10.0.0.1.
#[cfg(test)]
pub(crate) fn with_tokens<const N: usize>(names: [&str; N]) -> [RequestClient; N] {
    use crate::auth::{NewToken, TokenStore};
    use warp::http::header::{AUTHORIZATION, HeaderMap};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    let drawn = names.map(|name| NewToken { name: name.into(), admin: true, ..NewToken::default() }.draw().unwrap());
    std::fs::write(&path, drawn.iter().map(|(_, table)| table.as_str()).collect::<String>()).unwrap();
    let store = TokenStore::open(&path, slog::Logger::root(slog::Discard, slog::o!())).unwrap();
    drawn.map(|(secret, _)| {
        let value = format!("Bearer {}", secret.expose()).parse().unwrap();
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        let caller = Caller::of(Some(&store), &headers, None);
        RequestClient { address: [10, 0, 0, 1].into(), caller, certificate: ClientCertificate::default() }
    })
}
