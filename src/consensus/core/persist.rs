//! Persistence of raft's entries and hard state in the journal, and decoding of entries into operations of the state machine.
//!
//! Invariants: at most one record and one sync for a Ready; one more before a membership entry is reported as
//! committed. A membership entry that is malformed, or that raft refuses, changes nothing, on every node alike.
//!
//! See also: `driver::ready` (when), `storage::journal` (how), `entry_decode` (what an entry holds).

use raft::eraftpb::{Entry, HardState, Message, MessageType};
use slog::{error, warn};

use super::Core;
use super::background_jobs::MeasuredStep;
use crate::consensus::handle::wake_batch;
use crate::consensus::raft_rs_adapter::entry_decode::{self, Payload};
use crate::model::Millis;
use crate::plant::{self, Plant};
use crate::storage::{Error, Operation};
use crate::telemetry::node_events::Kind;

/// A sync that takes longer is logged.
const SLOW_SYNC: Millis = 500;

/// The shortest interval between two events about slow syncs.
const SLOW_SYNCS_EVERY: Millis = 10_000;

/// The election timeouts for which a sync counts as one of the last.
const KEEP_SYNCS: Millis = 5;

impl Core {
    /// Appends one record and syncs it.
    pub fn persist(&mut self, entries: &[Entry], hard_state: &HardState) -> Result<(), Error> {
        let recorded = self.raw.store().journal.hard_state();
        debug_assert!(
            hard_state.term >= recorded.term && hard_state.commit >= recorded.commit,
            "term and commit never fall"
        );
        debug_assert!(
            hard_state.term > recorded.term || recorded.vote == 0 || hard_state.vote == recorded.vote,
            "one vote a term"
        );
        self.records += 1;
        if plant::is(Plant::AckBeforeSync)
            && self.leads()
            && self.raw.store().journal.hard_state().term == hard_state.term
        {
            return self.raw.mut_store().journal.append(entries, hard_state);
        }
        self.raw.mut_store().journal.append(entries, hard_state)?;
        // What was answered before need not wait for the disk.
        wake_batch::hand_over();
        let began = self.background.now();
        self.sync_journal()?;
        let took = self.background.now().saturating_sub(began);
        self.pass();
        self.syncs.note(self.now, took, KEEP_SYNCS * self.election_timeout());
        if took > SLOW_SYNC {
            warn!(self.log, "the disk is slow: a sync stalled the loop"; "ms" => took);
            if let Some(more) = self.slow_syncs.every(SLOW_SYNCS_EVERY, self.now) {
                self.note(Kind::SlowSync { ms: took, more });
            }
        }
        Ok(())
    }

    /// Whether the journal holds what a message promises: its term, and the entries that it acknowledges.
    pub fn holds(&self, message: &Message) -> bool {
        let journal = &self.raw.store().journal;
        let has_term = message.term <= journal.hard_state().term;
        match message.get_msg_type() {
            // About a term that no node is in yet.
            MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse => true,
            MessageType::MsgAppendResponse => has_term && (message.reject || message.index <= journal.last_index()),
            _ => has_term,
        }
    }

    /// Makes it durable that what lies up to `index` is committed. Done for a membership entry before it is reported as
    /// committed: a node that was told of its removal votes no more, and of two voters the one that stays could
    /// otherwise forget at a crash that the entry was committed, and would need the vote of the other for ever.
    pub(crate) fn keep_commit(&mut self, index: u64) -> Result<(), Error> {
        debug_assert!(index <= self.raw.raft.raft_log.committed, "what is kept is committed");
        let log = self.raw.mut_store();
        // The others may have committed what this node has not synced; they have it then.
        // Worked example: voters 1 and 2, and 1 leads and removes 2 by entry 9. Node 2 hears that 9 is committed and
        // votes no more. Node 1 crashes with a commit of 8 on its disk. It comes back, still counts 2 as a voter, and
        // waits for its vote for ever. With a commit of 9 on the disk it applies the removal at its start and leads
        // alone.
        let index = index.min(log.journal.last_index());
        if log.journal.hard_state().commit >= index {
            return Ok(());
        }
        log.hard_state.commit = log.hard_state.commit.max(index);
        let hard_state = HardState { commit: index, ..log.hard_state.clone() };
        log.journal.append(&[], &hard_state)?;
        wake_batch::hand_over();
        self.sync_journal()
    }

    fn sync_journal(&mut self) -> Result<(), Error> {
        let began = self.background.stopwatch();
        self.raw.mut_store().journal.sync()?;
        self.background.measured(MeasuredStep::Sync, began);
        Ok(())
    }

    /// Decodes an entry into an operation. A membership change is applied to raft here; if it is malformed or raft
    /// refuses it, the entry changes nothing, on every node alike.
    pub fn operation(&mut self, entry: &Entry) -> Result<Operation, Error> {
        let decoded = self.decoded.take(entry).map(Payload::Command);
        debug_assert!(
            decoded.as_ref().is_none_or(|decoded| entry_decode::decode(entry).is_ok_and(|again| again == *decoded)),
            "what is applied is what the entry holds"
        );
        let (conf_change, change) = match decoded.map_or_else(|| entry_decode::decode(entry), Ok) {
            Ok(Payload::Nothing) => return Ok(Operation::Nothing),
            Ok(Payload::Command(_)) if plant::is(Plant::SilentDivergence) && self.forgets(entry) => {
                return Ok(Operation::Nothing);
            }
            Ok(Payload::Command(proposal)) => return Ok(Operation::Command(proposal)),
            Ok(Payload::Membership(conf_change, change)) => (conf_change, change),
            Err(detail) => {
                error!(self.log, "a committed entry cannot be read"; "index" => entry.index, "error" => &detail);
                return Err(self.unreadable(entry, &detail));
            }
        };
        let applied = entry_decode::check_membership(&conf_change, &change)
            .and_then(|()| self.raw.apply_conf_change(&conf_change).map_err(|error| error.to_string()));
        match applied {
            Ok(conf_state) => Ok(Operation::Membership { change: Some(change), conf_state }),
            Err(refused) => {
                warn!(self.log, "a membership entry was refused"; "index" => entry.index, "error" => refused);
                Ok(Operation::Nothing)
            }
        }
    }

    /// Whether the planted bug leaves this entry out.
    fn forgets(&self, entry: &Entry) -> bool {
        !self.leads() && self.raft_id().is_multiple_of(3) && entry.index.is_multiple_of(32)
    }

    fn unreadable(&self, entry: &Entry, detail: &str) -> Error {
        Error::Damaged {
            what: format!("the committed entry at index {}", entry.index),
            detail: detail.to_owned(),
            path: self.data_dir.engine().path(),
        }
    }
}
