//! Planted bugs: faults that a test build can switch on, one at a time, to prove that the tests catch them.
//!
//! Why: a test harness that has never caught a bug proves nothing.
//!
//! Invariants: without the feature `plant`, [`is`] is a constant and no bug is compiled; with it, a build without debug
//! assertions is refused. At most one bug is active: that of `HUSKV_PLANT`, or the one that a test has chosen for its
//! thread. A bug is an early branch in front of the code that it breaks, so that code reads as if there were no bug.
//!
//! See also: `docs/testing.md` for what catches each bug.

#[cfg(all(feature = "plant", not(debug_assertions)))]
compile_error!("the feature `plant` switches bugs on and is for test builds only");

/// A bug that can be switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A leader acknowledges writes before its journal is synced.
    AckBeforeSync,
    /// A follower's acknowledgements and votes leave before its journal is synced.
    AnswerBeforeSync,
    /// A leader's messages leave before its own new term is durable: visible with one voter and a learner.
    SendBeforeTerm,
    /// A linearizable read is served without ReadIndex.
    ReadWithoutIndex,
    /// A read is answered before the state machine has applied the read index of its round.
    ReadBeforeApplied,
    /// A flush writes the tree without a redo record.
    RedoSkipped,
    /// A flush removes its redo record before the tree is synced.
    RedoRemovedEarly,
    /// A start ignores the redo record of an interrupted flush.
    RedoIgnored,
    /// A flush during a rewrite of the tree does not reach the new generation.
    RewriteWithoutFlushes,
    /// A rewritten tree is taken into use before it is synced.
    RewriteUnsynced,
    /// A rewritten tree is taken into use without a record in the journal.
    RewriteUnrecorded,
    /// A rewritten journal is taken into use before it is synced.
    JournalRewriteUnsynced,
    /// A rewrite of the journal goes on though the log was replaced from an entry on that it has copied.
    JournalRewriteUnmatched,
    /// A read of the tree is answered though a freeze came between it and the read of the memtables.
    EpochUnchecked,
    /// A change of a key does not reach the cache of metadata.
    MetaCacheStale,
    /// A snapshot lacks the effects that are applied during its scan.
    SnapshotWithoutEffects,
    /// A snapshot lacks the effects on the part of the tree that is scanned last, until the scan goes on.
    ScanReportedLate,
    /// A snapshot goes on with the tree that it began with, though a rewrite has put another in its place.
    ScanOfReplacedTree,
    /// The commit index is not raised when a snapshot is installed, nor at the next start.
    CommitNotRaised,
    /// A node that lost its disk comes back under the same raft id.
    RaftIdReused,
    /// A waiter is woken by the index of its entry alone, whatever the term.
    WokenByIndex,
    /// A journal record lacks the hard state where it equals that of the record before.
    HardStateLeftOut,
    /// A forwarded write whose outcome is unknown is sent again.
    ForwardRetried,
    /// A membership change that raft dropped counts as applied.
    DroppedChangeApplied,
    /// Stored results of idempotency keys are lost at the next start and at the install of a snapshot.
    ResultsForgotten,
    /// Stored results of idempotency keys are evicted before their time where there are more than eight.
    ResultsEvictedEarly,
    /// The change feed continues after the install of a snapshot as if no event were missing.
    FeedNotReset,
    /// A request is proposed without validation.
    CommandUnchecked,
    /// A follower appends an entry that it cannot decode.
    AppendUnchecked,
    /// A message of any term is stepped.
    TermUnbounded,
    /// A node takes itself for removed when one peer claims it.
    RemovalUnverified,
    /// A node takes its log for lost when one peer claims it.
    LogLossUnverified,
    /// Some followers skip the effect of some entries.
    SilentDivergence,
    /// A joiner removes its previous incarnation before the snapshot of the cluster is installed.
    OldIncarnationDropped,
    /// A member believes any join offer that lists it as removed.
    TombstonesBelieved,
    /// The previous member of a joiner's name is removed before the joiner was asked, and a later refusal says
    /// `not_applied`.
    RetiredBeforeAsked,
    /// Entries that a snapshot covers are applied after its install.
    StaleEntriesAfterInstall,
    /// A request is proposed after its deadline.
    LateProposal,
    /// The age of a stale read counts from when a message of the leader was handled, not from when it was sent.
    ContactWhenHandled,
    /// A peer is accepted under any boot id, as a restored copy of a disk has.
    BootIdsIgnored,
    /// A write that needs disk space is proposed however little a voter has left.
    SpaceIgnored,
    /// A node with any certificate of the cluster speaks as any member.
    CertificatesIgnored,
}

impl Plant {
    /// Every bug, by the name that `HUSKV_PLANT` takes.
    pub const NAMES: [(&'static str, Self); 42] = [
        ("ack-before-sync", Self::AckBeforeSync),
        ("answer-before-sync", Self::AnswerBeforeSync),
        ("send-before-term", Self::SendBeforeTerm),
        ("read-without-index", Self::ReadWithoutIndex),
        ("read-before-applied", Self::ReadBeforeApplied),
        ("redo-skipped", Self::RedoSkipped),
        ("redo-removed-early", Self::RedoRemovedEarly),
        ("redo-ignored", Self::RedoIgnored),
        ("epoch-unchecked", Self::EpochUnchecked),
        ("rewrite-without-flushes", Self::RewriteWithoutFlushes),
        ("rewrite-unsynced", Self::RewriteUnsynced),
        ("rewrite-unrecorded", Self::RewriteUnrecorded),
        ("journal-rewrite-unsynced", Self::JournalRewriteUnsynced),
        ("journal-rewrite-unmatched", Self::JournalRewriteUnmatched),
        ("meta-cache-stale", Self::MetaCacheStale),
        ("snapshot-without-effects", Self::SnapshotWithoutEffects),
        ("scan-reported-late", Self::ScanReportedLate),
        ("scan-of-replaced-tree", Self::ScanOfReplacedTree),
        ("commit-not-raised", Self::CommitNotRaised),
        ("raft-id-reused", Self::RaftIdReused),
        ("woken-by-index", Self::WokenByIndex),
        ("hard-state-left-out", Self::HardStateLeftOut),
        ("forward-retried", Self::ForwardRetried),
        ("dropped-change-applied", Self::DroppedChangeApplied),
        ("results-forgotten", Self::ResultsForgotten),
        ("results-evicted-early", Self::ResultsEvictedEarly),
        ("feed-not-reset", Self::FeedNotReset),
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
        ("boot-ids-ignored", Self::BootIdsIgnored),
        ("space-ignored", Self::SpaceIgnored),
        ("certificates-ignored", Self::CertificatesIgnored),
    ];

    /// Returns the bug with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, plant)| *plant)
    }
}

/// Returns whether this bug is active.
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

    /// Returns whether this bug is active.
    #[must_use]
    pub fn is(plant: Plant) -> bool {
        CHOSEN.get() == Some(plant)
    }

    /// Activates one bug, or none, for this thread.
    pub fn choose(plant: Option<Plant>) {
        CHOSEN.set(plant);
    }
}
