//! Discovery of a committed removal: the voter that an entry removes is asked whether that entry is committed.
//!
//! Why: a leader may inherit its own removal from the leader before it. It learns that the entry is committed, applies
//! it and stops, perhaps before any other node has heard of the commit. The others still count it as a voter: of two,
//! the remaining one would need the vote of the removed one for ever (Raft thesis 4.2.2 leaves this to the removed
//! leader's last messages).
//!
//! Invariants: asked only by a member without a leader for long, about the first removal in its log that it does not
//! know to be committed, and only of the voter that this removes, at its address in the table. That voter confirms only
//! if its own log has the entry of this index and term and it knows that to be committed. Two logs with the same entry
//! are equal up to it (Raft 5.3), so the answer is true of this node's log, too. A process that answers in the voter's
//! place is as little authenticated as one that sends raft messages.
//!
//! See also: claims that would end this node (`claim_verification`).

use raft::GetEntriesContext;
use slog::{info, warn};

use crate::consensus::core::{Core, Phase};
use crate::consensus::liveness::Liveness;
use crate::consensus::raft_rs_adapter::entry_decode::{Payload, decode};
use crate::model::Millis;
use crate::model::{MemberChange, Probe, ProbeReply, Refusal};

/// The shortest time between two questions.
const ASK_EVERY: Millis = 1000;

/// The open probe, and when the next one may be sent.
#[derive(Default)]
pub(crate) struct CommitDiscovery {
    asked: Option<Asked>,
    ask_after: Millis,
}

struct Asked {
    token: u64,
    removal: Removal,
}

/// An entry that removes a voter, and is not known to be committed here.
#[derive(Clone, Copy)]
struct Removal {
    index: u64,
    term: u64,
    voter: u64,
}

impl CommitDiscovery {
    /// Asks the voter that an entry removes whether that entry is committed, if no other node can say so.
    pub fn discover_commit(&mut self, core: &mut Core, live: &Liveness) {
        let due = core.now >= self.ask_after;
        if !due || core.phase != Phase::Member || !live.is_leaderless_for_long(core) {
            return;
        }
        self.ask_after = core.now + ASK_EVERY;
        let Some(removal) = self.pending_removal(core) else { return };
        let Some(member) = core.state_machine.members().get(removal.voter) else { return };
        let address = member.raft_address.clone();
        let token = core.token();
        self.asked = Some(Asked { token, removal });
        let (cluster_id, raft_id) = (core.data_dir.identity().cluster_id, core.raft_id());
        let probe = Probe { cluster_id, raft_id, digest: None, entry: Some((removal.index, removal.term)) };
        core.outbox.probe(token, &address, probe);
    }

    /// Returns the first entry that removes another voter and is not known to be committed.
    fn pending_removal(&self, core: &Core) -> Option<Removal> {
        let log = &core.raw.raft.raft_log;
        let entries = log.entries(log.committed + 1, None, GetEntriesContext::empty(false)).ok()?;
        entries.iter().find_map(|entry| match decode(entry) {
            Ok(Payload::Membership(_, MemberChange::Remove { raft_id })) if raft_id != core.raft_id() => {
                Some(Removal { index: entry.index, term: entry.term, voter: raft_id })
            }
            _ => None,
        })
    }

    /// Handles the answer to the probe; false if it is of another one.
    pub fn commit_told(&mut self, core: &mut Core, token: u64, result: &Result<ProbeReply, Refusal>) -> bool {
        let Some(Asked { removal, .. }) = self.asked.take_if(|asked| asked.token == token) else {
            return false;
        };
        let Removal { index, term, voter } = removal;
        let log = &mut core.raw.raft.raft_log;
        if let Ok(reply) = result
            && reply.raft_id == voter
            && !reply.is_member
            && reply.entry_committed
            && index > log.committed
            && log.match_term(index, term)
        {
            log.commit_to(index);
            warn!(core.log, "a voter that was removed says that its removal is committed"; "voter" => core.name_of(voter), "index" => index);
        } else {
            info!(core.log, "whether the removal of a voter is committed is not known"; "voter" => core.name_of(voter), "index" => index);
        }
        true
    }
}
