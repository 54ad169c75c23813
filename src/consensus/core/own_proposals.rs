//! Proposals by the node itself: membership entries and commands.
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
    /// Whether raft would accept a membership change: this node leads, has applied its whole log, and no change is
    /// pending.
    pub(crate) fn can_change(&self) -> bool {
        let raft = &self.raw.raft;
        // Raft silently puts an empty entry in the place of a change while another one may be pending, and drops a
        // proposal during a transfer.
        self.leads()
            && raft.apply_to_current_term()
            && !raft.has_pending_conf()
            && raft.lead_transferee.is_none()
            && self.stop_by.is_none()
    }

    /// Proposes one membership entry; returns its (term, index), or None if raft dropped it.
    ///
    /// # Errors
    /// A refusal where the change is impossible as such; nothing was proposed.
    pub(crate) fn propose_change(
        &mut self,
        kind: ConfChangeType,
        raft_id: u64,
        change: &MemberChange,
    ) -> Result<Option<(u64, u64)>, Refusal> {
        debug_assert!(
            kind != ConfChangeType::RemoveNode || raft_id != self.raft_id(),
            "a leader never proposes its own removal"
        );
        validate::member_change(change)?;
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = raft_id;
        Changer::new(self.raw.raft.prs()).simple(&[single]).map_err(|error| {
            Refusal::not_applied(Code::BadRequest, format!("raft would refuse this membership change: {error}"))
        })?;
        // Two halves of one entry: `data` is what raft makes of it, `context` what the member table does.
        // `entry_decode` checks that both mean the same.
        let mut conf_change = ConfChange::default();
        conf_change.set_change_type(kind);
        conf_change.node_id = raft_id;
        match self.raw.propose_conf_change(codec::encode(change), conf_change) {
            Ok(()) => Ok(Some((self.raw.raft.term, self.raw.raft.raft_log.last_index()))),
            Err(_) => Ok(None),
        }
    }

    /// Proposes one command of this node; returns its (term, index), or None if raft dropped it.
    pub(crate) fn propose_command(&mut self, stamp: u64, command: Command) -> Option<(u64, u64)> {
        let data = Proposal::encode(stamp, &command.into());
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raft_id();
        message.set_entries(vec![Entry { data: data.into(), ..Entry::default() }].into());
        self.raw.raft.step(message).ok()?;
        Some((self.raw.raft.term, self.raw.raft.raft_log.last_index()))
    }

    /// Lets a lone voter campaign at once: an election timeout would only be waited for.
    pub(crate) fn campaign_if_alone(&mut self) {
        if self.phase == Phase::Member
            && self.raw.raft.state == StateRole::Follower
            && self.conf_voters() == [self.raft_id()]
            && let Err(error) = self.raw.campaign()
        {
            warn!(self.log, "cannot campaign"; "error" => %error);
        }
    }

    /// Whether the entry of this index and term is known to be committed here.
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
