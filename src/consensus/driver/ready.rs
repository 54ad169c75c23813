//! One turn of the loop: what raft wants done, in the only safe order.
//!
//! Why: a crash can come between any two lines of this file, and what was promised before it must hold after it.
//!
//! Invariants: leader messages leave before the leader's own sync (Raft thesis 10.2.1), unless the Ready changes term
//! or vote: with one voter and a learner, sending first could diverge silently. No follower's answer leaves before its
//! sync. There is exactly one record and one sync for a Ready with `must_sync`, one more before a membership entry is
//! reported as committed, and none otherwise. Entries are applied in order, each once. What is committed but asks for
//! much work or time waits for later turns; meanwhile raft goes on.
//!
//! See also: where the inputs of a turn come from (`thread`), the record itself (`core::persist`), what an entry holds
//! (`entry_decode`).

use raft::Ready;
use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};
use slog::info;

use super::Driver;
use super::split_borrows::{context, view};
use crate::consensus::core::background_jobs::MeasuredStep;
use crate::consensus::core::turn_budget::{ENTRIES_PER_PIECE, TurnBudget};
use crate::consensus::input::InstallError;
use crate::consensus::raft_rs_adapter::raw_node_setup::COMMITTED_BYTES_PER_READY;
use crate::consensus::reads::{RoundEnd, fail};
use crate::model::Millis;
use crate::model::{Answer, Command, EventKind, MemberChange, Written};
use crate::plant::{self, Plant};
use crate::storage::{Applied, Error, Operation};

/// The maximum number of Readys in a turn, each of at most 2 MiB of committed entries; more wait for the next turn, so
/// that ticks, heartbeats and other inputs are not held up.
const READIES_PER_TURN: usize = 4;

/// The number of applied entries after which a turn takes no further Ready.
const ENTRIES_PER_TURN: u64 = 4096;

impl Driver {
    /// Whether another turn has work even if no input comes.
    #[must_use]
    pub fn has_work(&self) -> bool {
        (self.core.asks_raft() && self.core.raw.has_ready())
            || (!self.committed.is_empty() && !self.core.state_machine.stalls())
            || self.proposals.any_proposable(&self.core)
    }

    /// Carries out what the inputs since the last turn have caused. On return everything that was acknowledged is
    /// durable.
    ///
    /// # Errors
    /// [`Error`]: poisoned; nothing that was not durable has been acknowledged.
    pub fn turn(&mut self, now: Millis) -> Result<(), Error> {
        self.core.at(now);
        let before = self.core.marks();
        self.core.budget = TurnBudget::new(self.core.background.now(), self.core.now, self.core.options.apply_work);
        // Everything that proposes or steps stands before `ready()`, or behind the advance at the end of `process`.
        // What is proposed here leaves with one Ready: one record, one sync, one round of messages, and the heartbeats
        // of the reads among them.
        self.proposals.propose_writes(context!(self));
        self.drive_membership();
        self.clock.expire_keys(&mut self.core, &self.voter_disk_space)?;
        self.reads.issue_read_index(&mut self.core, &self.lag);
        let (began_at, mut left) = (self.core.state_machine.applied().0, READIES_PER_TURN);
        // What the last turn has left is applied before a Ready adds to it, so entries keep their order. Where the
        // budget is spent with that, one Ready is taken all the same and its entries wait: its messages and its sync
        // must not wait for the state machine.
        let mut goes_on = self.apply_committed()?;
        while left > 0
            && self.core.asks_raft()
            && self.core.raw.has_ready()
            && self.core.state_machine.applied().0 < began_at + ENTRIES_PER_TURN
        {
            left = if goes_on && !self.core.budget.is_late(self.core.background.now()) { left - 1 } else { 0 };
            let ready = self.core.raw.ready();
            self.process(ready)?;
            goes_on = goes_on && self.apply_committed()?;
            self.core.pass();
            self.drive_membership();
            self.clock.expire_keys(&mut self.core, &self.voter_disk_space)?;
            self.reads.issue_read_index(&mut self.core, &self.lag);
        }
        self.core.pass();
        // Behind all that applies, so a read that is answered here sees every write that was answered before it.
        self.lag.note_applied(&self.core);
        self.reads.release_reads(view!(self));
        self.proposals.answer_visible(context!(self));
        // May step raft (the report of a stream), so it stands behind the last advance. A checkpoint begins at what
        // this turn applied.
        self.snapshots.run_snapshots(&mut self.core)?;
        self.core.feed.set_status(self.feed_status());
        let after = self.core.marks();
        debug_assert!(after.term >= before.term && after.commit >= before.commit && after.applied >= before.applied);
        // The journal could not be read while raft asked for entries. Raft has seen `Unavailable` and gone on; the node
        // ends here.
        match self.core.raw.store().broken.borrow_mut().take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    fn process(&mut self, mut ready: Ready) -> Result<(), Error> {
        let records = self.core.records;
        let before = self.core.raw.store().hard_state.clone();
        let hard_state = ready.hs().cloned().unwrap_or_else(|| before.clone());
        let promises = hard_state.term != before.term || hard_state.vote != before.vote;
        self.role_transition();
        // Raft forgets the index with the leadership, but not the commit that it has put into messages before.
        self.pending_change = self.pending_change.max(self.core.raw.raft.pending_conf_index);
        // Step 1: a leader's appends leave before its own sync, so that the followers sync at the same time. An example
        // of why not where the Ready holds a new term or vote: a lone voter with a learner wins term 5, sends entry 9
        // of term 5 to the learner and crashes before its sync. It comes back in term 4, wins term 5 again with another
        // entry 9, and the learner, which has (9, 5) already, keeps the old one.
        if plant::is(Plant::SendBeforeTerm) {
            let unsynced = ready.take_messages();
            self.dispatch(unsynced)?;
        }
        let early = ready.take_messages();
        let held = if promises {
            early
        } else {
            self.dispatch(early)?;
            Vec::new()
        };
        self.core.raw.mut_store().hard_state = hard_state.clone();
        // Step 2: a snapshot replaces log and state machine, durably, and the hard state with it.
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata().clone();
            self.take_snapshot(metadata.index, metadata.term, &hard_state)?;
        }
        // The install has written the hard state with its reset record; entries behind a snapshot need a record of
        // their own.
        let recorded = !ready.snapshot().is_empty() && ready.entries().is_empty();
        if plant::is(Plant::AnswerBeforeSync) && !self.core.leads() {
            let answers = ready.take_persisted_messages();
            self.dispatch(answers)?;
        }
        // Step 3: entries, term and vote in one record with one sync.
        if ready.must_sync() && !recorded {
            self.core.persist(ready.entries(), &hard_state)?;
        }
        // Step 4: what says that entries, a term or a vote are held here: acknowledgements, votes, held appends.
        debug_assert!(held.iter().all(|message| self.core.holds(message)), "a new term or vote is synced first");
        self.dispatch(held)?;
        let persisted = ready.take_persisted_messages();
        debug_assert!(persisted.iter().all(|message| self.core.holds(message)), "no answer leaves before its sync");
        self.dispatch(persisted)?;
        let end = self.reads.read_states(ready.take_read_states());
        self.round_ended(end);
        // Step 5: committed entries wait for `apply_committed`; the commit index becomes durable with the next record.
        self.committed.extend(ready.take_committed_entries());
        let mut light = self.core.raw.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.core.raw.mut_store().hard_state.commit = commit;
        }
        self.dispatch(light.take_messages())?;
        self.committed.extend(light.take_committed_entries());
        debug_assert!(self.core.records <= records + 1, "one record and one sync for a Ready");
        Ok(())
    }

    fn round_ended(&mut self, end: Option<RoundEnd>) {
        match end {
            None => {}
            Some(RoundEnd::Confirmed { index, age }) => {
                self.lag.answered(index, age.is_in_time(self.core.options.election_ticks));
            }
            Some(RoundEnd::LeaderLacks { confirmed, applied, readers }) => {
                self.lag.answered(confirmed, true);
                self.verification.leader_lacks(&self.core, confirmed, applied);
                let refusal = self.unavailable().unwrap_or_else(|| self.live.no_quorum(&self.core));
                fail(&self.core, readers, || refusal.clone());
            }
        }
    }

    /// Applies committed entries in pieces, within the budget of the turn; returns whether all were applied.
    fn apply_committed(&mut self) -> Result<bool, Error> {
        // Where the memtables are full, committed entries wait for the flush under way, whose end wakes the loop.
        while let Some(first) = self.committed.front()
            && !self.core.state_machine.stalls()
            && let Some(most_work) = self.core.budget.next_batch(self.core.background.now())
        {
            // A change of the membership stands alone: raft is told of it once, when it is applied.
            let plain = || self.committed.iter().take(ENTRIES_PER_PIECE).take_while(|entry| !is_change(entry)).count();
            let count = if is_change(first) { 1 } else { plain() };
            // The piece ends where the leader has told a digest, so that both are of the same index.
            let count = self.digests.before_comparison(first, count);
            let mut entries: Vec<_> = self.committed.drain(..count).collect();
            let done = self.apply(&entries, most_work)?;
            self.core.budget.spend(self.core.state_machine.work());
            // 256 entries were taken and the state machine stopped after 100: the other 156 go back to the front, in
            // their order.
            entries.drain(..done);
            entries.into_iter().rev().for_each(|entry| self.committed.push_front(entry));
            if self.core.is_outside() {
                self.committed.clear();
                return Ok(true);
            }
            let comparison = self.digests.compare_awaited(&self.core);
            self.compared(comparison);
        }
        // Raft takes in that a change is applied, without which it takes no further one.
        self.core.raw.advance_apply_to(self.core.state_machine.applied().0);
        let whole = self.committed.is_empty();
        // Raft hands out as little as it can while there is enough to do.
        let most = if whole { COMMITTED_BYTES_PER_READY } else { 0 };
        self.core.raw.raft.set_max_committed_size_per_ready(most);
        Ok(whole)
    }

    /// Hands messages to the transport; the offer of a snapshot becomes a stream.
    fn dispatch(&mut self, messages: Vec<Message>) -> Result<(), Error> {
        let (offers, plain): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|message| message.get_msg_type() == MessageType::MsgSnapshot);
        if !plain.is_empty() {
            // A leader's messages say what is committed.
            if self.core.raw.store().journal.hard_state().commit < self.pending_change {
                self.core.keep_commit(self.core.raw.raft.raft_log.committed)?;
            }
            self.core.outbox.send(plain);
        }
        offers.into_iter().try_for_each(|message| self.snapshots.begin_stream(&mut self.core, message))
    }

    /// Installs a received snapshot: first the journal, durably, then the state machine in memory.
    fn take_snapshot(&mut self, index: u64, term: u64, hard_state: &HardState) -> Result<(), Error> {
        let Some((received, reply)) = self.installing.take() else {
            return Err(Error::Damaged {
                what: "the raft log".into(),
                detail: format!("a snapshot at {index} was to be installed, but it has not arrived"),
                path: self.core.data_dir.engine().path(),
            });
        };
        let mut hard_state = hard_state.clone();
        hard_state.commit = hard_state.commit.max(index);
        if plant::is(Plant::CommitNotRaised) {
            hard_state.commit = self.core.raw.store().journal.hard_state().commit;
        }
        self.core.state_machine.abort_snapshot();
        // What was not applied yet is in the snapshot.
        self.committed.clear();
        // The record of the journal is the commit point. Before it a crash leaves the old state, and the received one
        // is garbage. After it the new state is in use, and the next start does what is left of the steps below
        // (`DataDir::open`).
        let (generation, mut state_machine) = received.take();
        let members = self.core.state_machine.members().clone();
        self.core.options.limit_memory(&mut state_machine);
        let log = self.core.raw.mut_store();
        log.journal.install(index, term, generation, &hard_state)?;
        log.hard_state = hard_state;
        log.conf_state = state_machine.conf_state().clone();
        log.applied = state_machine.applied();
        self.core.unused.push(Box::new(std::mem::replace(&mut self.core.state_machine, state_machine)));
        if !plant::is(Plant::FeedNotReset) {
            self.core.feed.skip_to(index);
        }
        self.snapshots.installed(&mut self.core);
        self.proposals.requests_hidden(context!(self), index, term);
        self.settle()?;
        info!(self.core.log, "snapshot installed"; "index" => index, "term" => term, "keys" => self.core.state_machine.keys());
        self.note_installed(&members, index);
        // The table has come with the snapshot: the leader has a name now, and the log is to say it.
        self.seen.leader = 0;
        reply(Ok::<(), InstallError>(()));
        self.core.publish();
        self.core.discard_garbage()
    }

    /// Applies committed entries, or as many of them as `most_work` allows, and answers the requests that wait for
    /// them; returns how many.
    fn apply(&mut self, entries: &[Entry], most_work: usize) -> Result<usize, Error> {
        debug_assert!(
            follows(self.core.state_machine.applied(), entries),
            "entries are applied in order, none twice, and their terms never fall"
        );
        let mut batch = Vec::with_capacity(entries.len());
        let mut removed = Vec::new();
        // Raft first, entry by entry: a membership entry stores the configuration that results from it.
        let mut table_changed = false;
        for entry in entries {
            let operation = self.core.operation(entry)?;
            match &operation {
                Operation::Membership { change, .. } => {
                    table_changed = true;
                    if let Some(MemberChange::Remove { raft_id }) = change {
                        removed.push(*raft_id);
                    }
                }
                Operation::Command(proposal) if matches!(proposal.write.command, Command::Move { .. }) => {
                    table_changed = true;
                }
                Operation::Command(_) | Operation::Nothing => {}
            }
            batch.push(Applied { index: entry.index, term: entry.term, operation });
        }
        let last_term = self.core.state_machine.applied().1;
        let before = table_changed.then(|| self.core.state_machine.members().clone());
        let began = self.core.background.stopwatch();
        let written = self.core.state_machine.apply(batch, most_work)?;
        self.core.background.measured(MeasuredStep::Apply, began);
        let done = written.len();
        // Publish events before waking writers, so that a writer who then watches sees its own event.
        let events = self.core.state_machine.take_events();
        self.ttl_expired += events.iter().filter(|event| event.kind == EventKind::Expired).count() as u64;
        self.core.feed.append(events, self.core.state_machine.applied().0);
        let log = self.core.raw.mut_store();
        log.applied = self.core.state_machine.applied();
        if table_changed {
            log.conf_state = self.core.state_machine.conf_state().clone();
        }
        if table_changed {
            self.core.keep_commit(self.core.state_machine.applied().0)?;
        }
        // Order: events, so that a writer who then watches finds its own; the commit of a membership change, so that
        // none is reported that a crash could undo; the answers; and last what may end this node's part in the cluster,
        // its own removal.
        self.wake(entries, written, last_term);
        if let Some(before) = before.filter(|before| before != self.core.state_machine.members()) {
            self.note_members(&before);
            self.members_changed(&removed)?;
        }
        Ok(done)
    }

    fn wake(&mut self, entries: &[Entry], written: Vec<Written>, mut last_term: u64) {
        for (entry, written) in entries.iter().zip(written) {
            // The first entry of a higher term proves the loss of proposals at its index and above; they are tried
            // again before its own waiter is answered.
            if entry.term > last_term {
                last_term = entry.term;
                self.proposals.requests_lost(context!(self), entry.term, entry.index);
            }
            self.proposals.request_applied(entry.term, entry.index, Answer::Written(written));
            self.membership.membership_applied(entry.term, entry.index, is_change(entry));
        }
    }
}

/// Whether these entries follow the entry of this (index, term) without a gap or a falling term.
fn follows(applied: (u64, u64), entries: &[Entry]) -> bool {
    if plant::is(Plant::StaleEntriesAfterInstall) {
        return true;
    }
    let marks = entries.iter().scan(applied, |last, entry| {
        let before = std::mem::replace(last, (entry.index, entry.term));
        Some(entry.index == before.0 + 1 && entry.term >= before.1)
    });
    marks.into_iter().all(|follows| follows)
}

/// Whether an entry changes the membership.
fn is_change(entry: &Entry) -> bool {
    entry.get_entry_type() != EntryType::EntryNormal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_follow_each_other_without_a_gap_and_with_terms_that_never_fall() {
        let entry = |(index, term)| Entry { index, term, ..Entry::default() };
        for (applied, entries, expected) in [
            ((4, 2), vec![], true),
            ((4, 2), vec![(5, 2), (6, 2), (7, 3)], true),
            ((4, 2), vec![(6, 2)], false),
            ((4, 2), vec![(4, 2)], false),
            ((4, 2), vec![(5, 1)], false),
            ((4, 2), vec![(5, 3), (6, 2)], false),
        ] {
            let entries: Vec<_> = entries.into_iter().map(entry).collect();
            assert_eq!(follows(applied, &entries), expected, "{entries:?} after {applied:?}");
        }
    }
}
