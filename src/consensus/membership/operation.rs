//! A running membership request: its stage, the result of a step, and the effects for the driver.
//!
//! See also: `change_steps` (the steps), `membership` (when they are taken).

use crate::consensus::core::Core;
use crate::consensus::core::pending_request::ClientRequest;
use crate::consensus::proposals::shared_context::Context;
use crate::model::{Answer, Code, Member, Millis, Refusal};
use crate::plant::{self, Plant};

/// One running membership request, on the leader.
pub(crate) struct Operation {
    pub waiting: ClientRequest,
    pub stage: Stage,
    pub warning: Option<String>,
    pub dropped: Option<String>,
    /// The (term, index) of the entry that the stage waits for.
    pub proposed: Option<(u64, u64)>,
}

impl Operation {
    /// Notes the proposed entry of its stage, unless raft dropped it; from then on there may be an effect.
    pub fn proposed(&mut self, proposed: Option<(u64, u64)>) {
        self.proposed = proposed;
        if plant::is(Plant::RetiredBeforeAsked) {
            return;
        }
        let changes = !matches!(self.stage, Stage::Confirm { .. });
        self.waiting.maybe_applied |= proposed.is_some() && changes;
    }

    /// Returns the answer of a completed request.
    pub fn answer(&self, core: &Core, changed: bool) -> Answer {
        Answer::Members { index: core.applied(), changed, warning: self.warning.clone(), dropped: self.dropped.clone() }
    }
}

/// The stage of a membership request.
pub(crate) enum Stage {
    /// Nothing has been done.
    Start,
    /// The node at the address was asked for its identity; the token of the request.
    Identify(u64),
    /// The name belongs to a member that may be gone: its silence is waited for.
    Silence { old: u64, until: Millis },
    /// The node will be asked whether it would join, before the present bearer of its name is removed.
    Prepare { old: u64 },
    /// It was asked; the token of the request.
    Prepared { old: u64, token: u64 },
    /// The present bearer of the name is being removed; `done` once that is applied.
    Retire { old: u64, done: bool },
    /// The node may join, and will get an offer.
    Ask,
    /// The node got an offer; the token of the request.
    JoinOffer(u64),
    /// The learner is being added.
    Add { member: Member, done: bool },
    /// The learner is catching up; any leader promotes it.
    Promote { raft_id: u64, since: Millis },
    /// A member's addresses are being replaced.
    Relocate { raft_id: u64, raft_address: String, http_address: String, done: bool },
    /// A member is being removed.
    Remove { raft_id: u64, done: bool },
    /// The table is already as requested. An entry that changes nothing proves that this node still leads, so its table
    /// is the cluster's.
    Confirm { done: bool },
    /// The member to be removed leads: leadership moves first.
    Lead { successor: u64 },
}

impl Stage {
    /// Whether the entry it waits for is a membership entry.
    pub fn proposes_change(&self) -> bool {
        !matches!(self, Self::Relocate { .. } | Self::Confirm { .. })
    }

    /// Whether the operation may have had an effect, here or on a joiner, when this stage is reached.
    pub fn has_effects(&self) -> bool {
        !matches!(
            self,
            Self::Start
                | Self::Identify(_)
                | Self::Silence { .. }
                | Self::Prepare { .. }
                | Self::Prepared { .. }
                | Self::Confirm { .. }
                | Self::Lead { .. }
        )
    }

    /// Returns the stage before the removal of the present bearer of a joiner's name.
    pub fn retire(old: u64) -> Self {
        if plant::is(Plant::RetiredBeforeAsked) {
            return Self::Retire { old, done: false };
        }
        Self::Prepare { old }
    }

    /// Notes that the entry it waits for was applied with its type.
    pub fn entry_applied(&mut self) {
        match self {
            Self::Confirm { done }
            | Self::Retire { done, .. }
            | Self::Add { done, .. }
            | Self::Relocate { done, .. }
            | Self::Remove { done, .. } => {
                *done = true;
            }
            _ => {}
        }
    }
}

/// The result of a step.
pub(crate) enum Step {
    /// Goes on in a later turn.
    Keep,
    /// Enters a new stage, which may go on at once.
    Next(Stage),
    /// Ends.
    Done(Result<Answer, Refusal>),
}

/// A running transfer.
pub(crate) struct Transfer {
    pub waiting: ClientRequest,
    pub target: u64,
    pub until: Millis,
}

/// An effect that the driver carries out.
pub(crate) enum Effect {
    /// Answers a request once this node shows what the answer says.
    Answer(ClientRequest, Answer),
    /// Tries a request again that had no effect, or that finds in the table what was done.
    Retry(ClientRequest),
}

pub(crate) fn refuse(code: Code, detail: String) -> Step {
    Step::Done(Err(Refusal::not_applied(code, detail)))
}

/// Ends with `refusal`, unless its cause may be that the members have not been heard yet.
pub(crate) fn refuse_once_settled(cx: &Context<'_>, refusal: Refusal) -> Step {
    if cx.live.is_settling(cx.core) { Step::Keep } else { Step::Done(Err(refusal)) }
}
