//! A pending request of a client or peer, and the refusals that several components give.
//!
//! Invariants: a request is answered exactly once. One that may have had an effect is never refused as `not_applied`.
//!
//! See also: `proposals` (writes), `membership` (changes of the member table).

use super::Core;
use crate::consensus::input::{Hop, Reply};
use crate::model::{Answer, Code, Millis, Outcome, Refusal, Request};
use crate::plant::{self, Plant};

/// A request with its reply.
pub(crate) struct ClientRequest {
    pub request: Request,
    /// When this node received it.
    pub since: Millis,
    pub deadline: Millis,
    pub hop: Hop,
    /// Whether an earlier attempt may have had an effect; then no refusal says `not_applied`.
    pub maybe_applied: bool,
    pub reply: Reply<Result<Answer, Refusal>>,
}

/// Returns the refusal of a node that is shutting down.
pub(crate) fn stopping() -> Refusal {
    Refusal::not_applied(Code::Stopping, "this node is shutting down; ask another one")
}

/// Returns the refusal of a node that was removed.
pub(crate) fn removed() -> Refusal {
    Refusal::not_applied(
        Code::Removed,
        "this node was removed from its cluster; ask a member, or POST /raft/join for it there to bring it back",
    )
}

/// Returns the refusal of a node that is in no cluster yet.
pub(crate) fn joining() -> Refusal {
    Refusal::not_applied(Code::Joining, "this node is not part of a cluster yet; ask another one, or wait for its join")
}

/// Returns the refusal of a request whose deadline passed before it was taken up.
pub(crate) fn late() -> Refusal {
    Refusal::not_applied(
        Code::Timeout,
        "the deadline of the request was over before this node could take it up, so it was dropped; send it again",
    )
}

impl Core {
    /// Whether the deadline of a request has passed, so that it may have no effect from now on.
    pub(crate) fn is_late(&self, waiting: &ClientRequest) -> bool {
        if plant::is(Plant::LateProposal) {
            return false;
        }
        waiting.deadline <= self.now
    }

    pub(crate) fn refuse(&self, waiting: ClientRequest, mut refusal: Refusal) {
        if refusal.leader.is_none() {
            refusal.leader = self.leader();
        }
        // A request that was forwarded and may have been applied comes back and finds no leader. "No leader" alone
        // would say that nothing was done, so the outcome becomes unknown.
        if waiting.maybe_applied && refusal.outcome == Outcome::NotApplied {
            refusal.outcome = Outcome::Unknown;
            let join = matches!(waiting.request, Request::Join { .. });
            refusal.code = if join { Code::JoinUnfinished } else { Code::Timeout };
        }
        (waiting.reply)(Err(refusal));
    }

    /// Refuses a request that the leader has not answered, or has refused. A join can be resumed, which only the leader says by itself.
    pub(crate) fn refuse_forwarded(&self, waiting: ClientRequest, mut refusal: Refusal) {
        let is_unknown = refusal.outcome == Outcome::Unknown && refusal.code == Code::Timeout;
        if is_unknown && matches!(waiting.request, Request::Join { .. }) {
            refusal.code = Code::JoinUnfinished;
            refusal.detail.push_str("; the join may go on there, and the same POST resumes it");
        }
        self.refuse(waiting, refusal);
    }
}
