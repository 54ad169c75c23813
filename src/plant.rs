//! Planted bugs, of which each can be let into a test build to see that the tests catch it.
//!
//! Why: a harness that has never caught anything proves nothing.
//!
//! Laws: without the feature `plant` the question is constant and nothing of a bug is compiled; with it, a build without
//! debug assertions is refused. One bug at a time: that of `HUSKV_PLANT`, or the one that a test has chosen for its
//! thread.
//!
//! Not here: the bugs themselves. Each stands where its like would be made.

#[cfg(all(feature = "plant", not(debug_assertions)))]
compile_error!("the feature `plant` lets bugs in and is for test builds only");

/// A bug that can be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A leader acknowledges writes before its journal is synced.
    AckBeforeSync,
    /// A follower's answers leave before its journal is synced.
    AnswerBeforeSync,
    /// A leader's messages leave before its own new term is durable: seen with one voter and a learner.
    SendBeforeTerm,
    /// A linearizable read is served without ReadIndex.
    ReadWithoutIndex,
    /// A read is answered before the machine has applied the index that its round confirmed.
    ReadBeforeApplied,
    /// The applied index is written apart from the effects.
    AppliedApart,
    /// A copy misses the effects that are applied during its scan.
    CopyWithoutEffects,
    /// The commit is not raised when a copy is installed, nor at the next start.
    CommitNotRaised,
    /// A node that lost its disk comes back under the raft id that it had.
    RaftIdReused,
    /// A waiter is woken by the index of its entry alone, whatever the term.
    WokenByIndex,
    /// A record whose hard state is that of the record before says nothing of it.
    HardStateLeftOut,
    /// A forwarded write whose outcome is unknown is tried again.
    ForwardRetried,
    /// A membership change that raft dropped is taken as applied.
    DroppedChangeApplied,
    /// What named requests came to is forgotten at the next start, and where a copy of the state arrives.
    ResultsForgotten,
    /// What named requests came to is forgotten under the press of others, however young it is.
    ResultsOutrun,
    /// Watchers go on behind a copy of the state as if nothing were missing.
    CopyUntold,
    /// What is asked for is proposed without a look at it.
    CommandUnchecked,
    /// A follower appends what it cannot decode.
    AppendUnchecked,
    /// A message is believed whatever its term.
    TermUnbounded,
    /// A node is removed where anybody says so.
    RemovalUnverified,
    /// A node's log is lost where anybody says so.
    LogLossUnverified,
    /// Some followers leave the effect of an entry out now and then.
    SilentDivergence,
    /// An adopted node removes what it was at once, rather than when the cluster's state has arrived.
    OldIncarnationDropped,
    /// A member takes the word of any offer to adopt it that its cluster has removed it.
    TombstonesBelieved,
    /// The old bearer of a joiner's name is removed before the joiner was asked, and what follows is refused as if nothing
    /// had been done.
    RetiredBeforeAsked,
    /// Entries that a copy of the state covers are applied on top of it.
    StaleEntriesAfterInstall,
    /// A request is proposed however long its deadline is over.
    LateProposal,
    /// A stale read counts from when a message of the leader was handled.
    ContactWhenHandled,
    /// A peer is spoken to whatever life it says it is in.
    LivesIgnored,
    /// What needs space is proposed however little a voter has left.
    SpaceIgnored,
}

impl Plant {
    /// All of them, by the name that `HUSKV_PLANT` takes.
    pub const NAMES: [(&'static str, Self); 30] = [
        ("ack-before-sync", Self::AckBeforeSync),
        ("answer-before-sync", Self::AnswerBeforeSync),
        ("send-before-term", Self::SendBeforeTerm),
        ("read-without-index", Self::ReadWithoutIndex),
        ("read-before-applied", Self::ReadBeforeApplied),
        ("applied-apart", Self::AppliedApart),
        ("copy-without-effects", Self::CopyWithoutEffects),
        ("commit-not-raised", Self::CommitNotRaised),
        ("raft-id-reused", Self::RaftIdReused),
        ("woken-by-index", Self::WokenByIndex),
        ("hard-state-left-out", Self::HardStateLeftOut),
        ("forward-retried", Self::ForwardRetried),
        ("dropped-change-applied", Self::DroppedChangeApplied),
        ("results-forgotten", Self::ResultsForgotten),
        ("results-outrun", Self::ResultsOutrun),
        ("copy-untold", Self::CopyUntold),
        ("command-unchecked", Self::CommandUnchecked),
        ("append-unchecked", Self::AppendUnchecked),
        ("term-unbounded", Self::TermUnbounded),
        ("removal-unverified", Self::RemovalUnverified),
        ("log-loss-unverified", Self::LogLossUnverified),
        ("silent-divergence", Self::SilentDivergence),
        ("old-incarnation-dropped", Self::OldIncarnationDropped),
        ("tombstones-believed", Self::TombstonesBelieved),
        ("retired-before-asked", Self::RetiredBeforeAsked),
        ("stale-entries-after-install", Self::StaleEntriesAfterInstall),
        ("late-proposal", Self::LateProposal),
        ("contact-when-handled", Self::ContactWhenHandled),
        ("lives-ignored", Self::LivesIgnored),
        ("space-ignored", Self::SpaceIgnored),
    ];

    /// The bug with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, plant)| *plant)
    }
}

/// Whether this bug is in.
#[cfg(not(feature = "plant"))]
#[must_use]
pub const fn is(_: Plant) -> bool {
    false
}

#[cfg(feature = "plant")]
pub use chosen::{choose, is};

#[cfg(feature = "plant")]
mod chosen {
    use std::cell::Cell;

    use crate::plant::Plant;

    thread_local! {
        static CHOSEN: Cell<Option<Plant>> =
            Cell::new(std::env::var("HUSKV_PLANT").ok().and_then(|name| Plant::named(&name)));
    }

    /// Whether this bug is in.
    #[must_use]
    pub fn is(plant: Plant) -> bool {
        CHOSEN.get() == Some(plant)
    }

    /// Lets one bug, or none, into what this thread runs.
    pub fn choose(plant: Option<Plant>) {
        CHOSEN.set(plant);
    }
}
