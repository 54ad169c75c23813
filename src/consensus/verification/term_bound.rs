//! What of a peer's message is believed before raft sees it.
//!
//! Why: raft takes a message at its word. A term near the end of what can be counted ends all elections, a commit behind
//! the end of the log ends the process, an acknowledgement of what nobody has leaves a follower behind for ever.
//!
//! Laws: what is believed is far below what can be counted: a term at most [`TERM_LEAP`] above this node's own, so that
//! taking the largest one any number of times leaves room for elections and restarts. A higher one, up to [`MOST_TERM`],
//! is believed where the node it comes from says the same at the address that the table has for it, or a member that was
//! away for long could never be heard again; and by a joiner, which knows nobody to ask. What is not believed changes
//! nothing.
//!
//! Not here: the form of a message, which the transport checks (`transport::handshake::admission`); what follows where a message
//! would end the node (`verification`).

use raft::StateRole;
use raft::eraftpb::{Message, MessageType};
use slog::warn;

use crate::consensus::core::Phase;
use crate::consensus::driver::Driver;
use crate::consensus::verification::Claim;
use crate::model::Millis;
use crate::model::{Probe, ProbeReply, Refusal};
use crate::plant::{self, Plant};
use crate::storage::Error;

/// How far above its own a node believes a term.
const TERM_LEAP: u64 = 1 << 20;

/// The highest term that is believed without being near this node's own; 64 times as much can be counted.
const MOST_TERM: u64 = 1 << 56;

/// The shortest time between two lines about messages that are not believed, and between two questions about a term.
const SAY_EVERY: Millis = 1000;

/// What is remembered of messages that were not believed.
#[derive(Default)]
pub(crate) struct TermBound {
    /// The highest term that a member has confirmed at its address.
    confirmed_term: u64,
    /// The question about a term that is under way, and whom it went to.
    asked: Option<(u64, u64)>,
    ask_after: Millis,
    said: Option<Millis>,
    unsaid: u64,
}

impl Driver {
    /// The highest term that is believed of a message.
    pub(crate) fn believable_term(&self) -> u64 {
        let near = self.core.raw.raft.term.saturating_add(TERM_LEAP);
        near.max(if self.core.phase == Phase::Joining { MOST_TERM } else { self.term_bound.confirmed_term })
    }

    /// Whether raft may see the message.
    pub(crate) fn believes(&mut self, message: &Message) -> Result<bool, Error> {
        if self.verification.holds_raft() {
            return Ok(false);
        }
        if message.term > self.believable_term() && !plant::is(Plant::TermUnbounded) {
            self.ask_term(message.from);
            return Ok(self.disbelieve(message, "its term is far above this node's"));
        }
        if let Some(wrong) = self.implausible(message) {
            return Ok(self.disbelieve(message, wrong));
        }
        // A heartbeat's commit is at most what this node has acknowledged to that leader. A log that ends before it has
        // lost what was synced, which no crash explains.
        let last = self.core.raw.raft.raft_log.last_index();
        let speaks = message.get_msg_type() == MessageType::MsgHeartbeat && message.term >= self.core.raw.raft.term;
        if !speaks || message.commit <= last {
            return Ok(true);
        }
        if self.core.leads() && message.term == self.core.raw.raft.term {
            return Ok(self.disbelieve(message, "it is of another leader of the same term"));
        }
        if plant::is(Plant::LogLossUnverified) {
            let (what, path) = ("the log".into(), self.core.data_dir.engine().path());
            return Err(Error::Damaged { what, detail: format!("log lost: it ends at {last}"), path });
        }
        self.verify(Claim::LogLost { index: message.commit })?;
        Ok(self.disbelieve(message, "it commits what this node's log does not have"))
    }

    /// What no member says.
    fn implausible(&self, message: &Message) -> Option<&'static str> {
        let kind = message.get_msg_type();
        if message.term != 0 && message.log_term.max(message.commit_term) > message.term {
            return Some("it tells of entries above its own term");
        }
        if message.request_snapshot != 0 {
            return Some("it asks for a snapshot, which no member does");
        }
        let of_this_reign = self.core.raw.raft.state == StateRole::Leader && message.term == self.core.raw.raft.term;
        let last = self.core.raw.raft.raft_log.last_index();
        if of_this_reign && kind == MessageType::MsgAppendResponse && !message.reject && message.index > last {
            return Some("it acknowledges what this leader does not have");
        }
        None
    }

    /// Says so, rarely; false.
    fn disbelieve(&mut self, message: &Message, because: &str) -> bool {
        if self.term_bound.said.is_some_and(|said| self.core.now < said + SAY_EVERY) {
            self.term_bound.unsaid += 1;
            return false;
        }
        self.term_bound.said = Some(self.core.now);
        let unsaid = std::mem::take(&mut self.term_bound.unsaid);
        warn!(self.core.log, "a message is not believed"; "because" => because, "kind" => ?message.get_msg_type(),
            "from" => self.core.name_of(message.from), "term" => message.term, "index" => message.index,
            "commit" => message.commit, "more_like_this" => unsaid);
        false
    }

    /// Asks the member at its address whether it is in so high a term.
    fn ask_term(&mut self, from: u64) {
        let Some(address) = self.core.state_machine.members().get(from).map(|member| member.raft_address.clone())
        else {
            return;
        };
        if self.term_bound.asked.is_some() || self.core.now < self.term_bound.ask_after {
            return;
        }
        let token = self.core.token();
        self.term_bound.asked = Some((token, from));
        self.term_bound.ask_after = self.core.now + SAY_EVERY;
        let probe = Probe {
            cluster_id: self.core.data_dir.identity().cluster_id,
            raft_id: self.core.raft_id(),
            digest: None,
            entry: None,
        };
        self.core.outbox.probe(token, &address, probe);
    }

    /// Whether this answers the question about a term.
    pub(crate) fn term_told(&mut self, token: u64, result: &Result<ProbeReply, Refusal>) -> bool {
        let Some((_, member)) = self.term_bound.asked.take_if(|(asked, _)| *asked == token) else { return false };
        if let Ok(reply) = result
            && reply.raft_id == member
            && reply.is_member
        {
            self.term_bound.confirmed_term = self.term_bound.confirmed_term.max(reply.term.min(MOST_TERM));
        }
        true
    }
}
