//! A request of a client or peer that waits for its answer, and the refusals that several components give.
//!
//! Invariants: a request is answered exactly once. One that may have had an effect is never refused as `not_applied`.
//!
//! See also: `proposals` (writes), `membership` (changes of the member table).

use super::Core;
use crate::consensus::input::{Hop, Reply};
use crate::model::{Answer, Code, Millis, Outcome, Refusal, Request};
use crate::plant::{self, Plant};

/// A request and where its answer goes.
pub(crate) struct ClientRequest {
    pub request: Request,
    /// When it came to this node.
    pub since: Millis,
    pub deadline: Millis,
    pub hop: Hop,
    /// Whether an earlier try may have had an effect: then no refusal may say that there was none.
    pub maybe_applied: bool,
    pub reply: Reply<Result<Answer, Refusal>>,
}

/// The refusal of a node that is shutting down.
pub(crate) fn stopping() -> Refusal {
    Refusal::not_applied(Code::Stopping, "this node is shutting down; ask another one")
}

/// The refusal of a node that was removed.
pub(crate) fn removed() -> Refusal {
    Refusal::not_applied(
        Code::Removed,
        "this node was removed from its cluster; ask a member, or POST /raft/join for it there to bring it back",
    )
}

/// The refusal of a node that is in no cluster yet.
pub(crate) fn joining() -> Refusal {
    Refusal::not_applied(Code::Joining, "this node is not part of a cluster yet; ask another one, or wait for its join")
}

/// The refusal of what waited, on this node or on its way here, for longer than its client.
pub(crate) fn late() -> Refusal {
    Refusal::not_applied(
        Code::Timeout,
        "the deadline of the request was over before this node could take it up, so it was dropped; send it again",
    )
}

impl Core {
    /// Whether the time of a request is over, so that it may have no effect from now on.
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
        if waiting.maybe_applied && refusal.outcome == Outcome::NotApplied {
            refusal.outcome = Outcome::Unknown;
            let join = matches!(waiting.request, Request::Join { .. });
            refusal.code = if join { Code::JoinUnfinished } else { Code::Timeout };
        }
        (waiting.reply)(Err(refusal));
    }
}
