//! Which hosts this node answers for: the defence against DNS rebinding.
//!
//! Why: a page of evil.example may have its own name point to this node, and is of the same origin then, so that a
//! browser lets it read every answer and sends no `Origin` with its GETs. But it sends `Host: evil.example`.
//!
//! Invariants: exactly one `Host`; only HTTP/1.0 may go without. A rebinding page needs a name that can be registered, so
//! names that cannot be public domains are let in where the node is not on loopback. Health probes ([`PROBES`]) are
//! answered for any host, with nothing but their status. Where requests need a token any host will do, except for a right that comes by
//! itself: a browser sends the client certificate of its user with every connection.
//!
//! See also: the check of the page's origin ([`super::browser_guard`]).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV4};
use std::sync::Arc;

use warp::http::Version;
use warp::http::header::{AUTHORIZATION, HOST};
use warp::http::request::Parts;

use crate::http::options::Options;
use crate::http::request::client_certificate::ClientCertificate;
use crate::http::response::problem::{Problem, clip};

/// Paths that load balancers and orchestrators ask for under any name.
const PROBES: [&str; 3] = ["/health", "/livez", "/readyz"];
/// Domains that cannot be registered (RFC 6762, RFC 8375, ICANN's reservation of `.internal`; Kubernetes' services).
const PRIVATE: [&str; 4] = [".local", ".internal", ".home.arpa", ".svc"];
/// The longest name and the longest label, as in DNS (RFC 1035, 2.3.4), without a last dot.
const NAME_BYTES: usize = 253;
const LABEL_BYTES: usize = 63;

/// The hosts that this node answers for.
#[derive(Debug)]
pub(crate) struct HostGuard {
    loopback: bool,
    any: bool,
    /// Whether requests need a token.
    tokens: bool,
    /// Bound and advertised host, those of HUSKV_JOIN, and the listed ones.
    own: BTreeSet<String>,
    listed: BTreeSet<String>,
}

/// Who asks, by the host that the request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The host is one of this node's.
    Known,
    /// It is not, but what is asked for is exempt: only the status may be told.
    Foreign,
}

impl HostGuard {
    /// The hosts of a server with these options.
    pub(crate) fn new(options: &Options) -> Self {
        let own = options.own_hosts.iter().map(|host| normal(host));
        Self {
            loopback: options.loopback,
            tokens: options.tokens.is_some(),
            any: options.allowed_hosts.iter().any(|host| host == "*"),
            own: own.chain(options.join_list.iter().filter_map(|address| of_authority(address))).collect(),
            listed: options.allowed_hosts.iter().map(|host| normal(host)).collect(),
        }
    }

    /// Checks the host of a request on a connection with this certificate; `members` are those in the addresses of the cluster's
    /// members.
    pub(crate) fn check(
        &self,
        request: &Parts,
        certificate: &ClientCertificate,
        members: impl Fn() -> Arc<BTreeSet<String>>,
    ) -> Result<Asked, Problem> {
        if self.is_known_address(request) {
            return Ok(Asked::Known);
        }
        let mut headers = request.headers.get_all(HOST).iter();
        let named = match (headers.next(), headers.next()) {
            (Some(_), Some(_)) => return Err(Problem::host("header `Host` is given more than once")),
            (None, _) if request.version == Version::HTTP_10 => None,
            (None, _) => return Err(Problem::host("header `Host` is missing")),
            (Some(value), None) => Some(String::from_utf8_lossy(value.as_bytes()).into_owned()),
        };
        // A target may name the host too (`GET http://host/path`), and wins over the header by RFC 9112.
        let target = request.uri.authority().map(|authority| {
            let text = authority.as_str();
            text.rsplit_once('@').map_or(text, |(_, host)| host).to_owned()
        });
        for text in named.into_iter().chain(target) {
            let Some(host) = of_authority(&text) else {
                return Err(Problem::host(format!("`{}` is no host, or host:port", clip(&text))));
            };
            // A page under a foreign name has no secret that a browser would add.
            let is_safe = self.tokens && !comes_by_itself(request, certificate);
            if !is_safe && !self.knows(&host, &members()) {
                return match is_probe(request.uri.path()) {
                    true => Ok(Asked::Foreign),
                    false => Err(Problem::unknown_host(&host)),
                };
            }
        }
        Ok(Asked::Known)
    }

    /// Whether the request is for an IPv4 address and a port that are known whatever else is: the form that most clients send, without
    /// the text of the general one.
    fn is_known_address(&self, request: &Parts) -> bool {
        let mut headers = request.headers.get_all(HOST).iter();
        let (Some(value), None, None) = (headers.next(), headers.next(), request.uri.authority()) else { return false };
        let address = value.to_str().ok().and_then(|text| text.parse::<SocketAddrV4>().ok());
        address.is_some_and(|address| !self.loopback || address.ip().is_loopback())
    }

    fn knows(&self, host: &str, members: &BTreeSet<String>) -> bool {
        if self.any || self.listed.contains(host) || is_loopback(host) {
            return true;
        }
        let unregistrable = host.parse::<IpAddr>().is_ok()
            || !host.contains('.')
            || PRIVATE.iter().any(|domain| host.ends_with(domain));
        !self.loopback && (unregistrable || self.own.contains(host) || members.contains(host))
    }
}

/// Whether a request may have its right without a word of its sender: by the client certificate of the connection. A secret beats it.
fn comes_by_itself(request: &Parts, certificate: &ClientCertificate) -> bool {
    certificate.0.is_some() && !request.headers.contains_key(AUTHORIZATION)
}

/// Whether load balancers and orchestrators ask for this path.
pub(crate) fn is_probe(path: &str) -> bool {
    PROBES.contains(&path.strip_suffix('/').unwrap_or(path)) || path.starts_with("/readyz/")
}

/// The host in `host` or `host:port`, as [`HostGuard`] compares it; None where it is none.
pub(crate) fn of_authority(text: &str) -> Option<String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (address, if port.is_empty() { "" } else { port.strip_prefix(':')? })
        }
        None => {
            let (host, port) = text.split_once(':').unwrap_or((text, ""));
            is_name(host).then_some((host, port))?
        }
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok());
    is_port.then(|| normal(host))
}

/// Whether labels of letters, digits, hyphens and underscores make up this host, none of which begins or ends with a hyphen
/// (RFC 1123, 2.1; underscores as in the names of Docker Compose). One dot may end it.
fn is_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let of_label = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label = |label: &str| {
        (1..=LABEL_BYTES).contains(&label.len())
            && label.bytes().all(of_label)
            && !(label.starts_with('-') || label.ends_with('-'))
    };
    name.len() <= NAME_BYTES && name.split('.').all(is_label)
}

fn normal(host: &str) -> String {
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    // One address has several spellings.
    host.parse::<IpAddr>().map_or(host, |address| address.to_canonical().to_string())
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::options;
    use warp::http::Request;

    fn status(hosts: &HostGuard, target: &str, version: Version, names: &[&str]) -> u16 {
        let mut request = Request::builder().uri(target).version(version);
        for name in names {
            request = request.header(HOST, *name);
        }
        let members = || Arc::new(BTreeSet::from(["kv-1.example.org".to_owned()]));
        match hosts.check(&request.body(()).unwrap().into_parts().0, &ClientCertificate::default(), members) {
            Ok(Asked::Known) => 200,
            Ok(Asked::Foreign) => 204,
            Err(problem) => problem.respond(&warp::http::Method::GET).status().as_u16(),
        }
    }

    fn status_of(hosts: &HostGuard, name: &str) -> u16 {
        status(hosts, "/store/k", Version::HTTP_11, &[name])
    }

    #[test]
    fn on_loopback_only_its_names_are_known() {
        let hosts = HostGuard::new(&Options { own_hosts: vec!["kv.example".into()], ..options() });
        for known in
            ["localhost", "localhost:1", "LOCALHOST.:80", "kv.localhost", "127.0.0.1:2221", "127.9.9.9", "[::1]:5"]
        {
            assert_eq!(status_of(&hosts, known), 200, "{known}");
        }
        for foreign in
            ["evil.example:2221", "kv.example", "10.0.0.1", "box", "localhost.evil.example", "127.0.0.1.evil.example"]
        {
            assert_eq!(status_of(&hosts, foreign), 421, "{foreign}");
        }
    }

    #[test]
    fn elsewhere_names_that_cannot_be_registered_and_those_of_members_are_known() {
        let hosts = HostGuard::new(&Options {
            loopback: false,
            own_hosts: vec!["0.0.0.0".into(), "KV.example".into()],
            allowed_hosts: vec!["proxy.example.org".into()],
            join_list: vec!["seed.example.org:1111".into()],
            ..options()
        });
        for known in [
            "localhost:2221",
            "10.0.0.1:2221",
            "[fd00::1]",
            "box",
            "box:2221",
            "kv.local",
            "kv.corp.internal",
            "kv-0.kv.default.svc",
            "kv-0.kv.default.svc.cluster.local",
            "nas.home.arpa",
            "kv.example:2221",
            "proxy.example.org",
            "seed.example.org",
            "kv-1.example.org:2221",
        ] {
            assert_eq!(status_of(&hosts, known), 200, "{known}");
        }
        for foreign in ["evil.example", "local.evil.example", "notlocal.com", "kv-1.example.org.evil.example"] {
            assert_eq!(status_of(&hosts, foreign), 421, "{foreign}");
        }
        let any = HostGuard::new(&Options { allowed_hosts: vec!["*".into()], ..options() });
        assert_eq!(status_of(&any, "evil.example"), 200);
    }

    #[test]
    fn there_is_exactly_one_host_and_it_is_one() {
        let hosts = HostGuard::new(&options());
        for broken in [
            "",
            ":80",
            "a b",
            "a/b",
            "user@localhost",
            "localhost:x",
            "localhost:65536",
            "[::1",
            "::1",
            "[x]",
            "[::1]80",
        ] {
            assert_eq!(status_of(&hosts, broken), 400, "{broken}");
        }
        assert_eq!(status(&hosts, "/", Version::HTTP_11, &[]), 400);
        assert_eq!(status(&hosts, "/", Version::HTTP_11, &["localhost", "localhost"]), 400);
        assert_eq!(status(&hosts, "/", Version::HTTP_10, &[]), 200);
        assert_eq!(status(&hosts, "/", Version::HTTP_10, &["evil.example"]), 421);
        assert_eq!(status(&hosts, "http://evil.example/store/k", Version::HTTP_11, &["localhost"]), 421);
        assert_eq!(status(&hosts, "http://localhost/store/k", Version::HTTP_11, &["localhost"]), 200);
    }

    #[test]
    fn a_name_is_made_of_labels() {
        let hosts = HostGuard::new(&Options { loopback: false, ..options() });
        let label = |bytes: usize| "a".repeat(bytes);
        // The longest name: three labels of 63 bytes and one of 61, with their dots.
        let long = |last: usize| [label(63), label(63), label(63), label(last)].join(".");
        let svc = |first: usize| format!("{}.{}.{}.{}.svc", label(first), label(63), label(63), label(57));
        for name in
            ["a", "a.local", "a.local.", "my_app_1", "_a.local", "a_", "xn--bcher-kva.local", "a-b.c--d.svc", "0.local"]
                .map(str::to_owned)
                .into_iter()
                .chain([label(63), svc(63), format!("{}.", svc(63)), format!("{}:80", svc(63))])
        {
            assert_eq!(status_of(&hosts, &name), 200, "{name}");
        }
        assert_eq!([svc(63).len(), long(61).len()], [253, 253]);
        assert_eq!(status_of(&hosts, &long(61)), 421, "a name, but none of this node");
        for name in [
            ".",
            "..",
            ".local",
            "local..",
            "localhost..",
            "a..svc",
            "a...local",
            "a_b..",
            ".a.local",
            "-",
            "-a",
            "a-",
            "-a.local",
            "a-.svc",
            "a.-b.local",
            "a.b-.local",
            "-.local",
            "a~b",
            "a%2eb",
            "a.local..:80",
            "-:80",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([label(64), format!("{}.local", label(64)), svc(64), long(62), format!("{}.", long(62))])
        {
            assert_eq!(status_of(&hosts, &name), 400, "{name}");
        }
    }

    #[test]
    fn probes_are_answered_under_any_name() {
        let hosts = HostGuard::new(&options());
        for (target, expected) in
            [("/health", 204), ("/health/", 204), ("/readyz?x", 204), ("/livez", 204), ("/healthy", 421)]
        {
            assert_eq!(status(&hosts, target, Version::HTTP_11, &["evil.example"]), expected, "{target}");
        }
    }
}
