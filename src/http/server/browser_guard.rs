//! The same-origin check of requests from web pages, and CORS.
//!
//! Why: without tokens the node has no login, and a browser sends requests for any page that is open in it. The page cannot forge the
//! `Origin` header, so the check relies on it; clients other than browsers send none.
//!
//! Invariants: the check comes before everything else, on every route and method. The node's own origins come from its
//! settings, never from the `Host` header, which a page of a rebound name controls. Every `Origin` header of a request must
//! be allowed.
//!
//! See also: DNS rebinding, where the page has this node's origin ([`super::host_guard`]).

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use warp::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::http::options::Options;
use crate::http::response::problem::{Problem, clip};
use crate::trust::Mode;

/// The header with the relation between the site of the page and that of the node (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The methods that a page of an allowed origin may use.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE");
/// The response headers that such a page may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "ETag, X-Raft-Index, X-Raft-Term, X-Huskv-Node, X-Huskv-Leader, X-Huskv-Cluster, Idempotency-Replayed, \
         Retry-After, Allow",
);
/// How long a browser may cache a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The allowed origins, in lower case.
#[derive(Debug)]
pub(crate) struct BrowserGuard(BTreeSet<String>);

/// The result of the check.
pub(crate) enum OriginCheck {
    /// The request has no `Origin`: it is no browser's, or a same-origin GET.
    Absent,
    /// The origin is allowed; its text as it was sent.
    Allowed(HeaderValue),
    /// The origin is not allowed.
    Refused(Problem),
}

impl BrowserGuard {
    /// Collects the node's own origins and the listed ones.
    pub(crate) fn new(options: &Options) -> Self {
        let local = ["localhost", "127.0.0.1", "[::1]"];
        let own = options.own_hosts.iter().map(|host| bracketed(host));
        let hosts = own.chain(local.iter().filter(|_| options.loopback).map(|&host| host.to_owned()));
        // The scheme is part of an origin: on a port with TLS a page of `http://` is not this node's, but another server's,
        // or one that was changed on its way.
        let schemes: &[(&str, u16)] = match options.tls_mode() {
            Mode::Off => &[("http", 80)],
            Mode::Accept => &[("http", 80), ("https", 443)],
            Mode::On => &[("https", 443)],
        };
        let mut origins = BTreeSet::new();
        for (host, &(scheme, default)) in
            hosts.flat_map(|host| schemes.iter().map(move |scheme| (host.clone(), scheme)))
        {
            origins.insert(format!("{scheme}://{host}:{}", options.port).to_ascii_lowercase());
            // Browsers leave the default port out: `http://kv.example`, not `http://kv.example:80`.
            if options.port == default {
                origins.insert(format!("{scheme}://{host}").to_ascii_lowercase());
            }
        }
        let listed = options.allowed_origins.iter().map(|origin| origin.trim().trim_end_matches('/'));
        origins.extend(listed.map(str::to_ascii_lowercase));
        // `Origin: null` is what a browser sends for every sandboxed frame and every file:// page. A setting of `null` would
        // let in all of them, so it is dropped.
        origins.remove("null");
        Self(origins)
    }

    /// Checks the headers of a request.
    pub(crate) fn check(&self, headers: &HeaderMap) -> OriginCheck {
        let mut result = OriginCheck::Absent;
        // Browsers send one `Origin`. With two of them, which one counts would depend on the reader, so both must be allowed.
        for origin in headers.get_all(ORIGIN) {
            let text = origin.to_str().unwrap_or("(not ASCII)");
            if !self.0.contains(&text.to_ascii_lowercase()) {
                return OriginCheck::Refused(Problem::cross_origin(format!(
                    "pages of {} may not use this node (http.allowed_origins)",
                    clip(text)
                )));
            }
            result = OriginCheck::Allowed(origin.clone());
        }
        // `<img src="http://node:2221/store/k">` sends no `Origin`, but `Sec-Fetch-Site: cross-site`. Same-site pages and
        // typed addresses (`none`) pass.
        let cross_site = |site: &HeaderValue| site.as_bytes().eq_ignore_ascii_case(b"cross-site");
        if matches!(result, OriginCheck::Absent) && headers.get_all(SEC_FETCH_SITE).iter().any(cross_site) {
            let detail = "pages of other sites may not use this node (http.allowed_origins)";
            return OriginCheck::Refused(Problem::cross_origin(detail));
        }
        result
    }
}

/// Whether a request is a CORS preflight.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Answers a preflight from an allowed origin.
pub(crate) fn preflight(request: &HeaderMap) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    // Which headers are valid is checked with the request itself, so any is allowed here.
    if let Some(wanted) = request.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}

/// Lets a page of this origin read the response.
pub(crate) fn allow_origin(response: &mut Response, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    // The response differs by origin, so a cache must not serve it to another one.
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

/// Writes a host as a URL has it, with IPv6 addresses in brackets.
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
            let result = BrowserGuard::new(&options).check(&headers);
            assert_eq!(matches!(result, OriginCheck::Refused(_)), refused, "{site} {origin:?}");
        }
    }

    #[test]
    fn with_tls_the_own_origin_is_https_and_with_both_on_the_port_either() {
        for (mode, http, https) in [(Mode::Accept, true, true), (Mode::On, false, true)] {
            let tls = Some(crate::http::tests::tls(mode).0);
            let options = Options { port: 443, tls, ..options() };
            assert_eq!(allows(&options, &["http://localhost:443"]), Some(http), "{mode:?}");
            for own in ["https://localhost:443", "https://localhost", "https://127.0.0.1"] {
                assert_eq!(allows(&options, &[own]), Some(https), "{mode:?} {own}");
            }
            assert_eq!(allows(&options, &["http://localhost"]), Some(false));
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
