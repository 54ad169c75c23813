//! Retry rule: whether a failed request may be sent again.
//!
//! Why: a client that repeats a write of unknown outcome may apply it twice, and one that gives up where nothing was
//! applied turns every election into an error. The rule is a pure function of the request's kind and the response.
//!
//! Invariants: a write of unknown outcome is sent again only with an idempotency key. A request that was never sent, or
//! was `not_applied` for a transient reason, may go to another node. A 429 is sent again after the time that it names. A refusal
//! such as 404 or 412 is final.
//!
//! Example: a `PUT` without a key gets 504 `timeout`, outcome `unknown`: no retry. The same with a key: retry. A `PUT`
//! that gets 503 `no_leader`, outcome `not_applied`: retry in both cases.
//!
//! See also: [`super::Client`] for the order of endpoints and the backoff.

use std::num::NonZeroU64;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::RETRY_AFTER;
use serde::Deserialize;

use super::failure::Failure;
use super::http_client::{ApiResponse, ExchangeError};
use crate::model::Outcome;

/// The kinds of requests that the rule distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// A linearizable read; best sent to the leader, which needs no hop.
    Read,
    /// A read that any node answers from its own state.
    Local,
    /// A write that is not idempotent.
    Write,
    /// A write with an idempotency key: applied once however often it is sent.
    Keyed,
}

impl RequestKind {
    /// Whether it may be sent again though an earlier attempt may have been applied.
    pub(super) fn is_idempotent(self) -> bool {
        self != Self::Write
    }

    pub(super) fn is_write(self) -> bool {
        matches!(self, Self::Write | Self::Keyed)
    }
}

/// Transient codes: another node, or the same one later, may succeed.
const TRANSIENT: [&str; 12] = [
    "no_leader",
    "no_quorum",
    "overloaded",
    "stopping",
    "joining",
    "removed",
    "stalled",
    "timeout",
    "too_stale",
    "lagging",
    "starting",
    NO_NODE,
];

/// A join that goes on.
const JOIN_UNFINISHED: &str = "join_unfinished";

/// The client's own code for an address that does not respond.
pub(super) const NO_ANSWER: &str = "no_answer";
/// The client's own code for a TLS connection that it refuses, or that the server cannot make.
pub(super) const TLS_FAILED: &str = "tls_failed";
/// The client's own code for a server that refuses the client's certificate, or the lack of one.
pub(super) const CERTIFICATE_REFUSED: &str = "certificate_refused";
/// The client's own code for a response that no huskv node sends.
pub(super) const NO_NODE: &str = "no_node";

/// The fields of a problem (RFC 9457) that the client reads.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: Option<String>,
    detail: Option<String>,
    outcome: Option<Outcome>,
    version: Option<u64>,
    oldest_index: Option<u64>,
    newest_index: Option<NonZeroU64>,
}

/// A failure, and whether the request may be sent again.
#[derive(Debug)]
pub(super) struct RetryDecision {
    pub(super) failure: Failure,
    pub(super) retry: bool,
    /// After a 429, how long to wait before the next request to any node. The endpoint itself is in order.
    pub(super) wait: Option<Duration>,
}

/// The status of a request over a limit of requests per second.
const TOO_MANY_REQUESTS: u16 = 429;
/// How long to wait after a 429 that does not say it.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);

/// How long to wait after a 429; none after any other response.
pub(super) fn wait_after(status: u16, headers: &HeaderMap) -> Option<Duration> {
    // A proxy may send a date instead; huskv sends seconds.
    let seconds = || headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok();
    (status == TOO_MANY_REQUESTS).then(|| seconds().map_or(DEFAULT_WAIT, Duration::from_secs))
}

/// Classifies a response that is no success.
pub(super) fn classify_response(kind: RequestKind, endpoint: &str, response: &ApiResponse) -> RetryDecision {
    let status = response.status;
    let problem: Problem = serde_json::from_slice(&response.body).unwrap_or_default();
    let is_node = problem.code.is_some();
    // A problem without `outcome` comes from a proxy: a status below 500 says that nothing was applied.
    let assumed = if kind.is_write() && status >= 500 { Outcome::Unknown } else { Outcome::NotApplied };
    let outcome = problem.outcome.unwrap_or(assumed);
    let code = problem.code.unwrap_or_else(|| NO_NODE.to_owned());
    let detail = problem.detail.filter(|_| is_node);
    let detail = detail.unwrap_or_else(|| match status {
        300..400 => format!("status {status}, a redirect, which is not followed, so this is no huskv node"),
        _ => format!("status {status} and no reason, so this is no huskv node"),
    });
    // Both must hold: the cause may pass, and sending again cannot apply the write twice.
    let wait = wait_after(status, &response.headers);
    let is_transient = wait.is_some() || TRANSIENT.contains(&code.as_str());
    // A join outlasts what one request may wait, and the same request resumes it.
    let retry = code == JOIN_UNFINISHED || is_transient && (kind.is_idempotent() || outcome == Outcome::NotApplied);
    let failure = Failure {
        endpoint: endpoint.to_owned(),
        status: Some(status),
        code,
        detail,
        outcome,
        version: problem.version,
        oldest_index: problem.oldest_index,
        newest_index: problem.newest_index,
    };
    RetryDecision { failure, retry, wait: wait.filter(|_| retry) }
}

/// Classifies the lack of a response.
pub(super) fn classify_error(kind: RequestKind, endpoint: &str, error: ExchangeError) -> RetryDecision {
    let outcome = if kind.is_write() && error.sent { Outcome::Unknown } else { Outcome::NotApplied };
    let retry = kind.is_idempotent() || outcome == Outcome::NotApplied;
    let code = error.lasting.unwrap_or(NO_ANSWER);
    RetryDecision { failure: Failure::local(endpoint, code, error.detail, outcome), retry, wait: None }
}

/// Whether the same endpoint fails the same way until files or settings change. Another endpoint may still succeed; where
/// all fail so, waiting is of no use.
pub(super) fn lasts(failure: &Failure) -> bool {
    [TLS_FAILED, CERTIFICATE_REFUSED].contains(&failure.code.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    fn decide(kind: RequestKind, status: u16, body: &str) -> RetryDecision {
        let response = ApiResponse { status, headers: HeaderMap::new(), body: body.to_owned().into() };
        classify_response(kind, "a:1", &response)
    }

    #[test]
    fn a_write_of_unknown_outcome_is_retried_only_with_an_idempotency_key() {
        let timeout = r#"{"code":"timeout","detail":"d","outcome":"unknown"}"#;
        let unfinished = r#"{"code":"join_unfinished","detail":"d","outcome":"unknown"}"#;
        assert!(decide(RequestKind::Write, 504, unfinished).retry, "the same call resumes a join");
        for (kind, retry) in [
            (RequestKind::Write, false),
            (RequestKind::Keyed, true),
            (RequestKind::Read, true),
            (RequestKind::Local, true),
        ] {
            assert_eq!(decide(kind, 504, timeout).retry, retry, "{kind:?}");
            let error = || ExchangeError::new(true, "the connection broke".into());
            assert_eq!(classify_error(kind, "a:1", error()).retry, retry, "{kind:?}");
            let outcome = classify_error(kind, "a:1", error()).failure.outcome;
            assert_eq!(outcome == Outcome::Unknown, kind.is_write(), "{kind:?}");
        }
        // The response of a proxy says nothing about what the node did.
        let from_proxy = decide(RequestKind::Write, 502, "<h1>Bad gateway</h1>");
        assert_eq!((from_proxy.retry, from_proxy.failure.outcome), (false, Outcome::Unknown));
        let redirect = decide(RequestKind::Write, 307, "");
        assert!(
            redirect.retry && redirect.failure.detail.contains("a redirect, which is not followed"),
            "{redirect:?}"
        );
        assert!(decide(RequestKind::Keyed, 502, "<h1>Bad gateway</h1>").retry);
        // A problem without an outcome proves nothing.
        assert!(!decide(RequestKind::Write, 503, r#"{"code":"no_leader"}"#).retry);
    }

    #[test]
    fn a_write_that_was_not_applied_goes_to_another_node() {
        for code in ["no_leader", "overloaded", "stopping", "joining"] {
            let body = format!(r#"{{"code":"{code}","detail":"d","outcome":"not_applied"}}"#);
            let decision = decide(RequestKind::Write, 503, &body);
            assert!(decision.retry && decision.failure.outcome == Outcome::NotApplied, "{code}");
        }
        let never_sent = ExchangeError::new(false, "refused".into());
        assert!(classify_error(RequestKind::Write, "a:1", never_sent).retry);
        assert!(decide(RequestKind::Write, 410, r#"{"code":"removed","outcome":"not_applied"}"#).retry);
    }

    #[test]
    fn a_429_is_retried_after_the_time_that_it_names() {
        let body = r#"{"code":"rate_limited","detail":"d","outcome":"not_applied"}"#;
        for (named, seconds) in [("3", 3), (" 7 ", 7), ("Sun, 29 Nov 2026 10:00:00 GMT", 1), ("", 1), ("-1", 1)] {
            for (kind, body) in
                [(RequestKind::Write, body), (RequestKind::Read, body), (RequestKind::Write, "slow down")]
            {
                let headers = HeaderMap::from_iter([(RETRY_AFTER, named.parse().unwrap())]);
                let response = ApiResponse { status: 429, headers, body: body.to_owned().into() };
                let decision = classify_response(kind, "a:1", &response);
                assert_eq!(
                    (decision.retry, decision.wait),
                    (true, Some(Duration::from_secs(seconds))),
                    "{named} {body}"
                );
                assert_eq!(decision.failure.outcome, Outcome::NotApplied);
            }
        }
        assert!(decide(RequestKind::Write, 503, r#"{"code":"no_leader","outcome":"not_applied"}"#).wait.is_none());
    }

    #[test]
    fn a_final_refusal_is_not_retried() {
        for (status, code) in
            [(400, "bad_key"), (404, "key_not_found"), (412, "precondition_failed"), (413, "too_large")]
        {
            let body = format!(r#"{{"code":"{code}","detail":"d","outcome":"not_applied","version":7}}"#);
            for kind in [RequestKind::Write, RequestKind::Keyed, RequestKind::Read] {
                let decision = decide(kind, status, &body);
                assert!(!decision.retry, "{kind:?} {code}");
                assert_eq!((decision.failure.version, decision.failure.code.as_str()), (Some(7), code));
            }
        }
        // A membership change reports its own state; the operator repeats it.
        assert!(!decide(RequestKind::Write, 503, r#"{"code":"transfer_failed","outcome":"not_applied"}"#).retry);
    }
}
