//! Proposals of the node's own: membership entries and commands, and what raft would make of them.
//!
//! Invariants: a membership entry is proposed only where raft would take it as one, since raft silently turns others
//! into empty entries; raft's own `Changer` simulates it first.
//!
//! See also: `proposals` (clients' writes), `membership` (which change, and when).

use raft::Changer;
use raft::StateRole;
use raft::eraftpb::{ConfChange, ConfChangeSingle, ConfChangeType, Entry, Message, MessageType};
use slog::warn;

use super::{Core, Phase};
use crate::model::{Code, Command, MemberChange, Proposal, Refusal, codec, validate};

impl Core {
    /// Whether raft would take a membership change as one: this node leads, has applied its whole log, and nothing is
    /// pending.
    pub(crate) fn can_change(&self) -> bool {
        let raft = &self.raw.raft;
        self.leads()
            && raft.apply_to_current_term()
            && !raft.has_pending_conf()
            && raft.lead_transferee.is_none()
            && self.stop_by.is_none()
    }

    /// Proposes one membership entry; the (term, index) it has if it survives.
    ///
    /// # Errors
    /// A refusal where the change is impossible as such; nothing was proposed.
    pub(crate) fn propose_change(
        &mut self,
        kind: ConfChangeType,
        raft_id: u64,
        change: &MemberChange,
    ) -> Result<Option<(u64, u64)>, Refusal> {
        validate::member_change(change)?;
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = raft_id;
        Changer::new(self.raw.raft.prs()).simple(&[single]).map_err(|error| {
            Refusal::not_applied(Code::BadRequest, format!("raft would refuse this membership change: {error}"))
        })?;
        let mut conf_change = ConfChange::default();
        conf_change.set_change_type(kind);
        conf_change.node_id = raft_id;
        match self.raw.propose_conf_change(codec::encode(change), conf_change) {
            Ok(()) => Ok(Some((self.raw.raft.term, self.raw.raft.raft_log.last_index()))),
            Err(_) => Ok(None),
        }
    }

    /// Proposes one command of the node's own.
    pub(crate) fn propose_command(&mut self, stamp: u64, command: Command) -> Option<(u64, u64)> {
        let data = Proposal::encode(stamp, &command.into());
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raft_id();
        message.set_entries(vec![Entry { data: data.into(), ..Entry::default() }].into());
        self.raw.raft.step(message).ok()?;
        Some((self.raw.raft.term, self.raw.raft.raft_log.last_index()))
    }

    /// Lets a lone voter lead at once: no other node could end the election timeout.
    pub(crate) fn campaign_if_alone(&mut self) {
        if self.phase == Phase::Member
            && self.raw.raft.state == StateRole::Follower
            && self.conf_voters() == [self.raft_id()]
            && let Err(error) = self.raw.campaign()
        {
            warn!(self.log, "cannot campaign"; "error" => %error);
        }
    }

    /// Whether this node knows the entry of this index and term to be committed.
    pub(crate) fn knows_committed(&self, (index, term): (u64, u64)) -> bool {
        let log = &self.raw.raft.raft_log;
        term != 0 && index <= log.committed && log.match_term(index, term)
    }

    pub(crate) fn peer_down(&mut self, raft_id: u64) {
        if self.raw.raft.state == StateRole::Leader {
            self.raw.report_unreachable(raft_id);
        }
    }
}
