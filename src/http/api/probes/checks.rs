//! The checks of readiness, and why one fails.
//!
//! Invariants: a check reads what the loop has published in its last turn; only `read_index` waits, and not where that turn has found that no
//! round would be confirmed. What a loop has published that makes no turns any more counts as long as nothing newer is known.
//!
//! See also: where they come from (`consensus::Readiness`), how they are written out ([`super::readyz`]).

use std::time::Duration;

use crate::consensus::{READ_INDEX_ROUND, Readiness};
use crate::http::request::handler_context::ServerContext;
use crate::http::request::loop_wait::STALLED_AFTER;
use crate::http::request::uri::Deadline;
use crate::model::{Code, Refusal};

/// A named check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// It belongs to a cluster.
    Joined,
    /// It knows a leader.
    Leader,
    /// A round of ReadIndex was confirmed within a second.
    ReadIndex,
    /// It has applied what is committed.
    Applied,
    /// Its disk has its reserve free.
    Disk,
    /// It has not been asked to stop.
    Draining,
}

/// All of them, in the order of an answer.
pub(super) const CHECKS: [Check; 6] =
    [Check::Joined, Check::Leader, Check::ReadIndex, Check::Applied, Check::Disk, Check::Draining];

/// Why a check fails.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The stable code, one of those of problems.
    pub(super) code: &'static str,
    /// The explanation.
    pub(super) detail: String,
}

impl Failure {
    fn of(code: Code, detail: &str) -> Self {
        Self { code: code.as_str(), detail: detail.to_owned() }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code.as_str(), detail: refusal.detail }
    }
}

impl Check {
    /// Returns its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Leader => "leader",
            Self::ReadIndex => "read_index",
            Self::Applied => "applied",
            Self::Disk => "disk",
            Self::Draining => "draining",
        }
    }

    /// Returns the check of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        CHECKS.into_iter().find(|check| check.name() == name)
    }

    /// Returns why it fails, if it does.
    pub(super) async fn failure(self, context: &ServerContext, deadline: Deadline) -> Option<Failure> {
        if self == Self::Draining {
            let detail = "this node has been asked to stop, and takes requests for http.drain_ms yet; ask another one";
            return context.handle.is_draining().then(|| Failure::of(Code::Stopping, detail));
        }
        let (silence, _) = context.silence();
        let known = self.known_failure(silence, &context.names().readiness);
        if known.is_some() || self != Self::ReadIndex {
            return known;
        }
        let confirmed = context.probe_read_index(deadline.left().min(READ_INDEX_ROUND)).await;
        confirmed.err().map(Failure::from)
    }

    /// Returns why it fails without asking the loop, by what that published in its last turn, `silence` ago; None before the first.
    fn known_failure(self, silence: Option<Duration>, readiness: &Readiness) -> Option<Failure> {
        let Some(silence) = silence else {
            return Some(Failure::of(Code::Starting, "this node has not begun to serve yet; wait"));
        };
        let published = match self {
            Self::Joined => &readiness.joined,
            Self::Leader => &readiness.leader,
            Self::ReadIndex => &readiness.read_index,
            Self::Applied => &readiness.applied,
            Self::Disk => &readiness.disk,
            Self::Draining => return None,
        };
        // A published reason is more exact than `stalled`, so it is preferred, however old it is.
        if let Some(refusal) = published {
            return Some(refusal.clone().into());
        }
        (self == Self::ReadIndex && silence > STALLED_AFTER).then(|| Failure {
            code: "stalled",
            detail: format!(
                "the node's loop has made no turn for {} s; its disk is slow or its machine overloaded",
                silence.as_secs()
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_fails_by_what_the_loop_has_published() {
        let refusal = |code| Some(Refusal::not_applied(code, "why"));
        let readiness = Readiness {
            joined: refusal(Code::Removed),
            leader: refusal(Code::NoLeader),
            read_index: refusal(Code::Lagging),
            applied: refusal(Code::Starting),
            disk: refusal(Code::DiskNearlyFull),
        };
        let codes = |silence, readiness: &Readiness| {
            CHECKS.map(|check| check.known_failure(silence, readiness).map_or("", |failure| failure.code))
        };
        let failing = ["removed", "no_leader", "lagging", "starting", "disk_nearly_full", ""];
        for silence in [Duration::ZERO, STALLED_AFTER * 2] {
            assert_eq!(codes(Some(silence), &readiness), failing);
        }
        let holding = Readiness::default();
        assert_eq!(codes(Some(Duration::ZERO), &holding), [""; 6]);
        assert_eq!(codes(Some(STALLED_AFTER * 2), &holding), ["", "", "stalled", "", "", ""]);
        assert_eq!(codes(None, &holding)[..5], ["starting"; 5]);
    }

    #[test]
    fn a_check_is_found_by_its_name() {
        for check in CHECKS {
            assert_eq!(Check::named(check.name()), Some(check));
        }
        assert_eq!(Check::named("Leader"), None);
    }
}
