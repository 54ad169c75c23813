//! Which web pages may use this node.
//!
//! Why: the node has no login, and a browser sends what any page tells it to. The page's origin is what the browser
//! vouches for, so it decides; programs that are no browsers send none.
//!
//! Laws: judged before anything else, on every route and method. The node's own origins come from its settings, never
//! from the Host header, which a page of a rebound name controls. Every `Origin` header of a request must be allowed.
//!
//! Not here: pages of a rebound name, which are of this node's origin to their browser ([`super::host_guard`]).

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use warp::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::http::Options;
use crate::http::response::problem::{Problem, clip};

/// With which browsers say how the page that asks and the node are related.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The methods that a listed page may use.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE");
/// The answer's headers that such a page may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "ETag, X-Raft-Index, X-Raft-Term, X-Huskv-Node, X-Huskv-Leader, X-Huskv-Cluster, Idempotency-Replayed, \
         Retry-After, Allow",
);
/// The seconds for which a browser may remember a preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The origins that may use this node, in lower case.
#[derive(Debug)]
pub(crate) struct BrowserGuard(BTreeSet<String>);

/// What a request's `Origin` says.
pub(crate) enum OriginCheck {
    /// It has none: no browser, or no other page.
    Absent,
    /// A page that may; its origin as it was sent.
    Allowed(HeaderValue),
    /// A page that may not.
    Refused(Problem),
}

impl BrowserGuard {
    /// The node's own origins and the listed ones.
    pub(crate) fn new(options: &Options) -> Self {
        let local = ["localhost", "127.0.0.1", "[::1]"];
        let own = options.own_hosts.iter().map(|host| bracketed(host));
        let hosts = own.chain(local.iter().filter(|_| options.loopback).map(|&host| host.to_owned()));
        let mut origins = BTreeSet::new();
        for host in hosts {
            origins.insert(format!("http://{host}:{}", options.port).to_ascii_lowercase());
            // Browsers leave the default port out.
            if options.port == 80 {
                origins.insert(format!("http://{host}").to_ascii_lowercase());
            }
        }
        let listed = options.allowed_origins.iter().map(|origin| origin.trim().trim_end_matches('/'));
        origins.extend(listed.map(str::to_ascii_lowercase));
        // What a browser sends for a page that has no origin it could name: any sandboxed frame.
        origins.remove("null");
        Self(origins)
    }

    /// Judges the headers of a request.
    pub(crate) fn check(&self, headers: &HeaderMap) -> OriginCheck {
        let mut verdict = OriginCheck::Absent;
        for origin in headers.get_all(ORIGIN) {
            let text = origin.to_str().unwrap_or("(not ASCII)");
            if !self.0.contains(&text.to_ascii_lowercase()) {
                return OriginCheck::Refused(Problem::cross_origin(format!(
                    "pages of {} may not use this node (http.allowed_origins)",
                    clip(text)
                )));
            }
            verdict = OriginCheck::Allowed(origin.clone());
        }
        // A browser tells where a request without an origin comes from too: an image, a script, a link of another site.
        let cross_site = |site: &HeaderValue| site.as_bytes().eq_ignore_ascii_case(b"cross-site");
        if matches!(verdict, OriginCheck::Absent) && headers.get_all(SEC_FETCH_SITE).iter().any(cross_site) {
            let detail = "pages of other sites may not use this node (http.allowed_origins)";
            return OriginCheck::Refused(Problem::cross_origin(detail));
        }
        verdict
    }
}

/// Whether a request is a browser's question if it may send another one.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight of an allowed origin.
pub(crate) fn preflight(asked: &HeaderMap) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    if let Some(wanted) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}

/// Lets the page of an allowed origin read the answer.
pub(crate) fn open(response: &mut Response, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

/// A host as it stands in a URL.
fn bracketed(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::options;

    fn allows(options: &Options, origins: &[&'static str]) -> Option<bool> {
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append(ORIGIN, HeaderValue::from_static(origin));
        }
        match BrowserGuard::new(options).check(&headers) {
            OriginCheck::Absent => None,
            OriginCheck::Allowed(_) => Some(true),
            OriginCheck::Refused(_) => Some(false),
        }
    }

    #[test]
    fn on_loopback_all_of_its_names_with_this_port_are_the_nodes_own() {
        let options = Options { loopback: true, own_hosts: vec!["127.0.0.1".into()], port: 2221, ..options() };
        for own in ["http://localhost:2221", "http://127.0.0.1:2221", "http://[::1]:2221", "http://LOCALHOST:2221"] {
            assert_eq!(allows(&options, &[own]), Some(true), "{own}");
        }
        for foreign in [
            "http://localhost:2222",
            "http://localhost",
            "https://localhost:2221",
            "http://localhost:2221.evil.example",
            "http://evil.example:2221",
            "http://localhost:2221/",
            "null",
            "",
            "*",
        ] {
            assert_eq!(allows(&options, &[foreign]), Some(false), "{foreign}");
        }
        assert_eq!(allows(&options, &[]), None);
        assert_eq!(allows(&options, &["http://localhost:2221", "http://evil.example"]), Some(false));
        for (site, origin, refused) in [
            ("cross-site", None, true),
            ("Cross-Site", None, true),
            ("cross-site", Some("https://ui.example.org"), false),
            ("same-origin", None, false),
            ("same-site", None, false),
            ("none", None, false),
        ] {
            let mut headers = HeaderMap::from_iter([(SEC_FETCH_SITE, HeaderValue::from_static(site))]);
            headers.extend(origin.map(|origin| (ORIGIN, HeaderValue::from_static(origin))));
            let options = Options { allowed_origins: vec!["https://ui.example.org".into()], ..options.clone() };
            let verdict = BrowserGuard::new(&options).check(&headers);
            assert_eq!(matches!(verdict, OriginCheck::Refused(_)), refused, "{site} {origin:?}");
        }
    }

    #[test]
    fn elsewhere_the_bound_and_advertised_hosts_and_the_listed_origins_are_allowed() {
        let options = Options {
            loopback: false,
            own_hosts: vec!["fd00::1".into(), "node_1.example".into()],
            allowed_origins: vec!["https://UI.example.org/".into(), "null".into()],
            port: 80,
            ..options()
        };
        for own in ["http://[fd00::1]:80", "http://[fd00::1]", "http://node_1.example", "https://ui.example.org"] {
            assert_eq!(allows(&options, &[own]), Some(true), "{own}");
        }
        for foreign in ["http://localhost", "https://ui.example.org:444", "http://ui.example.org", "null"] {
            assert_eq!(allows(&options, &[foreign]), Some(false), "{foreign}");
        }
    }
}
