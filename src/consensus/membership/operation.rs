//! A membership request under way: its stage, what a step of it comes to, and what the driver is to do for it.
//!
//! See also: `join` (the steps), `membership` (when they are taken).

use crate::consensus::core::Core;
use crate::consensus::core::client_request::ClientRequest;
use crate::consensus::proposals::context::Context;
use crate::model::{Answer, Code, Member, Millis, Refusal};
use crate::plant::{self, Plant};

/// One membership request under way on the leader.
pub(crate) struct Operation {
    pub waiting: ClientRequest,
    pub stage: Stage,
    pub warning: Option<String>,
    pub dropped: Option<String>,
    /// The (term, index) of the entry that the stage waits for.
    pub proposed: Option<(u64, u64)>,
}

impl Operation {
    /// An entry was proposed for its stage, unless raft took none; from now on there may be an effect.
    pub fn proposed(&mut self, proposed: Option<(u64, u64)>) {
        self.proposed = proposed;
        if plant::is(Plant::RetiredBeforeAsked) {
            return;
        }
        let changes = !matches!(self.stage, Stage::Confirm { .. });
        self.waiting.maybe_applied |= proposed.is_some() && changes;
    }

    /// The answer of a request that is done.
    pub fn answer(&self, core: &Core, changed: bool) -> Answer {
        Answer::Members { index: core.applied(), changed, warning: self.warning.clone(), dropped: self.dropped.clone() }
    }
}

/// Where a membership request stands.
pub(crate) enum Stage {
    /// Nothing has been done.
    Start,
    /// The address was asked who it is; the token of the question.
    Identify(u64),
    /// The name belongs to a member that may be gone: its silence is waited for.
    Silence { old: u64, until: Millis },
    /// The node is to be asked whether it would join, before the old bearer of its name is removed.
    Prepare { old: u64 },
    /// It was asked; the token of the question.
    Prepared { old: u64, token: u64 },
    /// The old bearer of the name is being removed; `done` once that is applied.
    Retire { old: u64, done: bool },
    /// The node is known to be free to join and is to be asked now.
    Ask,
    /// The node was asked to be adopted; the token of the question.
    JoinOffer(u64),
    /// The learner is being added.
    Add { member: Member, done: bool },
    /// The learner is catching up; any leader promotes it.
    Promote { raft_id: u64, since: Millis },
    /// A member's addresses are being replaced.
    Relocate { raft_id: u64, raft_address: String, http_address: String, done: bool },
    /// A member is being removed.
    Remove { raft_id: u64, done: bool },
    /// The table already is as asked. An entry that changes nothing proves that this node still leads, and so that its
    /// table is the cluster's.
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

    /// What comes before the removal of the old bearer of a joiner's name.
    pub fn retire(old: u64) -> Self {
        if plant::is(Plant::RetiredBeforeAsked) {
            return Self::Retire { old, done: false };
        }
        Self::Prepare { old }
    }

    /// Notes that the entry it waits for was applied as what it is.
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

/// What a step of an operation came to.
pub(crate) enum Step {
    /// It goes on in a later turn.
    Keep,
    /// It has a new stage, which may go on at once.
    Next(Stage),
    /// It has ended.
    Done(Result<Answer, Refusal>),
}

/// A transfer under way.
pub(crate) struct Transfer {
    pub waiting: ClientRequest,
    pub target: u64,
    pub until: Millis,
}

/// What the driver does for membership.
pub(crate) enum Effect {
    /// Answers a request once this node shows what the answer says.
    Answer(ClientRequest, Answer),
    /// Tries a request again that certainly had no effect, or that finds in the table what was done.
    Retry(ClientRequest),
}

pub(crate) fn refuse(code: Code, detail: String) -> Step {
    Step::Done(Err(Refusal::not_applied(code, detail)))
}

/// Ends with `refusal`, unless that only looks so because the members have not been heard yet.
pub(crate) fn refuse_once_settled(cx: &Context<'_>, refusal: Refusal) -> Step {
    if cx.live.is_settling(cx.core) { Step::Keep } else { Step::Done(Err(refusal)) }
}
