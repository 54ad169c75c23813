//! Messages of peers: what is checked before raft sees one, and what follows from reports about this node.
//!
//! See also: `claim_verification`, `plausibility`, `state_divergence` (the checks), `entry_decode` (entries that could not be applied).

use raft::eraftpb::{Message, MessageType};
use slog::error;

use super::Driver;
use crate::consensus::claim_verification::plausibility::Belief;
use crate::consensus::claim_verification::state_divergence::Comparison;
use crate::consensus::claim_verification::{Claim, ClaimOutcome};
use crate::consensus::core::Phase;
use crate::consensus::raft_rs_adapter::decoded_entries::Decoded;
use crate::consensus::raft_rs_adapter::entry_decode::check_append;
use crate::model::{Millis, ProbeReply, Refusal, StateDigest};
use crate::plant::{self, Plant};
use crate::storage::Error;

/// The shortest interval between two log lines about refused messages.
const REFUSED_EVERY: Millis = 1000;

impl Driver {
    /// Steps a message of a peer, or drops it if it appends entries that could not be applied.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub(crate) fn step_checked(&mut self, message: Message) -> Result<(), Error> {
        let detail = match check_append(&message) {
            Ok(decoded) => return self.step_decoded(message, decoded),
            Err(detail) => detail,
        };
        if plant::is(Plant::AppendUnchecked) {
            return self.step(message);
        }
        if self.append_refused.every(REFUSED_EVERY, self.core.now).is_some() {
            let from = self.core.name_of(message.from);
            error!(self.core.log, "a message of a member is refused; that node is broken"; "from" => from, "detail" => detail);
        }
        Ok(())
    }

    /// Steps a message, and keeps the commands of its entries if they are part of the log now.
    fn step_decoded(&mut self, message: Message, decoded: Vec<Decoded>) -> Result<(), Error> {
        self.step(message)?;
        let log = &self.core.raw.raft.raft_log;
        // Raft takes all entries of an append or none, and those of one index and term are the same on all nodes.
        if decoded.last().is_some_and(|last| log.match_term(last.index, last.term)) {
            decoded.into_iter().for_each(|decoded| self.core.decoded.keep(decoded));
        }
        Ok(())
    }

    pub(crate) fn step(&mut self, message: Message) -> Result<(), Error> {
        // The order of the checks: is it for this incarnation, is its sender no former member, is it believed, and only
        // then does it count as contact. A message of any process must not make a member look alive.
        if !matches!(self.core.phase, Phase::Member | Phase::Joining) {
            return Ok(());
        }
        if message.to != self.core.raft_id() {
            // It was meant for an incarnation that this node has left meanwhile.
            return Ok(());
        }
        let from = message.from;
        if self.core.state_machine.members().is_tombstone(from) {
            self.core.outbox.tell_removed(from);
            return Ok(());
        }
        if !self.believes(&message)? {
            return Ok(());
        }
        self.live.contacted(&self.core, from);
        let for_leaders = matches!(message.get_msg_type(), MessageType::MsgReadIndex | MessageType::MsgTransferLeader);
        if for_leaders && !self.core.leads() {
            // Raft would pass it on under the sender's id, which no peer believes; the sender asks again by itself.
            return Ok(());
        }
        self.history.received(&self.core, &message);
        if let Err(error) = self.core.raw.step(message) {
            slog::debug!(self.core.log, "raft did not take a message"; "from" => from, "error" => %error);
        }
        if self.core.raw.raft.leader_id == from {
            self.live.leader_seen = Some(self.core.now);
            self.history.leader_contact(&self.core);
        }
        Ok(())
    }

    /// Handles a peer's claim that this node was removed.
    pub(crate) fn removal_claimed(&mut self, cluster_id: u64, raft_id: u64) -> Result<(), Error> {
        let ours = cluster_id == self.core.data_dir.identity().cluster_id && raft_id == self.core.raft_id();
        match self.core.phase {
            // It has never been more than asked to join, and knows no voters to ask: the join is over.
            Phase::Joining => self.joiner.note_join_ended(&self.core, cluster_id, raft_id),
            Phase::Member if ours && plant::is(Plant::RemovalUnverified) => return self.become_removed(),
            Phase::Member if ours => self.verification.verify(&mut self.core, Claim::Removed),
            Phase::Forming | Phase::Member | Phase::Removed => {}
        }
        Ok(())
    }

    /// Handles the answer to a probe, or its failure.
    pub(crate) fn probed(&mut self, token: u64, result: Result<ProbeReply, Refusal>) -> Result<(), Error> {
        if self.term_bound.term_told(token, &result)
            || self.commit_discovery.commit_told(&mut self.core, token, &result)
        {
            return Ok(());
        }
        let verdict = self.verification.probed(&self.core, token, result)?;
        self.follow(verdict)
    }

    pub(crate) fn follow(&mut self, verdict: ClaimOutcome) -> Result<(), Error> {
        match verdict {
            ClaimOutcome::GoesOn => Ok(()),
            ClaimOutcome::Removed => self.become_removed(),
        }
    }

    /// Compares the leader's digest with this node's.
    pub(crate) fn told_digest(&mut self, from: u64, told: StateDigest) {
        if self.digests.counts(&self.core, from, told) {
            self.lag.leader_committed(told.index);
            let comparison = self.digests.compare_received(&self.core, told);
            self.compared(comparison);
        }
    }

    pub(crate) fn compared(&mut self, comparison: Option<Comparison>) {
        match comparison {
            None => {}
            Some(Comparison::Agrees) => self.verification.state_agrees(&self.core),
            Some(Comparison::Differs { index, digest }) => {
                self.state_hash_mismatches += 1;
                self.verification.verify(&mut self.core, Claim::Diverged { index, digest });
            }
        }
    }

    /// Whether a message may be stepped; what would end this node is verified first.
    pub(crate) fn believes(&mut self, message: &Message) -> Result<bool, Error> {
        if self.verification.holds_raft() {
            return Ok(false);
        }
        match self.term_bound.believes(&mut self.core, message)? {
            Belief::Yes => Ok(true),
            Belief::No => Ok(false),
            Belief::LogLost { index } => {
                self.verification.verify(&mut self.core, Claim::LogLost { index });
                Ok(false)
            }
        }
    }
}
