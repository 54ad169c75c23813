//! Whether a request that was not done may be sent again.
//!
//! Why: a client that repeats a write whose outcome it does not know may do it twice, and one that gives up where
//! nothing happened makes every election a failure. The rule is one function, so that it can be read and tested.
//!
//! Laws: a write whose outcome is unknown is sent again only if it carries an idempotency key. What was never sent, or
//! is
//! `not_applied` for a reason that lies with the node, may be asked of another. A decided refusal is an answer.
//!
//! Not here: where to and when ([`super::Client`]).

use std::num::NonZeroU64;

use serde::Deserialize;

use super::Failure;
use super::wire::{Answer, Trouble};
use crate::model::Outcome;

/// What a request does, as far as it decides about a repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Changes nothing; best asked of the leader, who need not ask anybody which node leads.
    Read,
    /// Changes nothing, and any node answers it by itself.
    Local,
    /// Changes something, and doing it twice may differ from doing it once.
    Write,
    /// Changes something once, however often it is sent: it carries an idempotency key.
    Keyed,
}

impl Kind {
    /// Whether it may be sent again though it may have been done.
    pub(super) fn is_repeatable(self) -> bool {
        self != Self::Write
    }

    fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Keyed)
    }
}

/// Codes that lie with the node that was asked or with the moment: another node, or the same one later, may do better.
const PASSING: [&str; 12] = [
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

/// The code of this side for an address where nothing answered.
pub(super) const NO_ANSWER: &str = "no_answer";
/// The code of this side for an answer that no huskv node gives.
pub(super) const NO_NODE: &str = "no_node";

/// What this side reads of a problem.
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
pub(super) struct Judged {
    pub(super) failure: Failure,
    pub(super) again: bool,
}

/// Judges an answer that is no success.
pub(super) fn refused(kind: Kind, endpoint: &str, answer: &Answer) -> Judged {
    let status = answer.status;
    let problem: Problem = serde_json::from_slice(&answer.body).unwrap_or_default();
    let is_node = problem.code.is_some();
    // Below 500 a server says that it did not do it, whatever stands there.
    let unsaid = if kind.changes() && status >= 500 { Outcome::Unknown } else { Outcome::NotApplied };
    let outcome = problem.outcome.unwrap_or(unsaid);
    let code = problem.code.unwrap_or_else(|| NO_NODE.to_owned());
    let detail = problem.detail.filter(|_| is_node);
    let detail = detail.unwrap_or_else(|| format!("status {status} and no reason, so this is no huskv node"));
    let again = PASSING.contains(&code.as_str()) && (kind.is_repeatable() || outcome == Outcome::NotApplied);
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
    Judged { failure, again }
}

/// Judges the lack of an answer.
pub(super) fn unanswered(kind: Kind, endpoint: &str, trouble: Trouble) -> Judged {
    let outcome = if kind.changes() && trouble.sent { Outcome::Unknown } else { Outcome::NotApplied };
    let again = kind.is_repeatable() || outcome == Outcome::NotApplied;
    Judged { failure: Failure::here(endpoint, NO_ANSWER, trouble.detail, outcome), again }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::HeaderMap;

    fn judged(kind: Kind, status: u16, body: &str) -> Judged {
        let answer = Answer { status, headers: HeaderMap::new(), body: body.to_owned().into() };
        refused(kind, "a:1", &answer)
    }

    #[test]
    fn a_write_of_unknown_outcome_is_sent_again_only_with_a_key() {
        let timeout = r#"{"code":"timeout","detail":"d","outcome":"unknown"}"#;
        for (kind, again) in [(Kind::Write, false), (Kind::Keyed, true), (Kind::Read, true), (Kind::Local, true)] {
            assert_eq!(judged(kind, 504, timeout).again, again, "{kind:?}");
            let trouble = || Trouble { sent: true, late: false, detail: "the connection broke".into() };
            assert_eq!(unanswered(kind, "a:1", trouble()).again, again, "{kind:?}");
            let outcome = unanswered(kind, "a:1", trouble()).failure.outcome;
            assert_eq!(outcome == Outcome::Unknown, kind.changes(), "{kind:?}");
        }
        // A word from something in between says nothing about what the node did.
        let between = judged(Kind::Write, 502, "<h1>Bad gateway</h1>");
        assert_eq!((between.again, between.failure.outcome), (false, Outcome::Unknown));
        assert!(judged(Kind::Keyed, 502, "<h1>Bad gateway</h1>").again);
        // A problem without its outcome is no promise.
        assert!(!judged(Kind::Write, 503, r#"{"code":"no_leader"}"#).again);
    }

    #[test]
    fn what_was_not_applied_is_asked_of_another_node() {
        for code in ["no_leader", "overloaded", "stopping", "joining"] {
            let body = format!(r#"{{"code":"{code}","detail":"d","outcome":"not_applied"}}"#);
            let judged = judged(Kind::Write, 503, &body);
            assert!(judged.again && judged.failure.outcome == Outcome::NotApplied, "{code}");
        }
        let never_sent = Trouble { sent: false, late: false, detail: "refused".into() };
        assert!(unanswered(Kind::Write, "a:1", never_sent).again);
        assert!(judged(Kind::Write, 410, r#"{"code":"removed","outcome":"not_applied"}"#).again);
    }

    #[test]
    fn a_decided_refusal_is_an_answer() {
        for (status, code) in
            [(400, "bad_key"), (404, "key_not_found"), (412, "precondition_failed"), (413, "too_large")]
        {
            let body = format!(r#"{{"code":"{code}","detail":"d","outcome":"not_applied","version":7}}"#);
            for kind in [Kind::Write, Kind::Keyed, Kind::Read] {
                let judged = judged(kind, status, &body);
                assert!(!judged.again, "{kind:?} {code}");
                assert_eq!((judged.failure.version, judged.failure.code.as_str()), (Some(7), code));
            }
        }
        // Joins and the like say themselves how they go on.
        assert!(!judged(Kind::Write, 503, r#"{"code":"transfer_failed","outcome":"not_applied"}"#).again);
    }
}
