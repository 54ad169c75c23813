//! Plausibility checks of a peer's message before raft sees it.
//!
//! Why: raft takes a message at its word. A term near the end of what can be counted ends all elections, a commit
//! behind the end of the log ends the process, an acknowledgement of an entry that does not exist leaves a follower
//! behind for ever.
//!
//! Invariants: what is believed is far below what can be counted: a term at most [`TERM_LEAP`] above this node's own,
//! so that taking the largest one any number of times leaves room for elections and restarts. A higher one, up to
//! [`MOST_TERM`], is believed where the node it comes from says the same at the address that the table has for it, or a
//! member that was away for long could never be heard again; and by a joiner, which knows no member to ask. What is not
//! believed changes nothing.
//!
//! See also: the form of a message, which the transport checks (`transport::admission`); what follows where
//! a message would end the node (`claim_verification`).

use raft::StateRole;
use raft::eraftpb::{Message, MessageType};
use slog::warn;

use crate::consensus::core::{Core, Phase};
use crate::model::Millis;
use crate::model::{Probe, ProbeReply, Refusal};
use crate::plant::{self, Plant};
use crate::storage::Error;
use crate::telemetry::logging::LogLimit;

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
    /// The token of the open question about a term, and the member that was asked.
    asked: Option<(u64, u64)>,
    ask_after: Millis,
    disbelieved: LogLimit,
}

/// Whether raft may see a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Belief {
    Yes,
    No,
    /// No, and it says that this node has acknowledged an index that its log does not have.
    LogLost {
        index: u64,
    },
}

impl TermBound {
    /// The highest term that is believed of a message.
    pub fn believable_term(&self, core: &Core) -> u64 {
        let near = core.raw.raft.term.saturating_add(TERM_LEAP);
        near.max(if core.phase == Phase::Joining { MOST_TERM } else { self.confirmed_term })
    }

    fn is_believable(&self, core: &Core, term: u64) -> bool {
        if plant::is(Plant::TermUnbounded) {
            return true;
        }
        term <= self.believable_term(core)
    }

    /// Whether raft may see the message.
    pub fn believes(&mut self, core: &mut Core, message: &Message) -> Result<Belief, Error> {
        if !self.is_believable(core, message.term) {
            self.ask_term(core, message.from);
            return Ok(self.disbelieve(core, message, "its term is far above this node's"));
        }
        if let Some(wrong) = self.implausible(core, message) {
            return Ok(self.disbelieve(core, message, wrong));
        }
        // A heartbeat's commit is at most what this node has acknowledged to that leader. A log that ends before it has
        // lost what was synced, which no crash explains.
        let last = core.raw.raft.raft_log.last_index();
        let speaks = message.get_msg_type() == MessageType::MsgHeartbeat && message.term >= core.raw.raft.term;
        if !speaks || message.commit <= last {
            return Ok(Belief::Yes);
        }
        if core.leads() && message.term == core.raw.raft.term {
            return Ok(self.disbelieve(core, message, "it is of another leader of the same term"));
        }
        if plant::is(Plant::LogLossUnverified) {
            let (what, path) = ("the log".into(), core.data_dir.engine().path());
            return Err(Error::Damaged { what, detail: format!("log lost: it ends at {last}"), path });
        }
        self.disbelieve(core, message, "it commits what this node's log does not have");
        Ok(Belief::LogLost { index: message.commit })
    }

    /// What no member says.
    fn implausible(&self, core: &Core, message: &Message) -> Option<&'static str> {
        let kind = message.get_msg_type();
        if message.term != 0 && message.log_term.max(message.commit_term) > message.term {
            return Some("it tells of entries above its own term");
        }
        if message.request_snapshot != 0 {
            return Some("it asks for a snapshot, which no member does");
        }
        let of_this_reign = core.raw.raft.state == StateRole::Leader && message.term == core.raw.raft.term;
        let last = core.raw.raft.raft_log.last_index();
        if of_this_reign && kind == MessageType::MsgAppendResponse && !message.reject && message.index > last {
            return Some("it acknowledges what this leader does not have");
        }
        None
    }

    /// Logs it, at a limited rate.
    fn disbelieve(&mut self, core: &Core, message: &Message, because: &str) -> Belief {
        let Some(suppressed) = self.disbelieved.every(SAY_EVERY, core.now) else { return Belief::No };
        warn!(core.log, "a message is not believed"; "because" => because, "kind" => ?message.get_msg_type(),
            "from" => core.name_of(message.from), "term" => message.term, "index" => message.index,
            "commit" => message.commit, "more_like_this" => suppressed);
        Belief::No
    }

    /// Asks the member at its address whether it is in so high a term.
    fn ask_term(&mut self, core: &mut Core, from: u64) {
        let Some(address) = core.state_machine.members().get(from).map(|member| member.raft_address.clone()) else {
            return;
        };
        if self.asked.is_some() || core.now < self.ask_after {
            return;
        }
        let token = core.token();
        self.asked = Some((token, from));
        self.ask_after = core.now + SAY_EVERY;
        let probe = Probe {
            cluster_id: core.data_dir.identity().cluster_id,
            raft_id: core.raft_id(),
            digest: None,
            entry: None,
        };
        core.outbox.probe(token, &address, probe);
    }

    /// Whether this answers the question about a term.
    pub fn term_told(&mut self, token: u64, result: &Result<ProbeReply, Refusal>) -> bool {
        let Some((_, member)) = self.asked.take_if(|(asked, _)| *asked == token) else { return false };
        if let Ok(reply) = result
            && reply.raft_id == member
            && reply.is_member
        {
            self.confirmed_term = self.confirmed_term.max(reply.term.min(MOST_TERM));
        }
        true
    }
}
