//! Which requests may reach the page of the demo: those of its own origin, and of clients other than browsers.
//!
//! Why: any page that is open in the browser can send requests to the loopback address, directly or by a name that it lets point there.
//!
//! See also: the guards of a node, `crate::http::server::browser_guard` and `host_guard`.

use hyper::header::{HOST, HeaderMap, ORIGIN};

/// The names of the loopback address.
const HOSTS: [&str; 2] = ["localhost", "127.0.0.1"];

/// Checks the host and the origin of a request to the page at `port`; the error says what is wrong.
pub(super) fn check(headers: &HeaderMap, port: u16) -> Result<(), String> {
    let is_own = |sent: &[u8], scheme: &str| {
        HOSTS.iter().any(|host| sent.eq_ignore_ascii_case(format!("{scheme}{host}:{port}").as_bytes()))
    };
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_own(host.as_bytes(), "") => {}
        _ => return Err(format!("the demo is at localhost:{port}; a request must name it so in Host")),
    }
    match headers.get_all(ORIGIN).iter().all(|origin| is_own(origin.as_bytes(), "http://")) {
        true => Ok(()),
        false => Err("pages of other sites may not use the demo".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        check(&headers.collect(), 2220).is_ok()
    }

    #[test]
    fn only_the_own_host_and_origin_pass() {
        assert!(checked(&[("host", "localhost:2220")]) && checked(&[("host", "127.0.0.1:2220")]));
        assert!(checked(&[("host", "localhost:2220"), ("origin", "http://localhost:2220")]));
        for host in ["localhost", "localhost:2221", "evil.example:2220", "127.0.0.1.nip.io:2220", ""] {
            assert!(!checked(&[("host", host)]), "{host}");
        }
        assert!(!checked(&[]) && !checked(&[("origin", "http://localhost:2220")]));
        for origin in ["http://evil.example", "null", "https://localhost:2220", "http://localhost:2221"] {
            assert!(!checked(&[("host", "localhost:2220"), ("origin", origin)]), "{origin}");
        }
    }
}
